"""The folder: one export at a time in it, and every file of it whole or not there.

A file is written beside its place, synced, and renamed into it. Which of them count is for
`checkpoint` to say, which comes last.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from secrets_broker.ledger.errors import BusyError, LedgerError

README: Final = "README.txt"
CHECKPOINT: Final = "checkpoint"
BODIES: Final = "bodies"
TITLE: Final = "Export of a Secrets Broker ledger"
"""The first line of README.txt, which tells an export from any other folder."""


class ExportError(LedgerError):
    """An export that cannot be made or continued; the text says what to do."""


class Folder:
    """An export's folder, which this process has locked."""

    def __init__(self, path: Path, *, private: bool) -> None:
        self.path = path
        self.written = 0
        self._private = private
        self._changed: set[Path] = set()

    def put(self, name: str, content: bytes, *, covered: bool = False) -> None:
        """Write a file, unless it is there with that very content.

        Raises ExportError where it is there with another one, and `covered` by the folder's
        checkpoint: such a file never changes.
        """
        path = self.path / name
        before = _content(path)
        if before == content:
            return
        if covered and before is not None:
            raise ExportError(
                f"{path} is not what the ledger has there: it was changed or damaged. "
                "Export to a new folder, and compare both with: secrets-broker verify --export"
            )
        with self.temporary(name).open("wb") as file:
            file.write(content)
        self.keep(name)

    def temporary(self, name: str) -> Path:
        """Where to write what `keep` then gives that name."""
        path = self.path / name
        self._make(path.parent)
        return path.with_name(f".{path.name}.tmp")

    def keep(self, name: str) -> None:
        """Have what was written at `temporary` on disk, and under its name."""
        path, temporary = self.path / name, self.temporary(name)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            if self._private:
                os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # Died before this line: the name has what it had, and the next export writes it again.
        # Died after it: the name has the new content, all of it.
        temporary.replace(path)
        self._changed.add(path.parent)
        self.written += 1

    def sync(self) -> None:
        """Have the names of all files on disk."""
        while self._changed:
            _sync(self._changed.pop())

    def close_to_others(self) -> None:
        """Take every right on what is there from everybody but its owner."""
        self.path.chmod(0o700)  # first: from here on nobody else gets in
        for folder, folders, files in os.walk(self.path):
            for name in folders:
                (Path(folder) / name).chmod(0o700)
            for name in files:
                (Path(folder) / name).chmod(0o600)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        if self._private:
            folder.chmod(0o700)
        self._changed |= {folder, folder.parent}


def has_bodies(path: Path) -> bool:
    """Tell whether an export there has bodies. Raises ExportError where it is something else."""
    try:
        if not path.exists():
            return False
        names = {found.name for found in path.iterdir()} - {f".{README}.tmp"}
        readme = _content(path / README) or b""
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}") from None
    if names and not readme.startswith(TITLE.encode()):
        raise ExportError(f"{path} is neither empty nor an export: choose another folder")
    return BODIES in names


@contextmanager
def locked(path: Path, *, private: bool) -> Iterator[Folder]:
    """Make the folder where it is not there, and have it to oneself; raises ExportError."""
    try:
        if not path.exists():
            path.mkdir(parents=True, exist_ok=True)
            _sync(path.absolute().parent)
        with _lock(path):
            private |= has_bodies(path)  # again: another export may have ended since
            folder = Folder(path, private=private)
            if private:
                folder.close_to_others()
            yield folder
    except OSError as error:
        raise ExportError(f"{error.filename or path}: {error.strerror}") from None


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    # On the folder itself, so that no file of ours lies in it. It ends with the process.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"another export to {path} is at work: wait for its end") from None
        yield
    finally:
        os.close(descriptor)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
