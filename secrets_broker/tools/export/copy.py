"""The copy: chunks of events, each verified before anything of it is written."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH, Frontier, leaf_hash
from secrets_broker.tools.export import bodies as body_files
from secrets_broker.tools.export.database_source import Chunk, read_chunk, read_edges, read_subtrees
from secrets_broker.tools.export.folder import ExportError, Folder
from secrets_broker.tools.export.site import File, Site

if TYPE_CHECKING:
    from secrets_broker.tools.export.parquet import Parts

EVENTS_AT_ONCE: Final = 4_096  # divides a Parquet file's range
_SYNCS_AT_ONCE: Final = 8  # what a disk can do together


class Copy:
    """Takes chunks in their order, and writes what follows from them."""

    def __init__(self, folder: Folder, old_size: int, site: Site, *, bodies: bool) -> None:
        self._folder, self._site = folder, site
        self._old_size, self.bodies = old_size, bodies
        self.start = site.frontier.size
        self.parts: Parts | None = None
        self._pool = ThreadPoolExecutor(_SYNCS_AT_ONCE)

    @classmethod
    async def begin(
        cls,
        connection: AsyncConnection[Any],
        folder: Folder,
        old_size: int,
        size: int,
        *,
        bodies: bool,
        parquet: bool,
    ) -> "Copy":
        """Find where to begin: where the folder lacks something of what is wanted."""
        tiles = old_size // TILE_WIDTH
        starts = [tiles * TILE_WIDTH]
        parquet_from = None
        if bodies:
            starts.append(body_files.first_missing(folder, tiles) * TILE_WIDTH)
        if parquet:
            from secrets_broker.tools.export import parquet as files  # noqa: PLC0415 - an extra

            subtrees = await read_subtrees(connection, size)
            parquet_from = files.first_missing(folder, subtrees)
            starts.append(parquet_from)
        start = min(starts)
        site = Site(start, await read_edges(connection, start))
        made = cls(folder, old_size, site, bodies=bodies)
        if parquet_from is not None:
            made.parts = files.Parts(folder, parquet_from)
        return made

    def take_tables_from(self, start: int) -> None:
        """Write tables as well, from a position on."""
        from secrets_broker.tools.export import parquet as files  # noqa: PLC0415 - an extra

        self.parts = files.Parts(self._folder, start)

    @property
    def frontier(self) -> Frontier:
        """The tree as far as it has come."""
        return self._site.frontier

    @property
    def size(self) -> int:
        """How far it has come."""
        return self._site.frontier.size

    @property
    def root(self) -> bytes:
        """The root of all that was taken, and of what was there before it."""
        return self._site.frontier.root()

    def take(self, chunk: Chunk) -> None:
        """Verify a chunk and write its files; raises ExportError, which names the position."""
        _check(chunk)
        self._put_tiles(list(self._site.add(chunk.rows)))
        if self.bodies:
            files = dict(body_files.files(chunk))
            list(self._pool.map(self._folder.put, files, files.values()))
        if self.parts is not None:
            self.parts.add(chunk.rows, self._site.completed)

    def finish(self) -> None:
        """Write what is not full, as it is."""
        self._put_tiles(list(self._site.finish()))
        if self.parts is not None:
            self.parts.finish()

    def close(self) -> None:
        """Let go of what is open."""
        self._pool.shutdown()
        if self.parts is not None:
            self.parts.close()

    def _put_tiles(self, files: list[File]) -> None:
        list(self._pool.map(self._put_tile, files))

    def _put_tile(self, file: File) -> None:
        tile, content = file
        self._folder.put(tile.path, content, covered=tile.is_within(self._old_size))


async def chunks(
    connection: AsyncConnection[Any], start: int, size: int, *, bodies: bool
) -> AsyncIterator[Chunk]:
    """Events from `start` to `size`, the next ones being read while the last are worked on."""

    def read(first: int) -> "asyncio.Task[Chunk]":
        count = min(size - first, EVENTS_AT_ONCE - first % EVENTS_AT_ONCE)
        return asyncio.create_task(read_chunk(connection, first, count, with_bodies=bodies))

    reading = read(start)
    try:
        while start < size:
            chunk = await reading
            start += chunk.count
            reading = read(start)
            yield chunk
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


def _check(chunk: Chunk) -> None:
    positions = range(chunk.first, chunk.first + chunk.count)
    for position, row in zip_longest(positions, chunk.rows):
        if row is None or row.position != position:
            raise ExportError(f"position {position}: the event is missing")
        if leaf_hash(row.entry) != row.leaf:
            raise ExportError(
                f"position {position}: the event does not have its leaf hash; it was changed. "
                "The folder's checkpoint stays where it was"
            )
