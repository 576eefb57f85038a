"""What a watch keeps in a file: how far it has told, and what it remembers of what was before.

Both are of one moment and are written together. So a later run tells what this one would have told,
with the same ids.
"""

import fcntl
import os
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Final

import msgspec

from secrets_broker.ledger.errors import BusyError, LedgerError
from secrets_broker.projections.conditions import Memory, Thresholds
from secrets_broker.projections.conditions.following import ReadPosition

_FORMAT: Final = 1


class WatchStateError(LedgerError):
    """The state cannot be read or written; the text says which file, and why."""


class WatchState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in the file."""

    format: int
    position: int
    """The next event; all before it were told of."""
    leaf: str | None
    thresholds: Thresholds
    memory: Memory

    @property
    def place(self) -> ReadPosition:
        """How far the ledger was read."""
        return ReadPosition(self.position, self.leaf)


@dataclass(slots=True)
class StateFile:
    """A file of one watch at a time."""

    path: Path
    _lock: TextIOWrapper | None = field(default=None, repr=False)

    def take(self) -> WatchState | None:
        """Keep others off it, and read it: None where there is none yet.

        Raises WatchStateError; BusyError where another watch has it.
        """
        try:
            self._lock = self._beside(".lock").open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raw = self.path.read_bytes()
        except FileNotFoundError:
            if self.path.parent.is_dir():
                return None
            raise WatchStateError(f"{self.path.parent}: there is no such folder") from None
        except BlockingIOError:
            raise BusyError(f"{self.path} is another watch's, which is running") from None
        except OSError as error:
            raise WatchStateError(f"{self.path}: {error.strerror}") from None
        return self._decoded(raw)

    def keep(self, place: ReadPosition, thresholds: Thresholds, memory: Memory) -> None:
        """Replace what is in it; it is on disk afterwards. Raises WatchStateError."""
        kept = WatchState(
            format=_FORMAT,
            position=place.position,
            leaf=place.leaf,
            thresholds=thresholds,
            memory=memory,
        )
        try:
            self._replace(msgspec.json.encode(kept))
        except OSError as error:
            raise WatchStateError(f"{self.path}: {error.strerror}") from None

    def _replace(self, content: bytes) -> None:
        fresh = self._beside(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Died before: what was told since the state before is told again, with the same ids.
        # Died after: it is not told again.
        fresh.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _decoded(self, raw: bytes) -> WatchState:
        try:
            kept = msgspec.json.decode(raw, type=WatchState)
        except (msgspec.DecodeError, UnicodeDecodeError):
            kept = None
        if kept is None or kept.format != _FORMAT:
            raise WatchStateError(
                f"{self.path} is not the state of a watch, or of another version: move it away, "
                "and say where to begin with --from"
            )
        return kept

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)
