"""`secrets-broker rotate-key --data-keys`: a new data key for each live credential."""

import asyncio

import click
import msgspec

from secrets_broker.ledger.operations.rekey import Rekeyed, rekey
from secrets_broker.settings import Settings
from secrets_broker.tools.shared.command_line import operator, say
from secrets_broker.tools.shared.progress import progress_bar
from secrets_broker.wiring import login_to_append


def make_data_keys(
    settings: Settings, host: str, purpose: str, since: int | None, *, as_json: bool
) -> None:
    """Rekey what matches and report it; exits with 1 where a credential did not open."""
    url = settings.migration_database_url

    async def run() -> Rekeyed:
        login = await login_to_append(settings, url)
        with progress_bar() as tell:
            return await rekey(
                login,
                operator(),
                host,
                purpose,
                lambda done: tell("credentials rekeyed", done, None),
                since=since,
                begun=lambda start: say(f"if it is killed, continue with: --since {start}"),
            )

    done = asyncio.run(run())
    click.echo(msgspec.json.encode(done) if as_json else _text(done))
    if done.failures:
        raise SystemExit(1)


def _text(done: Rekeyed) -> str:
    # Names are others' text: repr, so that none can steer a terminal.
    failed = [f"does not open: {host!r} {purpose!r}" for host, purpose in done.failures]
    summary = f"{done.rekeyed} credentials have new data keys"
    if done.left_out:
        summary += f", {done.left_out} had them already"
    return "\n".join([*failed, summary])
