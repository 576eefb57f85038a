"""`secrets-broker import-legacy`: settings in, a report and an exit status out."""

import asyncio
from pathlib import Path

import click
import msgspec

from secrets_broker import logging_setup
from secrets_broker.ledger.errors import LedgerError
from secrets_broker.tools.import_legacy.legacy_tables import ImportRefusedError
from secrets_broker.tools.import_legacy.run import ImportReport, import_legacy
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    require_schema,
    say,
)
from secrets_broker.tools.shared.progress import progress_bar
from secrets_broker.tools.shared.status import NotAsked
from secrets_broker.wiring import login_to_append


@click.command("import-legacy")
@data_dir_option
@json_option
def import_legacy_command(data_dir: Path | None, as_json: bool) -> None:
    """Take over the credentials and the access log of an earlier installation.

    Reads the tables that `migrate` set aside and appends what they hold as events. Safe to run
    again. Exits with 1 where a row could not be imported.
    """
    logging_setup.configure(readable=True)
    report = _run(data_dir)
    click.echo(msgspec.json.encode(report) if as_json else _text(report))
    if report.failures:
        raise SystemExit(1)


def _run(data_dir: Path | None) -> ImportReport:
    with clear_errors():
        settings = load_settings(data_dir)
        urls = settings.migration_database_url, settings.database_url
        require_schema(urls[0])
        login = asyncio.run(login_to_append(settings, urls[0]))
    try:
        with progress_bar() as progress:
            return asyncio.run(import_legacy(*urls, login.keyring, say=say, progress=progress))
    except ImportRefusedError as error:
        raise NotAsked(str(error)) from None
    except LedgerError as error:
        raise NotAsked(f"{error}. Run this again: it continues from there") from None


def _text(report: ImportReport) -> str:
    lines = [
        f"{what}: {counts.imported} imported, {counts.already_imported} were imported before, "
        f"{len(counts.failures)} not imported"
        for what, counts in (
            ("credentials", report.credentials),
            ("access log lines", report.access_lines),
        )
    ]
    # Names are others' text: repr, so that none can steer a terminal.
    failed = [
        f"not imported: {f.host!r} {f.purpose!r} ({f.table} {f.legacy_id}): {f.why}"
        for f in report.failures
    ]
    return "\n".join([*lines, *failed])
