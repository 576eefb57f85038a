"""`secrets-broker witness`: have checkpoints cosigned, or be a witness."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import psycopg
from psycopg import AsyncConnection

from secrets_broker import logging_setup
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.publishing.cosigning import (
    WitnessDisagreesError,
    WitnessError,
    WitnessUnreachableError,
    cosign,
    published_checkpoint,
)
from secrets_broker.ledger.publishing.submitter import POLL_SECONDS
from secrets_broker.ledger.publishing.witness_client import Witness, WitnessUrlError
from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.session import safe_message
from secrets_broker.settings import MissingSettingError, Settings, SettingsError
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    group_data_dir_option,
    json_option,
    load_settings,
    require_schema,
    say,
)
from secrets_broker.tools.shared.interruption import until_told_to_end
from secrets_broker.tools.shared.remote import ClientTls, tls_options
from secrets_broker.tools.shared.status import ANOTHER_LEDGER, NOT_ASKED, NOT_SO, SO, Group
from secrets_broker.tools.witness.serve_witness import keygen_command, serve_command
from secrets_broker.wiring import witnesses

_SUBMIT = "submit"


@dataclass(frozen=True, slots=True)
class WitnessOutcome:
    """What came of one witness."""

    witness: str
    url: str
    origin: str
    size: int
    cosigned: bool
    disagrees: bool = False
    reached: bool = True
    problem: str | None = None


class _UrlsOrCommand(Group):
    """Takes what is not the name of a command as the arguments of `submit`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = _own_options(args)
        first = args[own] if own < len(args) else None
        if first not in self.commands and first not in ctx.help_option_names:
            args = [*args[:own], _SUBMIT, *args[own:]]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Theirs are options of this command too.
        self.commands[_SUBMIT].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _own_options(args: Sequence[str]) -> int:
    """How many arguments come before a command or a URL, being --data-dir and its value."""
    count = 0
    while count < len(args) and args[count].partition("=")[0] == "--data-dir":
        count += 1 if "=" in args[count] else 2
    return count


@click.group(cls=_UrlsOrCommand, subcommand_metavar="[URL]... | COMMAND [ARGS]...")
@group_data_dir_option
def witness() -> None:
    """Submit the published checkpoint to witnesses, and keep what they sign.

    URL is a witness's submission prefix; without any, all of LEDGER_WITNESSES. The service does
    the same after each checkpoint, for LEDGER_WITNESSES. Exits with 0 only when every witness
    cosigned; with 1 when one refused, 2 when one could not be reached, and 3 when one disagrees:
    then this ledger does not extend what it cosigned.
    """


@witness.command(_SUBMIT, hidden=True)
@data_dir_option
@json_option
@tls_options
@click.option(
    "--verifier-key",
    "keys",
    multiple=True,
    help="A witness's verifier key, one for each URL, in the same order [LEDGER_WITNESSES].",
)
@click.option("--watch", is_flag=True, help="Submit each new checkpoint, until Ctrl-C.")
@click.argument("urls", nargs=-1, metavar="[URL]...")
def submit(
    data_dir: Path | None,
    as_json: bool,
    tls: ClientTls,
    keys: Sequence[str],
    watch: bool,
    urls: Sequence[str],
) -> None:
    """Submit the published checkpoint now."""
    logging_setup.configure(readable=True)
    with clear_errors():
        settings = load_settings(data_dir)
        asked = [
            replace(one, endpoint=tls.trusted_by(one.endpoint))
            for one in _asked(settings, urls, keys)
        ]
        require_schema(settings.database_url)
        work = (_watch if watch else _once)(settings.database_url, asked, as_json=as_json)
        try:
            outcomes = asyncio.run(until_told_to_end(work)) or []
        except psycopg.Error as error:
            raise LedgerUnavailableError(
                f"the database refused the question ({safe_message(error)})"
            ) from None
    raise SystemExit(_status(outcomes))


