"""`python -m bench.growth`: does a lookup take longer when the ledger has grown?

Two ledgers on one PostgreSQL, a small and a large one, a service before each; the two take
turns, names are drawn at random over all credentials, and the medians are compared. The runs'
own lookups are events too, so the small ledger grows by some ten thousands while it is measured.
The first runs only warm up: after a checkpoint PostgreSQL logs each page in full at its first
change, and the large ledger's indexes have more pages.

With --data-dir the data set is kept there, outside the repository, and used again.
"""

import argparse
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from bench import dataset, load, machine, stack
from bench.load import Figures, Load
from bench.report import Goal, at_most, number, table
from bench.stack import Service
from secrets_broker.tools.postgres import Cluster

CONNECTIONS: Final = (64, 1)
WARM_UP_SECONDS: Final = 10
SLOWDOWN: Final = at_most(1.2)
EVENT_BYTES: Final = at_most(400, " B")


@dataclass(frozen=True, slots=True)
class Size:
    """How large a ledger is to be."""

    database: str
    credentials: int
    events: int


SMALL: Final = Size("growth_small", credentials=500, events=1_000)


def prepared(running: Cluster, size: Size) -> str:
    """Make the data set where it is not there yet; returns the service's URL for it."""
    url = stack.ledger_database(running, size.database)
    owner = running.superuser_url(size.database)
    had = _events(owner)
    if had == 0:
        started = time.monotonic()
        dataset.prepare(url, owner, size.credentials, size.events)
        had = _events(owner)
        print(f"{size.database}: {had:,} events in {time.monotonic() - started:.0f} s", flush=True)
    if had < size.events:
        raise RuntimeError(f"{size.database} was left unfinished: remove the data folder")
    return url


def _events(owner_url: str) -> int:
    with psycopg.connect(owner_url) as connection:
        query = "SELECT coalesce(max(position) + 1, 0) FROM ledger.events"
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _bytes_per_event(owner_url: str) -> float:
    with psycopg.connect(owner_url) as connection:
        query = "SELECT pg_total_relation_size('ledger.events')::float8"
        row = connection.execute(query).fetchone()
    assert row is not None
    return float(row[0]) / _events(owner_url)


def _turns(
    postmaster: int, sides: list[tuple[Service, Size]], connections: int, seconds: int, rounds: int
) -> list[Figures]:
    def run(side: tuple[Service, Size], length: int) -> Figures:
        service, size = side
        return load.run(service, postmaster, Load("lookup", connections, size.credentials, length))

    for side in sides:
        run(side, WARM_UP_SECONDS)
    runs = [[run(side, seconds) for side in sides] for _ in range(rounds)]
    return [load.medians([each[side] for each in runs]) for side in range(len(sides))]


def _lines(connections: int, small: Figures, large: Figures) -> list[list[str]]:
    def line(name: str, a: float, b: float, goal: Goal | None = None) -> list[str]:
        judged = goal.judge(b / a) if goal else ""
        title = f"lookups, {connections} connection{'s' if connections > 1 else ''}: {name}"
        return [title, number(a), number(b), f"{b / a:.2f}", judged]

    return [
        line("p50 ms", small.p50_ms, large.p50_ms, SLOWDOWN),
        line("p99 ms", small.p99_ms, large.p99_ms),
        line("req/s", small.rate, large.rate),
        line("CPU us a request, workers", small.worker_cpu, large.worker_cpu),
        line("CPU us a request, PostgreSQL", small.database_cpu, large.database_cpu),
    ]


def measure(work: Path, large: Size, seconds: int, rounds: int) -> str:
    """Run it all; returns Markdown for docs/performance.md."""
    sizes = [SMALL, large]
    with ExitStack() as undo:
        running = undo.enter_context(stack.cluster(work))
        assert running.pid is not None
        urls = [prepared(running, size) for size in sizes]
        owner = running.superuser_url(large.database)
        per_event = _bytes_per_event(owner)
        head = machine.facts(owner, work)
        services = [undo.enter_context(stack.broker(work, url)) for url in urls]
        sides = list(zip(services, sizes, strict=True))
        rows: list[list[str]] = []
        for connections in CONNECTIONS:
            figures = _turns(running.pid, sides, connections, seconds, rounds)
            rows += _lines(connections, *figures)
    judged = EVENT_BYTES.judge(per_event)
    rows.append(["bytes an event, indexes included", "", number(per_event), "", judged])
    head.append(f"median of {rounds} runs of {seconds} s each, after a warm-up")
    lines = "\n".join(f"- {fact}" for fact in head)
    titles = ["", *(f"{s.events:,} events, {s.credentials:,} credentials" for s in sizes)]
    return f"{lines}\n\n{table([*titles, 'ratio', 'goal'], rows)}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--credentials", type=int, default=200_000)
    parser.add_argument("--seconds", type=int, default=8, help="of each of the runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir", type=Path, help="keep the data set here; default: a new one")
    options = parser.parse_args()
    large = Size(
        f"growth_{options.credentials}_{options.events}", options.credentials, options.events
    )
    with stack.folder(options.data_dir) as work:
        print(measure(work, large, options.seconds, options.rounds))


if __name__ == "__main__":
    main()
