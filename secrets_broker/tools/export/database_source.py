"""What an export reads, by SQL; each question is a short transaction of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.transparency_log.checkpoint_store import COSIGNATURES
from secrets_broker.ledger.transparency_log.cosignatures import with_cosignatures
from secrets_broker.ledger.transparency_log.merkle import (
    TILE_HEIGHT,
    TILE_WIDTH,
    partial_width,
    tile_levels,
)
from secrets_broker.ledger.transparency_log.proof import Run
from secrets_broker.ledger.transparency_log.stored_entries import StoredEntry, read_rows
from secrets_broker.ledger.transparency_log.stored_hashes import read_runs

_BODIES: Final = """
    SELECT position, key, ciphertext FROM ledger.bodies
    WHERE position >= %s AND position < %s ORDER BY position
"""
_EARLIER_ORIGINS: Final = """
    SELECT origin FROM ledger.checkpoints WHERE origin <> %s
    GROUP BY origin ORDER BY min(signed_at), origin
"""
# Of one origin they are in the order of their sizes: what is published never goes back.
_CHECKPOINTS: Final = """
    SELECT origin, size, note, __cosignatures__
    FROM ledger.checkpoints AS kept
    WHERE origin = %s AND size >= %s AND size <= %s ORDER BY size LIMIT %s
""".replace("__cosignatures__", COSIGNATURES.replace("__of__", "kept"))


@dataclass(frozen=True, slots=True)
class ExportedBody:
    """A ciphertext as it is stored, and the id of its data key."""

    position: int
    key: str
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class ExportedCheckpoint:
    """A kept checkpoint, its note with the cosignatures that are there."""

    origin: str
    size: int
    note: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is there of `count` events, and their bodies where these were asked for."""

    first: int
    count: int
    rows: Sequence[StoredEntry]
    bodies: Sequence[ExportedBody]


async def read_chunk(
    connection: AsyncConnection[Any], first: int, count: int, *, with_bodies: bool
) -> Chunk:
    """The events from a position on."""
    rows = await read_rows(connection, first, count)
    if not with_bodies:
        return Chunk(first, count, rows, ())
    cursor = await connection.execute(_BODIES, (first, first + count), binary=True)
    bodies = [ExportedBody(*record) for record in await cursor.fetchall()]
    return Chunk(first, count, rows, bodies)


async def read_edges(connection: AsyncConnection[Any], size: int) -> list[list[bytes]]:
    """The hashes at the right edge of a tree whose size is a multiple of 256, by level."""
    edges = [_edge(size, level) for level in range(1, tile_levels(size))]
    found = await read_runs(connection, edges)
    return [[], *(found[edge] for edge in edges)]


def _edge(size: int, level: int) -> Run:
    width = partial_width(size, level)
    return Run(level, (size >> TILE_HEIGHT * level) - width, width)


async def read_subtrees(connection: AsyncConnection[Any], size: int) -> list[bytes]:
    """The hash of each complete range of 65,536 events within a size: the nodes of level 2."""
    run = Run(2, 0, size // TILE_WIDTH**2)
    return (await read_runs(connection, [run]))[run]


async def read_checkpoints(
    connection: AsyncConnection[Any], origin: str, first: int, last: int, limit: int
) -> list[ExportedCheckpoint]:
    """An origin's checkpoints by size, from one size to another; raises NoteError."""
    cursor = await connection.execute(_CHECKPOINTS, (origin, first, last, limit))
    return [
        ExportedCheckpoint(name, size, str(with_cosignatures(note, lines or "")))
        for name, size, note, lines in await cursor.fetchall()
    ]


async def read_earlier_origins(connection: AsyncConnection[Any], origin: str) -> list[str]:
    """The names that the log had before this one, oldest first."""
    cursor = await connection.execute(_EARLIER_ORIGINS, (origin,))
    return [name for (name,) in await cursor.fetchall()]


async def may_read_bodies(connection: AsyncConnection[Any]) -> bool:
    """Tell whether this login may; an auditor's may not."""
    cursor = await connection.execute("SELECT has_table_privilege('ledger.bodies', 'SELECT')")
    return bool((await cursor.fetchall())[0][0])
