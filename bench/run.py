"""`python -m bench.run`: our service and the reference, side by side in one run.

One PostgreSQL, both services up for the whole run, the same credentials in each. For each kind
of load the two take turns (reference, ours, reference, ours …), so that a slow minute of the
machine hits both, and the table has the medians. The first turn of each kind only warms up.
CPU per request is worth a look where the machine is busy with other things: it is far less
shaken by them than the rates are.

The run fails where any answer was not a 200, or where afterwards the ledger (or the reference's
access log) has fewer new records than there were answers.
"""

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from bench import load, machine, reference, stack
from bench.load import Figures, Load
from bench.report import Goal, at_least, at_most, number, table
from bench.stack import Service
from secrets_broker.tools.postgres import Cluster

DATABASE: Final = "bench"
WARM_UP_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of load, and what ours against the reference's is to come to."""

    operation: str
    connections: int
    rate: Goal | None = None
    p50: Goal | None = None
    p99: Goal | None = None

    @property
    def title(self) -> str:
        """Its name in the table."""
        plural = "s" if self.connections > 1 else ""
        return f"{self.operation}s, {self.connections} connection{plural}"


# Lookups first: what their events take on disk is measured before there are others.
SCENARIOS: Final = (
    Scenario("lookup", 64, rate=at_least(6), p99=at_most(0.2)),
    Scenario("lookup", 16),
    Scenario("lookup", 1, p50=at_most(1.2)),
    Scenario("upsert", 64, rate=at_least(4)),
)
EVENT_BYTES: Final = at_most(400, " B")
WORKER_MB: Final = at_most(90, " MB")


class Contest:
    """Both services, ready to be loaded in turns."""

    def __init__(self, running: Cluster, theirs: Service, ours: Service) -> None:
        assert running.pid is not None
        self._postmaster = running.pid
        self._url = running.superuser_url(DATABASE)
        self.theirs = theirs
        self.ours = ours

    def measure(
        self, scenario: Scenario, credentials: int, seconds: int, rounds: int
    ) -> tuple[Figures, Figures]:
        """The medians of the reference and of ours."""
        kind = Load(scenario.operation, scenario.connections, credentials, seconds)
        warm_up = Load(scenario.operation, scenario.connections, credentials, WARM_UP_SECONDS)
        for service in (self.theirs, self.ours):
            self._run(service, warm_up)
        pairs = [(self._run(self.theirs, kind), self._run(self.ours, kind)) for _ in range(rounds)]
        return load.medians([pair[0] for pair in pairs]), load.medians([pair[1] for pair in pairs])

    def lookup_bytes(self) -> "LookupBytes":
        """What the events stand at now."""
        return LookupBytes.read(self._url)

    def _run(self, service: Service, kind: Load) -> Figures:
        before = self._records(service)
        figures = load.run(service, self._postmaster, kind)
        recorded = self._records(service) - before
        # More is right: wrk leaves without waiting for the last answers.
        if recorded < figures.requests:
            raise RuntimeError(f"{figures.requests} answers, but only {recorded} records of them")
        return figures

    def _records(self, service: Service) -> int:
        ours = "SELECT coalesce(max(position) + 1, 0) FROM ledger.events"
        theirs = "SELECT count(*) FROM reference.credential_access_log"
        return int(_ask(self._url, ours if service is self.ours else theirs))


@dataclass(frozen=True, slots=True)
class LookupBytes:
    """The size of ledger.events with its indexes, and how many events it has."""

    size: int
    events: int

    @classmethod
    def read(cls, database_url: str) -> "LookupBytes":
        """Ask after a VACUUM, which makes what belongs to the table complete."""
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("VACUUM ledger.events")
        size = _ask(database_url, "SELECT pg_total_relation_size('ledger.events')")
        events = _ask(database_url, "SELECT count(*) FROM ledger.events")
        return cls(int(size), int(events))

    def since(self, before: "LookupBytes") -> float:
        """Bytes for each event that came since."""
        return (self.size - before.size) / (self.events - before.events)


