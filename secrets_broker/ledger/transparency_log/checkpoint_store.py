"""The published checkpoint, and all that were, by SQL."""

from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.database.commit_check import believed
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.cosignatures import unreadable, with_cosignatures
from secrets_broker.ledger.transparency_log.note import (
    NoteError,
    Signature,
)

# As many as a note holds, and no row longer than a signature line is: anybody with the service's
# login can add to them. An empty line stands between two, so that none runs into the next.
COSIGNATURES: Final = """
    (SELECT string_agg(line, E'\\n' ORDER BY received_at, name) FROM (
        SELECT left(c.line, 4096) AS line, c.received_at, c.name FROM ledger.cosignatures AS c
        WHERE c.origin = __of__.origin AND c.size = __of__.size
        ORDER BY c.received_at, c.name LIMIT 64) AS cosignature)
"""
_STATE: Final = """
    SELECT pg_is_in_recovery(), (SELECT coalesce(max(position) + 1, 0) FROM ledger.events),
           published.origin, published.size, checkpoint.note,
           __cosignatures__
    FROM ledger.published
    LEFT JOIN ledger.checkpoints AS checkpoint USING (origin, size)
""".replace("__cosignatures__", COSIGNATURES.replace("__of__", "published"))
# One statement, so that the row moves and the checkpoint is kept, or neither.
_PUBLISH: Final = """
    WITH moved AS (
        UPDATE ledger.published SET origin = %(origin)s, size = %(size)s
        WHERE origin IS NOT DISTINCT FROM %(before_origin)s AND size = %(before_size)s
        RETURNING true)
    INSERT INTO ledger.checkpoints (origin, size, root, note)
    SELECT %(origin)s, %(size)s, %(root)s, %(note)s FROM moved
"""
# Writes a record, as a commit has to that waits for its standbys; and of two that sign, one waits.
_LOCK: Final = "SELECT 1 FROM ledger.published FOR UPDATE"
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
    unreadable: int = 0
    """How many rows among its cosignatures are none."""

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
    return Published(in_recovery, size, signed, unreadable(cosignatures or ""))


async def read_durable(connection: AsyncConnection[Any]) -> Published:
    """The same, and all of it is durable, as a writer's commit is.

    Raises NoteError, and OutcomeUnknownError where the database did not confirm that.
    """
    async with believed(connection):
        await connection.execute(_LOCK)
        return await read_published(connection)


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
) -> bool:
    """Keep a witness's signature of a checkpoint, which the caller has verified.

    Tells whether it is there: not where another row has its place.
    """
    place = (checkpoint.origin, checkpoint.size, line.name, line.key_id)
    cursor = await connection.execute(_KEEP_COSIGNATURE, (*place, str(line)))
    return cursor.rowcount == 1
