"""Continues a ledger under another name after a restore that lost published events.

Other people hold checkpoints and receipts of the lost events, and their positions are given to new
ones. So the old log has ended. The new log begins with the events that are left. The first event
that it adds is `ledger.restored`, which names the checkpoint that was left behind.
"""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection

from secrets_broker.ledger.commands import Record
from secrets_broker.ledger.database.ledger_session import TOOL_SESSION
from secrets_broker.ledger.errors import (
    BusyError,
    FoundError,
    LedgerError,
    LedgerMismatchError,
    LedgerUnavailableError,
)
from secrets_broker.ledger.event_types import LEDGER_RESTORED
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.publishing.checkpointer import make_checkpoint
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.continuity import (
    acknowledged_is_there,
    check_extends,
    restored_since,
)
from secrets_broker.ledger.rollback_detection.kept_facts import KeptFacts, Mark
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.transactions import Login, Transactions, refused
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import Published, read_published
from secrets_broker.ledger.transparency_log.note import SigningKey


class NothingLostError(FoundError):
    """The ledger extends all its known checkpoints, so it keeps its name."""


class SameOriginError(LedgerError):
    """The signing key is still that of the ended log."""


class RewrittenError(FoundError):
    """The events that are left differ from the known ones: no restore explains that."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What is known to be lost."""

    left_behind: Checkpoint
    """The largest tree that the ledger does not extend."""
    size: int
    """How many events the ledger has, which is the first lost position."""

    @property
    def last(self) -> int:
        """The last position known to be lost."""
        return self.left_behind.size - 1


@dataclass(frozen=True, slots=True)
class Known:
    """The checkpoints that the ledger must extend, as far as the caller knows."""

    file: CheckpointFile | None = None
    since: SignedCheckpoint | None = None
    """A checkpoint kept elsewhere, signed by a known key."""

    def check_unused(self) -> None:
        """Raise BusyError if a service that uses the file still runs."""
        try:
            if self.file and self.file.facts.in_use():
                raise BusyError("a service still runs here: stop every service first")
        except OSError as error:
            raise _not_usable(error) from None

    def lift(self, signed: SignedCheckpoint | None) -> bool:
        """Renew the file, and end the stop; tell whether there was one.

        Raises LedgerUnavailableError.
        """
        if self.file is None:
            return False
        stopped = self.file.facts.read().stopped is not None
        try:
            if signed:
                # Died after: the event excuses what the old file said, and the new one fits.
                self.file.replace(self.file.read(), signed)
            # Died before: a service that starts is stopped as before, and this is run again.
            self.file.facts.gather()
            self.file.facts.change(_continued)
        except OSError as error:
            raise _not_usable(error) from None
        return stopped


def _continued(facts: KeptFacts) -> KeptFacts:
    return KeptFacts(authenticated_from=facts.authenticated_from)


def _not_usable(error: OSError) -> LedgerUnavailableError:
    return LedgerUnavailableError(f"LEDGER_CHECKPOINT_FILE cannot be used: {error.strerror}")


async def find_loss(connection: AsyncConnection[Any], known: Known = Known()) -> Loss:
    """Compare the ledger with what is known; raises NothingLostError or RewrittenError."""
    kept = known.file.read() if known.file else None
    mark = known.file.facts.read().seen if known.file else None
    state = await read_published(connection)
    missed = [
        signed.checkpoint
        for signed in (state.checkpoint, kept, known.since)
        if signed and not await _extends(connection, state, signed.checkpoint)
    ]
    if mark and not await acknowledged_is_there(connection, mark):
        missed.append(_as_checkpoint(mark, kept or state.checkpoint))
    if not missed:
        raise NothingLostError(
            f"the ledger has {state.size} events and extends every checkpoint that is known of "
            "it: it keeps its name, and nothing was recorded"
        )
    if rewritten := [tree for tree in missed if tree.size <= state.size]:
        raise _rewritten(state.size, min(tree.size for tree in rewritten))
    return Loss(max(missed, key=lambda tree: tree.size), state.size)


def _as_checkpoint(mark: Mark, named: SignedCheckpoint | None) -> Checkpoint:
    """A mark as a checkpoint; without an origin it takes that of the given checkpoint."""
    origin = mark.origin or (named.checkpoint.origin if named else "")
    return Checkpoint(origin, mark.size, mark.root)


def _rewritten(size: int, wrong: int) -> RewrittenError:
    return RewrittenError(
        f"the ledger has {size} events, and its first {wrong} are not those that are known: it was "
        "written to after the restore, or rewritten, and to continue would hide that. Nothing was "
        "recorded. Restore a backup again, and run this before anything else writes; see: The "
        "ledger does not verify, in docs/incidents.md"
    )


async def continue_after_loss(
    login: Login, key: SigningKey, context: Context, known: Known
) -> tuple[Loss, SignedCheckpoint | None]:
    """Record the loss and publish the first checkpoint under the new origin.

    Raises NothingLostError, RewrittenError, SameOriginError, BusyError or LedgerUnavailableError.
    """
    known.check_unused()
    store = await Store.connect(
        login.url, login.projection, login.keyring, TOOL_SESSION, continuity=None
    )
    try:
        loss = await find_loss(store.connection, known)
        if loss.left_behind.origin == key.name:
            raise SameOriginError(
                f"LEDGER_SIGNING_KEY is of {key.name}, the log that has ended: set LEDGER_ORIGIN, "
                "LEDGER_SIGNING_KEY and LEDGER_VERIFIER_KEY to new ones, as secrets-broker keygen "
                "prints them"
            )
        await _record(Transactions(store, login.keyring), key, context, loss)
        signed = await make_checkpoint(store.connection, key)
    except psycopg.Error as error:
        raise refused(error) from None
    finally:
        await store.close()
    known.lift(signed)
    return loss, signed


async def _record(work: Transactions, key: SigningKey, context: Context, loss: Loss) -> None:
    fold = await work.begin([])
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
    await work.commit(fold)


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
