"""A ledger as C2SP tlog-tiles has it: ranges made of entry bundles and tiles.

Where the files or answers come from, a folder or a service, is a subclass's to say.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH
from secrets_broker.ledger.transparency_log.tile import (
    BundleError,
    Tile,
    decode_bundle,
    level_width,
    split_hashes,
)
from secrets_broker.tools.verify.checks.findings import Violation
from secrets_broker.tools.verify.checks.ranges import BodyDigest, Loaded
from secrets_broker.tools.verify.checks.subtree import Hash


class TileReader(ABC):
    """Reads ranges of a tree of that size; with `partial`, what is missing is no problem."""

    def __init__(self, size: int, *, partial: bool = False) -> None:
        self._size = size
        self._partial = partial
        self._nodes: tuple[Tile, list[Hash]] | None = None

    @abstractmethod
    def fetch(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """What stands at these paths, as far as it is there."""

    def bodies(
        self, tiles: Sequence[Tile], problems: list[Violation]
    ) -> Mapping[int, BodyDigest] | None:
        """The bodies of these entry bundles by position, or None where none are kept."""
        del tiles, problems
        return None

    def load(self, first: int, count: int) -> Loaded:
        """A range, from its bundles and tiles; see Reader."""
        entries, leaves = self._tiles(None, first, count), self._tiles(0, first, count)
        nodes = self._node_tile(first)
        found = self._fetch_all([*entries, *leaves, *([nodes] if nodes else [])])
        loaded = Loaded(
            first=first,
            entries=[],
            leaves=[],
            nodes=[],
            bodies=None,
            canonical=True,
            told=True,
        )
        loaded.bodies = self.bodies(entries, loaded.problems)
        for tile in entries:
            loaded.entries += self._entries(loaded, tile, found.get(tile))
        kept = [hash_ for tile in leaves for hash_ in self._hashes(loaded, tile, found.get(tile))]
        loaded.leaves = kept
        if nodes is not None:
            within = first // TILE_WIDTH - nodes.start
            hashes = self._hashes(loaded, nodes, found.get(nodes))
            loaded.nodes = hashes[within : within + count // TILE_WIDTH]
        return loaded

    def node(self, level: int, index: int) -> Hash:
        """A stored node above level 1, from the tile that it is in."""
        tile = self._tile(level, index // TILE_WIDTH)
        if self._nodes is None or self._nodes[0] != tile:
            found = self._fetch_all([tile]).get(tile)
            self._nodes = tile, _split(found, tile.width) or [None] * tile.width
        return self._nodes[1][index % TILE_WIDTH]

    def _tile(self, level: int | None, index: int) -> Tile:
        width = level_width(self._size, level or 0) - index * TILE_WIDTH
        return Tile(level, index, min(width, TILE_WIDTH))

    def _tiles(self, level: int | None, first: int, count: int) -> list[Tile]:
        indexes = range(first // TILE_WIDTH, -(-(first + count) // TILE_WIDTH))
        return [self._tile(level, index) for index in indexes]

    def _node_tile(self, first: int) -> Tile | None:
        tile = self._tile(1, first // TILE_WIDTH // TILE_WIDTH)
        return tile if tile.width > 0 else None

    def _fetch_all(self, tiles: Sequence[Tile]) -> dict[Tile, "_File"]:
        found = self.fetch([tile.path for tile in tiles])
        # Instead of a partial tile, a log that has grown since may have only a wider one.
        lacking = [tile for tile in tiles if tile.path not in found]
        wider = {tile: self.wider(tile) for tile in lacking}
        instead = self.fetch([one.path for one in wider.values() if one is not None])
        both = {**instead, **found}
        there = {tile: wider.get(tile) or tile for tile in tiles}
        return {
            tile: _File(both[one.path], one.width)
            for tile, one in there.items()
            if one.path in both
        }

    def wider(self, tile: Tile) -> Tile | None:
        """Which tile may stand for a partial one that is not there."""
        full = Tile(tile.level, tile.index)
        return None if full == tile else full

    def _entries(self, loaded: Loaded, tile: Tile, found: "_File | None") -> Sequence[bytes | None]:
        try:
            if found is not None:
                return decode_bundle(found.content, found.width)[: tile.width]
        except BundleError:
            pass
        self._missing(loaded, tile, found)
        return [None] * tile.width

    def _hashes(self, loaded: Loaded, tile: Tile, found: "_File | None") -> list[Hash]:
        hashes = _split(found, tile.width)
        if hashes is None:
            self._missing(loaded, tile, found)
            return [None] * tile.width
        return hashes

    def _missing(self, loaded: Loaded, tile: Tile, found: "_File | None") -> None:
        if found is None and self._partial:
            return
        what = "is not there" if found is None else "is cut off, has a surplus, or is no such file"
        position = max(tile.start << 8 * (tile.level or 0), loaded.first)
        check = "missing" if found is None else "tile"
        loaded.problems.append(Violation(position, check, f"{tile.path} {what}"))


@dataclass(frozen=True, slots=True)
class _File:
    """What stands for a tile: its content, and how wide it must be itself."""

    content: bytes
    width: int


def _split(found: _File | None, width: int) -> list[Hash] | None:
    try:
        return None if found is None else [*split_hashes(found.content, found.width)[:width]]
    except BundleError:
        return None
