"""Whether the ledger still goes on from what was published of it.

A database that was restored, failed over or edited may have fewer events than a checkpoint says,
or others. Nothing is appended to it then: positions that somebody holds receipts of would be given
to other events, under the same name. Two checkpoints are looked at: the published one, and one in
a file outside the database, for a database that was restored, checkpoints and all.
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.ledger.hashes import root_at
from secrets_broker.ledger.note import NoteError, VerifierKey
from secrets_broker.ledger.proof import ProofError
from secrets_broker.ledger.published import Published, read_published

# An event of this type stands where the restored ledger ended, and names the last checkpoint
# that was published before. What of the old log lies between was lost; what lies before is here.
_RESTORED: Final = """
    SELECT count(*) > 0,
           coalesce(bool_or(%(size)s > position AND %(size)s <= (details ->> 'size')::bigint),
                    false),
           coalesce(bool_or(details ->> 'new_origin' = %(new_origin)s), false)
    FROM ledger.effective_events
    WHERE ok AND type = 'ledger.restored' AND details ->> 'origin' = %(origin)s
"""
_ADVICE: Final = (
    "Nothing is appended to it. If it was restored from a backup, see: secrets-broker restored"
)


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A checkpoint outside the database. It only ever goes forward."""

    path: Path

    def read(self) -> SignedCheckpoint | None:
        """What is in it, None where there is no file; raises LedgerUnavailableError."""
        try:
            return SignedCheckpoint.parse(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerUnavailableError(f"{self.path}: {error.strerror}") from None
        except (UnicodeDecodeError, NoteError) as error:
            raise LedgerUnavailableError(f"{self.path} holds no checkpoint: {error}") from None

    def check_writable(self) -> None:
        """Raise OSError where no checkpoint could be kept there."""
        self._lock_path().touch()

    def keep(self, signed: SignedCheckpoint) -> None:
        """Replace an older checkpoint, or one of another origin; raises OSError.

        The ledger goes on only from the one in the file, so another origin is a later one.
        """
        with self._lock_path().open("a") as lock:  # workers of one machine share the file
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_older(signed.checkpoint):
                return
            fresh = self.path.with_name(self.path.name + ".new")
            with fresh.open("w", encoding="utf-8") as file:
                file.write(str(signed))
                file.flush()
                os.fsync(file.fileno())
            # Died before: the file holds the checkpoint before, which the ledger extends too.
            # Died after: it holds this one, which was published.
            fresh.replace(self.path)
            _flush_folder(self.path.parent)

    def _is_older(self, than: Checkpoint) -> bool:
        try:
            current = self.read()
        except LedgerUnavailableError:
            return False  # what cannot be read is for somebody to look at, not to be replaced
        if current is None or current.checkpoint.origin != than.origin:
            return True
        return current.checkpoint.size < than.size

    def _lock_path(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")


@dataclass(frozen=True, slots=True)
class Continuity:
    """What a ledger has to go on from."""

    verifiers: tuple[VerifierKey, ...] = ()
    file: CheckpointFile | None = None

    async def check(self, connection: AsyncConnection[Any]) -> None:
        """Raise LedgerMismatchError unless the ledger extends every checkpoint that is known."""
        state = await _published(connection)
        if state.in_recovery:  # it may be behind, which would look like a loss
            raise LedgerUnavailableError("this database is a standby: nothing is appended there")
        if state.checkpoint:
            await self._check(connection, state, state.checkpoint, "the published checkpoint")
        kept = self.file.read() if self.file else None
        if kept and self.file:
            await self._check(connection, state, kept, f"the checkpoint in {self.file.path}")

    async def _check(
        self, connection: AsyncConnection[Any], state: Published, known: SignedCheckpoint, what: str
    ) -> None:
        self._check_signature(known, what)
        restored = await restored_since(connection, known.checkpoint)
        if restored.lost:
            return  # the ledger itself says that it left this one behind
        if state.place[0] not in (None, known.checkpoint.origin) and not restored.at_all:
            raise LedgerMismatchError(
                f"{what} is of {known.checkpoint.origin}, and this ledger is {state.place[0]}. "
                f"{_ADVICE}"
            )
        await check_extends(connection, state.size, known.checkpoint, what)

    def _check_signature(self, signed: SignedCheckpoint, what: str) -> None:
        # A key that is not known any more says nothing; one that is known must be right.
        try:
            signed.note.verified_by(self.verifiers)
        except NoteError as error:
            raise LedgerMismatchError(f"{what} was changed: {error}. {_ADVICE}") from None


PUBLISHED: Final = Continuity()
"""Only what the database itself has published."""


async def check_extends(
    connection: AsyncConnection[Any], size: int, checkpoint: Checkpoint, what: str
) -> None:
    """Raise LedgerMismatchError unless a ledger of that size extends the checkpoint."""
    if checkpoint.size > size:
        raise LedgerMismatchError(
            f"the ledger has {size} events, and {what} is of {checkpoint.size}: the newest ones "
            f"are gone. {_ADVICE}"
        )
    try:
        fits = await root_at(connection, checkpoint.size) == checkpoint.root
    except ProofError as error:
        raise LedgerMismatchError(f"the stored tree is not complete: {error}. {_ADVICE}") from None
    if not fits:
        raise LedgerMismatchError(
            f"{what} is of other events than the first {checkpoint.size} of this ledger. {_ADVICE}"
        )


@dataclass(frozen=True, slots=True)
class Restored:
    """What the ledger's own ledger.restored events say of a checkpoint."""

    at_all: bool
    """Whether a ledger of that origin was restored."""
    lost: bool
    """Whether the checkpoint is of events that were lost then."""
    renamed: bool
    """Whether the ledger went on under the origin that was asked for."""


async def restored_since(
    connection: AsyncConnection[Any], checkpoint: Checkpoint, new_origin: str | None = None
) -> Restored:
    """Read the events that name the checkpoint's origin; an index is on just those."""
    asked = {"origin": checkpoint.origin, "size": checkpoint.size, "new_origin": new_origin}
    cursor = await connection.execute(_RESTORED, asked)
    ((at_all, lost, renamed),) = await cursor.fetchall()
    return Restored(at_all, lost, renamed)


async def _published(connection: AsyncConnection[Any]) -> Published:
    try:
        return await read_published(connection)
    except NoteError as error:
        raise LedgerMismatchError(
            f"the published checkpoint cannot be read: {error}. {_ADVICE}"
        ) from None


def _flush_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
