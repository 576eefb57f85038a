"""Tiles and entry bundles (C2SP tlog-tiles): their paths and contents.

A tile is up to 256 hashes of one level: leaf hashes at level 0, and above it the roots of the
full tiles below. An entry bundle is the entries that a tile of level 0 is the hashes of, each
after its length in two bytes, big-endian.

    tile/<level>/<index>[.p/<width>]      tile/entries/<index>[.p/<width>]

The index is written in groups of three digits, all but the last with an x: x001/x234/067.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from secrets_broker.ledger.transparency_log.merkle import (
    HASH_BYTES,
    TILE_WIDTH,
    partial_width,
    tile_levels,
)

ENTRIES: Final = "entries"

_PATH: Final = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/"
    r"(?P<index>(?:x[0-9]{3}/)*[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)
_MAX_LEVEL: Final = 63
_MAX_GROUPS: Final = 6  # 10^18, more than a position can be


class BundleError(ValueError):
    """A tile or an entry bundle that is too short or too long."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Which tile: hashes `start` to `start + width` of a level. Level None: entries."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def start(self) -> int:
        """Its first hash's index within the level (its first entry's position)."""
        return self.index * TILE_WIDTH

    @property
    def path(self) -> str:
        """The path below the log's prefix, without a leading slash."""
        groups = f"{self.index:03d}"
        groups = groups.zfill(-(-len(groups) // 3) * 3)
        parts = [groups[at : at + 3] for at in range(0, len(groups), 3)]
        index = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
        level = ENTRIES if self.level is None else str(self.level)
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{index}{partial}"

    @classmethod
    def parse(cls, path: str) -> "Tile | None":
        """Read a path; None unless it is exactly in the one valid form."""
        found = _PATH.fullmatch(path)
        if found is None:
            return None
        groups = found["index"].split("/")
        level = None if found["level"] == ENTRIES else int(found["level"])
        width = int(found["width"]) if found["width"] else TILE_WIDTH
        if (level or 0) > _MAX_LEVEL or len(groups) > _MAX_GROUPS:
            return None
        tile = cls(level, int("".join(group.lstrip("x") for group in groups)), width)
        # One path for each tile: no zeroes before the first group, no width of 256.
        return tile if tile.path == path else None

    def is_within(self, size: int) -> bool:
        """Tell whether a tree of this size has the whole tile."""
        return self.start + self.width <= level_width(size, self.level or 0)


def level_width(size: int, level: int) -> int:
    """How many hashes a level has, in a tree of this size: floor(size / 256^level)."""
    return size >> 8 * level


def tiles(size: int) -> Iterator[Tile]:
    """Every tile of hashes of a tree, level by level; the last of a level may be partial."""
    for level in range(tile_levels(size)):
        yield from level_tiles(size, level)


def level_tiles(size: int, level: int | None, first: int = 0) -> Iterator[Tile]:
    """The tiles of a level (None: the entry bundles) from an index on."""
    full, width = level_width(size, level or 0) // TILE_WIDTH, partial_width(size, level or 0)
    for index in range(first, full):
        yield Tile(level, index)
    if width and first <= full:
        yield Tile(level, full, width)


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Put entries into a bundle; each is at most 65,535 bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(bundle: bytes, width: int | None = None) -> list[bytes]:
    """Take a bundle of that many entries apart (None: of up to 256); raises BundleError."""
    entries, at = [], 0
    while at < len(bundle):
        end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        if at + 2 > len(bundle) or end > len(bundle):
            raise BundleError("the bundle ends within an entry")
        entries.append(bundle[at + 2 : end])
        at = end
    _check_width(len(entries), width)
    return entries


def split_hashes(tile: bytes, width: int | None = None) -> list[bytes]:
    """The hashes of a tile of that many (None: up to 256); raises BundleError."""
    if len(tile) % HASH_BYTES:
        raise BundleError("the tile ends within a hash")
    hashes = [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]
    _check_width(len(hashes), width)
    return hashes


def _check_width(count: int, width: int | None) -> None:
    # Surplus content is covered by no tree, so it is not authentic.
    if count != width if width is not None else count > TILE_WIDTH:
        raise BundleError(f"it holds {count}, and {TILE_WIDTH if width is None else width} fit")
