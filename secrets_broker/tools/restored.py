"""`secrets-broker restored`: continue a ledger that lost events, under another name."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from secrets_broker import logging_setup
from secrets_broker.ledger.encoding import label_problem
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.events import MAX_REASON
from secrets_broker.ledger.operations.recovery import (
    Known,
    Loss,
    NothingLostError,
    continue_after_loss,
)
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.transactions import Login
from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import NoteError, VerifierKey
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.settings import MissingSettingError, Settings
from secrets_broker.tools.shared.command_line import (
    clear_errors,
    data_dir_option,
    json_option,
    load_settings,
    operator,
    require_schema,
)
from secrets_broker.wiring import continuity, loaded_keyring, signing_key, verifier_keys


@click.command()
@data_dir_option
@json_option
@click.option("--reason", required=True, help="Why the ledger was restored; it is recorded.")
@click.option(
    "--since",
    type=click.Path(path_type=Path),
    help="A checkpoint that was kept elsewhere: what GET /log/checkpoint answered.",
)
def restored(data_dir: Path | None, as_json: bool, reason: str, since: Path | None) -> None:
    """Continue after a restore that lost events, under a new origin.

    A service refuses a ledger that has fewer events than a published checkpoint says, or others.
    If the database was restored from a backup on purpose: stop every service, set LEDGER_ORIGIN,
    LEDGER_SIGNING_KEY and LEDGER_VERIFIER_KEY to new ones (secrets-broker keygen prints them; keep
    the earlier verifier key beside the new one), run this, and start the services again. It
    compares with the checkpoint in the database, with what LEDGER_CHECKPOINT_FILE and the files
    beside it say, and with --since; records `ledger.restored`, which names what was lost, publishes
    the first checkpoint of the new origin, and ends the stop that a service left beside
    LEDGER_CHECKPOINT_FILE.

    Where nothing was lost, nothing is recorded: it says so, ends such a stop, and exits with 1
    where there was none.
    """
    logging_setup.configure(readable=True)
    if problem := label_problem(reason, MAX_REASON):
        raise click.UsageError(f"--reason {problem}")
    with clear_errors():
        done = asyncio.run(_run(load_settings(data_dir), reason, since))
    if isinstance(done, str):
        click.echo(msgspec.json.encode({"lost": None}) if as_json else done)
        return
    loss, signed = done
    lost = {
        "origin": loss.left_behind.origin,
        "published": loss.left_behind.size,
        "restored": loss.size,
        "lost": [loss.size, loss.last],
        "new_origin": signed.checkpoint.origin if signed else None,
    }
    click.echo(msgspec.json.encode(lost) if as_json else _text(loss, signed))


async def _run(
    settings: Settings, reason: str, since: Path | None
) -> tuple[Loss, SignedCheckpoint | None] | str:
    url, key = settings.migration_database_url, signing_key(settings)
    if key is None:
        raise MissingSettingError("LEDGER_SIGNING_KEY")
    await asyncio.to_thread(require_schema, url)
    login = Login(url, await loaded_keyring(settings, url), HostCredentials())
    kept = kept_elsewhere(since, verifier_keys(settings)) if since else None
    known = Known(continuity(settings).file, kept)
    try:
        return await continue_after_loss(login, key, operator(reason), known)
    except NothingLostError as nothing:
        if known.lift(None):
            return f"{nothing}. The stop beside LEDGER_CHECKPOINT_FILE is ended."
        raise


def kept_elsewhere(path: Path, keys: Sequence[VerifierKey]) -> SignedCheckpoint:
    """A checkpoint of this log from a file; raises LedgerUnavailableError."""
    signed = CheckpointFile(path).read()
    if signed is None:
        raise LedgerUnavailableError(f"{path} does not exist")
    try:
        signed.verify(keys)
    except NoteError as error:
        raise LedgerUnavailableError(
            f"{path}: {error}. It is of another log, or the key that it was signed with is missing "
            "in LEDGER_VERIFIER_KEY: keep the earlier ones behind the new one"
        ) from None
    return signed


def _text(loss: Loss, signed: SignedCheckpoint | None) -> str:
    old = loss.left_behind
    name = signed.checkpoint.origin if signed else "its new origin"
    return (
        f"{old.origin} ends: it had published {old.size} events, and {loss.size} are here. "
        f"Lost are the positions {loss.size} to {loss.last}.\n"
        f"Recorded as ledger.restored at position {loss.size}; the ledger continues as {name}."
    )
