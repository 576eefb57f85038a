"""Turns: what one worker of a service does for all of them.

It is the worker that holds a lock on a file in the folder that the workers count in. The system
lets go of it when that worker dies, however it does, and the next one takes over, with the number
that the one before left in the file.
"""

import fcntl
import os
from pathlib import Path


class LeaderLock:
    """Whose turn it is to do something: one process at a time has it, until it ends."""

    def __init__(self, folder: str | None, what: str) -> None:
        self._path = Path(folder) / f"{what}.lock" if folder else None
        self._descriptor: int | None = None

    def taken(self) -> bool:
        """Tell whether this process has it; where nobody has, it takes it."""
        if self._path is None or self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def leave(self, number: int) -> None:
        """Have whoever's turn is next know a number."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, b"%020d" % number, 0)  # one length: the old is covered

    def left(self) -> int | None:
        """The number that was left last, by whoever had the turn."""
        text = os.pread(self._descriptor, 20, 0) if self._descriptor is not None else b""
        return int(text) if text.isdigit() else None

    def give_up(self) -> None:
        """Let another process have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
