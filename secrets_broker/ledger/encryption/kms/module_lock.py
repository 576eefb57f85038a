"""Lets one caller at a time use a PKCS#11 module, over all threads and processes of this machine.

Threads: a login belongs to the process, not the session (PKCS #11 v2.40 base, section 5.6), and
modules differ in what they allow threads. Processes: SoftHSM 2.6 loses its token for moments while
another process logs in, and the workers of a service start at the same time.

flock(2) on the module's own file serves both: each caller opens the file itself, and two open file
descriptions exclude each other even in one process. A child's inherited lock is released with its
parent's, so no fork leaves a lock behind.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# Seconds. A call takes milliseconds with SoftHSM, seconds with a device over a network.
_LONGEST_WAIT: Final = 30.0
_PAUSE: Final = 0.01


@contextmanager
def hold_module_lock(module: Path, longest_wait: float = _LONGEST_WAIT) -> Iterator[None]:
    """Hold the lock; waits so many seconds. Raises TimeoutError, or OSError for a missing file."""
    with module.open("rb") as file:
        _lock(file.fileno(), time.monotonic() + longest_wait)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("another process holds the lock on the module") from None
            time.sleep(_PAUSE)
        else:
            return
