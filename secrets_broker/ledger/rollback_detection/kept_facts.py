"""Facts that are kept beside LEDGER_CHECKPOINT_FILE, where no restore of the database reaches.

    <file>.state    the facts, as JSON
    <file>.seen-…   one per process: the newest tree that it has acknowledged events of

A checkpoint lags by about a second, so a process has acknowledged more than it covers. Each process
writes how much to its own file before it answers a caller, without waiting for the disk. That
survives the death of the process. A crash of the machine can lose the events since the checkpoint.
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

# A mark is overwritten in place, and its length varies: at most 63 hashes, for 2^63 events.
_MARK_BYTES: Final = 4_096


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tree that was acknowledged: its size, its last leaf, the roots of its perfect subtrees."""

    origin: str | None
    """The name of the log; None if unknown."""
    size: int
    leaf: bytes
    hashes: tuple[bytes, ...]

    @classmethod
    def of(cls, known: TreeState, origin: str | None) -> "Mark | None":
        """The mark of a tree state; None for an empty tree."""
        if known.last_leaf is None:
            return None
        return cls(origin, known.size, known.last_leaf, known.frontier.hashes)

    @property
    def root(self) -> bytes:
        """The tree's root hash."""
        return Frontier(self.size, self.hashes).root()


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why nothing is written any more until an operator has acted."""

    why: str
    at: str
    """The time of the machine that stopped, RFC 3339."""
    size: int | None = None
    """How many events the stopped process knew to be durable; None if none."""
    leaf: bytes | None = None
    """The leaf hash of the last one of these."""


class AuthenticatedFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ledger, and the position from which every event has a MAC."""

    position: int
    ledger_id: str


class KeptFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All facts. A program that does not know one refuses the file, so as not to drop it."""

    seen: Mark | None = None
    stopped: Stop | None = None
    authenticated_from: AuthenticatedFrom | None = None

    def with_stop(self, stopped: Stop | None) -> "KeptFacts":
        """The facts with another stop, or none."""
        return msgspec.structs.replace(self, stopped=stopped)

    def with_authenticated(self, fact: AuthenticatedFrom) -> "KeptFacts":
        """The facts with the position from which MACs are demanded."""
        return msgspec.structs.replace(self, authenticated_from=fact)

    def with_acknowledged(self, *marks: Mark | None) -> "KeptFacts":
        """The facts with the largest of all acknowledged trees."""
        return msgspec.structs.replace(self, seen=_largest([self.seen, *marks]))


@dataclass(frozen=True, slots=True)
class FactsFile:
    """The facts beside one checkpoint file."""

    checkpoint: Path

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.checkpoint.with_name(self.checkpoint.name + ".state")

    def read(self) -> KeptFacts:
        """All facts, with the largest tree that any process acknowledged.

        Raises LedgerUnavailableError if a file cannot be read.
        """
        try:
            # Read marks first: a mark that is gathered meanwhile is among the facts by then.
            marks = [_read_mark(path) for path in self._mark_paths()]
        except OSError as error:
            raise LedgerUnavailableError(f"{error.filename}: {error.strerror}") from None
        return self._stored().with_acknowledged(*marks)

    def change(self, change: Callable[[KeptFacts], KeptFacts]) -> None:
        """Replace the facts by what `change` makes of them.

        Raises OSError, or LedgerUnavailableError.
        """
        with whole_files.exclusive(self.checkpoint):
            self._change(change)

    def gather(self) -> None:
        """Merge the marks of ended processes into the facts; raises as `change` does."""
        with whole_files.exclusive(self.checkpoint):
            left = [path for path in self._mark_paths() if _is_left(path)]
            marks = [_read_mark(path) for path in left]
            if left:
                self._change(lambda facts: facts.with_acknowledged(*marks))
            # Died before: the mark is in both places, and says the same.
            for path in left:
                path.unlink()

    def in_use(self) -> bool:
        """Whether a process that acknowledges events still runs; raises OSError."""
        with whole_files.exclusive(self.checkpoint):
            return not all(_is_left(path) for path in self._mark_paths())

    def new_mark(self) -> "MarkFile":
        """A file for this process; raises OSError."""
        path = self.checkpoint.with_name(f"{self.checkpoint.name}.seen-{token_hex(6)}")
        with whole_files.exclusive(self.checkpoint):  # until it is locked, it looks abandoned
            # At its full length from the start: a full disk later does not matter.
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
        """Write it before any caller is answered; raises OSError."""
        # Died before: no caller was answered. Died after: it is known that one may have been.
        os.pwrite(self.descriptor, msgspec.json.encode(mark).ljust(_MARK_BYTES), 0)

    def close(self) -> None:
        """Unlock it, so that it is gathered."""
        os.close(self.descriptor)


def stop_now(why: str, durable: TreeState) -> Stop:
    """A stop at the present time."""
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Stop(why, at, durable.size or None, durable.last_leaf)


def _largest(marks: list[Mark | None]) -> Mark | None:
    return max((mark for mark in marks if mark), key=lambda mark: mark.size, default=None)


def _read_mark(path: Path) -> Mark | None:
    """The mark in a file; None if there is none, or the machine died while it was written."""
    content = (whole_files.read_regular(path) or b"").strip(b" \0")
    if not content:
        return None
    try:
        return msgspec.json.decode(content, type=Mark)
    except (msgspec.DecodeError, UnicodeDecodeError):
        _log.warning("mark_not_readable", file=str(path))
        return None


def _is_left(path: Path) -> bool:
    """Whether the process that made it has ended; the caller holds the lock."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
