"""Makes an event's receipt with one statement: the checkpoint, the event's row, and the hashes.

The hashes of an inclusion proof are in two tiles a level: the one above the leaf, and the last one
of the tree. Position and size determine them. So the one statement finds them for the size that it
finds published, and all it reads is of one moment.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.types.numeric import Int8

from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.ledger.transparency_log.checkpoint_store import COSIGNATURES, NotPublishedError
from secrets_broker.ledger.transparency_log.cosignatures import with_cosignatures
from secrets_broker.ledger.transparency_log.merkle import HASH_BYTES, TILE_WIDTH, leaf_hash
from secrets_broker.ledger.transparency_log.note import NoteError
from secrets_broker.ledger.transparency_log.proof import (
    ProofError,
    Run,
    compute,
    plan_inclusion,
    runs,
)
from secrets_broker.ledger.transparency_log.proof import verify_inclusion as verify
from secrets_broker.ledger.transparency_log.receipt import Receipt
from secrets_broker.ledger.transparency_log.stored_entries import ENTRY_COLUMNS, entry_of

# Up to level 6: one tile of it is all of a tree of 2^56 leaves.
_EVIDENCE: Final = f"""
    WITH head AS MATERIALIZED (
        SELECT origin, size AS newest, coalesce(%(size)s::bigint, size) AS size,
               %(position)s::bigint AS position
        FROM ledger.published)
    SELECT pg_is_in_recovery(), head.origin, head.newest, kept.note,
           {COSIGNATURES.replace("__of__", "head")},
           (SELECT row_to_json(entry)::text FROM (
                SELECT {ENTRY_COLUMNS} FROM ledger.events WHERE position = head.position) AS entry),
           levels.*
    FROM head
    LEFT JOIN ledger.checkpoints AS kept USING (origin, size)
    CROSS JOIN LATERAL (
        SELECT array_agg(level), array_agg(first), array_agg(CASE level
            WHEN 0 THEN (SELECT string_agg(leaf_hash, '' ORDER BY position) FROM ledger.events AS e
                         WHERE e.position >= first AND e.position < least(first + 256, head.size))
            ELSE (SELECT string_agg(hash, '' ORDER BY index) FROM ledger.nodes AS n
                  WHERE n.level = tile.level AND n.index >= first
                    AND n.index < least(first + 256, head.size >> 8 * tile.level)) END)
        FROM (SELECT level::smallint, at >> 8 * (level + 1) << 8 AS first
              FROM generate_series(0, 6) AS level,
                   LATERAL (VALUES (head.position), (head.size)) AS place (at)
              WHERE head.size >> 8 * level > 0
              GROUP BY 1, 2) AS tile) AS levels (level, first, hashes)
"""  # noqa: S608 - our own constants

Tiles = Mapping[tuple[int, int], bytes | None]
"""Hashes one after another, by level and the index of the first."""


async def receipt(
    connection: AsyncConnection[Any], position: int, size: int | None = None
) -> Receipt:
    """An event's receipt, under the published checkpoint or the kept one of that size.

    Raises NotPublishedError, LedgerUnavailableError on a standby, and LedgerMismatchError if the
    stored tree does not lead to the signed root.
    """
    # Int8: else psycopg prepares one statement for small numbers and another for large ones.
    wanted = {"position": Int8(position), "size": None if size is None else Int8(size)}
    cursor = await connection.execute(_EVIDENCE, wanted, prepare=True, binary=True)
    found = await cursor.fetchall()
    if len(found) != 1:
        raise LedgerMismatchError("ledger.published has not one row")
    ((in_recovery, origin, newest, note, lines, row, *levels),) = found
    if in_recovery:
        raise LedgerUnavailableError("this database is a standby: ask the primary")
    if origin is None:
        raise NotPublishedError("no checkpoint has been made yet")
    if note is None and size not in (None, newest):
        raise NotPublishedError(f"no checkpoint of size {size} was published")
    try:
        signed = with_cosignatures(note or "", lines or "")
    except NoteError as error:
        raise LedgerMismatchError(f"the checkpoint was changed: {error}") from None
    tree = signed.checkpoint
    if (tree.origin, tree.size) != (origin, newest if size is None else size):
        raise LedgerMismatchError("the checkpoint's note says something else than its row")
    if position >= tree.size:
        raise NotPublishedError(f"the checkpoint covers the positions below {tree.size}")
    tiles = {(level, first): hashes for level, first, hashes in zip(*levels, strict=True)}
    entry = b"" if row is None else entry_of(row)
    try:
        plan = plan_inclusion(position, tree.size)
        proof = compute(plan, {run: _hashes(run, tiles) for run in runs(plan)})
        verify(position, tree.size, leaf_hash(entry), proof, tree.root)
    except ProofError as error:
        raise LedgerMismatchError(
            f"the event at {position} is not what was signed: {error}"
        ) from None
    return Receipt(position, tuple(proof), signed, entry)


def _hashes(run: Run, tiles: Tiles) -> Sequence[bytes]:
    """A run's hashes; fewer if some are missing. A run never crosses tiles."""
    first = run.first - run.first % TILE_WIDTH
    tile = tiles.get((run.level, first)) or b""
    start = (run.first - first) * HASH_BYTES
    end = min(start + run.count * HASH_BYTES, len(tile))
    return [tile[at : at + HASH_BYTES] for at in range(start, end, HASH_BYTES)]
