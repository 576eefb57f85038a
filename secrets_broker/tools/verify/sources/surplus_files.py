"""What lies in an export beside what its checkpoint covers.

A reader may believe that everything in a folder was checked. So older partial tiles must be the
beginning of what is covered, and of all else it is said that it was not checked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH
from secrets_broker.ledger.transparency_log.tile import (
    BundleError,
    Tile,
    decode_bundle,
    level_width,
    split_hashes,
)
from secrets_broker.tools.verify.checks.findings import Violation
from secrets_broker.tools.verify.sources.source_protocol import Overview, SourceError

_TILES: Final = "tile"
_PARTS: Final = frozenset(
    {_TILES, "bodies", "parquet", "checkpoint", "checkpoints.jsonl"}
    | {"README.txt", "verifier.key", "erasures.jsonl"}
)


def check_surplus(folder: Path, size: int, found: Overview) -> None:
    """Look at every name in the folder; the tree has that size. Raises SourceError."""
    try:
        beyond = sorted(path for path in _beside(folder, size, found))
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}") from None
    if beyond:
        more = f", and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        found.not_checked.append(f"{beyond[0]}{more}: the checkpoint does not cover it")


def _beside(folder: Path, size: int, found: Overview) -> Iterator[str]:
    yield from (path.name for path in folder.iterdir() if path.name not in _PARTS)
    for path in (folder / "bodies").rglob("*"):
        name = path.relative_to(folder / "bodies").as_posix()
        if path.is_file() and not _has_bodies(name, size):
            yield f"bodies/{name}"
    for path in (folder / _TILES).rglob("*"):
        if not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        tile = Tile.parse(name)
        if tile is None or not tile.is_within(size):
            yield name
        elif tile.width < TILE_WIDTH and not _begins(folder, tile, size):
            detail = f"{name} is not the beginning of the tile that is covered"
            found.problems.append(Violation(tile.start << 8 * (tile.level or 0), "tile", detail))


def _has_bodies(name: str, size: int) -> bool:
    tile = Tile.parse(f"{_TILES}/entries/{name.removesuffix('.jsonl')}")
    return tile is not None and name.endswith(".jsonl") and tile.start < size


def _begins(folder: Path, partial: Tile, size: int) -> bool:
    width = min(level_width(size, partial.level or 0) - partial.start, TILE_WIDTH)
    whole = folder / Tile(partial.level, partial.index, width).path
    if partial.width == width or not whole.is_file():
        return True  # it is the covered one itself, or stands for it
    content = (folder / partial.path).read_bytes()
    try:
        if partial.level is None:
            decode_bundle(content, partial.width)
        else:
            split_hashes(content, partial.width)
    except BundleError:
        return False
    return whole.read_bytes().startswith(content)
