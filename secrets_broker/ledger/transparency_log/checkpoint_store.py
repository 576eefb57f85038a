"""Reads and publishes checkpoints, by SQL."""

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

# At most as many as a note holds, each cut to the length of a signature line: anybody with the
# service's login can add rows. Empty lines separate them, so that none runs into the next.
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
# One statement, so that both writes happen or neither.
_PUBLISH: Final = """
    WITH moved AS (
        UPDATE ledger.published SET origin = %(origin)s, size = %(size)s
        WHERE origin IS NOT DISTINCT FROM %(before_origin)s AND size = %(before_size)s
        RETURNING true)
    INSERT INTO ledger.checkpoints (origin, size, root, note)
    SELECT %(origin)s, %(size)s, %(root)s, %(note)s FROM moved
"""
# Writes a log record, so that the commit waits for standbys. Of two signers, one waits.
_LOCK: Final = "SELECT 1 FROM ledger.published FOR UPDATE"
_KEEP_COSIGNATURE: Final = """
    INSERT INTO ledger.cosignatures (origin, size, name, key_id, line)
    VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


class NotPublishedError(LookupError):
    """No published checkpoint covers the position or size; the text says what is covered."""


@dataclass(frozen=True, slots=True)
class Published:
    """The ledger's size, and its last published checkpoint."""

    in_recovery: bool
    """Whether this is a standby, which may lag: it must not answer about the log."""
    size: int
    """How many events are committed."""
    checkpoint: SignedCheckpoint | None
    """With its cosignatures; None before the first one."""
    unreadable: int = 0
    """How many rows of its cosignatures are malformed."""

    @property
    def place(self) -> tuple[str | None, int]:
        """Origin and size, which the compare-and-swap compares."""
        if self.checkpoint is None:
            return None, 0
        return self.checkpoint.checkpoint.origin, self.checkpoint.checkpoint.size


async def read_published(connection: AsyncConnection[Any]) -> Published:
    """Read it in one statement, so that it is consistent; raises NoteError."""
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
    """As `read_published`, and all of it is durable, as a writer's commit is.

    Raises NoteError, and OutcomeUnknownError if the database did not confirm that.
    """
    async with believed(connection):
        await connection.execute(_LOCK)
        return await read_published(connection)


async def publish(
    connection: AsyncConnection[Any],
    signed: SignedCheckpoint,
    before: tuple[str | None, int],
) -> bool:
    """Publish a checkpoint if the published one is still at this origin and size; tell whether."""
    checkpoint = signed.checkpoint
    # Died before this commits: nothing is published, and the next process signs again, the same
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

    Tells whether it was stored; it is not if another row has its place.
    """
    place = (checkpoint.origin, checkpoint.size, line.name, line.key_id)
    cursor = await connection.execute(_KEEP_COSIGNATURE, (*place, str(line)))
    return cursor.rowcount == 1
