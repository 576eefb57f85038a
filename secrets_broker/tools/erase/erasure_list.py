"""The list of erasures: a file of JSON lines that outlives a restore of an older backup.

Each line names a data key that was destroyed. The file is only appended to, a whole line at a time,
and each line is on disk before the next step. Died in the middle of a line: the next `erase` or
`erase --list` cuts the broken line off and writes it again from the ledger.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

import msgspec

from secrets_broker.ledger.operations.erasure import Erasure
from secrets_broker.tools.shared.status import NotAsked

_decoder = msgspec.json.Decoder(Erasure)


class ErasureListError(NotAsked):
    """A list of erasures that is not there, cannot be read or written, or is not one."""


def read(path: Path) -> list[Erasure]:
    """Every line of a list; raises ErasureListError, which names the line."""
    with _explained(path):
        return _parse(path, path.read_bytes())


def lines(erasures: Iterable[Erasure]) -> bytes:
    """As they stand in a list."""
    return b"".join(msgspec.json.encode(erasure) + b"\n" for erasure in erasures)


def append(path: Path, erasures: Iterable[Erasure]) -> None:
    """Add lines, and have them on disk; raises ErasureListError."""
    with _explained(path), _alone(path) as file:
        _write(file, erasures)


def complete(path: Path, recorded: Iterable[Erasure]) -> int:
    """Add what the ledger has recorded and the list lacks; says how many lines that are.

    What the list has and the ledger lacks stays: it may be from before a restore.
    """
    with _explained(path), _alone(path) as file:
        _cut_torn_line(file)
        file.seek(0)
        known = {erasure.data_key for erasure in _parse(path, file.read())}
        missing = [erasure for erasure in recorded if erasure.data_key not in known]
        _write(file, missing)
        return len(missing)


def _write(file: BufferedRandom, erasures: Iterable[Erasure]) -> None:
    file.seek(0, os.SEEK_END)
    file.write(lines(erasures))
    file.flush()
    # Died before this line: some of it may be on disk, up to a torn line. Died after: all is.
    os.fsync(file.fileno())


def _cut_torn_line(file: BufferedRandom) -> None:
    content = file.read()
    last = content.rpartition(b"\n")[2]
    if not last:
        return
    if _is_line(last):  # written by hand, without the line's end
        file.write(b"\n")
    else:
        file.truncate(len(content) - len(last))
    file.flush()


def _parse(path: Path, content: bytes) -> list[Erasure]:
    erasures = []
    for number, line in enumerate(content.splitlines(), 1):
        if not _is_line(line):
            raise ErasureListError(
                f"{path}, line {number}: is not a line of `secrets-broker erase --list`"
            )
        erasures.append(_decoder.decode(line))
    return erasures


def _is_line(line: bytes) -> bool:
    try:
        _decoder.decode(line)
    except msgspec.DecodeError:
        return False
    return True


@contextmanager
def _alone(path: Path) -> Iterator[BufferedRandom]:
    # Never made here: a list at a wrong path would be taken for one with nothing in it.
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ErasureListError(
            f"{path}: there is no such list of erasures. Begin one with: "
            f"secrets-broker erase --list > {path}"
        ) from None
    except OSError as error:
        raise ErasureListError(f"{path}: {error.strerror}") from None
