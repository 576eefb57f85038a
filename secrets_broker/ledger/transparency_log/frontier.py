"""Reads the tree's frontier from stored leaves and nodes, so that a process can join a long ledger.

A forger that appends events can leave out the nodes that they complete. So a missing node is
computed from what is below it: the forgery must be named, not hidden by its own damage.
"""

from typing import Any, Final, LiteralString

from psycopg import AsyncConnection

from secrets_broker.ledger.errors import LedgerMismatchError
from secrets_broker.ledger.transparency_log.merkle import (
    TILE_WIDTH,
    Frontier,
    Node,
    frontier_from_tiles,
    partial_width,
    tile_levels,
)
from secrets_broker.ledger.tree_state import TreeState

_SIZE: Final = "SELECT coalesce(max(position) + 1, 0) FROM ledger.events"
_LEAF: Final = "SELECT leaf_hash FROM ledger.events WHERE position = %s"
_LEAVES: Final = (
    "SELECT leaf_hash FROM ledger.events WHERE position >= %s AND position < %s ORDER BY position"
)
_NODES: Final = (
    "SELECT index, hash FROM ledger.nodes"
    " WHERE level = %s AND index >= %s AND index < %s ORDER BY index"
)
_MISSING: Final = """
    SELECT level::int, index
    FROM (SELECT coalesce(max(position) + 1, 0) AS size FROM ledger.events) AS tree,
         generate_series(1, 7) AS level,
         generate_series(%s::bigint >> 8 * level, (tree.size >> 8 * level) - 1) AS index
    WHERE NOT EXISTS (SELECT FROM ledger.nodes AS node
                      WHERE node.level = level.level AND node.index = index.index)
    ORDER BY level, index
"""


async def load_tree_state(connection: AsyncConnection[Any]) -> TreeState:
    """Read the tree state without the lock: at most 255 hashes a level.

    Raises LedgerMismatchError if leaves are missing.
    """
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        ((size,),) = await _fetch(connection, _SIZE)
        if not size:
            return TreeState()
        edges = [await _edge(connection, size, level) for level in range(tile_levels(size))]
        ((leaf,),) = await _fetch(connection, _LEAF, size - 1)
    try:
        return TreeState(frontier_from_tiles(size, edges), leaf)
    except ValueError as error:
        raise LedgerMismatchError(f"the stored leaves are not complete: {error}") from None


async def check_contains(connection: AsyncConnection[Any], known: TreeState) -> None:
    """Raise LedgerMismatchError if the ledger lacks the last leaf of a known tree state."""
    if known.size:
        leaves = [leaf for (leaf,) in await _fetch(connection, _LEAF, known.overlap)]
        known.catch_up(known.size if leaves else 0, leaves)


async def _edge(connection: AsyncConnection[Any], size: int, level: int) -> list[bytes]:
    count = partial_width(size, level)
    first = (size >> 8 * level) - count
    return await _hashes(connection, level, first, count)


async def missing_nodes(connection: AsyncConnection[Any], first: int) -> list[tuple[int, int]]:
    """Level and index of the missing nodes that have a leaf from `first` on."""
    return [(level, index) for level, index in await _fetch(connection, _MISSING, first)]


async def node_at(connection: AsyncConnection[Any], level: int, index: int) -> Node:
    """Compute a node from what is below it; raises LedgerMismatchError if leaves are missing."""
    below = await _hashes(connection, level - 1, index * TILE_WIDTH, TILE_WIDTH)
    if len(below) != TILE_WIDTH:
        raise LedgerMismatchError(f"node ({level}, {index}) has not all of its leaves")
    return Node(level, index, Frontier().extend(below)[0].root())


async def _hashes(
    connection: AsyncConnection[Any], level: int, first: int, count: int
) -> list[bytes]:
    if level == 0:
        return [leaf for (leaf,) in await _fetch(connection, _LEAVES, first, first + count)]
    stored = dict(await _fetch(connection, _NODES, level, first, first + count))
    return [
        stored.get(index) or (await node_at(connection, level, index)).hash
        for index in range(first, first + count)
    ]


async def _fetch(
    connection: AsyncConnection[Any], query: LiteralString, *values: int
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(query, values)
    return await cursor.fetchall()
