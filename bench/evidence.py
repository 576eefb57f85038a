"""`python -m bench.evidence`: how long a receipt takes, and what checkpoints cost a lookup.

Receipts: one caller, on one connection that is kept open, asks over HTTP for events drawn at random
from a large ledger; each answer is verified, outside the measured time. The first ones warm up.

Checkpoints: two services, each before a ledger of its own, so that only the one that is loaded
grows; one of them has a signing key. They take turns, and the medians are compared.

With --data-dir the large ledger is kept there, outside the repository, and used again.
"""

import argparse
import http.client
import random
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from typing import Final

from bench import dataset, load, machine, stack
from bench.growth import Size, prepared
from bench.load import Figures, Load
from bench.report import at_most, number, table
from bench.stack import AUDITOR_KEY, Service
from secrets_broker.ledger.transparency_log.note import SigningKey
from secrets_broker.ledger.transparency_log.receipt import Receipt
from secrets_broker.tools.postgres import Cluster

CREDENTIALS: Final = 500
WARM_UP: Final = 200
CHECKPOINT_SECONDS: Final = 60.0
LATENCY: Final = at_most(5, " ms")
COST: Final = at_most(1.05)

# Always the same: a large ledger that was kept has checkpoints of the runs before.
KEY: Final = SigningKey("bench.example/log", bytes(range(32)))


def _receipts(service: Service, count: int) -> list[float]:
    """Milliseconds of each request; raises where a receipt does not verify."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    size = _published(connection)
    taken = []
    for _ in range(WARM_UP + count):
        position = random.randrange(size)  # noqa: S311 - not a secret
        started = time.perf_counter()
        body = _get(connection, f"/internal/audit/proof?position={position}")
        taken.append((time.perf_counter() - started) * 1e3)
        Receipt.parse(body).verify([KEY.verifier])
    connection.close()
    return taken[WARM_UP:]


def _get(connection: http.client.HTTPConnection, path: str) -> str:
    connection.request("GET", path, headers={"X-Internal-Key": AUDITOR_KEY})
    response = connection.getresponse()
    body = response.read().decode()
    if response.status != 200:
        raise RuntimeError(f"{path} was answered {response.status}: {body}")
    return body


def _published(connection: http.client.HTTPConnection) -> int:
    give_up = time.monotonic() + CHECKPOINT_SECONDS
    while True:
        try:
            return int(_get(connection, "/log/checkpoint").split("\n")[1])
        except RuntimeError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)


def _proofs(running: Cluster, work: Path, size: Size, count: int) -> list[list[str]]:
    url = prepared(running, size)
    with stack.broker(work, url, signing_key=KEY.private_text()) as service:
        cuts = quantiles(_receipts(service, count), n=100)
    p50, p99 = cuts[49], cuts[98]
    title = f"receipt of one of {size.events:,} events"
    return [
        [f"{title}, p50 ms", "", number(p50), "", ""],
        [f"{title}, p99 ms", "", number(p99), "", LATENCY.judge(p99)],
    ]


def _costs(running: Cluster, work: Path, seconds: int, rounds: int) -> list[list[str]]:
    assert running.pid is not None
    with ExitStack() as undo:
        services = []
        for name, key in (("unsigned", ""), ("signed", KEY.private_text())):
            url = stack.ledger_database(running, name)
            dataset.prepare(url, running.superuser_url(name), CREDENTIALS, 2 * CREDENTIALS)
            services.append(undo.enter_context(stack.broker(work, url, signing_key=key)))
        rows = []
        for connections in (64, 1):
            wanted = Load("lookup", connections, CREDENTIALS, seconds)
            runs = [
                [load.run(service, running.pid, wanted) for service in services]
                for _ in range(1 + rounds)
            ][1:]
            plain, signed = (load.medians([each[side] for each in runs]) for side in (0, 1))
            rows += _lines(connections, plain, signed)
        return rows


def _lines(connections: int, plain: Figures, signed: Figures) -> list[list[str]]:
    title = f"lookups, {connections} connection{'s' if connections > 1 else ''}"
    pairs = [
        ("p50 ms", plain.p50_ms, signed.p50_ms, True),
        ("p99 ms", plain.p99_ms, signed.p99_ms, False),
        ("req/s", plain.rate, signed.rate, False),
        ("CPU us a request, workers", plain.worker_cpu, signed.worker_cpu, False),
    ]
    return [
        [
            f"{title}: {name}",
            number(before),
            number(after),
            f"{after / before:.2f}",
            COST.judge(after / before) if judged else "",
        ]
        for name, before, after, judged in pairs
    ]


def measure(work: Path, size: Size, count: int, seconds: int, rounds: int) -> str:
    """Run it all; returns Markdown for docs/performance.md."""
    with stack.cluster(work) as running:
        rows = _proofs(running, work, size, count)
        rows += _costs(running, work, seconds, rounds)
        head = machine.facts(running.superuser_url(size.database), work)
    head.append(f"{count:,} receipts; median of {rounds} runs of {seconds} s each, after a warm-up")
    lines = "\n".join(f"- {fact}" for fact in head)
    titles = ["", "without checkpoints", "with", "ratio", "goal"]
    return f"{lines}\n\n{table(titles, rows)}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.evidence", description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--receipts", type=int, default=2_000)
    parser.add_argument("--seconds", type=int, default=8, help="of each of the runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir", type=Path, help="keep the large ledger here")
    options = parser.parse_args()
    size = Size(f"evidence_{options.events}", CREDENTIALS, options.events)
    with stack.folder(options.data_dir) as work:
        print(measure(work, size, options.receipts, options.seconds, options.rounds))


if __name__ == "__main__":
    main()
