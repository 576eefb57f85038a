"""An export of another service's ledger, over HTTP: what it publishes, and what follows from that.

Entries and checkpoints are all there is to fetch: tiles, hashes and tables are made of them here,
and the checkpoint's root says that they are the ones. Ciphertexts are not to be had that way.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import msgspec

from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH, leaf_hash
from secrets_broker.ledger.transparency_log.note import NoteError
from secrets_broker.ledger.transparency_log.stored_entries import StoredEntry
from secrets_broker.ledger.transparency_log.tile import BundleError, Tile, decode_bundle
from secrets_broker.tools.export import checkpoint_list
from secrets_broker.tools.export.copy import EVENTS_AT_ONCE, Copy
from secrets_broker.tools.export.database_source import Chunk, ExportedCheckpoint
from secrets_broker.tools.export.folder import README, ExportError, Folder, has_bodies, locked
from secrets_broker.tools.export.readme import readme
from secrets_broker.tools.export.run import (
    Exported,
    ExportPlan,
    Progress,
    check_root,
    finish,
    put_beside,
)
from secrets_broker.tools.export.same_log import check_names, old_checkpoint
from secrets_broker.tools.export.site import Site
from secrets_broker.tools.shared.remote import Connections, Remote

_AT_ONCE = 8
_PAGE = 1_000


def mirror(remote: Remote, wanted: ExportPlan, progress: Progress) -> Exported:
    """Bring a folder up to the checkpoint that a service publishes; raises LedgerError.

    All entries are fetched, whatever the folder has: what it has is compared with them.
    """
    if wanted.bodies or has_bodies(wanted.path):
        raise ExportError(
            "ciphertexts are not to be had over HTTP: export with bodies from the database"
        )
    with remote.open() as connections, locked(wanted.path, private=False) as folder:
        signed = _published(connections, remote.url, wanted)
        return _fill(connections, folder, signed, wanted, progress)


def _published(connections: Connections, url: str, wanted: ExportPlan) -> SignedCheckpoint:
    note = connections.get("/log/checkpoint")
    if note is None:
        raise ExportError(f"{url} has no checkpoint yet, or is no broker")
    try:
        signed = SignedCheckpoint.parse(note.decode())
    except (NoteError, UnicodeDecodeError) as error:
        raise ExportError(f"{url}: the checkpoint is none: {error}") from None
    if wanted.keys:
        signed.verify(wanted.keys)
    return signed


def _fill(
    connections: Connections,
    folder: Folder,
    signed: SignedCheckpoint,
    wanted: ExportPlan,
    progress: Progress,
) -> Exported:
    new, old = signed.checkpoint, old_checkpoint(folder)
    if old is not None:
        check_names(folder, old, new)
    folder.put(README, readme(new.origin, bodies=False))
    copy = Copy(folder, old.size if old else 0, Site(0, []), bodies=False)
    if wanted.parquet:
        copy.take_tables_from(0)
    with closing(copy):
        for chunk in _chunks(connections, new.size):
            if old is not None:
                _check_old(copy, chunk, old, folder)
            copy.take(chunk)
            progress(copy.size, new.size)
        copy.finish()
    check_root(copy, new)
    checkpoint_list.put_all(folder, _earlier(connections, new), signed)
    put_beside(folder, wanted)
    finish(folder, signed)
    before = old.size if old else None
    written, parquet = folder.written, wanted.parquet
    return Exported(str(folder.path), new.origin, before, new.size, written, False, parquet)


def _check_old(copy: Copy, chunk: Chunk, old: Checkpoint, folder: Folder) -> None:
    """Before anything of the chunk is written over what is in the folder's partial tiles."""
    if not chunk.first < old.size <= chunk.first + chunk.count:
        return
    leaves = [row.leaf for row in chunk.rows[: old.size - chunk.first]]
    before, _ = copy.frontier.extend(leaves)
    if before.root() != old.root:
        raise ExportError(
            f"the ledger's first {old.size} events are not those of {folder.path}: it is another "
            "ledger, or one of the two was changed. Find out with: secrets-broker verify"
        )


def _chunks(connections: Connections, size: int) -> Iterator[Chunk]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for first in range(0, size, EVENTS_AT_ONCE):
            count = min(EVENTS_AT_ONCE, size - first)
            tiles = [
                Tile(None, start // TILE_WIDTH, min(TILE_WIDTH, size - start))
                for start in range(first, first + count, TILE_WIDTH)
            ]
            bundles = pool.map(lambda tile: connections.get(f"/log/{tile.path}"), tiles)
            entries = [e for t, raw in zip(tiles, bundles, strict=True) for e in _entries(t, raw)]
            rows = [
                StoredEntry(first + n, leaf_hash(entry), entry) for n, entry in enumerate(entries)
            ]
            yield Chunk(first, count, rows, ())


def _entries(tile: Tile, raw: bytes | None) -> list[bytes]:
    try:
        entries = decode_bundle(raw or b"")
    except BundleError as error:
        raise ExportError(f"{tile.path}: {error}") from None
    if len(entries) != tile.width:
        raise ExportError(f"{tile.path} has {len(entries)} entries, not {tile.width}")
    return entries


class _Page(msgspec.Struct, frozen=True):
    items: list[ExportedCheckpoint]
    next: str | None


def _earlier(connections: Connections, new: Checkpoint) -> Iterator[ExportedCheckpoint]:
    """Every kept checkpoint but the new one, and those that came after it."""
    cursor = ""
    while True:
        raw = connections.get(f"/internal/audit/checkpoints?limit={_PAGE}{cursor}")
        try:
            page = msgspec.json.decode(raw or b"", type=_Page)
        except msgspec.DecodeError:
            raise ExportError("the service lists no checkpoints: is it a broker?") from None
        yield from (k for k in page.items if k.origin != new.origin or k.size < new.size)
        if page.next is None:
            return
        cursor = f"&cursor={page.next}"
