"""Whether a folder and a ledger are the same log: asked before anything is added to it."""

from typing import Any

from psycopg import AsyncConnection

from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import NoteError
from secrets_broker.ledger.transparency_log.proof import ProofError
from secrets_broker.ledger.transparency_log.stored_hashes import root_at
from secrets_broker.tools.export import checkpoint_list
from secrets_broker.tools.export.folder import CHECKPOINT, ExportError, Folder


async def same_log(
    connection: AsyncConnection[Any], folder: Folder, new: Checkpoint
) -> Checkpoint | None:
    """The folder's own checkpoint, if it has one; raises ExportError where it is another log's."""
    old = old_checkpoint(folder)
    if old is None:
        return None
    check_names(folder, old, new)
    try:
        same = await root_at(connection, old.size) == old.root
    except ProofError:
        same = False
    if not same:
        raise ExportError(
            f"the ledger's first {old.size} events are not those of {folder.path}: it is another "
            "ledger, or one of the two was changed. Find out with: secrets-broker verify"
        )
    await checkpoint_list.check_kept(connection, old)
    return old


def check_names(folder: Folder, old: Checkpoint, new: Checkpoint) -> None:
    """Raise ExportError where a checkpoint is of another log than the folder's, or of less."""
    if old.origin != new.origin:
        raise ExportError(
            f"{folder.path} is the export of {old.origin}, and this ledger is {new.origin}: "
            "two logs are never mixed. Export to a new folder"
        )
    if old.size > new.size:
        raise ExportError(
            f"{folder.path} has {old.size} events, and the ledger's checkpoint only {new.size}: "
            "it was restored from an older backup, or this is a standby that is behind"
        )


def old_checkpoint(folder: Folder) -> Checkpoint | None:
    """The folder's own checkpoint, if it has one; raises ExportError."""
    path = folder.path / CHECKPOINT
    try:
        return SignedCheckpoint.parse(path.read_text(encoding="utf-8")).checkpoint
    except FileNotFoundError:
        return None
    except (NoteError, UnicodeDecodeError):
        raise ExportError(f"{path} is not a checkpoint: export to a new folder") from None
