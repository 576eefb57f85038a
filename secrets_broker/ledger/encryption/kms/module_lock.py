"""One caller of a PKCS#11 module at a time, over all threads and processes of this machine.

Threads: a login is the process's, not the session's (PKCS #11 v2.40 base, section 5.6), and
modules differ in what they allow threads. Processes: SoftHSM 2.6 loses sight of its token for
moments while another process logs in, and workers of one service all start at once.

flock(2) on the module's own file does for both: each caller opens the file for itself, and two
descriptions exclude each other even in one process. What a child inherits is unlocked with its
parent, so no fork can leave a lock behind.
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
    """Wait for a turn, in seconds; raises TimeoutError, or OSError for a file that is not there."""
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
