"""`python -m bench.verify`: how many events a second `secrets-broker verify` checks.

From a database and from an export, each run as a user runs it, start of the command included. A
plain pass only reads the same: COPY of every event's row, and every file of the export.

With --data-dir the data set is kept there, outside the repository, and used again.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psycopg

from bench import machine, stack
from bench.growth import Size, prepared
from bench.report import at_least, number, table
from secrets_broker.ledger.database.ledger_session import TOOL_SESSION, connect
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import publish, read_published
from secrets_broker.ledger.transparency_log.merkle import Frontier, Node
from secrets_broker.ledger.transparency_log.note import SigningKey
from secrets_broker.ledger.transparency_log.stored_entries import read_rows
from secrets_broker.ledger.transparency_log.stored_hashes import root_at
from secrets_broker.ledger.transparency_log.tile import Tile, encode_bundle, tiles

KEY: Final = SigningKey("bench.example", bytes(32))
CHECKPOINTS: Final = 200
DATABASE: Final = at_least(100_000, " events/s")
EXPORT: Final = at_least(200_000, " events/s")
TILE: Final = 256


async def _publish(owner: str, events: int) -> None:
    async with await connect(owner, TOOL_SESSION) as connection:
        if (await read_published(connection)).checkpoint:
            return
        for number_ in range(1, CHECKPOINTS + 1):
            size = events * number_ // CHECKPOINTS
            tree = Checkpoint(KEY.name, size, await root_at(connection, size))
            before = (await read_published(connection)).place
            assert await publish(connection, SignedCheckpoint.sign(tree, KEY), before)


async def _export(owner: str, folder: Path, events: int) -> None:
    if (folder / "checkpoint").exists():
        return
    frontier, nodes, leaves = Frontier(), list[Node](), list[bytes]()
    async with await connect(owner, TOOL_SESSION) as connection:
        for first in range(0, events, TILE):
            rows = await read_rows(connection, first, min(TILE, events - first))
            tile = Tile(None, first // TILE, len(rows))
            _put(folder / tile.path, encode_bundle(row.entry for row in rows))
            frontier, completed = frontier.extend(row.leaf for row in rows)
            leaves += [row.leaf for row in rows]
            nodes += completed
        cursor = await connection.execute(
            "SELECT origin, size, note FROM ledger.checkpoints ORDER BY size"
        )
        kept = await cursor.fetchall()
    for tile in tiles(events):
        level = leaves if tile.level == 0 else [n.hash for n in nodes if n.level == tile.level]
        _put(folder / tile.path, b"".join(level[tile.start : tile.start + tile.width]))
    lines = [json.dumps({"origin": o, "size": s, "note": n}) + "\n" for o, s, n in kept]
    _put(folder / "checkpoints.jsonl", "".join(lines).encode())
    _put(folder / "checkpoint", kept[-1][2].encode())


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _verify(work: Path, events: int, settings: dict[str, str], *options: str) -> None:
    command = [sys.executable, "-m", "secrets_broker", "verify", "--json", *options]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(stack.REPOSITORY),
        "LEDGER_VERIFIER_KEY": str(KEY.verifier),
        **settings,
    }
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    assert (found["ok"], found["size"]) == (True, events), done.stdout
    assert found["checked"]["events"] == events
    assert found["checked"]["signatures"] == CHECKPOINTS


def _copy(url: str) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        query = "COPY (SELECT * FROM ledger.events ORDER BY position) TO STDOUT"
        with cursor.copy(query) as copy:
            for _ in copy:
                pass


def _read(folder: Path) -> None:
    for path in (folder / "tile").rglob("*"):
        if path.is_file():
            path.read_bytes()


def _seconds(rounds: int, run: Callable[[], None]) -> float:
    def once() -> float:
        started = time.monotonic()
        run()
        return time.monotonic() - started

    return statistics.median(once() for _ in range(rounds))


def measure(work: Path, size: Size, rounds: int) -> str:
    """Run it all; returns Markdown for docs/performance.md."""
    with stack.cluster(work) as running:
        url = prepared(running, size)
        owner = running.superuser_url(size.database)
        head = machine.facts(owner, work)
        asyncio.run(_publish(owner, size.events))
        folder = work / f"export_{size.database}"
        asyncio.run(_export(owner, folder, size.events))
        runs: Sequence[tuple[str, Callable[[], None]]] = (
            ("database", lambda: _verify(work, size.events, {"DATABASE_URL": url})),
            ("database, plain pass", lambda: _copy(url)),
            ("export", lambda: _verify(work, size.events, {}, "--export", str(folder))),
            ("export, plain pass", lambda: _read(folder)),
        )
        seconds = {name: _seconds(rounds, run) for name, run in runs}
    rows = []
    for name, goal in (("database", DATABASE), ("export", EXPORT)):
        rate = size.events / seconds[name]
        ratio = seconds[name] / seconds[f"{name}, plain pass"]
        rows.append([name, number(rate), number(ratio), goal.judge(rate)])
    head.append(
        f"{size.events:,} events, {size.credentials:,} credentials, {CHECKPOINTS} checkpoints; "
        f"median of {rounds} runs"
    )
    lines = "\n".join(f"- {fact}" for fact in head)
    titles = ["verify", "events/s", "times a plain pass", "goal"]
    return f"{lines}\n\n{table(titles, rows)}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--credentials", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, help="keep the data set here; default: a new one")
    options = parser.parse_args()
    size = Size(
        f"verify_{options.credentials}_{options.events}", options.credentials, options.events
    )
    with stack.folder(options.data_dir) as work:
        print(measure(work, size, options.rounds))


if __name__ == "__main__":
    main()
