"""Checks that the ledger still extends what was published of it.

A database that was restored, failed over or edited may have fewer events than a checkpoint says, or
others. Then nothing is appended: positions that somebody holds receipts of would get other events
under the same name. Two checkpoints are compared: the published one, and one in a file outside the
database, because a restore also sets back the published one. Beside the file is kept how much was
acknowledged since, because a failover can lose less than a checkpoint.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.halt import stop_message
from secrets_broker.ledger.rollback_detection.kept_facts import KeptFacts, Mark
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import (
    Published,
    read_durable,
    read_published,
)
from secrets_broker.ledger.transparency_log.note import NoteError, VerifierKey
from secrets_broker.ledger.transparency_log.proof import ProofError
from secrets_broker.ledger.transparency_log.stored_hashes import root_at

# A ledger.restored event stands where the restored ledger ended, and names the last checkpoint that
# was published before. Events of the old log between the two were lost; those before are here.
_RESTORED: Final = """
    SELECT count(*) > 0,
           coalesce(bool_or(%(size)s > position
                            AND CASE WHEN jsonb_typeof(details -> 'size') = 'number'
                                THEN %(size)s <= (details -> 'size')::numeric END), false),
           coalesce(bool_or(details ->> 'new_origin' = %(new_origin)s), false)
    FROM ledger.effective_events
    WHERE ok AND type = 'ledger.restored' AND details ->> 'origin' = %(origin)s
"""
_LAST_LOSS: Final = """
    SELECT details ->> 'origin', position, (details -> 'size')::bigint FROM ledger.effective_events
    WHERE ok AND type = 'ledger.restored'
      AND CASE WHEN jsonb_typeof(details -> 'size') = 'number'
          THEN (details -> 'size')::numeric > position
               AND (details -> 'size')::numeric < 9223372036854775807 END
    ORDER BY position DESC LIMIT 1
"""
# Unlike a checkpoint, what was acknowledged is no promise to others. So any ledger.restored event
# of its origin at or before it excuses the loss, whatever size that event names.
_ACKNOWLEDGED: Final = """
    SELECT (SELECT leaf_hash FROM ledger.events WHERE position = %(last)s),
           EXISTS (SELECT FROM ledger.effective_events
                   WHERE ok AND type = 'ledger.restored' AND details ->> 'origin' = %(origin)s
                     AND position <= %(last)s)
