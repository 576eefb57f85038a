"""checkpoints.jsonl: every kept checkpoint, oldest first; a file that is only appended to.

What is past the folder's checkpoint is cut off and written again, and the line of that checkpoint
too: cosignatures of it may have come since. A cosignature that comes later still for an older
checkpoint is not added.
"""

import mmap
import os
from collections.abc import Iterable
from io import BufferedRandom
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.tools.export.database_source import (
    ExportedCheckpoint,
    read_checkpoints,
    read_earlier_origins,
)
from secrets_broker.tools.export.folder import ExportError, Folder

NAME: Final = "checkpoints.jsonl"
_AT_ONCE: Final = 1_000
_NO_LIMIT: Final = 2**63 - 1

_decoder = msgspec.json.Decoder(ExportedCheckpoint)


async def append(
    connection: AsyncConnection[Any],
    folder: Folder,
    old: Checkpoint | None,
    new: SignedCheckpoint,
) -> None:
    """Bring the file up to a checkpoint, which becomes its last line."""
    if not (folder.path / NAME).exists():
        folder.put(NAME, b"")
    with (folder.path / NAME).open("r+b") as file:
        # Died from here on: the file lacks lines that the next export puts back, of which the
        # folder's checkpoint, if it has one, is the only one up to its size.
        known = old is not None and _cut(file, old)
        if old is None or not known:
            file.truncate(0)
        file.seek(0, os.SEEK_END)
        origin, size = new.checkpoint.origin, new.checkpoint.size
        if not known:
            for earlier in await read_earlier_origins(connection, origin):
                await _copy(connection, file, earlier, 0, _NO_LIMIT)
        await _copy(connection, file, origin, old.size if old and known else 0, size - 1)
        file.write(_line(ExportedCheckpoint(origin, size, str(new))))
        file.flush()
        os.fsync(file.fileno())


def put_all(folder: Folder, earlier: Iterable[ExportedCheckpoint], new: SignedCheckpoint) -> None:
    """Write the file as a whole: those before a checkpoint, and that one as its last line."""
    with folder.temporary(NAME).open("wb") as file:
        file.writelines(map(_line, earlier))
        file.write(_line(ExportedCheckpoint(new.checkpoint.origin, new.checkpoint.size, str(new))))
    folder.keep(NAME)


async def check_kept(connection: AsyncConnection[Any], old: Checkpoint) -> None:
    """Raise ExportError where the ledger does not know a folder's checkpoint any more."""
    found = await read_checkpoints(connection, old.origin, old.size, old.size, 1)
    notes = [SignedCheckpoint.parse(kept.note).checkpoint for kept in found]
    if old not in notes:
        raise ExportError(
            f"the ledger does not know the folder's checkpoint of size {old.size}: it was "
            "restored from an older backup, or is another one. Export it to a new folder"
        )


async def _copy(
    connection: AsyncConnection[Any], file: BufferedRandom, origin: str, first: int, last: int
) -> None:
    while page := await read_checkpoints(connection, origin, first, last, _AT_ONCE):
        file.write(b"".join(map(_line, page)))
        first = page[-1].size + 1


def _line(kept: ExportedCheckpoint) -> bytes:
    return msgspec.json.encode(kept) + b"\n"


def _cut(file: BufferedRandom, old: Checkpoint) -> bool:
    """Cut off the line of a checkpoint and all behind it; tell whether it was there.

    From the end backwards, since the file may be long and what is to be cut is seldom much.
    """
    end = os.fstat(file.fileno()).st_size
    if not end:
        return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while end:
            start = content.rfind(b"\n", 0, end - 1) + 1
            if _is_of(content[start:end], old):
                break
            end = start
    if not end:
        return False
    file.truncate(start)
    return True


def _is_of(line: bytes, old: Checkpoint) -> bool:
    try:
        kept = _decoder.decode(line)
    except msgspec.DecodeError:  # torn
        return False
    return (kept.origin, kept.size) == (old.origin, old.size)