def _ask(database_url: str, query: str) -> Any:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _lines(scenario: Scenario, theirs: Figures, ours: Figures) -> list[list[str]]:
    def line(name: str, a: float, b: float, goal: Goal | None = None) -> list[str]:
        ratio = b / a if a else float("nan")
        judged = goal.judge(ratio) if goal else ""
        return [f"{scenario.title}: {name}", number(a), number(b), f"{ratio:.2f}", judged]

    return [
        line("req/s", theirs.rate, ours.rate, scenario.rate),
        line("p50 ms", theirs.p50_ms, ours.p50_ms, scenario.p50),
        line("p99 ms", theirs.p99_ms, ours.p99_ms, scenario.p99),
        line("CPU us a request, workers", theirs.worker_cpu, ours.worker_cpu),
        line("CPU us a request, PostgreSQL", theirs.database_cpu, ours.database_cpu),
    ]


def _contest(running: Cluster, work: Path, undo: ExitStack) -> Contest:
    running.ensure_login(stack.REFERENCE_LOGIN)
    ours_url = stack.ledger_database(running, DATABASE)
    with psycopg.connect(running.superuser_url(DATABASE), autocommit=True) as connection:
        connection.execute("GRANT CREATE ON DATABASE bench TO bench_reference")
    theirs_url = running.url(stack.REFERENCE_LOGIN, DATABASE)
    with psycopg.connect(theirs_url) as connection:
        connection.execute(reference.SCHEMA)
    theirs = undo.enter_context(stack.reference(work, theirs_url))
    ours = undo.enter_context(stack.broker(work, ours_url))
    return Contest(running, theirs, ours)


def measure(work: Path, credentials: int, seconds: int, rounds: int) -> str:
    """Run it all; returns Markdown for docs/performance.md."""
    with ExitStack() as undo:
        running = undo.enter_context(stack.cluster(work))
        contest = _contest(running, work, undo)
        head = machine.facts(running.superuser_url(DATABASE), work)
        rows = [_stored(contest, credentials)]
        _settle(running.superuser_url(DATABASE))
        before = contest.lookup_bytes()
        for scenario in SCENARIOS:
            if scenario.operation == "upsert":
                after = _note_bytes(contest, before, rows)
                before = after
            theirs, ours = contest.measure(scenario, credentials, seconds, rounds)
            rows += _lines(scenario, theirs, ours)
        rows += _memory(contest)
    head.append(f"{credentials:,} credentials, median of {rounds} runs of {seconds} s each")
    lines = "\n".join(f"- {fact}" for fact in head)
    return f"{lines}\n\n{table(['', 'reference', 'ours', 'ratio', 'goal'], rows)}"


def _note_bytes(contest: Contest, before: LookupBytes, rows: list[list[str]]) -> LookupBytes:
    """Note what the lookups' events took on disk."""
    after = contest.lookup_bytes()
    size = after.since(before)
    judged = EVENT_BYTES.judge(size)
    rows.append(["bytes for a lookup's event, indexes included", "", number(size), "", judged])
    return after


def _stored(contest: Contest, credentials: int) -> list[str]:
    # The tables are new and PostgreSQL knows nothing of them yet: a plan that is only right
    # with statistics shows here.
    theirs, ours = (load.store(service, credentials) for service in (contest.theirs, contest.ours))
    title = f"first {credentials:,} upserts, {load.CLIENTS} Python clients: req/s"
    return [title, number(theirs), number(ours), f"{ours / theirs:.2f}", ""]


def _settle(database_url: str) -> None:
    """Do what autovacuum would else do at some moment of the runs."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def _memory(contest: Contest) -> list[list[str]]:
    theirs = max(machine.resident_mb(pid) for pid in contest.theirs.workers)
    ours = max(machine.resident_mb(pid) for pid in contest.ours.workers)
    judged = WORKER_MB.judge(ours)
    title = "resident MB of the larger worker, after it all"
    return [[title, number(theirs), number(ours), f"{ours / theirs:.2f}", judged]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--credentials", type=int, default=5_000)
    parser.add_argument("--seconds", type=int, default=8, help="of each of the runs")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with stack.folder(None) as work:
        print(measure(work, options.credentials, options.seconds, options.rounds))


if __name__ == "__main__":
    main()