"""
ADVICE: Final = (
    "Nothing is appended to it. If it was restored from a backup, or failed over to a standby that "
    "was behind, see: secrets-broker restored"
)


@dataclass(frozen=True, slots=True)
class Continuity:
    """What a ledger must extend."""

    verifiers: tuple[VerifierKey, ...] = ()
    file: CheckpointFile | None = None
    origin: str | None = None
    """The name that its checkpoints are signed under from now on; None if unknown."""

    async def check(self, connection: AsyncConnection[Any]) -> None:
        """Raise LedgerMismatchError unless the ledger extends all that is known of it."""
        # Read the files first: the database already has the events that they name. In the other
        # order, what other processes add meanwhile would look like a loss.
        kept = self.file.read() if self.file else None
        facts = self.file.facts.read() if self.file else KeptFacts()
        if facts.stopped:
            raise LedgerMismatchError(stop_message(facts.stopped))
        state = await _published(connection)
        if state.in_recovery:  # it may be behind, which would look like a loss
            raise LedgerUnavailableError("this database is a standby: nothing is appended there")
        if state.checkpoint:
            await self._check(connection, state, state.checkpoint, "the published checkpoint")
        if kept and self.file:
            what = f"the checkpoint in {self.file.path}"
            with _evidence(state):
                await self._check(connection, state, kept, what)
        if facts.seen:
            with _evidence(state):
                await _check_acknowledged(connection, state, facts.seen)

    async def keep(self, connection: AsyncConnection[Any], signed: SignedCheckpoint) -> None:
        """Write a published checkpoint to the file, if it extends the one in the file.

        Raises LedgerMismatchError if it does not. Raises LedgerUnavailableError if no known key
        signed it, if it is not confirmed to be durable, or if it cannot be written.
        """
        if self.file is None:
            return
        before = self.file.read()
        if before and _is_as_new(before.checkpoint, signed.checkpoint):
            return  # another process of this machine has already compared and kept it
        try:
            signed.verify(self.verifiers)
        except NoteError as error:
            raise LedgerUnavailableError(
                f"the published checkpoint is not kept: {error}. If it was made with an earlier "
                "key, that key's public half is missing in LEDGER_VERIFIER_KEY"
            ) from None
        state = await read_durable(connection)
        with _evidence(state):
            what = "the published checkpoint"
            await check_extends(connection, state.size, signed.checkpoint, what)
        await self.check(connection)
        try:
            # If another process has replaced it meanwhile, the next round compares with that one.
            await asyncio.to_thread(self.file.replace, before, signed)
        except OSError as error:
            raise LedgerUnavailableError(
                f"LEDGER_CHECKPOINT_FILE cannot be moved on ({error.strerror}): until it can, a "
                "database that is set back to what it says is not noticed"
            ) from None

    async def _check(
        self, connection: AsyncConnection[Any], state: Published, known: SignedCheckpoint, what: str
    ) -> None:
        self._check_signature(known, what)
        restored = await restored_since(connection, known.checkpoint)
        if restored.lost:
            return  # a ledger.restored event left this checkpoint behind
        if state.place[0] not in (None, known.checkpoint.origin) and not restored.at_all:
            raise LedgerMismatchError(
                f"{what} is of {known.checkpoint.origin}, and this ledger is {state.place[0]}. "
                f"{ADVICE}"
            )
        await check_extends(connection, state.size, known.checkpoint, what)

    def _check_signature(self, signed: SignedCheckpoint, what: str) -> None:
        # A signature of an unknown key says nothing; one of a known key must be right.
        try:
            signed.note.verified_by(self.verifiers)
        except NoteError as error:
            raise LedgerMismatchError(f"{what} was changed: {error}. {ADVICE}") from None


PUBLISHED: Final = Continuity()
"""Checks only what the database itself has published."""


async def check_extends(
    connection: AsyncConnection[Any], size: int, checkpoint: Checkpoint, what: str
) -> None:
    """Raise LedgerMismatchError unless the ledger of that size extends the checkpoint."""
    if checkpoint.size > size:
        raise LedgerMismatchError(
            f"the ledger has {size} events, and {what} is of {checkpoint.size}: the newest ones "
            f"are gone. {ADVICE}"
        )
    try:
        fits = await root_at(connection, checkpoint.size) == checkpoint.root
    except ProofError as error:
        raise LedgerMismatchError(f"the stored tree is not complete: {error}. {ADVICE}") from None
    if not fits:
        raise LedgerMismatchError(
            f"{what} is of other events than the first {checkpoint.size} of this ledger. {ADVICE}"
        )


@dataclass(frozen=True, slots=True)
class Lost:
    """What a ledger.restored event says."""

    origin: str
    """The log that has ended."""
    first: int
    last: int
    """The first and the last position that were lost."""


async def last_loss(connection: AsyncConnection[Any]) -> Lost | None:
    """What was lost in the last restore; None if there was none."""
    cursor = await connection.execute(_LAST_LOSS)
    rows = await cursor.fetchall()
    return next((Lost(origin, first, size - 1) for origin, first, size in rows), None)


async def acknowledged_is_there(connection: AsyncConnection[Any], mark: Mark) -> bool:
    """Whether the ledger has the last acknowledged event, or declares it lost."""
    cursor = await connection.execute(_ACKNOWLEDGED, {"last": mark.size - 1, "origin": mark.origin})
    ((leaf, lost),) = await cursor.fetchall()
    return bool(leaf == mark.leaf or lost)


async def _check_acknowledged(
    connection: AsyncConnection[Any], state: Published, mark: Mark
) -> None:
    if await acknowledged_is_there(connection, mark):
        return
    if state.size < mark.size:
        why = (
            f"the ledger has {state.size} events, and {mark.size} were acknowledged: the newest "
            "ones are gone"
        )
    else:
        why = f"the event at position {mark.size - 1} is not the one that was acknowledged"
    raise LedgerMismatchError(f"{why}. {ADVICE}")


def _is_as_new(kept: Checkpoint, published: Checkpoint) -> bool:
    return kept == published or (kept.origin == published.origin and kept.size > published.size)


@contextmanager
def _evidence(state: Published) -> Iterator[None]:
    """Attach the database's published checkpoint to a mismatch error."""
    try:
        yield
    except LedgerMismatchError as error:
        note = str(state.checkpoint) if state.checkpoint else None
        raise LedgerMismatchError(str(error), note) from None


@dataclass(frozen=True, slots=True)
class Restored:
    """What the ledger's own ledger.restored events say of a checkpoint."""

    at_all: bool
    """Whether a log of that origin ended in a restore."""
    lost: bool
    """Whether the checkpoint covers events that were lost then."""
    renamed: bool
    """Whether the ledger continued under the given new origin."""


async def restored_since(
    connection: AsyncConnection[Any], checkpoint: Checkpoint, new_origin: str | None = None
) -> Restored:
    """Read the events that name the checkpoint's origin; an index covers exactly these."""
    asked = {"origin": checkpoint.origin, "size": checkpoint.size, "new_origin": new_origin}
    cursor = await connection.execute(_RESTORED, asked)
    ((at_all, lost, renamed),) = await cursor.fetchall()
    return Restored(at_all, lost, renamed)


async def _published(connection: AsyncConnection[Any]) -> Published:
    try:
        return await read_published(connection)
    except NoteError as error:
        raise LedgerMismatchError(
            f"the published checkpoint cannot be read: {error}. {ADVICE}"
        ) from None
