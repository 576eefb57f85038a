"""Tiles: paths and bundles to the letter of C2SP tlog-tiles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.transparency_log.tile import (
    BundleError,
    Tile,
    decode_bundle,
    encode_bundle,
    level_tiles,
    split_hashes,
    tiles,
)

EDGES = [0, 1, 255, 256, 257, 65_535, 65_536, 65_537, 70_000, 16_777_216]
indices = st.integers(0, 10**15)
widths = st.integers(1, 256)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(1, 999, 17), "tile/1/999.p/17"),
        (Tile(2, 1_000), "tile/2/x001/000"),
        (Tile(None, 0, 255), "tile/entries/000.p/255"),
        (Tile(63, 5), "tile/63/005"),
    ],
)
def test_paths_of_the_specification(tile: Tile, path: str) -> None:
    """Groups of three digits, an x before all but the last; the width only where partial."""
    assert tile.path == path
    assert Tile.parse(path) == tile


@given(st.one_of(st.none(), st.integers(0, 63)), indices, widths)
def test_every_tile_has_one_path(level: int | None, index: int, width: int) -> None:
    """And the path leads back to the tile."""
    tile = Tile(level, index, width)
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/x/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/../000",
        "tile/entries/000.p/1/2",
        "tile/data/000",
        "/tile/0/000",
        "tile/0/" + "x999/" * 6 + "999",
    ],
)
def test_nothing_else_is_a_path(path: str) -> None:
    """No second way to write a tile, and no number that PostgreSQL could not hold."""
    assert Tile.parse(path) is None


def test_the_tiles_of_seventy_thousand() -> None:
    """The specification's own example."""
    made = list(tiles(70_000))
    assert [t.width for t in made if t.level == 0] == [256] * 273 + [112]
    assert [t.width for t in made if t.level == 1] == [256, 17]
    assert [t for t in made if t.level == 2] == [Tile(2, 0, 1)]
    assert len(made) == 274 + 2 + 1
    assert list(tiles(256)) == [Tile(0, 0), Tile(1, 0, 1)]


@given(st.one_of(st.sampled_from(EDGES), st.integers(0, 200_000)))
def test_a_trees_tiles_cover_it(size: int) -> None:
    """Entries without a gap, each tile within the tree, and none larger is."""
    bundles = list(level_tiles(size, None))
    assert sum(tile.width for tile in bundles) == size
    for tile in (*bundles[-2:], *list(tiles(size))[-4:]):
        assert tile.is_within(size)
        assert tile.width == 256 or not Tile(tile.level, tile.index, tile.width + 1).is_within(size)
    assert not Tile(0, size // 256, size % 256 + 1).is_within(size)


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_bundles_hold_their_entries(entries: list[bytes]) -> None:
    """Encoded and decoded, and the longest entry fits."""
    longest = b"x" * 65_535
    assert decode_bundle(encode_bundle([*entries, longest])) == [*entries, longest]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.data())
def test_a_bundle_that_is_cut_off_is_refused(entries: list[bytes], data: st.DataObject) -> None:
    """Unless it is cut right after an entry, where it is a shorter bundle."""
    bundle = encode_bundle(entries)
    cut = data.draw(st.integers(0, len(bundle) - 1))
    whole = {len(encode_bundle(entries[:count])) for count in range(len(entries))}
    if cut in whole:
        assert decode_bundle(bundle[:cut]) == entries[: len(decode_bundle(bundle[:cut]))]
    else:
        with pytest.raises(BundleError):
            decode_bundle(bundle[:cut])


def test_a_tile_has_whole_hashes() -> None:
    """32 bytes each."""
    assert split_hashes(bytes(64)) == [bytes(32), bytes(32)]
    with pytest.raises(BundleError):
        split_hashes(bytes(63))
