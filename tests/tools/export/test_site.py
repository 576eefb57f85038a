"""The tiles of a tree that grows: the same ones, however often it was gone on with."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.transparency_log.merkle import Frontier, leaf_hash
from secrets_broker.ledger.transparency_log.stored_entries import StoredEntry
from secrets_broker.ledger.transparency_log.tile import Tile, decode_bundle, level_tiles, tiles
from secrets_broker.tools.export.site import Site
from tests.ledger.helpers import naive_nodes, naive_root

LARGEST = 256 * 256 + 300
ENTRIES = [str(number).encode() for number in range(LARGEST)]
ROWS = [StoredEntry(number, leaf_hash(entry), entry) for number, entry in enumerate(ENTRIES)]
NODES = {
    (node.level, node.index): node.hash for node in Frontier().extend(row.leaf for row in ROWS)[1]
}


def edges(size: int) -> list[list[bytes]]:
    """What a ledger of that size, a multiple of 256, has at its right edge."""
    full = size // 256
    levels = [[], [NODES[1, index] for index in range(full // 256 * 256, full)]]
    return levels + ([[NODES[2, 0]]] if full >= 256 else [])


def site(start: int, size: int) -> tuple[Site, dict[Tile, bytes]]:
    """The files from a start to a size, in one go."""
    made = Site(start, edges(start))
    return made, dict([*made.add(ROWS[start:size]), *made.finish()])


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 65_535, 65_536, LARGEST])
def test_every_tile_of_a_tree_is_made(size: int) -> None:
    """Those that the specification names, no other, and with the right hashes and entries."""
    made, files = site(0, size)
    wanted = set(tiles(size)) | set(level_tiles(size, None))
    assert set(files) == wanted
    for tile, content in files.items():
        part = range(tile.start, tile.start + tile.width)
        if tile.level is None:
            assert decode_bundle(content) == [ENTRIES[index] for index in part]
        elif tile.level == 0:
            assert content == b"".join(ROWS[index].leaf for index in part)
        else:
            assert content == b"".join(NODES[tile.level, index] for index in part)
    leaves = [row.leaf for row in ROWS[:size]]
    assert made.frontier.root() == (naive_root(leaves) if leaves else sha256().digest())


def test_the_nodes_are_the_roots_of_their_leaves() -> None:
    """What the tests compare with is itself what RFC 9162 says."""
    leaves = [row.leaf for row in ROWS[:70_000]]
    assert {(n.level, n.index): n.hash for n in naive_nodes(leaves)}.items() <= NODES.items()


@given(st.integers(0, 900), st.integers(0, 900))
def test_going_on_makes_the_same_files(before: int, more: int) -> None:
    """From the last multiple of 256 before any size; what is new is all of what was not there."""
    size = before + more
    _, whole = site(0, size)
    _, first = site(0, before)
    made, second = site(before // 256 * 256, size)
    full = {tile: content for tile, content in first.items() if tile.width == 256}
    assert {**full, **second} == whole
    assert made.frontier == Frontier().extend(row.leaf for row in ROWS[:size])[0]


@pytest.mark.parametrize("start", [0, 256, 65_280, 65_536])
def test_a_tile_above_is_completed_by_a_later_run(start: int) -> None:
    """The node that fills a tile of level 1 comes with its 65,536th event."""
    _, whole = site(0, LARGEST)
    _, rest = site(start, LARGEST)
    assert rest.items() <= whole.items()
    assert (Tile(1, 0) in rest) == (start < 65_536)


@given(st.lists(st.integers(1, 4), max_size=4))
def test_chunks_do_not_matter(widths: list[int]) -> None:
    """However many bundles are given at once."""
    size = sum(widths) * 256
    made, files = Site(0, [[]]), dict[Tile, bytes]()
    for end, width in zip(_sums(widths), widths, strict=True):
        files.update(made.add(ROWS[(end - width) * 256 : end * 256]))
    files.update(made.finish())
    assert files == site(0, size)[1]


def _sums(widths: list[int]) -> list[int]:
    return [sum(widths[: count + 1]) for count in range(len(widths))]
