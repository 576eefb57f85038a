"""One verification: from the place that is named to the report."""

from base64 import b64encode
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.event_macs.acceptance import Span
from secrets_broker.settings import Settings
from secrets_broker.tools.shared.command_line import require_schema
from secrets_broker.tools.shared.progress import Tell, progress_bar
from secrets_broker.tools.shared.remote import Remote
from secrets_broker.tools.verify.checks.checker import Checker
from secrets_broker.tools.verify.checks.findings import Findings
from secrets_broker.tools.verify.report import sorted_problems, text
from secrets_broker.tools.verify.run_checks import VerifyPlan, check
from secrets_broker.tools.verify.side_data.database_checks import check_database
from secrets_broker.tools.verify.side_data.event_macs import disowned
from secrets_broker.tools.verify.side_data.listed_erasures import check_list
from secrets_broker.tools.verify.side_data.parquet_files import check_tables
from secrets_broker.tools.verify.side_data.schema import check_schema
from secrets_broker.tools.verify.side_data.stored_data_keys import erased_since
from secrets_broker.tools.verify.sources.database import DatabaseSource
from secrets_broker.tools.verify.sources.folder import FolderSource
from secrets_broker.tools.verify.sources.source_protocol import DamagedError
from secrets_broker.tools.verify.sources.web import WebSource


@dataclass(frozen=True, slots=True)
class LedgerLocation:
    """Where the ledger is read from: an export, another broker, or else the database."""

    folder: Path | None = None
    remote: Remote | None = None
    partial: bool = False

    @property
    def is_database(self) -> bool:
        """Whether it is the settings' own."""
        return self.folder is None and self.remote is None

    def open(self, settings: Settings) -> FolderSource | WebSource | DatabaseSource:
        """Open it; raises LedgerError or MigrationError."""
        if self.folder is not None:
            return FolderSource(self.folder, partial=self.partial)
        if self.remote is not None:
            return WebSource(self.remote)
        require_schema(settings.database_url)
        return DatabaseSource(settings.database_url)


class Job:
    """One verification, from the source that is chosen to its report."""

    def __init__(
        self,
        settings: Settings,
        wanted: VerifyPlan,
        erasures: Path | None = None,
        place: LedgerLocation = LedgerLocation(),
    ) -> None:
        self.findings = Findings()
        self._settings = settings
        self._wanted = wanted
        self._erasures = erasures
        self._place = place
        self._name = ""
        self._size = 0
        self._root: str | None = None

    def run(self) -> dict[str, Any]:
        """Check, and report.

        Raises LedgerError, MigrationError or SettingsError where the ledger could not be asked and
        nothing was found wrong with it until then: not reached is not tampered with. Where
        something was, that is reported, and the rest is said not to be checked.
        """
        try:
            with closing(self._place.open(self._settings)) as source:
                self._name = source.name
                self._check(source)
        except DamagedError as error:
            self.findings.wrong(None, "source", str(error))
        except LedgerError as error:
            if self.findings.ok:
                raise
            self.findings.left_out(f"the rest: {error}")
        return self.report()

    def _check(self, source: FolderSource | WebSource | DatabaseSource) -> None:
        database = source if isinstance(source, DatabaseSource) else None
        with progress_bar() as tell:
            if database is not None:
                # First: what is missing there can keep the rest from being read.
                check_schema(database, self.findings)
            found = self._pass(source, disowned(database) if database else (), tell)
            if database is None and found:
                # Where an event stands that says so is only known once all were read.
                self.findings = Findings()
                self._pass(source, found, tell)

    def _pass(
        self,
        source: FolderSource | WebSource | DatabaseSource,
        left_out: tuple[Span, ...],
        tell: Tell,
    ) -> tuple[Span, ...]:
        """Go through all of it once; what its events say is to be left out."""
        database = source if isinstance(source, DatabaseSource) else None
        with closing(Checker(source.node, self.findings, disowned=left_out)) as checker:
            overview = check(
                source, checker, self._wanted, lambda done, of: tell("events verified", done, of)
            )
            self._size = overview.size
            self._root = b64encode(checker.root).decode() if checker.root else None
            if not overview.complete:
                return ()
            later = erased_since(database, overview.size) if database else frozenset[str]()
            checker.finish(overview.published, overview.beyond, later)
            for first, last in left_out:
                self.findings.remark(f"disowned: {first}" + (f"-{last}" if last > first else ""))
            if database is not None:
                check_database(database, checker, self._settings, tell)
            if isinstance(source, FolderSource):
                check_tables(source, self.findings, tell)
            if self._erasures is not None:
                check_list(self._erasures, source, checker, later)
            return checker.found_disowned

    def report(self) -> dict[str, Any]:
        """What --json prints."""
        findings = self.findings
        return {
            "ok": findings.ok,
            "size": self._size,
            "first_bad": findings.first_bad,
            "problems": sorted_problems(findings),
            "problem_count": findings.problem_count,
            "root": self._root,
            "source": self._name,
            "checked": {what: count for what, count in findings.checked.items() if count},
            "not_checked": findings.not_checked,
            "remarks": findings.remarks,
        }

    def text(self) -> str:
        """What people read."""
        return text(self._name, self._size, self._root, self.findings)
