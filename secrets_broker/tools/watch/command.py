"""`secrets-broker watch`: the command."""

import asyncio
from pathlib import Path
from typing import Any

import click
import psycopg
from psycopg import AsyncConnection

from secrets_broker import logging_setup
from secrets_broker.ledger.database.search_by_time import asking
from secrets_broker.ledger.errors import (
    FieldError,
    InvalidCommandError,
    LedgerMismatchError,
)
from secrets_broker.projections.conditions import WORDS
from secrets_broker.projections.conditions.following import ReadPosition, place_at
from secrets_broker.projections.paging.position_walk import size
from secrets_broker.projections.parameters.duration import parse_duration
from secrets_broker.projections.parameters.ledger_point import Point
from secrets_broker.session import safe_message
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    load_settings,
    require_schema,
)
from secrets_broker.tools.shared.interruption import until_told_to_end
from secrets_broker.tools.shared.read_only_connection import reading
from secrets_broker.tools.shared.status import ANOTHER_LEDGER, NotAsked
from secrets_broker.tools.watch.delivery import Delivery
from secrets_broker.tools.watch.options import (
    seconds,
    sink,
    sink_options,
    threshold_options,
    thresholds,
)
from secrets_broker.tools.watch.run import SESSION, Plan, Watch, prepare
from secrets_broker.tools.watch.sink import Sink
from secrets_broker.tools.watch.state import StateFile

NOW = "now"


@click.command()
@data_dir_option
@sink_options
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep in this file how far events were told, and continue from there.",
)
@click.option(
    "--from",
    "begin",
    default=NOW,
    show_default=True,
    metavar="POINT",
    help="Where to begin without a state: a position, a time, how long ago (30m), or now.",
)
@click.option("--once", is_flag=True, help="Stop at the present: for cron.")
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(WORDS),
    metavar="WORD",
    help=f"Do not tell of this; may be repeated. One of {', '.join(WORDS)}.",
)
@threshold_options
@click.option(
    "--learn",
    default="7d",
    show_default=True,
    help="Read so long before the beginning, to know what is usual.",
)
@click.option(
    "--projection-every",
    default="30m",
    show_default=True,
    help="Compare secrets.host_credentials with the ledger so often; 0 is never.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    help="Seconds between two looks at the ledger.",
)
def watch(data_dir: Path | None, **given: Any) -> None:
    """Follow the ledger, and tell of what somebody should look at.

    Each condition is one JSON object on a line: on standard output, to a webhook, or to syslog. It
    is told at least once and in order; told again, it has the same id. Nothing is recorded, no key
    of the ledger is needed, and no secret is in what is told. A time is a number and m, h, d or w.

    \b
    Examples:
      secrets-broker watch --webhook https://alerts.internal/hook --state /var/lib/watch/state
      secrets-broker watch --once --state /var/lib/watch/state --syslog /dev/log
      secrets-broker watch --once --from 7d | jq .summary

    SIGTERM and Ctrl-C end it, with exit status 0. It is 3 where the ledger is shorter than what was
    read before, or another one: it was restored or rewritten; and 2 where it could not work.
    """
    logging_setup.configure(readable=True)
    with clear_errors():
        settings = load_settings(data_dir)
        plan = Plan(
            settings.database_url,
            thresholds(given),
            parse_duration("--learn", given["learn"]),
            given["interval"],
            seconds("--projection-every", given["projection_every"]),
            frozenset(given["without"]),
            given["once"],
        )
        receiver = sink(
            settings,
            given["webhook"],
            given["ca_file"],
            given["syslog"],
            given["facility"],
            insecure_http=given["insecure_http"],
        )
        require_schema(plan.database_url)
        state = StateFile(given["state"]) if given["state"] else None
        try:
            asyncio.run(_watch(plan, receiver, state, given["begin"]))
        except LedgerMismatchError as error:
            click.echo(f"Error: {error}. Find out who did that; see docs/watch.md", err=True)
            raise SystemExit(ANOTHER_LEDGER) from None
        except psycopg.Error as error:
            raise NotAsked(f"the database: {safe_message(error)}") from None


async def _watch(plan: Plan, receiver: Sink, state: StateFile | None, begin: str) -> None:
    try:
        await until_told_to_end(_work(plan, receiver, state, begin))
    finally:
        receiver.close()


async def _work(plan: Plan, receiver: Sink, state: StateFile | None, begin: str) -> None:
    kept = state.take() if state else None
    async with reading(plan.database_url, SESSION) as connection:
        place = kept.place if kept else await _beginning(connection, begin)
        memory = await prepare(connection, plan, place, kept)
    await Watch(plan, place, Delivery(receiver, patient=not plan.once), state, memory).run()


async def _beginning(connection: "AsyncConnection[Any]", begin: str) -> ReadPosition:
    """Where to begin; raises InvalidCommandError."""
    events = await size(connection)
    point = None if begin == NOW else Point.parse("from", begin)
    if point is None:
        return await place_at(connection, events)
    if point.position is None:
        return await place_at(connection, await point.resolve(asking(connection)) + 1)
    if point.position > events:
        message = f"is past the ledger's end: it has {events} events"
        raise InvalidCommandError(FieldError("from", message))
    return await place_at(connection, point.position)
