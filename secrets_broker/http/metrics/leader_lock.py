"""The leader lock: one worker of a service does a job for all of them.

The leader holds a lock on a file in the folder of the metric files. The operating system releases
the lock when that worker dies. The next leader takes over, with the number that its predecessor
left in the file.
"""

import fcntl
import os
from pathlib import Path


class LeaderLock:
    """A lock that one process at a time holds, until it gives it up or ends."""

    def __init__(self, folder: str | None, what: str) -> None:
        self._path = Path(folder) / f"{what}.lock" if folder else None
        self._descriptor: int | None = None

    def taken(self) -> bool:
        """Tell whether this process leads; it takes the lock where it is free."""
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
        """Leave a number for the next leader."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, b"%020d" % number, 0)  # one length: the old is covered

    def left(self) -> int | None:
        """The number that was left last, by this leader or an earlier one."""
        text = os.pread(self._descriptor, 20, 0) if self._descriptor is not None else b""
        return int(text) if text.isdigit() else None

    def give_up(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
