"""`python -m bench.export`: how fast a ledger becomes a folder.

A ledger of real reads is exported to a new folder, without and with Parquet, and then again with a
few events more; the time is set against PostgreSQL's own COPY of the table of events to a client
that only counts bytes, which is the least that any export would take.
"""

import argparse
import asyncio
import shutil
import time
from pathlib import Path
from statistics import median
from typing import Final

import psycopg

from bench import dataset, machine, stack
from bench.report import number, table
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import publish, read_published
from secrets_broker.ledger.transparency_log.note import SigningKey
from secrets_broker.ledger.transparency_log.stored_hashes import root_at
from secrets_broker.tools.export.run import Exported, ExportPlan, export

KEY: Final = SigningKey("bench.example", bytes(range(32)))
CREDENTIALS: Final = 2_000
COPY: Final = "COPY ledger.events TO STDOUT"


async def _publish(url: str, size: int) -> None:
    async with await connect(url) as connection:
        before = await read_published(connection)
        checkpoint = Checkpoint(KEY.name, size, await root_at(connection, size))
        assert await publish(connection, SignedCheckpoint.sign(checkpoint, KEY), before.place)


def _export(url: str, folder: Path, *, parquet: bool) -> tuple[float, Exported]:
    wanted = ExportPlan(folder, parquet, bodies=False, keys=[KEY.verifier], erasures=None)
    started = time.perf_counter()
    done = asyncio.run(export(url, wanted, lambda _done, _total: None))
    return time.perf_counter() - started, done


def _copy(url: str) -> float:
    started = time.perf_counter()
    with psycopg.connect(url) as connection, connection.cursor().copy(COPY) as copy:
        read = sum(len(block) for block in copy)
    assert read
    return time.perf_counter() - started


def _fresh(url: str, work: Path, events: int, *, parquet: bool) -> float:
    folder = work / "out"
    shutil.rmtree(folder, ignore_errors=True)
    took, done = _export(url, folder, parquet=parquet)
    assert done.size == events
    return took


def measure(work: Path, events: int, rounds: int) -> str:
    """Run it all; returns Markdown."""
    with stack.cluster(work) as running:
        url = stack.ledger_database(running, "bench_export")
        owner = running.superuser_url("bench_export")
        dataset.prepare(url, owner, CREDENTIALS, events)
        late = events - 1_000
        asyncio.run(_publish(url, late))
        head = machine.facts(owner, work)
        copied = median(_copy(url) for _ in range(rounds))
        plain = median(_fresh(url, work, late, parquet=False) for _ in range(rounds))
        tables = median(_fresh(url, work, late, parquet=True) for _ in range(rounds))
        asyncio.run(_publish(url, events))
        more, _ = _export(url, work / "out", parquet=True)
    rows = [
        _line("COPY to a client", copied, events, copied),
        _line("export --no-parquet", plain, late, copied),
        _line("export", tables, late, copied),
        _line("the same folder, 1,000 events later", more, events - late, copied),
    ]
    head.append(f"{events:,} events, median of {rounds} runs each")
    lines = "\n".join(f"- {fact}" for fact in head)
    return f"{lines}\n\n{table(['', 's', 'events/s', 'times COPY'], rows)}"


def _line(name: str, took: float, events: int, copied: float) -> list[str]:
    return [name, number(took), number(events / took), number(took / copied)]


def main() -> None:
    """Run it on a PostgreSQL of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.export", description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with stack.folder(None) as work:
        print(measure(work, chosen.events, chosen.rounds))


if __name__ == "__main__":
    main()
