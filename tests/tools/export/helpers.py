"""Steps that the tests of the export share, and a reader of its folder that shares no code."""

import subprocess
from hashlib import sha256
from pathlib import Path

from secrets_broker.ledger.commands import Lookup
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.tools.export.run import Exported, ExportPlan
from secrets_broker.tools.export.run import export as export_to
from tests.conftest import Database
from tests.ledger.checkpoints import KEY, publish_checkpoint
from tests.ledger.helpers import BEGUN, lookup, record, run, upsert
from tests.tools.command_line import run as command

AUDITOR_LOGIN = "export_auditor"


def env(database: Database, **more: str) -> dict[str, str]:
    """The settings of an exporter: a login, and the log's verifier key; no other key."""
    return {
        "DATABASE_URL": database.service_url,
        "LEDGER_VERIFIER_KEY": str(KEY.verifier),
        **more,
    }


def export(
    database: Database, folder: Path, *options: str, **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command, from a folder without a .env."""
    return command("export", str(folder), *options, cwd=folder.parent, env=env(database, **more))


def exported(database: Database, folder: Path, *options: str, url: str | None = None) -> Exported:
    """Do what the command does, in this process, which is quicker."""
    wanted = ExportPlan(
        path=folder,
        parquet="--no-parquet" not in options,
        bodies="--with-bodies" in options,
        keys=[KEY.verifier],
        erasures=None,
    )
    return run(export_to(url or database.service_url, wanted, lambda _done, _total: None))


def grow(database: Database, keyring: Keyring, size: int, *, published: bool = True) -> None:
    """Have that many events, and a checkpoint of them."""
    record(database, keyring)  # begins the ledger
    ((there,),) = database.fetch("SELECT coalesce(max(position) + 1, 0) FROM ledger.events")
    first = [upsert("a")] if there == BEGUN < size else []
    lookups: list[Lookup] = [lookup("a")] * (size - there - len(first))
    record(database, keyring, *first)
    for start in range(0, len(lookups), 2_000):
        record(database, keyring, *lookups[start : start + 2_000])
    if published:
        publish_checkpoint(database)


def files(folder: Path, *, parquet: bool = False) -> dict[str, bytes]:
    """Every file's content by its path, without Parquet's, whose bytes may differ."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and (parquet or path.suffix != ".parquet")
    }


def checkpoint_of(folder: Path) -> tuple[str, int, str]:
    """The folder's checkpoint: origin, size, and the root in base64."""
    origin, size, root = (folder / "checkpoint").read_text().split("\n")[:3]
    return origin, int(size), root


def read_entries(folder: Path) -> list[bytes]:
    """The entries under the checkpoint, by the words of C2SP tlog-tiles."""
    size = checkpoint_of(folder)[1]
    return [
        entry
        for number in range(-(-size // 256))
        for entry in _split(_tile(folder, "entries", number, size))
    ]


def read_root(folder: Path) -> bytes:
    """The root over the entries; each tile at each level is compared on the way."""
    size = checkpoint_of(folder)[1]
    hashes = [sha256(b"\0" + entry).digest() for entry in read_entries(folder)]
    root, level = _root(hashes), 0
    while hashes:
        tiles = [hashes[at : at + 256] for at in range(0, len(hashes), 256)]
        for number, tile in enumerate(tiles):
            assert _tile(folder, str(level), number, size >> 8 * level) == b"".join(tile)
        hashes = [_root(tile) for tile in tiles if len(tile) == 256]
        level += 1
    return root


def _tile(folder: Path, level: str, number: int, width: int) -> bytes:
    text = f"{number:03d}"
    assert number < 1_000_000
    path = text if number < 1_000 else f"x{text.zfill(6)[:3]}/{text[-3:]}"
    part = f".p/{width % 256}" if (number + 1) * 256 > width else ""
    return (folder / "tile" / level / (path + part)).read_bytes()


def _split(bundle: bytes) -> list[bytes]:
    entries = []
    while bundle:
        length = int.from_bytes(bundle[:2], "big")
        entries.append(bundle[2 : 2 + length])
        bundle = bundle[2 + length :]
    return entries


def _root(hashes: list[bytes]) -> bytes:
    if len(hashes) < 2:
        return hashes[0] if hashes else sha256().digest()
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(b"\1" + _root(hashes[:split]) + _root(hashes[split:])).digest()
