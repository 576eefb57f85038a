"""`secrets-broker due`: which credentials have expired, will, or have not been changed in time."""

import asyncio
import json
from pathlib import Path
from typing import Final

import click
import msgspec

from secrets_broker import logging_setup
from secrets_broker.projections.paging.as_of import as_of
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.projections.queries.due import BEGINNING, DueCursor, DueFilter, DueLine, page
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    say,
)
from secrets_broker.tools.shared.output import table_console
from secrets_broker.tools.shared.read_only_connection import reading

PAGE_LINES: Final = 20_000
TOO_LATE: Final = ("expired", "overdue")

# A pass over a large table may take longer than a request may.
_SESSION: Final = {**READ_SESSION, "statement_timeout": "60s"}


@click.command()
@data_dir_option
@json_option
@click.option("--within", help="Also what will expire or be due within that time [30d].")
@click.option("--unchanged-for", help="Also what nobody has changed for that long, as 90d.")
@click.option("--host", help="Only hosts of that pattern; * is any run of characters.")
@click.option("--purpose", help="Only purposes of that pattern.")
@click.option("--fail", is_flag=True, help="Exit 1 where anything is expired or overdue.")
def due(
    data_dir: Path | None,
    as_json: bool,
    within: str | None,
    unchanged_for: str | None,
    host: str | None,
    purpose: str | None,
    fail: bool,
) -> None:
    """List the live credentials that want attention.

    A time is a number and m, h, d or w: 90m, 12h, 30d, 2w. No secret is read, and nothing is
    recorded.
    """
    logging_setup.configure(readable=True)
    with clear_errors():
        wanted = DueFilter.parse(within, unchanged_for, host, purpose)
        lines = asyncio.run(_all(load_settings(data_dir).database_url, wanted))
    if as_json:
        # All ASCII: what is in a name is escaped here too.
        click.echo(json.dumps(msgspec.to_builtins(lines)))
    else:
        _print(lines)
    if fail and any(line.what in TOO_LATE for line in lines):
        raise SystemExit(1)


async def _all(database_url: str, wanted: DueFilter) -> list[DueLine]:
    lines: list[DueLine] = []
    following: DueCursor | None = BEGINNING
    async with reading(database_url, _SESSION) as connection:
        known = await as_of(connection)
        while following:
            more, following = await page(connection, wanted, PAGE_LINES, following)
            lines += more
    say(known.sentence)
    return lines


def _print(lines: list[DueLine]) -> None:
    from rich.box import SIMPLE  # noqa: PLC0415 - slow to load
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not lines:
        click.echo("nothing is due")
        return
    table = Table("what", "at", "host", "purpose", "last changed by", box=SIMPLE)
    for line in lines:
        # Names are others' text: repr, so that none can steer a terminal.
        by = repr(line.changed_by) if line.changed_by else ""
        names = [repr(line.host), repr(line.purpose), by]
        cells = [Text(line.what), Text(f"{line.at[:19]}Z", no_wrap=True)]
        table.add_row(*cells, *(Text(name, overflow="fold") for name in names))
    table_console().print(table)
