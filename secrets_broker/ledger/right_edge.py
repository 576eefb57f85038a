"""The tree's right edge, from the stored leaves and nodes: how a process joins a long ledger."""

from typing import Any, Final, LiteralString

from psycopg import AsyncConnection

from secrets_broker.ledger.errors import LedgerMismatchError
from secrets_broker.ledger.merkle import frontier_from_tiles, partial_width, tile_levels
from secrets_broker.ledger.seen import Seen

_SIZE: Final = "SELECT coalesce(max(position) + 1, 0) FROM ledger.events"
_LEAF: Final = "SELECT leaf_hash FROM ledger.events WHERE position = %s"
_LEAVES: Final = (
    "SELECT leaf_hash FROM ledger.events WHERE position >= %s AND position < %s ORDER BY position"
)
_NODES: Final = (
    "SELECT hash FROM ledger.nodes WHERE level = %s AND index >= %s AND index < %s ORDER BY index"
)


async def load_seen(connection: AsyncConnection[Any]) -> Seen:
    """Read the whole tree's edge, without the lock; at most 255 hashes a level.

    Raises LedgerMismatchError where stored nodes are missing.
    """
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        ((size,),) = await _fetch(connection, _SIZE)
        if not size:
            return Seen()
        edges = [await _edge(connection, size, level) for level in range(tile_levels(size))]
        ((leaf,),) = await _fetch(connection, _LEAF, size - 1)
    try:
        return Seen(frontier_from_tiles(size, edges), leaf)
    except ValueError as error:
        raise LedgerMismatchError(f"the stored nodes are not complete: {error}") from None


async def check_contains(connection: AsyncConnection[Any], known: Seen) -> None:
    """Raise LedgerMismatchError where the ledger lacks the last leaf that was seen."""
    if known.size:
        leaves = [leaf for (leaf,) in await _fetch(connection, _LEAF, known.overlap)]
        known.catch_up(known.size if leaves else 0, leaves)


async def _edge(connection: AsyncConnection[Any], size: int, level: int) -> list[bytes]:
    count = partial_width(size, level)
    first = (size >> 8 * level) - count
    if level == 0:
        rows = await _fetch(connection, _LEAVES, first, first + count)
    else:
        rows = await _fetch(connection, _NODES, level, first, first + count)
    return [hash_ for (hash_,) in rows]


async def _fetch(
    connection: AsyncConnection[Any], query: LiteralString, *values: int
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(query, values)
    return await cursor.fetchall()
