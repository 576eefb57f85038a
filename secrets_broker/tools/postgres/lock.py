"""One holder at a time: an flock that the kernel drops when its process dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secrets_broker.tools.postgres.errors import FolderInUseError


def acquire(path: Path, *, wait: bool = False) -> int:
    """A descriptor that holds the lock until it is closed; BusyError where another has it."""
    # Not inherited: PostgreSQL must not keep its supervisor's lock.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise FolderInUseError(
            f"another secrets-broker runs on {path.parent}: stop it, or choose another --data-dir"
        ) from None
    return descriptor


@contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock for the length of a block."""
    descriptor = acquire(path, wait=wait)
    try:
        yield
    finally:
        os.close(descriptor)
