"""The published checkpoint, and all that were, by SQL."""

from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.note import Note, NoteError, Signature, parse_signatures

_STATE: Final = """
    SELECT pg_is_in_recovery(), (SELECT coalesce(max(position) + 1, 0) FROM ledger.events),
           published.origin, published.size, checkpoint.note,
           (SELECT string_agg(line, '' ORDER BY received_at, name) FROM ledger.cosignatures AS c
            WHERE c.origin = published.origin AND c.size = published.size)
    FROM ledger.published
    LEFT JOIN ledger.checkpoints AS checkpoint USING (origin, size)
"""
# One statement, so that the row moves and the checkpoint is kept, or neither.
_PUBLISH: Final = """
    WITH moved AS (
        UPDATE ledger.published SET origin = %(origin)s, size = %(size)s
        WHERE origin IS NOT DISTINCT FROM %(before_origin)s AND size = %(before_size)s
        RETURNING true)
    INSERT INTO ledger.checkpoints (origin, size, root, note)
    SELECT %(origin)s, %(size)s, %(root)s, %(note)s FROM moved
"""
_KEEP_COSIGNATURE: Final = """
    INSERT INTO ledger.cosignatures (origin, size, name, key_id, line)
    VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


class NotPublishedError(LookupError):
    """A position or a size that no published checkpoint covers; the text says which does."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where the ledger stands, and what was last published of it."""

    in_recovery: bool
    """Whether this is a standby, whose state may be behind: nothing is to be told from there."""
    size: int
    """How many events are committed."""
    checkpoint: SignedCheckpoint | None
    """With its cosignatures; None before the first one."""

    @property
    def place(self) -> tuple[str | None, int]:
        """What a compare-and-swap compares: origin and size."""
        if self.checkpoint is None:
            return None, 0
        return self.checkpoint.checkpoint.origin, self.checkpoint.checkpoint.size


async def read_published(connection: AsyncConnection[Any]) -> Published:
    """Read it in one statement, so that it fits together; raises NoteError."""
    cursor = await connection.execute(_STATE)
    rows = await cursor.fetchall()
    if len(rows) != 1:
        raise NoteError("ledger.published has not one row")
    ((in_recovery, size, origin, _, note, cosignatures),) = rows
    if note is None and origin is not None:
        raise NoteError("it is not among those that were kept")
    signed = None if note is None else with_cosignatures(note, cosignatures or "")
    return Published(in_recovery, size, signed)


async def publish(
    connection: AsyncConnection[Any],
    signed: SignedCheckpoint,
    before: tuple[str | None, int],
) -> bool:
    """Move the published checkpoint, if it still is at that origin and size; tell whether."""
    checkpoint = signed.checkpoint
    # Died before this commits: nothing is published, and the next process signs anew, the same
    # size or a larger one of the same tree. Died after: it is published, and kept.
    cursor = await connection.execute(
        _PUBLISH,
        {
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": checkpoint.root,
            "note": str(signed),
            "before_origin": before[0],
            "before_size": before[1],
        },
    )
    return cursor.rowcount == 1


async def keep_cosignature(
    connection: AsyncConnection[Any], checkpoint: Checkpoint, line: Signature
) -> None:
    """Keep a witness's signature of a checkpoint; the caller has verified it."""
    place = (checkpoint.origin, checkpoint.size)
    await connection.execute(_KEEP_COSIGNATURE, (*place, line.name, line.key_id, str(line)))


def with_cosignatures(note: str, lines: str) -> SignedCheckpoint:
    """A kept checkpoint with the signature lines that came later; raises NoteError."""
    signed = SignedCheckpoint.parse(note)
    more = parse_signatures(lines) if lines else ()
    text = signed.note.text
    return SignedCheckpoint(signed.checkpoint, Note(text, (*signed.note.signatures, *more)))
