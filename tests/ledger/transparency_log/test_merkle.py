"""The tree: published vectors, and a naive tree made as the RFC's words say."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.transparency_log.merkle import (
    EMPTY_ROOT,
    Frontier,
    Node,
    frontier_from_tiles,
    leaf_hash,
    partial_width,
    tile_levels,
)
from tests.ledger.helpers import naive_nodes, naive_root

# Of the well-known test vectors of RFC 6962's reference implementation.
ENTRIES = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MOST = 65_537
EDGES = [1, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537]


@cache
def leaves_to(count: int) -> tuple[bytes, ...]:
    """As many different leaf hashes."""
    return tuple(sha256(b"%d" % index).digest() for index in range(count))


def extended(leaves: Sequence[bytes]) -> tuple[Frontier, list[Node]]:
    """The tree of all leaves, appended at once."""
    return Frontier().extend(leaves)


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    """A tree of the vectors' first entries has the root that is published for its size."""
    leaves = [leaf_hash(bytes.fromhex(entry)) for entry in ENTRIES[:size]]
    assert extended(leaves)[0].root().hex() == ROOTS[size]


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    """RFC 9162, section 2.1.1: the hash of an empty list is the hash of an empty string."""
    assert Frontier().root() == EMPTY_ROOT == sha256(b"").digest()


def test_root_at_every_size() -> None:
    """Grown leaf by leaf, the frontier's root is the naive tree's at every size to 600."""
    leaves = leaves_to(600)
    frontier = Frontier()
    for size in range(1, 601):
        frontier, _ = frontier.extend(leaves[size - 1 : size])
        assert frontier.size == size
        assert frontier.root() == naive_root(leaves[:size])


@given(st.lists(st.integers(0, 300), max_size=8))
def test_batches_do_not_matter(batches: list[int]) -> None:
    """However the leaves are cut into batches, root and completed nodes are the naive tree's."""
    leaves = leaves_to(sum(batches))
    frontier, completed, start = Frontier(), list[Node](), 0
    for count in batches:
        frontier, nodes = frontier.extend(leaves[start : start + count])
        completed += nodes
        start += count
    assert frontier.root() == (naive_root(leaves) if leaves else EMPTY_ROOT)
    assert len(completed) == len(set(completed))
    assert set(completed) == naive_nodes(leaves)


def test_nodes_of_the_second_level() -> None:
    """Past 65,536 leaves there is one node for each 256, and one for the 256 of those."""
    leaves = leaves_to(MOST)
    completed = extended(leaves)[1]
    assert len(completed) == 257
    assert set(completed) == naive_nodes(leaves)


@pytest.mark.parametrize("size", EDGES)
def test_frontier_from_tiles(size: int) -> None:
    """From the stored right edge alone comes the frontier that all the leaves give."""
    frontier, edges = _frontier_and_edges(size)
    assert frontier_from_tiles(size, edges) == frontier


@given(st.integers(1, 70_000).filter(lambda size: size % 256 != 0))
def test_every_size_has_its_levels(size: int) -> None:
    """Partial widths are the digits of the size to base 256, with no digit left out."""
    digits = [partial_width(size, level) for level in range(tile_levels(size))]
    assert sum(digit * 256**level for level, digit in enumerate(digits)) == size
    assert digits[-1] > 0


@pytest.mark.parametrize("size", EDGES)
def test_an_incomplete_edge_is_refused(size: int) -> None:
    """Where a stored hash is missing there is no frontier, rather than a wrong one."""
    _, edges = _frontier_and_edges(size)
    level = next(level for level, edge in enumerate(edges) if edge)
    edges[level] = edges[level][:-1]
    with pytest.raises(ValueError, match=f"level {level} "):
        frontier_from_tiles(size, edges)


def _frontier_and_edges(size: int) -> tuple[Frontier, list[list[bytes]]]:
    leaves = leaves_to(MOST)[:size]
    frontier, nodes = extended(leaves)
    levels = [list(leaves), *([n.hash for n in nodes if n.level == level] for level in (1, 2))]
    edges = [
        hashes[len(hashes) - partial_width(size, level) :]
        for level, hashes in enumerate(levels[: tile_levels(size)])
    ]
    return frontier, edges
