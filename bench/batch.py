"""`python -m bench.batch`: how many credentials a second batches give out, and single lookups.

Both ask the same service in turns for the same credentials. A run counts only if every item was
answered with 200: afterwards the ledger has to have as many successful reads more as there were
items, and no other.
"""

import argparse
from pathlib import Path
from typing import Final

import psycopg

from bench import load, machine, stack
from bench.load import Figures, Load
from bench.report import at_least, number, table
from bench.stack import Service
from secrets_broker.tools.postgres import Cluster

CREDENTIALS: Final = 5_000
ITEMS: Final = 500
# One caller may have nine batches of 500 waiting in a worker; past that he is told 503.
CONNECTIONS: Final = (1, 4, 8)
GOAL: Final = at_least(15_000, " /s")

_READS: Final = """
    SELECT count(*) FILTER (WHERE ok), count(*) FILTER (WHERE NOT ok)
    FROM ledger.events WHERE type = 'credential.read'
"""


class Counted:
    """A service whose answers are held to what the ledger has of them."""

    def __init__(self, service: Service, running: Cluster) -> None:
        assert running.pid is not None
        self._service, self._postmaster = service, running.pid
        self._url = running.superuser_url("batch")

    def run(self, kind: Load) -> Figures:
        """Load it; raises RuntimeError where an item was not given out."""
        before = self._reads()
        figures = load.run(self._service, self._postmaster, kind)
        reads = self._reads()
        # More is right: wrk leaves without waiting for the last answers.
        if reads[1] or reads[0] - before[0] < figures.requests * max(kind.items, 1):
            raise RuntimeError(f"{figures.requests} answers, and reads went {before} to {reads}")
        return figures

    def _reads(self) -> tuple[int, int]:
        with psycopg.connect(self._url) as connection:
            row = connection.execute(_READS).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])


def _measure(running: Cluster, work: Path, seconds: int, rounds: int) -> list[list[str]]:
    url = stack.ledger_database(running, "batch")
    rows = []
    with stack.broker(work, url) as service:
        load.store(service, CREDENTIALS)
        counted = Counted(service, running)
        single = Load("lookup", 64, CREDENTIALS, seconds)
        kinds = [Load("lookup", some, CREDENTIALS, seconds, items=ITEMS) for some in CONNECTIONS]
        turns = [[counted.run(kind) for kind in (single, *kinds)] for _ in range(1 + rounds)]
        medians = [load.medians([turn[n] for turn in turns[1:]]) for n in range(1 + len(kinds))]
    for kind, figures in zip((single, *kinds), medians, strict=True):
        rows.append(_line(kind, figures, medians[0]))
    return rows


def _line(kind: Load, figures: Figures, single: Figures) -> list[str]:
    items = max(kind.items, 1)
    rate = figures.rate * items
    return [
        f"{kind.connections} connections, {items} credentials a request",
        number(rate),
        f"{rate / single.rate:.2f}",
        number(figures.p50_ms),
        number(figures.p99_ms),
        number(figures.worker_cpu / items),
        number(figures.database_cpu / items),
        GOAL.judge(rate) if kind.items else "",
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.batch", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="of each of the runs")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with stack.folder(None) as work, stack.cluster(work) as running:
        rows = _measure(running, work, options.seconds, options.rounds)
        facts = machine.facts(running.superuser_url("batch"), work)
    print("\n".join(f"- {line}" for line in facts))
    titles = ["", "credentials/s", "ratio", "p50 ms", "p99 ms"]
    titles += ["CPU us each, workers", "CPU us each, PostgreSQL", "goal"]
    print(f"\n{table(titles, rows)}")


if __name__ == "__main__":
    main()
