"""`secrets-broker verify`: the command."""

from base64 import b64encode
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from secrets_broker import logs
from secrets_broker.ledger.audit.checker import Checker
from secrets_broker.ledger.audit.findings import Findings
from secrets_broker.ledger.audit.heads import Kept
from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.note import VerifierKey
from secrets_broker.settings import MissingSettingError, Settings
from secrets_broker.tools.common import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    require_schema,
    say,
)
from secrets_broker.tools.progress import progress_bar
from secrets_broker.tools.verify.aftermath import check_erased, check_rows, erased_since
from secrets_broker.tools.verify.database import DatabaseSource
from secrets_broker.tools.verify.folder import FolderSource
from secrets_broker.tools.verify.inputs import kept_checkpoint, known_keys
from secrets_broker.tools.verify.listed import check_list
from secrets_broker.tools.verify.receipts import verify_receipt
from secrets_broker.tools.verify.run import Wanted, check
from secrets_broker.tools.verify.text import sorted_problems, text
from secrets_broker.tools.verify.web import UrlError, WebSource


@click.command()
@data_dir_option
@json_option
@click.option("--since", metavar="FILE", help="A checkpoint kept elsewhere (- for stdin).")
@click.option(
    "--export",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Check what `export` made, instead of the database.",
)
@click.option(
    "--partial", is_flag=True, help="With --export: what is not there is merely not checked."
)
@click.option("--url", help="Check another broker over HTTP, with AUDITOR_KEY.")
@click.option("--receipt", metavar="FILE", help="Check one event's receipt, and no ledger.")
@click.option(
    "--verifier-key",
    "verifier_keys",
    metavar="KEY|@FILE",
    multiple=True,
    help="A key that checkpoints are verified with; may be given several times.",
)
@click.option(
    "--erasures",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A list of erasures kept elsewhere [SECRETS_ERASURES].",
)
def verify(
    *,
    data_dir: Path | None,
    as_json: bool,
    since: str | None,
    folder: Path | None,
    partial: bool,
    url: str | None,
    receipt: str | None,
    verifier_keys: tuple[str, ...],
    erasures: Path | None,
) -> None:
    """Check a whole ledger, from its first event to its last, and say what was checked.

    The ledger is that of DATABASE_URL, an export, or another broker. Keys come from --verifier-key
    and LEDGER_VERIFIER_KEY. Exit 0 where nothing is wrong, 1 where something is, or where the
    ledger cannot be read.
    """
    logs.configure(readable=True)
    if sum(given is not None for given in (folder, url, receipt)) > 1:
        raise click.UsageError("one of --export, --url and --receipt, or none for the database")
    if partial and folder is None:
        raise click.UsageError("--partial goes with --export")
    with clear_errors():
        settings = load_settings(data_dir)
        keys = known_keys(verifier_keys, settings)
        if receipt is not None:
            raise SystemExit(0 if verify_receipt(receipt, keys, as_json=as_json) else 1)
        place = Place(folder, url, partial)
        if place.is_database:  # the settings' own ledger, so what they keep of it counts too
            erasures = erasures or settings.erasures
        kept = _kept(since, keys, settings.checkpoint_file if place.is_database else None)
        job = Job(settings, Wanted(keys, kept), erasures, place)
        report = job.run()
    click.echo(msgspec.json.encode(report) if as_json else job.text())
    if not job.findings.ok:
        raise SystemExit(1)


def _kept(since: str | None, keys: tuple[VerifierKey, ...], file: Path | None) -> tuple[Kept, ...]:
    kept = [kept_checkpoint(since, keys, "--since")] if since else []
    if file is not None:
        if file.is_file():
            kept.append(kept_checkpoint(str(file), keys, "LEDGER_CHECKPOINT_FILE"))
        else:
            say(f"LEDGER_CHECKPOINT_FILE: {file} is not there, so nothing is compared with it")
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the ledger is read from: an export, another broker, or else the database."""

    folder: Path | None = None
    url: str | None = None
    partial: bool = False

    @property
    def is_database(self) -> bool:
        """Whether it is the settings' own."""
        return self.folder is None and self.url is None

    def open(self, settings: Settings) -> FolderSource | WebSource | DatabaseSource:
        """Open it; raises LedgerError, MigrationError or MissingSettingError."""
        if self.folder is not None:
            return FolderSource(self.folder, partial=self.partial)
        if self.url is not None:
            key = settings.auditor_key
            if key is None:
                raise MissingSettingError("AUDITOR_KEY")
            return WebSource(self.url, key)
        require_schema(settings.database_url)
        return DatabaseSource(settings.database_url)


class Job:
    """One verification, from the source that is chosen to its report."""

    def __init__(
        self,
        settings: Settings,
        wanted: Wanted,
        erasures: Path | None = None,
        place: Place = Place(),
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
        """Check, and report; what cannot be read is a problem, not an error."""
        try:
            with closing(self._place.open(self._settings)) as source:
                self._name = source.name
                self._check(source)
        except UrlError as error:
            raise click.UsageError(str(error)) from None
        except LedgerError as error:
            self.findings.wrong(None, "source", str(error))
        return self.report()

    def _check(self, source: FolderSource | WebSource | DatabaseSource) -> None:
        checker = Checker(source.node, self.findings)
        with closing(checker), progress_bar() as tell:
            overview = check(
                source, checker, self._wanted, lambda done, of: tell("events verified", done, of)
            )
            self._size = overview.size
            self._root = b64encode(checker.root).decode() if checker.root else None
            if not overview.complete:
                return
            database = source if isinstance(source, DatabaseSource) else None
            later = erased_since(database, overview.size) if database else frozenset[str]()
            checker.finish(overview.published, overview.beyond, later)
            if database is not None:
                if database.may_read_keys:
                    check_erased(database, checker)
                check_rows(database, self.findings, self._settings, tell)
            if self._erasures is not None:
                check_list(self._erasures, source, checker, later)

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
