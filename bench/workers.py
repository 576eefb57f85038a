"""`python -m bench.workers`: which gunicorn worker serves us, by measure and by care.

Our service under uvicorn-worker (the shipped choice) and under gunicorn's own asgi worker, on
one PostgreSQL, a ledger for each. First the rates, in turns and with one worker each: with more,
the figures would tell how the connections happened to fall between them. Then the requests of
`bench.malformed`, each on a connection of its own, and after each of them a good request, which
must still be answered.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import load, machine, malformed, stack, wire
from bench.load import Figures, Load
from bench.report import number, table
from bench.stack import Service
from bench.wire import Case, Outcome
from secrets_broker.tools.postgres import Cluster

WORKER_CLASSES: Final = {
    "uvicorn-worker": stack.UVICORN_WORKER,
    "gunicorn asgi": "gunicorn.workers.gasgi.ASGIWorker",
}
CONNECTIONS: Final = (64, 1)
CREDENTIALS: Final = 1_000
WARM_UP_SECONDS: Final = 2


def _services(running: Cluster, work: Path, undo: ExitStack) -> list[Service]:
    services = []
    for index, worker_class in enumerate(WORKER_CLASSES.values()):
        url = stack.ledger_database(running, f"workers_{index}")
        service = undo.enter_context(stack.broker(work, url, worker_class=worker_class, workers=1))
        load.store(service, CREDENTIALS)
        services.append(service)
    return services


def _rates(postmaster: int, services: list[Service], seconds: int, rounds: int) -> list[list[str]]:
    rows: list[list[str]] = []
    for connections in CONNECTIONS:
        kind = Load("lookup", connections, CREDENTIALS, seconds)
        warm_up = Load("lookup", connections, CREDENTIALS, WARM_UP_SECONDS)
        for service in services:
            load.run(service, postmaster, warm_up)
        runs = [[load.run(s, postmaster, kind) for s in services] for _ in range(rounds)]
        figures = [load.medians([turn[i] for turn in runs]) for i in range(len(services))]
        rows += _lines(connections, figures)
    resident = [max(machine.resident_mb(pid) for pid in s.workers) for s in services]
    return [*rows, ["resident MB of the larger worker", *map(number, resident)]]


def _lines(connections: int, figures: list[Figures]) -> list[list[str]]:
    title = f"lookups, {connections} connection{'s' if connections > 1 else ''}"
    return [
        [f"{title}: req/s", *(number(f.rate) for f in figures)],
        [f"{title}: p50 ms", *(number(f.p50_ms) for f in figures)],
        [f"{title}: p99 ms", *(number(f.p99_ms) for f in figures)],
        [f"{title}: CPU us a request, worker", *(number(f.worker_cpu) for f in figures)],
    ]


def _care(services: list[Service]) -> list[list[str]]:
    quick, slow = malformed.cases(), malformed.slow_cases()
    # Quick ones one after another, so that one that harms the service is told from the next.
    quick_outcomes = [[_tried(s, case) for s in services] for case in quick]
    with ThreadPoolExecutor(len(slow) * len(services)) as pool:
        pending = [[pool.submit(wire.send, s.port, case) for s in services] for case in slow]
        slow_outcomes = [[future.result() for future in each] for each in pending]
    rows = [
        [case.name, *(_verdict(case, o) for o in outcomes)]
        for case, outcomes in zip(quick, quick_outcomes, strict=True)
    ]
    rows += [
        [case.name, *(f"{_verdict(case, o)} after {o.seconds:.0f} s" for o in outcomes)]
        for case, outcomes in zip(slow, slow_outcomes, strict=True)
    ]
    tried = zip([*quick, *slow], [*quick_outcomes, *slow_outcomes], strict=True)
    careful = [[case.careful(o) for o in outcomes] for case, outcomes in tried]
    sums = [f"{sum(column)} of {len(careful)}" for column in zip(*careful, strict=True)]
    return [*rows, ["careful", *sums]]


def _tried(service: Service, case: Case) -> Outcome:
    outcome = wire.send(service.port, case)
    good = malformed.GOOD_AND_LAST
    if not good.careful(wire.send(service.port, good)):
        raise RuntimeError(f"after {case.name!r} a good request was not answered")
    return outcome


def _verdict(case: Case, outcome: Outcome) -> str:
    shown = str(outcome)
    if len(outcome.statuses) > 4:
        shown = f"{len(outcome.statuses)} x {outcome.statuses[0]}; {shown.rpartition('; ')[2]}"
    return shown if case.careful(outcome) else f"**{shown}**"


def measure(work: Path, seconds: int, rounds: int, care: bool) -> str:
    """Run it all; returns Markdown for docs/performance.md."""
    with ExitStack() as undo:
        running = undo.enter_context(stack.cluster(work))
        assert running.pid is not None
        services = _services(running, work, undo)
        head = machine.facts(running.superuser_url(), work)
        rates = _rates(running.pid, services, seconds, rounds) if rounds else []
        cared = _care(services) if care else []
    lines = "\n".join(f"- {fact}" for fact in head)
    names = ["", *WORKER_CLASSES]
    note = "Bold: not what RFC 9110 and 9112 ask of a server that distrusts its callers."
    return f"{lines}\n\n{table(names, rates)}\n\n{note}\n\n{table(names, cared)}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="of each of the runs")
    parser.add_argument("--rounds", type=int, default=5, help="0: only the malformed requests")
    parser.add_argument("--no-care", action="store_true", help="only the rates")
    options = parser.parse_args()
    with stack.folder(None) as work:
        print(measure(work, options.seconds, options.rounds, not options.no_care))


if __name__ == "__main__":
    main()
