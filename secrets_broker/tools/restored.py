"""`secrets-broker restored`: go on with a ledger that lost events, under another name."""

import asyncio
from pathlib import Path

import click
import msgspec

from secrets_broker import logs
from secrets_broker.keys import continuity, loaded_keyring, signing_key
from secrets_broker.ledger.checkpoint import SignedCheckpoint
from secrets_broker.ledger.encoding import label_problem
from secrets_broker.ledger.events import MAX_REASON
from secrets_broker.projections.restored import Loss, go_on
from secrets_broker.settings import MissingSettingError, Settings
from secrets_broker.tools.common import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    operator,
    require_schema,
)


@click.command()
@data_dir_option
@json_option
@click.option("--reason", required=True, help="Why the ledger was restored; it is recorded.")
def restored(data_dir: Path | None, as_json: bool, reason: str) -> None:
    """Go on after a restore that lost events, under a new origin.

    A service refuses a ledger that has fewer events than a published checkpoint says, or others.
    If the database was restored from a backup on purpose: stop every service, set LEDGER_ORIGIN,
    LEDGER_SIGNING_KEY and LEDGER_VERIFIER_KEY to new ones (secrets-broker keygen prints them; keep
    the earlier verifier key beside the new one), run this, and start the services again. It
    compares with the checkpoint in the database and with the one in LEDGER_CHECKPOINT_FILE, records
    `ledger.restored`, which names what was lost, and publishes the first checkpoint of the new
    origin.
    """
    logs.configure(readable=True)
    if problem := label_problem(reason, MAX_REASON):
        raise click.UsageError(f"--reason {problem}")
    with clear_errors():
        loss, signed = asyncio.run(_run(load_settings(data_dir), reason))
    lost = {
        "origin": loss.left_behind.origin,
        "published": loss.left_behind.size,
        "restored": loss.size,
        "new_origin": signed.checkpoint.origin if signed else None,
    }
    click.echo(msgspec.json.encode(lost) if as_json else _text(loss, signed))


async def _run(settings: Settings, reason: str) -> tuple[Loss, SignedCheckpoint | None]:
    url, key = settings.migration_database_url, signing_key(settings)
    if key is None:
        raise MissingSettingError("LEDGER_SIGNING_KEY")
    await asyncio.to_thread(require_schema, url)
    keys = await loaded_keyring(settings, url)
    return await go_on(url, keys, key, operator(reason), continuity(settings).file)


def _text(loss: Loss, signed: SignedCheckpoint | None) -> str:
    old = loss.left_behind
    name = signed.checkpoint.origin if signed else "its new origin"
    return (
        f"{old.origin} ends: it had published {old.size} events, and {loss.size} are here.\n"
        f"Recorded as ledger.restored at position {loss.size}; the ledger goes on as {name}."
    )