def _status(outcomes: Sequence[WitnessOutcome]) -> int:
    """What is worst of all that came of the witnesses, told by tools/status."""
    if any(outcome.disagrees for outcome in outcomes):
        return ANOTHER_LEDGER
    if any(not outcome.cosigned and outcome.reached for outcome in outcomes):
        return NOT_SO
    return SO if outcomes and all(outcome.cosigned for outcome in outcomes) else NOT_ASKED


def _asked(settings: Settings, urls: Sequence[str], keys: Sequence[str]) -> list[Witness]:
    if keys and len(keys) != len(urls):
        raise click.UsageError("give one --verifier-key for each URL, in the same order, or none")
    try:
        if keys:
            return [Witness.parse(url, key) for url, key in zip(urls, keys, strict=True)]
        known = witnesses(settings)
        if not known and not urls:
            raise MissingSettingError("LEDGER_WITNESSES")
        return [_named(known, url) for url in urls] or known
    except WitnessUrlError as error:
        raise click.UsageError(str(error)) from None


def _named(known: Sequence[Witness], url: str) -> Witness:
    found = [one for one in known if Witness.parse(url, str(one.key)) == one]
    if not found:
        raise SettingsError(
            "LEDGER_WITNESSES has no such URL: give the witness's verifier key with --verifier-key"
        )
    return found[0]


def _print(outcome: WitnessOutcome) -> None:
    if outcome.cosigned:
        click.echo(f"{outcome.witness} cosigned size {outcome.size} of {outcome.origin}")
    else:
        say(f"error: {outcome.problem}")


async def _once(url: str, asked: Sequence[Witness], *, as_json: bool) -> list[WitnessOutcome]:
    connection = await connect(url)
    try:
        signed = await _published(connection)
        outcomes = [await _submit(connection, one, signed) for one in asked]
    finally:
        await connection.close()
    if as_json:
        click.echo(json.dumps([asdict(outcome) for outcome in outcomes]))
    else:
        for outcome in outcomes:
            _print(outcome)
    return outcomes


async def _watch(url: str, asked: Sequence[Witness], *, as_json: bool) -> list[WitnessOutcome]:
    """Until it is cancelled; what came of each witness last."""
    connection = await connect(url)
    last: dict[Witness, WitnessOutcome] = {}
    try:
        while True:
            signed = await _published(connection)
            for one in asked:
                await _watch_one(connection, one, signed, last, as_json=as_json)
            await asyncio.sleep(POLL_SECONDS)
    except asyncio.CancelledError:
        return list(last.values())
    finally:
        await connection.close()


async def _watch_one(
    connection: "AsyncConnection[Any]",
    one: Witness,
    signed: SignedCheckpoint,
    last: dict[Witness, WitnessOutcome],
    *,
    as_json: bool,
) -> None:
    before = last.get(one)
    place = (signed.checkpoint.origin, signed.checkpoint.size)
    if before and before.cosigned and (before.origin, before.size) == place:
        return
    last[one] = outcome = await _submit(connection, one, signed)
    if before and before.problem and before.problem == outcome.problem:
        return  # told already
    if as_json:
        click.echo(json.dumps(asdict(outcome)))
    else:
        _print(outcome)


async def _published(connection: "AsyncConnection[Any]") -> SignedCheckpoint:
    signed = await published_checkpoint(connection)
    if signed is None:
        raise WitnessError(
            "there is no checkpoint to submit: a service with LEDGER_SIGNING_KEY makes the first "
            "one soon after it starts, and a standby has none to give"
        )
    return signed


async def _submit(
    connection: "AsyncConnection[Any]", one: Witness, signed: SignedCheckpoint
) -> WitnessOutcome:
    checkpoint = signed.checkpoint
    failure: WitnessError | None = None
    try:
        await cosign(connection, one, signed)
    except WitnessError as error:
        failure = error
    return WitnessOutcome(
        witness=one.key.name,
        url=one.url,
        origin=checkpoint.origin,
        size=checkpoint.size,
        cosigned=failure is None,
        disagrees=isinstance(failure, WitnessDisagreesError),
        reached=not isinstance(failure, WitnessUnreachableError),
        problem=None if failure is None else str(failure),
    )


witness.add_command(serve_command)
witness.add_command(keygen_command)
