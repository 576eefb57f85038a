"""A tree's tiles and entry bundles, from its entries in their order. Nothing is read or written.

It continues from a multiple of 256. Of the entries before, it has only the frontier's hashes:
of each level above the leaves, those of its last, partial tile.
"""

from collections.abc import Iterator, Sequence

from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH, Node, frontier_from_tiles
from secrets_broker.ledger.transparency_log.stored_entries import StoredEntry
from secrets_broker.ledger.transparency_log.tile import Tile, encode_bundle

File = tuple[Tile, bytes]


class Site:
    """Takes rows and gives the files that they complete."""

    def __init__(self, start: int, edges: Sequence[Sequence[bytes]]) -> None:
        """`edges`: the hashes of each level's partial tile; none at level 0."""
        self.frontier = frontier_from_tiles(start, edges)
        self._open = {level: list(edge) for level, edge in enumerate(edges) if level}
        self.completed: list[Node] = []
        """The nodes that the rows of the last `add` completed."""

    def add(self, rows: Sequence[StoredEntry]) -> Iterator[File]:
        """The files of the rows that follow; all but the last call end at a multiple of 256."""
        self.completed = []
        for first in range(0, len(rows), TILE_WIDTH):
            yield from self._bundle(rows[first : first + TILE_WIDTH])

    def finish(self) -> Iterator[File]:
        """The partial tiles above the leaves."""
        for level, hashes in self._open.items():
            if hashes:
                index = self.frontier.size >> 8 * (level + 1)
                yield Tile(level, index, len(hashes)), b"".join(hashes)

    def _bundle(self, rows: Sequence[StoredEntry]) -> Iterator[File]:
        index = self.frontier.size // TILE_WIDTH
        leaves = [row.leaf for row in rows]
        yield Tile(None, index, len(rows)), encode_bundle(row.entry for row in rows)
        yield Tile(0, index, len(rows)), b"".join(leaves)
        self.frontier, nodes = self.frontier.extend(leaves)
        self.completed += nodes
        for node in nodes:
            hashes = self._open.setdefault(node.level, [])
            hashes.append(node.hash)
            if len(hashes) == TILE_WIDTH:
                yield Tile(node.level, node.index // TILE_WIDTH), b"".join(hashes)
                hashes.clear()
