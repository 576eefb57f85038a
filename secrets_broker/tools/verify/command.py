"""`secrets-broker verify`: the command."""

from base64 import b64encode
from contextlib import closing
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
from secrets_broker.settings import Settings
from secrets_broker.tools.common import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    require_schema,
)
from secrets_broker.tools.progress import progress_bar
from secrets_broker.tools.verify.aftermath import check_erased, check_rows, erased_since
from secrets_broker.tools.verify.database import DatabaseSource
from secrets_broker.tools.verify.inputs import kept_checkpoint, known_keys
from secrets_broker.tools.verify.listed import check_list
from secrets_broker.tools.verify.run import Wanted, check
from secrets_broker.tools.verify.sources import Source
from secrets_broker.tools.verify.text import sorted_problems, text


@click.command()
@data_dir_option
@json_option
@click.option("--since", metavar="FILE", help="A checkpoint kept elsewhere (- for stdin).")
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
    data_dir: Path | None,
    as_json: bool,
    since: str | None,
    verifier_keys: tuple[str, ...],
    erasures: Path | None,
) -> None:
    """Check a whole ledger, from its first event to its last, and say what was checked.

    Exit 0 where nothing is wrong, 1 where something is, or where the ledger cannot be read.
    """
    logs.configure(readable=True)
    with clear_errors():
        settings = load_settings(data_dir)
        keys = known_keys(verifier_keys, settings)
        kept = _kept(since, keys, settings)
        job = Job(settings, Wanted(keys, kept), erasures or settings.erasures)
        report = job.run()
    click.echo(msgspec.json.encode(report) if as_json else job.text())
    if not job.findings.ok:
        raise SystemExit(1)


def _kept(since: str | None, keys: tuple[VerifierKey, ...], settings: Settings) -> tuple[Kept, ...]:
    kept = [kept_checkpoint(since, keys, "--since")] if since else []
    file = settings.checkpoint_file
    if file is not None and file.is_file():
        kept.append(kept_checkpoint(str(file), keys, "LEDGER_CHECKPOINT_FILE"))
    return tuple(kept)


class Job:
    """One verification, from the source that is chosen to its report."""

    def __init__(self, settings: Settings, wanted: Wanted, erasures: Path | None) -> None:
        self.findings = Findings()
        self._settings = settings
        self._wanted = wanted
        self._erasures = erasures
        self._name = "database"
        self._size = 0
        self._root: str | None = None

    def run(self) -> dict[str, Any]:
        """Check, and report; what cannot be read is a problem, not an error."""
        url = self._settings.database_url
        require_schema(url)
        try:
            with closing(DatabaseSource(url)) as source:
                self._check(source)
        except LedgerError as error:
            self.findings.wrong(None, "source", str(error))
        return self.report()

    def _check(self, source: Source) -> None:
        checker = Checker(source.node, self.findings)
        with closing(checker), progress_bar() as tell:
            overview = check(
                source, checker, self._wanted, lambda done, of: tell("events verified", done, of)
            )
            self._size = overview.size
            self._root = b64encode(checker.root).decode() if checker.root else None
            later = frozenset[str]()
            if isinstance(source, DatabaseSource):
                later = erased_since(source, overview.size)
            checker.finish(overview.published, later)
            if isinstance(source, DatabaseSource):
                if source.may_read_keys:
                    check_erased(source, checker)
                check_rows(source, self.findings, self._settings.database_url, self._settings)
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
