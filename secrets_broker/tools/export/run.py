"""One export: what to begin from, the copy, and the folder's checkpoint at its end."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.database.ledger_session import TOOL_SESSION
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import read_published
from secrets_broker.ledger.transparency_log.note import VerifierKey
from secrets_broker.tools.export import checkpoint_list
from secrets_broker.tools.export import folder as folders
from secrets_broker.tools.export.copy import Copy, chunks
from secrets_broker.tools.export.database_source import may_read_bodies
from secrets_broker.tools.export.folder import CHECKPOINT, README, ExportError, Folder
from secrets_broker.tools.export.readme import readme
from secrets_broker.tools.export.same_log import same_log
from secrets_broker.tools.export.tidy import tidy
from secrets_broker.tools.shared.read_only_connection import reading

Progress = Callable[[int, int], None]
"""Takes how many of how many events are done."""

_SESSION: Final = {
    **TOOL_SESSION,
    "default_transaction_read_only": "on",
    "statement_timeout": "60s",
}


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What is to be in the folder besides the log itself."""

    path: Path
    parquet: bool
    bodies: bool
    keys: Sequence[VerifierKey]
    erasures: bytes | None


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export did."""

    directory: str
    origin: str
    before: int | None
    """The size that the folder had; None where it had no checkpoint."""
    size: int
    files: int
    """How many were written."""
    bodies: bool
    parquet: bool


async def export(database_url: str, wanted: ExportPlan, progress: Progress) -> Exported:
    """Bring a folder up to the published checkpoint; raises LedgerError and its kinds."""
    async with reading(database_url, _SESSION) as connection:
        signed = await _published(connection, wanted.keys)
        bodies = wanted.bodies or folders.has_bodies(wanted.path)
        if bodies and not await may_read_bodies(connection):
            raise ExportError(
                "this login may not read ledger.bodies: export them as the service or the owner"
                if wanted.bodies
                else f"{wanted.path} has bodies, which this login may not read: "
                "export as the service or the owner, or to another folder"
            )
        with folders.locked(wanted.path, private=bodies) as folder:
            return await _fill(connection, folder, signed, wanted, progress)


async def _published(
    connection: AsyncConnection[Any], keys: Sequence[VerifierKey]
) -> SignedCheckpoint:
    signed = (await read_published(connection)).checkpoint
    if signed is None:
        raise ExportError(
            "the ledger has no checkpoint yet, and only what is under one is exported: set "
            "LEDGER_SIGNING_KEY (secrets-broker keygen prints one) and run the service, which "
            "signs one soon after the first event"
        )
    if keys:
        signed.verify(keys)
    return signed


async def _fill(
    connection: AsyncConnection[Any],
    folder: Folder,
    signed: SignedCheckpoint,
    wanted: ExportPlan,
    progress: Progress,
) -> Exported:
    new = signed.checkpoint
    old = await same_log(connection, folder, new)
    bodies = wanted.bodies or folders.has_bodies(folder.path)
    # First of all: what tells an export from any other folder.
    folder.put(README, readme(new.origin, bodies=bodies))
    copy = await Copy.begin(
        connection, folder, old.size if old else 0, new.size, bodies=bodies, parquet=wanted.parquet
    )
    try:
        await _copy(connection, copy, new.size, progress)
    finally:
        copy.close()
    check_root(copy, new)
    await checkpoint_list.append(connection, folder, old, signed)
    put_beside(folder, wanted)
    finish(folder, signed)
    return Exported(
        directory=str(folder.path),
        origin=new.origin,
        before=old.size if old else None,
        size=new.size,
        files=folder.written,
        bodies=bodies,
        parquet=wanted.parquet,
    )


async def _copy(
    connection: AsyncConnection[Any], copy: Copy, size: int, progress: Progress
) -> None:
    async for chunk in chunks(connection, copy.start, size, bodies=copy.bodies):
        # In a thread: meanwhile the next chunk is read.
        await asyncio.to_thread(copy.take, chunk)
        progress(copy.size, size)
    await asyncio.to_thread(copy.finish)


def check_root(copy: Copy, new: Checkpoint) -> None:
    """Raise ExportError where what was copied is not what the checkpoint covers."""
    if copy.root != new.root:
        raise ExportError(
            f"the events up to position {new.size - 1} do not have the root hash of the "
            f"checkpoint of size {new.size}, though each has its own leaf hash: rows or nodes "
            "were changed together with their hashes. Find out with: secrets-broker verify"
        )


def put_beside(folder: Folder, wanted: ExportPlan) -> None:
    """Write what is told beside the log."""
    if wanted.keys:
        folder.put("verifier.key", "".join(f"{key}\n" for key in wanted.keys).encode())
    if wanted.erasures is not None:
        folder.put("erasures.jsonl", wanted.erasures)


def finish(folder: Folder, signed: SignedCheckpoint) -> None:
    """Have it all on disk, and then the checkpoint that it is under."""
    # All that the new checkpoint covers is on disk, names included, before it is there itself.
    folder.sync()
    # Died before this line: the folder has its old checkpoint, or none, and all that is under
    # it; what is past it is compared and replaced by the next export. Died after it: it has the
    # new one, and all that is under that; only what is superfluous may still be there.
    folder.put(CHECKPOINT, str(signed).encode())
    folder.sync()
    tidy(folder, signed.checkpoint.size)
