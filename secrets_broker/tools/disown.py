"""`secrets-broker disown`: leave out events that somebody else appended."""

import asyncio
import re
from pathlib import Path
from typing import Any

import click
import msgspec

from secrets_broker import logging_setup
from secrets_broker.ledger.encoding import label_problem
from secrets_broker.ledger.event_macs.acceptance import Span
from secrets_broker.ledger.events import MAX_REASON
from secrets_broker.ledger.operations.disowning import Disowned, disown
from secrets_broker.ledger.transparency_log.checkpoint import NUMBER
from secrets_broker.settings import Settings
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    operator,
    require_schema,
)
from secrets_broker.wiring import login_to_append

_RANGE = re.compile(f"({NUMBER.pattern})(?:-({NUMBER.pattern}))?")
_MAX_EVENTS = 1_000_000


class _Positions(click.ParamType[Span]):
    """A position, or two with a hyphen between them: the first and the last."""

    name = "FROM[-TO]"

    def convert(self, value: Any, param: Any, ctx: Any) -> Span:
        """Read it; a usage error where it is none."""
        if isinstance(value, tuple):
            return value
        found = _RANGE.fullmatch(str(value))
        if found is None:
            self.fail("give a position, or the first and the last one: 41 or 41-44", param, ctx)
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= _MAX_EVENTS:
            self.fail("the last position is before the first, or too far behind it", param, ctx)
        return first, last


@click.command("disown", short_help="Leave out events that were not made with the ledger's keys.")
@data_dir_option
@json_option
@click.argument("positions", type=_Positions(), nargs=-1, required=True, metavar="FROM[-TO]…")
@click.option("--reason", required=True, help="Why; it is recorded.")
def disown_command(
    data_dir: Path | None, as_json: bool, positions: tuple[Span, ...], reason: str
) -> None:
    """Leave out events that were not made with the ledger's keys.

    A service stops at an event that somebody else appended with the database's login, and says at
    which position. Look at it first: `secrets-broker verify` and `secrets-broker events`. Then
    name it here, or several: 41 43-47. The events stay in the log as evidence; from the
    ledger.disowned event on nothing follows from them any more, and services serve again.

    An event that was made with the keys is refused, as is one from before the ledger was
    authenticated. Run `secrets-broker rebuild` afterwards: who could append may have edited
    rows, too. Exit 0 where the events are disowned now, 2 where they could not be.
    """
    logging_setup.configure(readable=True)
    if problem := label_problem(reason, MAX_REASON):
        raise click.UsageError(f"--reason {problem}")
    with clear_errors():
        done = asyncio.run(_run(load_settings(data_dir), positions, reason))
    click.echo(msgspec.json.encode(done) if as_json else _text(done))


async def _run(settings: Settings, positions: tuple[Span, ...], reason: str) -> Disowned:
    url = settings.migration_database_url
    await asyncio.to_thread(require_schema, url)
    login = await login_to_append(settings, url)
    return await disown(login, positions, operator(reason))


def _text(done: Disowned) -> str:
    count = sum(last - first + 1 for first, last in done.ranges)
    return (
        f"{count} event{'s' if count > 1 else ''} disowned, at position {done.position}.\n"
        "Next: secrets-broker rebuild, and change the database's password: somebody else has it"
    )
