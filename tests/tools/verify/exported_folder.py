"""Changes to the files of an export."""

import base64
import json
from pathlib import Path

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.transparency_log.merkle import Frontier
from secrets_broker.ledger.transparency_log.stored_entries import read_rows
from secrets_broker.ledger.transparency_log.tile import (
    decode_bundle,
    encode_bundle,
    level_tiles,
    tiles,
)
from tests.conftest import Database
from tests.ledger.helpers import run


def write(database: Database, folder: Path) -> None:
    """Make an export: tiles from the entries alone, by the format's own words."""

    async def entries() -> list[bytes]:
        async with await connect(database.owner_url) as connection:
            return [row.entry for row in await read_rows(connection, 0, 600)]

    rows = run(entries())
    leaves = [
        leaf for (leaf,) in database.fetch("SELECT leaf_hash FROM ledger.events ORDER BY position")
    ]
    _, nodes = Frontier().extend(leaves)
    levels = {0: leaves, 1: [node.hash for node in nodes if node.level == 1]}
    for tile in level_tiles(600, None):
        put(folder / tile.path, encode_bundle(rows[tile.start : tile.start + tile.width]))
    for tile in tiles(600):
        hashes = levels[tile.level or 0][tile.start : tile.start + tile.width]
        put(folder / tile.path, b"".join(hashes))
    kept = database.fetch("SELECT origin, size, note FROM ledger.checkpoints ORDER BY size")
    lines = [json.dumps({"origin": o, "size": s, "note": n}) + "\n" for o, s, n in kept]
    put(folder / "checkpoints.jsonl", "".join(lines).encode())
    for position, key, text in database.fetch("SELECT * FROM ledger.bodies ORDER BY position"):
        body = {"position": position, "key": key, "ciphertext": base64.b64encode(text).decode()}
        path = folder / "bodies" / f"{position // 256:03d}.jsonl"
        before = path.read_bytes() if path.exists() else b""
        put(path, before + json.dumps(body).encode() + b"\n")
    put(folder / "checkpoint", kept[-1][2].encode())


def put(path: Path, content: bytes) -> None:
    """Write a file, and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def edit(path: Path, index: int, change: bytes) -> None:
    """Replace an entry of a bundle."""
    entries = decode_bundle(path.read_bytes())
    entries[index] = change or entries[index].replace(b'"actor"', b' "actor"')
    path.write_bytes(encode_bundle(entries))
