"""`python -m bench.rebuild`: how fast the projection is made anew, and what lookups feel of it.

Credentials are stored through the writer, some of them several times; then the rebuild's
comparison runs twice, alone and with a caller that looks credentials up one after another, and
the median of that caller's lookups is set against the same caller's without a rebuild.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final

from bench import machine, stack
from bench.report import at_least
from secrets_broker.ledger.commands import Lookup, Upsert
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.projections.rebuild import rebuild

WHO: Final = Context(actor="bench", authn="cli")
AT_ONCE: Final = 500
GOAL: Final = 30_000


async def _store(writer: Writer, credentials: int, versions: int) -> None:
    for _ in range(versions):
        for first in range(0, credentials, AT_ONCE):
            wave = range(first, min(first + AT_ONCE, credentials))
            await asyncio.gather(*(writer.submit(_upsert(number), WHO) for number in wave))


def _upsert(number: int) -> Upsert:
    return Upsert(host=f"host-{number}.example", purpose="ssh", username="ops", password="p" * 16)


async def _look_up(writer: Writer, stop: asyncio.Event) -> list[float]:
    took, number = [], 0
    while not stop.is_set():
        started = time.perf_counter()
        await writer.submit(Lookup(host=f"host-{number % 1000}.example", purpose="ssh"), WHO)
        took.append(time.perf_counter() - started)
        number += 1
    return took


async def _timed(owner_url: str, keyring: Keyring) -> float:
    started = time.perf_counter()
    found = await rebuild(owner_url, keyring, WHO, check_only=True)
    if found.differences or found.unreadable:
        raise SystemExit(f"the projection differs: {found}")
    return time.perf_counter() - started


def _rebuild_elsewhere(owner_url: str) -> float:
    # A process of its own, as the command is: its work must not stand in the caller's way.
    return asyncio.run(_timed(owner_url, Keyring.from_kms_keys(stack.KMS_KEY)))


async def _measure(owner_url: str, service_url: str, credentials: int, versions: int) -> None:
    keyring = Keyring.from_kms_keys(stack.KMS_KEY)
    writer = Writer(service_url, keyring, HostCredentials())
    await writer.start()
    await _store(writer, credentials, versions)
    alone = await asyncio.to_thread(_in_process, owner_url)
    quiet = await _lookups_during(writer, asyncio.sleep(alone))
    busy = await _lookups_during(writer, asyncio.to_thread(_in_process, owner_url))
    await writer.close()
    events = credentials * versions
    rate = at_least(GOAL, " events/s").judge(events / alone)
    print(f"- {events} upsert events of {credentials} credentials: {alone:.2f} s")
    print(f"- {events / alone:.0f} upsert events/s: {rate}")
    print(f"- {credentials / alone:.0f} live credentials/s")
    print(
        f"- one caller's lookups, p50: {quiet * 1e3:.2f} ms, during a rebuild {busy * 1e3:.2f} ms"
    )


def _in_process(owner_url: str) -> float:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_rebuild_elsewhere, owner_url).result()


async def _lookups_during(writer: Writer, work: Awaitable[object]) -> float:
    stop = asyncio.Event()
    lookups = asyncio.create_task(_look_up(writer, stop))
    await work
    stop.set()
    return statistics.median(await lookups)


def main() -> None:
    """Run it on a PostgreSQL of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--credentials", type=int, default=50_000)
    parser.add_argument("--versions", type=int, default=2)
    chosen = parser.parse_args()
    with stack.folder(None) as work, stack.cluster(work) as running:
        service_url = stack.ledger_database(running, "bench")
        owner_url = running.superuser_url("bench")
        print("\n".join(machine.facts(owner_url, work)))
        asyncio.run(_measure(owner_url, service_url, chosen.credentials, chosen.versions))


if __name__ == "__main__":
    main()
