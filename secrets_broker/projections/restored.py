"""Go on with a ledger that was restored to less than it had published, under another name.

Some of its positions were given to events that are gone; checkpoints and receipts of those are in
other people's hands. So the old log has ended. The new one begins with the same events, and the
first that it adds is `ledger.restored`, which names the checkpoint that was left behind.
"""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection

from secrets_broker.ledger.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.checkpointer import make_checkpoint
from secrets_broker.ledger.commands import Record
from secrets_broker.ledger.connection import TOOL_SESSION
from secrets_broker.ledger.continuity import (
    CheckpointFile,
    check_extends,
    restored_since,
)
from secrets_broker.ledger.errors import LedgerError, LedgerMismatchError
from secrets_broker.ledger.events import LEDGER_RESTORED, Context
from secrets_broker.ledger.fold import Fold
from secrets_broker.ledger.keyring import Keyring
from secrets_broker.ledger.note import SigningKey
from secrets_broker.ledger.published import Published, read_published
from secrets_broker.ledger.right_edge import load_seen
from secrets_broker.ledger.store import Store
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.projections.transactions import refused


class NothingLostError(LedgerError):
    """The ledger extends every checkpoint that is known of it, so it keeps its name."""


class SameOriginError(LedgerError):
    """The signing key is still of the log that has ended."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What is known to be gone."""

    left_behind: Checkpoint
    """The largest checkpoint that the ledger does not extend."""
    size: int
    """How many events the ledger has."""


async def find_loss(connection: AsyncConnection[Any], *known: SignedCheckpoint | None) -> Loss:
    """Compare the ledger with checkpoints of it; raises NothingLostError."""
    state = await read_published(connection)
    missed = [
        signed.checkpoint
        for signed in (state.checkpoint, *known)
        if signed and not await _extends(connection, state, signed.checkpoint)
    ]
    if not missed:
        raise NothingLostError(
            f"the ledger has {state.size} events and extends every checkpoint that is known of "
            "it: it goes on under its name, and nothing was recorded"
        )
    return Loss(max(missed, key=lambda checkpoint: checkpoint.size), state.size)


async def go_on(
    owner_url: str,
    keyring: Keyring,
    key: SigningKey,
    context: Context,
    file: CheckpointFile | None = None,
) -> tuple[Loss, SignedCheckpoint | None]:
    """Record the loss and publish the first checkpoint under the new origin.

    Raises NothingLostError, SameOriginError, or LedgerUnavailableError.
    """
    store = await Store.connect(
        owner_url, HostCredentials(), keyring, TOOL_SESSION, continuity=None
    )
    try:
        loss = await find_loss(store.connection, file.read() if file else None)
        if loss.left_behind.origin == key.name:
            raise SameOriginError(
                f"LEDGER_SIGNING_KEY is of {key.name}, the log that has ended: set LEDGER_ORIGIN, "
                "LEDGER_SIGNING_KEY and LEDGER_VERIFIER_KEY to new ones, as secrets-broker keygen "
                "prints them"
            )
        await _record(store, keyring, key, context, loss)
        signed = await make_checkpoint(store.connection, key)
    except psycopg.Error as error:
        raise refused(error) from None
    finally:
        await store.close()
    if signed and file:
        file.keep(signed)
    return loss, signed


async def _record(
    store: Store, keyring: Keyring, key: SigningKey, context: Context, loss: Loss
) -> None:
    fold = Fold(await store.read([], await load_seen(store.connection)), keyring)
    details = {
        "origin": loss.left_behind.origin,
        "size": loss.left_behind.size,
        "root": b64encode(loss.left_behind.root).decode(),
        "new_origin": key.name,
        **fold.begin_event_key(),  # a copy of the lost timeline may hold what the old one made
    }
    fold.take(Record(type=LEDGER_RESTORED, details=details), context)
    # Died before this commits: the ledger is refused as before, and this is run again. Died
    # after: the event excuses the lost checkpoints, and any service with the new key makes the
    # first checkpoint of the new origin.
    await store.append(fold)


async def _extends(
    connection: AsyncConnection[Any], state: Published, checkpoint: Checkpoint
) -> bool:
    if (await restored_since(connection, checkpoint)).lost:
        return True
    try:
        await check_extends(connection, state.size, checkpoint, "the checkpoint")
    except LedgerMismatchError:
        return False
    return True
