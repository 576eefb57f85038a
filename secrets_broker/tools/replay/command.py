"""`secrets-broker replay`: the credentials as they were, and what changed between two points."""

import asyncio
from pathlib import Path

import click

from secrets_broker import logging_setup
from secrets_broker.ledger.encoding import label_problem
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.ledger.events import MAX_REASON
from secrets_broker.projections.parameters.ledger_point import Point
from secrets_broker.tools.replay.run import ReplayOptions, run
from secrets_broker.tools.shared.command_line import clear_errors, data_dir_option, load_settings
from secrets_broker.tools.shared.output import Form


@click.command()
@data_dir_option
@click.option(
    "--at",
    metavar="TIME|POSITION",
    help="The state after the event at that position, or after all events up to that time.",
)
@click.option(
    "--diff",
    nargs=2,
    metavar="A B",
    help="What changed behind A, up to B; each is a time or a position.",
)
@click.option("--host", metavar="PATTERN", help="Only hosts of that pattern; * is any run.")
@click.option("--purpose", metavar="PATTERN", help="Only purposes of that pattern.")
@click.option(
    "--json",
    "form",
    flag_value=Form.JSON,
    type=Form,
    default=Form.TABLE,
    help="One JSON list of objects, exact; for programs.",
)
@click.option(
    "--csv",
    "form",
    flag_value=Form.CSV,
    type=Form,
    help="CSV; a cell that a spreadsheet would compute begins with an apostrophe.",
)
@click.option("--no-keys", is_flag=True, help="Use no key: metadata alone.")
@click.option("--reveal", is_flag=True, help="Passwords and secret_data too; each is recorded.")
@click.option("--reason", help="With --reveal: why, for the record; at most 500 characters.")
@click.option("--yes", is_flag=True, help="With --reveal: do not ask.")
def replay(
    *,
    data_dir: Path | None,
    at: str | None,
    diff: tuple[str, str] | None,
    host: str | None,
    purpose: str | None,
    form: Form,
    no_keys: bool,
    reveal: bool,
    reason: str | None,
    yes: bool,
) -> None:
    """Show the live credentials as they were, or what changed between two points.

    A point is a POSITION, whose own event counts, or a TIME: RFC 3339 with an offset, as
    2026-01-02T03:04:05Z, or how long ago, as 90m, 12h, 30d or 2w.

    With the keys at hand, user names and other fields come out of the encrypted history; the
    passwords do not. --reveal shows these too: for each of them an event of type credential.read,
    with your --reason, is recorded before anything of it is shown.

    Exits with 1 where something of the history does not open.
    """
    logging_setup.configure(readable=True)
    _check_usage(at, diff, reveal=reveal, no_keys=no_keys, reason=reason, yes=yes)
    asked = _asked(at, diff, host, purpose, form, no_keys, reason if reveal else None, yes)
    with clear_errors():
        complete = asyncio.run(run(load_settings(data_dir), asked))
    if not complete:
        raise SystemExit(1)


def _check_usage(
    at: str | None,
    diff: tuple[str, str] | None,
    *,
    reveal: bool,
    no_keys: bool,
    reason: str | None,
    yes: bool,
) -> None:
    if (at is None) == (diff is None):
        raise click.UsageError("give either --at or --diff")
    if reveal and diff is not None:
        raise click.UsageError("--reveal goes with --at: reveal the two states one by one")
    if reveal and no_keys:
        raise click.UsageError("--reveal needs the keys")
    if not reveal and (reason is not None or yes):
        raise click.UsageError("--reason and --yes go with --reveal: nothing else is recorded")
    if reveal and not (reason or "").strip():
        raise click.UsageError("give a --reason: it stays in the ledger, with your name")
    if reason is not None and (problem := label_problem(reason, MAX_REASON)):
        raise click.UsageError(f"--reason {problem}")


def _asked(
    at: str | None,
    diff: tuple[str, str] | None,
    host: str | None,
    purpose: str | None,
    form: Form,
    no_keys: bool,
    reason: str | None,
    yes: bool,
) -> ReplayOptions:
    try:
        since = Point.parse("--diff A", diff[0]) if diff else None
        until = Point.parse("--diff B", diff[1]) if diff else Point.parse("--at", at or "")
        asked = ReplayOptions(until, since, host, purpose, form, no_keys, reason, yes)
        asked.scope(0)
    except InvalidCommandError as error:
        raise click.UsageError(str(error)) from None
    return asked
