"""After an export: away with what its checkpoint has made superfluous, or never covered.

That is: partial tiles whose full tile is there, what exports that ended early left past the
checkpoint, and half-written files. Partial tiles of earlier checkpoints stay until their full tile
is there (C2SP tlog-tiles), since somebody may be reading under such a checkpoint.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH
from secrets_broker.ledger.transparency_log.tile import Tile
from secrets_broker.tools.export.folder import Folder


def tidy(folder: Folder, size: int) -> None:
    """Remove it; the folder's checkpoint has that size and is on disk."""
    # Died in here: some of it is still there, which does no harm; the next export removes it.
    for path in list(_superfluous(folder.path, size)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _superfluous(root: Path, size: int) -> Iterator[Path]:
    for found, folders, files in os.walk(root):
        here = Path(found)
        for name in list(folders):
            if name.endswith(".p") and (here / name.removesuffix(".p")).is_file():
                folders.remove(name)
                yield here / name
        for name in files:
            if name.startswith(".") and name.endswith(".tmp"):
                yield here / name
        if here.is_relative_to(root / "tile"):
            yield from _past(root, here, files, size)
        if here.parent == root / "parquet":
            yield from (here / name for name in files if _first(name) >= size)


def _first(name: str) -> int:
    """The position that a Parquet file is named by; -1 where it is none of ours."""
    found = re.fullmatch(r"part-([0-9]+)\.parquet", name)
    return int(found[1]) if found else -1


def _past(root: Path, here: Path, files: list[str], size: int) -> Iterator[Path]:
    prefix = here.relative_to(root).as_posix()
    for name in files:
        tile = Tile.parse(f"{prefix}/{name}")
        if tile is None:
            continue
        if not tile.is_within(size) or not _agrees(root, tile, size):
            yield here / name


def _agrees(root: Path, tile: Tile, size: int) -> bool:
    """Whether a partial tile is the beginning of the one that the checkpoint covers."""
    if tile.width == TILE_WIDTH:
        return True
    width = min(TILE_WIDTH, (size >> 8 * (tile.level or 0)) - tile.start)
    covered = root / Tile(tile.level, tile.index, width).path
    try:
        return covered.read_bytes().startswith((root / tile.path).read_bytes())
    except FileNotFoundError:  # somebody removed it: `verify` will say so
        return True
