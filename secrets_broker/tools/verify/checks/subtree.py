"""The hashes of an aligned range of leaves, level by level; what is not known stays unknown.

`levels[h][i]` is the root of the 2^h leaves from i * 2^h on, of the range. A range begins at a
multiple of its greatest length, so its subtrees are subtrees of the whole tree.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Final

from secrets_broker.ledger.transparency_log.merkle import (
    EMPTY_ROOT,
    TILE_HEIGHT,
    node_hash,
    parents,
)

Hash = bytes | None
Stored = Callable[[int, int], Hash]
"""Gives the stored node of a level and index; None where there is none."""
Edge = tuple[tuple[int, Hash], ...]
"""The perfect subtrees that a number of leaves is made of, largest first: height and root."""

RANGE_HEIGHT: Final = 12
RANGE: Final = 1 << RANGE_HEIGHT
"""How many leaves one range has, but for the last: sixteen tiles, some milliseconds of work."""


class Subtree:
    """The levels over the leaves of one range."""

    def __init__(self, leaves: Sequence[Hash]) -> None:
        self.size = len(leaves)
        self._levels: list[list[Hash]] = [list(leaves)]
        self._grow(TILE_HEIGHT)

    @property
    def tiles(self) -> list[Hash]:
        """The roots of the full tiles."""
        return self._levels[TILE_HEIGHT]

    def settle(self, tiles: Sequence[Hash]) -> None:
        """Continue with these roots of the tiles, where a stored one stands for what is missing."""
        self._levels[TILE_HEIGHT] = list(tiles)
        self._grow(RANGE_HEIGHT)

    def edge(self, count: int) -> Edge:
        """The perfect subtrees of the first `count` leaves."""
        found, start = [], 0
        for height in reversed(range(RANGE_HEIGHT + 1)):
            if count >> height & 1:
                found.append((height, self._levels[height][start >> height]))
                start += 1 << height
        return tuple(found)

    def _grow(self, height: int) -> None:
        while len(self._levels) <= height:
            self._levels.append(_parents(self._levels[-1]))


def _parents(hashes: list[Hash]) -> list[Hash]:
    known = [hash_ for hash_ in hashes if hash_ is not None]
    if len(known) == len(hashes):
        return list(parents(known))
    return [_parent(hashes[i], hashes[i + 1]) for i in range(0, len(hashes) - 1, 2)]


def _parent(left: Hash, right: Hash) -> Hash:
    return None if left is None or right is None else node_hash(left, right)


class Spine:
    """The perfect subtrees of all ranges so far, as in a binary counter."""

    def __init__(self) -> None:
        self._stack: list[tuple[int, Hash]] = []
        self.size = 0

    def append(self, edge: Edge, stored: Stored) -> list[tuple[int, int, bytes]]:
        """Take the next range; the nodes above level 1 that it completes: level, index, hash.

        A node that cannot be computed, since a leaf below it is not known, is taken as stored.
        """
        completed = []
        for height, root in edge:
            at, hash_ = height, root
            self.size += 1 << height
            while self._stack and self._stack[-1][0] == at:
                hash_ = _parent(self._stack.pop()[1], hash_)
                at += 1
                if at % TILE_HEIGHT:
                    continue
                level, index = at // TILE_HEIGHT, (self.size >> at) - 1
                if hash_ is None:
                    hash_ = stored(level, index)
                else:
                    completed.append((level, index, hash_))
            self._stack.append((at, hash_))
        return completed

    def root(self, edge: Edge = ()) -> Hash:
        """The root with a range's first leaves after all that was appended; None: not known."""
        hashes = [hash_ for _, hash_ in (*self._stack, *edge)]
        if not hashes:
            return EMPTY_ROOT
        return reduce(lambda right, left: _parent(left, right), reversed(hashes))
