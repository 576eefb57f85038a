"""Replaces small files as a whole, one process at a time.

A file that root writes (by a command beside a service, for example) belongs to the folder's owner,
so that the service can use it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

# The lock is held for one small file only: a longer wait means that its holder is frozen.
LOCK_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.005
MAX_BYTES: Final = 1 << 20


@contextmanager
def exclusive(beside: Path) -> Iterator[None]:
    """Exclude other processes by a lock file; raises OSError, also after LOCK_SECONDS."""
    descriptor = _open_lock(lock_path(beside))
    try:
        _wait_for(descriptor)
        yield
    finally:
        os.close(descriptor)


def lock_path(beside: Path) -> Path:
    """The lock file of a path; it is never removed, since that would let two processes in."""
    return beside.with_name(beside.name + ".lock")


def read_regular(path: Path) -> bytes | None:
    """A file's content; None if there is none. Raises OSError.

    A pipe or a device is refused: it could block its reader for ever.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not path.is_file():
            raise OSError(None, "is not a regular file", str(path))
        return file.read(MAX_BYTES + 1)


def replace(path: Path, content: bytes) -> None:
    """Replace a file's content, durably; raises OSError.

    The caller holds the lock.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)  # left by a process that died
    with os.fdopen(create(fresh, mode=0o644), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    # Died before: the file holds what it held. Died after: it holds this.
    fresh.replace(path)
    flush_folder(path.parent)


def check_writable(path: Path) -> None:
    """Raise OSError if `replace` would; the caller holds the lock."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    os.close(create(fresh))
    fresh.unlink()


def create(path: Path, mode: int = 0o600) -> int:
    """Create a file and return its descriptor; raises OSError if it exists.

    It follows no link: another account may own the folder, and could make root write elsewhere.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def flush_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    with suppress(FileExistsError):
        return create(path, mode=0o644)
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:  # over NFS, locking needs the right to write
        return os.open(path, os.O_RDWR | flags)
    except PermissionError:  # elsewhere a lock file of another account works too
        return os.open(path, os.O_RDONLY | flags)


def _wait_for(descriptor: int) -> None:
    give_up = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise OSError(None, "another process holds the lock beside it") from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return
