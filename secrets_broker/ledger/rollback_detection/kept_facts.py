"""Facts that are kept beside LEDGER_CHECKPOINT_FILE, where no restore of the database reaches.

    <file>.state    the facts, as JSON
    <file>.seen-…   one a process: the newest tree that it has acknowledged events of

A checkpoint is a second behind; a process that ends has acknowledged more. It writes down how much
before it answers anybody, into a file of its own, without waiting for the disk: that survives the
process, and a crash of its machine loses at most what the checkpoint does not know either.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Final

import msgspec
import structlog

from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.rollback_detection import whole_files
from secrets_broker.ledger.transparency_log.merkle import Frontier
from secrets_broker.ledger.tree_state import TreeState

_log = structlog.get_logger(__name__)

# A mark is written in place, over one of any other length. Of 2^63 events it has 63 hashes.
_MARK_BYTES: Final = 4_096


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tree that was acknowledged: its size, its last leaf, the roots of its perfect subtrees."""

    origin: str | None
    """The name of the log, where it is known."""
    size: int
    leaf: bytes
    hashes: tuple[bytes, ...]

    @classmethod
    def of(cls, seen: TreeState, origin: str | None) -> "Mark | None":
        """What a process has seen; None of an empty tree."""
        if seen.last_leaf is None:
            return None
        return cls(origin, seen.size, seen.last_leaf, seen.frontier.hashes)

    @property
    def root(self) -> bytes:
        """The tree's root hash."""
        return Frontier(self.size, self.hashes).root()


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why nothing is written any more, until a person has acted."""

    why: str
    at: str
    """The time of the machine that stopped, RFC 3339."""
    size: int | None = None
    """How many events the process that stopped knew to be durable; None where it knew of none."""
    leaf: bytes | None = None
    """The hash of the last one of them."""


class AuthenticatedFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which position on every event of which ledger has a MAC."""

    position: int
    ledger_id: str


class KeptFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All of them. A program that does not know one refuses the file: it must not drop it."""

    seen: Mark | None = None
    stopped: Stop | None = None
    authenticated_from: AuthenticatedFrom | None = None

    def with_stop(self, stopped: Stop | None) -> "KeptFacts":
        """These, with another stop, or none."""
        return msgspec.structs.replace(self, stopped=stopped)

    def with_authenticated(self, fact: AuthenticatedFrom) -> "KeptFacts":
        """These, with where MACs are demanded from."""
        return msgspec.structs.replace(self, authenticated_from=fact)

    def with_acknowledged(self, *marks: Mark | None) -> "KeptFacts":
        """These, with the largest of them all that was seen."""
        return msgspec.structs.replace(self, seen=_largest([self.seen, *marks]))


@dataclass(frozen=True, slots=True)
class FactsFile:
    """The facts beside one checkpoint file."""

    checkpoint: Path

    @property
    def path(self) -> Path:
        """Where they are."""
        return self.checkpoint.with_name(self.checkpoint.name + ".state")

    def read(self) -> KeptFacts:
        """All that is kept; of what was seen, the most that any process did.

        Raises LedgerUnavailableError where something cannot be read.
        """
        try:
            # Marks first: who gathers one meanwhile has written it among the facts by then.
            marks = [_read_mark(path) for path in self._mark_paths()]
        except OSError as error:
            raise LedgerUnavailableError(f"{error.filename}: {error.strerror}") from None
        return self._stored().with_acknowledged(*marks)

    def change(self, change: Callable[[KeptFacts], KeptFacts]) -> None:
        """Replace the facts by what follows from those that are there.

        Raises OSError, or LedgerUnavailableError.
        """
        with whole_files.exclusive(self.checkpoint):
            self._change(change)

    def gather(self) -> None:
        """Take over what processes left that are no more; raises as `change` does."""
        with whole_files.exclusive(self.checkpoint):
            left = [path for path in self._mark_paths() if _is_left(path)]
            marks = [_read_mark(path) for path in left]
            if left:
                self._change(lambda facts: facts.with_acknowledged(*marks))
            # Died before: they are read here and there, and say the same.
            for path in left:
                path.unlink()

    def in_use(self) -> bool:
        """Whether a process that acknowledges events still runs; raises OSError."""
        with whole_files.exclusive(self.checkpoint):
            return not all(_is_left(path) for path in self._mark_paths())

    def new_mark(self) -> "MarkFile":
        """A file for this process; raises OSError."""
        path = self.checkpoint.with_name(f"{self.checkpoint.name}.seen-{token_hex(6)}")
        with whole_files.exclusive(self.checkpoint):  # until it is locked, it looks left
            # As long as it will ever be: a full disk later does not matter.
            descriptor = whole_files.create(path)
            os.pwrite(descriptor, b" " * _MARK_BYTES, 0)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return MarkFile(path, descriptor)

    def _stored(self) -> KeptFacts:
        try:
            content = whole_files.read_regular(self.path)
            return KeptFacts() if content is None else msgspec.json.decode(content, type=KeptFacts)
        except OSError as error:
            raise LedgerUnavailableError(f"{self.path}: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LedgerUnavailableError(
                f"{self.path} cannot be read as what this program keeps there: {error}"
            ) from None

    def _change(self, change: Callable[[KeptFacts], KeptFacts]) -> None:
        before = self._stored()
        after = change(before)
        if after != before:
            whole_files.replace(self.path, msgspec.json.encode(after) + b"\n")

    def _mark_paths(self) -> Iterator[Path]:
        beginning = self.checkpoint.name + ".seen-"
        for entry in sorted(self.checkpoint.parent.iterdir()):
            if entry.name.startswith(beginning):
                yield entry


@dataclass(frozen=True, slots=True)
class MarkFile:
    """What this process has acknowledged; locked for as long as it runs."""

    path: Path
    descriptor: int

    def write(self, mark: Mark) -> None:
        """Keep it before anybody is answered; raises OSError."""
        # Died before: nobody was answered. Died after: it is known that somebody may have been.
        os.pwrite(self.descriptor, msgspec.json.encode(mark).ljust(_MARK_BYTES), 0)

    def close(self) -> None:
        """Leave it to be gathered."""
        os.close(self.descriptor)


def stop_now(why: str, seen: TreeState) -> Stop:
    """A stop of this moment."""
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Stop(why, at, seen.size or None, seen.last_leaf)


def _largest(marks: list[Mark | None]) -> Mark | None:
    return max((mark for mark in marks if mark), key=lambda mark: mark.size, default=None)


def _read_mark(path: Path) -> Mark | None:
    """What a process wrote; None where it wrote nothing, or its machine died meanwhile."""
    content = (whole_files.read_regular(path) or b"").strip(b" \0")
    if not content:
        return None
    try:
        return msgspec.json.decode(content, type=Mark)
    except (msgspec.DecodeError, UnicodeDecodeError):
        _log.warning("mark_not_readable", file=str(path))
        return None


def _is_left(path: Path) -> bool:
    """Whether the process that made it is no more; the caller keeps others out."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
