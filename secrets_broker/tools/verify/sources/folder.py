"""An export: a folder that is a static tlog-tiles site, and what stands beside it.

checkpoint           the signed note whose size is checked; it is written last of all
tile/…               hashes, and entry bundles
parquet/…            only some exports: tables, which are checked after the entries
checkpoints.jsonl    every kept checkpoint, a line each: origin, size, note
bodies/<N>.jsonl     only some exports: ciphertexts by position, for each entry bundle
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH
from secrets_broker.ledger.transparency_log.note import MAX_BYTES, NoteError
from secrets_broker.ledger.transparency_log.tile import Tile
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from secrets_broker.tools.verify.checks.findings import Violation
from secrets_broker.tools.verify.checks.ranges import BodyDigest
from secrets_broker.tools.verify.sources.checkpoint_shelf import Shelf
from secrets_broker.tools.verify.sources.source_protocol import DamagedError, Overview, SourceError
from secrets_broker.tools.verify.sources.surplus_files import check_surplus
from secrets_broker.tools.verify.sources.tiles import TileReader

_BODIES: Final = "bodies"


class _Line(msgspec.Struct, frozen=True):
    origin: str
    size: int
    note: str


class _Body(msgspec.Struct, frozen=True):
    position: int
    key: str
    ciphertext: str


_lines = msgspec.json.Decoder(_Line)
_bodies = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class FolderAddress:
    """An export, by its path."""

    folder: Path
    size: int
    partial: bool

    def open(self) -> "FolderReader":
        """A reader."""
        return FolderReader(self.folder, self.size, partial=self.partial)


class FolderReader(TileReader):
    """Reads tiles from files."""

    def __init__(self, folder: Path, size: int, *, partial: bool) -> None:
        super().__init__(size, partial=partial)
        self.folder = folder

    def fetch(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Their content, as far as they are there."""
        found = {path: _content(self.folder / path) for path in paths}
        return {path: content for path, content in found.items() if content is not None}

    def wider(self, tile: Tile) -> Tile | None:
        """See TileReader; here also a partial tile that is wider, since it begins the same."""
        full = super().wider(tile)
        if full is None or (self.folder / full.path).is_file():
            return full
        there = [p.name for p in (self.folder / f"{full.path}.p").glob("*")]
        paths = [f"{full.path}.p/{name}" for name in there]
        known = [found for path in paths if (found := Tile.parse(path)) is not None]
        return next((one for one in known if one.width > tile.width), full)

    def bodies(
        self, tiles: Sequence[Tile], problems: list[Violation]
    ) -> Mapping[int, BodyDigest] | None:
        """The bodies of these bundles, where the export has any."""
        if not (self.folder / _BODIES).is_dir():
            return None
        found: dict[int, BodyDigest] = {}
        for tile in tiles:
            self._take_bodies(tile, found, problems)
        return found

    def close(self) -> None:
        """Nothing is open."""

    def _take_bodies(
        self, tile: Tile, found: dict[int, BodyDigest], problems: list[Violation]
    ) -> None:
        index = Tile(None, tile.index).path.removeprefix("tile/entries/")
        path = f"{_BODIES}/{index}.jsonl"
        for number, line in enumerate((_content(self.folder / path) or b"").splitlines(), 1):
            body = _body(line)
            if body is None or body[0] // TILE_WIDTH != tile.index or body[0] in found:
                detail = f"{path}, line {number}, is no body of these events, or is there twice"
                problems.append(Violation(tile.start, "body", detail))
            else:
                found[body[0]] = body[1]
        # What an export that was cut off has past its checkpoint is covered by nothing.
        for position in [at for at in found if at >= self._size]:
            del found[position]


def _body(line: bytes) -> tuple[int, BodyDigest] | None:
    try:
        body = _bodies.decode(line)
        ciphertext = base64.b64decode(body.ciphertext, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error):
        return None
    return body.position, BodyDigest(body.key, sha256(ciphertext).digest())


class FolderSource(FolderReader):
    """Gives what the export has."""

    def __init__(self, folder: Path, *, partial: bool) -> None:
        super().__init__(folder, 0, partial=partial)
        self._shelf = Shelf()

    @property
    def name(self) -> str:
        """See Source."""
        return f"export {self.folder}"

    @property
    def address(self) -> FolderAddress:
        """See Source."""
        return FolderAddress(self.folder, self._size, self._partial)

    def overview(self) -> Overview:
        """The size of its checkpoint; see Source."""
        note = _content(self.folder / "checkpoint")
        if note is None:
            raise SourceError(
                f"{self.folder} has no file named checkpoint: name a folder that "
                "secrets-broker export made, once it has ended"
            )
        try:
            text = note[: MAX_BYTES + 1].decode()
            tree = SignedCheckpoint.parse(text).checkpoint
        except (NoteError, UnicodeDecodeError) as error:
            raise DamagedError(f"{self.folder / 'checkpoint'} is not one: {error}") from None
        self._size = tree.size
        found = Overview(tree.size, (tree.origin, tree.size))
        published = KeptCheckpoint(tree.origin, tree.size, text)
        self._shelf.fill(self._kept(found, published))
        if self._shelf.beyond(tree.size):
            found.remarks.append("there are checkpoints of more events: an export that was cut off")
        if not (self.folder / _BODIES).is_dir():
            found.not_checked.append("bodies: the export has none")
        found.not_checked.append("host_credentials and data keys: no export has them")
        check_surplus(self.folder, tree.size, found)
        return found

    @property
    def size(self) -> int:
        """How many events its checkpoint covers; 0 before `overview`."""
        return self._size

    @property
    def partial(self) -> bool:
        """Whether what is missing is no problem."""
        return self._partial

    def checkpoints(self, low: int, high: int) -> Sequence[KeptCheckpoint]:
        """See Source."""
        return self._shelf.between(low, high)

    def close(self) -> None:
        """Let go of the temporary file."""
        self._shelf.close()

    def _kept(self, found: Overview, published: KeptCheckpoint) -> Iterator[KeptCheckpoint]:
        try:
            with (self.folder / "checkpoints.jsonl").open("rb") as file:
                seen = False
                for number, line in enumerate(file, 1):
                    one = _kept_line(found, number, line)
                    if one is not None:
                        seen = seen or (one.origin, one.size) == found.published
                        if one != published:
                            yield one
        except OSError:
            found.not_checked.append("earlier checkpoints: there is no checkpoints.jsonl")
            seen = False
        else:
            if not seen:
                detail = "checkpoints.jsonl lacks the published one"
                found.problems.append(Violation(None, "checkpoint", detail))
        # As it stands in its own file, whatever the list has of it.
        yield published


def _kept_line(found: Overview, number: int, line: bytes) -> KeptCheckpoint | None:
    try:
        one = _lines.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        detail = f"checkpoints.jsonl, line {number}, cannot be read"
        found.problems.append(Violation(None, "checkpoint", detail))
        return None
    return KeptCheckpoint(one.origin, one.size, one.note)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
