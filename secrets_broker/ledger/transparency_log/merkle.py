"""The Merkle tree of RFC 6962 and RFC 9162, section 2.1, over the events' entries.

A `Frontier` is all that an append needs: the roots of the perfect subtrees of the tree, largest
first. A node is stored for each 256 complete leaves (and for each 256 of those nodes …), since
tiles have a height of 8 (C2SP tlog-tiles).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
HASH_BYTES = 32

EMPTY_ROOT = sha256().digest()  # RFC 9162, section 2.1.1: the hash of an empty list


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry). The prefix keeps a leaf from passing as a node."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def parents(hashes: Iterable[bytes]) -> list[bytes]:
    """node_hash of each pair, left to right; an odd last one is left out."""
    # On one byte string: half the cost of a call for each pair.
    joined = b"".join(hashes)
    starts = range(0, len(joined) - 32, 64)
    return [sha256(b"\x01" + joined[at : at + 64]).digest() for at in starts]


@dataclass(frozen=True, slots=True)
class Node:
    """A stored node: the root of the 256^level leaves from index * 256^level on."""

    level: int
    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree's size and the roots of its perfect subtrees, largest first."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def extend(self, leaves: Iterable[bytes]) -> tuple["Frontier", list[Node]]:
        """Append leaf hashes; also return the nodes that they complete, which must be stored."""
        size, stack, completed = self.size, list(self.hashes), list[Node]()
        for leaf in leaves:
            completed += _push(stack, size, leaf)
            size += 1
        return Frontier(size, tuple(stack)), completed

    def root(self) -> bytes:
        """The tree's root hash."""
        if not self.hashes:
            return EMPTY_ROOT
        return reduce(lambda right, left: node_hash(left, right), reversed(self.hashes))


def _push(stack: list[bytes], size: int, leaf: bytes) -> Iterable[Node]:
    # As in a binary counter: each trailing 1 of the size is a subtree that is now full.
    hash_, height = leaf, 0
    while size >> height & 1:
        hash_ = node_hash(stack.pop(), hash_)
        height += 1
        if height % TILE_HEIGHT == 0:
            yield Node(height // TILE_HEIGHT, size >> height, hash_)
    stack.append(hash_)


def frontier_from_tiles(size: int, partial_tiles: Sequence[Sequence[bytes]]) -> Frontier:
    """Make a frontier from the last, partial tile of each level, lowest level first.

    Level 0 has leaf hashes, level n the stored nodes of that level. A full last tile counts as
    empty, since the level above has its root.
    """
    hashes: list[bytes] = []
    for level in reversed(range(len(partial_tiles))):
        edge, _ = Frontier().extend(partial_tiles[level])
        if edge.size != partial_width(size, level):
            raise ValueError(f"level {level} has {edge.size} hashes at its edge")
        hashes += edge.hashes
    return Frontier(size, tuple(hashes))


def partial_width(size: int, level: int) -> int:
    """How many hashes the last, partial tile of a level has: floor(size / 256^level) mod 256."""
    return (size >> TILE_HEIGHT * level) % TILE_WIDTH


def tile_levels(size: int) -> int:
    """How many levels of tiles a tree of this size has, the leaves' included."""
    return max(1, -(-size.bit_length() // TILE_HEIGHT))
