"""`python -m bench.rotation`: how fast keys are wrapped anew, and what lookups feel of it.

A service holds a row of keys, and the ledger some hundred thousand data keys beside those of the
credentials that are looked up. First a rotation runs alone. Then callers ask at a fixed rate, in
turns without a rotation and with one, each to the next key of the row, and the 99th percentiles
are set against each other. A run fails where any answer is not a 200.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Final

import psycopg

from bench import load, machine, stack
from bench.load import Load
from bench.report import at_least, at_most, number
from bench.stack import Service
from secrets_broker.ledger.database.ledger_session import TOOL_SESSION
from secrets_broker.ledger.encryption.keks import NewKek
from secrets_broker.ledger.encryption.keyring import DataKey, Kek, Keyring, derive_key
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.operations.rotation import rotate
from secrets_broker.ledger.store import Store
from secrets_broker.projections.host_credentials import HostCredentials

WHO: Final = Context(actor="bench", authn="cli")
CREDENTIALS: Final = 2_000
CONNECTIONS: Final = 32
REQUESTS_PER_SECOND: Final = 1_000
REWRAPPED: Final = at_least(40_000, " keys/s")
SLOWDOWN: Final = at_most(1.5)


def _key(turn: int) -> str:
    return stack.KMS_KEY if turn == 0 else f"{stack.KMS_KEY}-{turn}"


def _kek(turn: int) -> Kek:
    return Kek.from_bytes(derive_key(_key(turn)))


def _fill(owner_url: str, count: int) -> None:
    """Data keys of credentials that nobody asks for, as the ledger would have made them."""
    kek = _kek(0)
    with psycopg.connect(owner_url, autocommit=True) as connection:
        statement = "COPY ledger.data_keys (id, credential_id, kek, wrapped) FROM STDIN"
        with connection.cursor().copy(statement) as copy:
            for key in _data_keys(kek, count):
                copy.write_row((key.id, key.credential_id, key.kek, key.wrapped))
        connection.execute("VACUUM (ANALYZE) ledger.data_keys")
        connection.execute("CHECKPOINT")


def _data_keys(kek: Kek, count: int) -> Iterator[DataKey]:
    for credential_id in range(10_000_000, 10_000_000 + count):
        yield kek.new_data_key(credential_id)[0]


def _rotate(owner_url: str, turn: int) -> tuple[int, float]:
    """Rotate to the key of this turn; how many keys, and in how many seconds."""
    return asyncio.run(_timed(owner_url, turn))


async def _timed(owner_url: str, turn: int) -> tuple[int, float]:
    new = _kek(turn)
    held = Keyring([_kek(turn - 1), new])
    store = await Store.connect(owner_url, HostCredentials(), held, TOOL_SESSION)
    try:
        started = time.perf_counter()
        report = await rotate(store, held, NewKek(new), WHO)
        return report.rewrapped, time.perf_counter() - started
    finally:
        await store.close()


def _alone(owner_url: str, turn: int) -> tuple[int, float]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_rotate, owner_url, turn).result()


def _p99(service: Service, postmaster: int, seconds: int) -> float:
    kind = Load("lookup", CONNECTIONS, CREDENTIALS, seconds, REQUESTS_PER_SECOND)
    figures = load.run(service, postmaster, kind)
    print(f"  {figures.rate:.0f} lookups/s, p99 {figures.p99_ms:.1f} ms", flush=True)
    return figures.p99_ms


def _compare(
    service: Service, postmaster: int, owner_url: str, turns: Sequence[int], seconds: int
) -> tuple[float, float]:
    """The medians of the 99th percentiles, without and with a rotation."""
    quiet, busy = [], []
    _p99(service, postmaster, seconds)  # the first only warms up
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for turn in turns:
            quiet.append(_p99(service, postmaster, seconds))
            rotating: Future[tuple[int, float]] = pool.submit(_rotate, owner_url, turn)
            busy.append(_p99(service, postmaster, seconds))
            keys, took = rotating.result()
            print(f"  {keys} keys meanwhile, in {took:.1f} s", flush=True)
    return median(quiet), median(busy)


def _measure(work: Path, count: int, rounds: int, seconds: int) -> None:
    with stack.cluster(work) as running:
        url = stack.ledger_database(running, "bench")
        owner_url = running.superuser_url("bench")
        print("\n".join(machine.facts(owner_url, work)))
        previous = ",".join(_key(turn) for turn in range(1, rounds + 2))
        with stack.broker(work, url, previous=previous) as service:
            load.store(service, CREDENTIALS)
            _fill(owner_url, count)
            keys, took = _alone(owner_url, 1)
            print(f"- {keys} keys re-wrapped in {took:.2f} s, {os.cpu_count()} cores")
            print(f"- {keys / took:,.0f} keys/s: {REWRAPPED.judge(keys / took)}")
            assert running.pid is not None
            turns = range(2, rounds + 2)
            quiet, busy = _compare(service, running.pid, owner_url, turns, seconds)
        ratio = busy / quiet
        print(f"- lookups at {REQUESTS_PER_SECOND}/s, p99: {number(quiet)} ms, during a rotation")
        print(f"  {number(busy)} ms: ratio {number(ratio)}, {SLOWDOWN.judge(ratio)}")


def main() -> None:
    """Run it on a PostgreSQL of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    chosen = parser.parse_args()
    with stack.folder(None) as work:
        _measure(work, chosen.keys, chosen.rounds, chosen.seconds)


if __name__ == "__main__":
    main()
