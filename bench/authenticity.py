"""`python -m bench.authenticity`: what MACs and counted rows cost a lookup, in CPU time.

A writer records lookups as shipped, and in turns with the MACs, their checks and the statements
that count rows taken out. The difference is held against the CPU that a whole lookup takes, over
HTTP, in the same run. CPU time and not seconds: these machines are shared.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final
from unittest.mock import patch

from bench import load, machine, stack
from bench.load import Load
from bench.report import at_most, number, table
from secrets_broker.ledger import store as storing
from secrets_broker.ledger.commands import Lookup, Upsert
from secrets_broker.ledger.database.round_trip import Statement
from secrets_broker.ledger.encryption.event_key import EventKey
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.event_macs.authenticator import Authenticator
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials

CREDENTIALS: Final = 2_000
CLIENTS: Final = 64
GOAL: Final = at_most(3, " %")
_CONTEXT: Final = Context(actor="bench", authn="internal_key", ip="127.0.0.1")
_NOTHING: Final = Statement("SELECT 1")


async def _nothing(*_: object) -> None:
    """Stands for a check that is not made."""


@contextmanager
def taken_out() -> Iterator[None]:
    """No MAC is made or checked, and no row counted; the zeros are as long as MACs."""
    with (
        patch.object(EventKey, "mac", lambda *_: bytes(32)),
        patch.object(Authenticator, "check_head", _nothing),
        patch.object(Authenticator, "check_chain", lambda *_: None),
        patch.object(Authenticator, "check_changes", _nothing),
        patch.object(storing, "_counted", lambda _: _NOTHING),
        patch.object(storing, "_NOW", _NOTHING),
    ):
        yield


class Recorder:
    """A writer in this process, and the CPU that it and its backend take."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._random = random.Random(1)  # noqa: S311 - which credential is no secret

    async def store(self) -> None:
        """Put the credentials there."""
        for first in range(0, CREDENTIALS, 500):
            commands = [
                Upsert(host=f"h{number}", purpose="ssh", password="p")
                for number in range(first, first + 500)
            ]
            await self._writer.submit_all(commands, _CONTEXT)

    async def microseconds(self, lookups: int) -> float:
        """Of CPU, this process's and the backend's, for each of so many lookups."""
        store = self._writer._committer._store
        assert store is not None
        backend = [store.connection.info.backend_pid]
        before = time.process_time(), machine.cpu_seconds(backend)
        each = lookups // CLIENTS
        await asyncio.gather(*(self._client(each) for _ in range(CLIENTS)))
        used = time.process_time() - before[0] + machine.cpu_seconds(backend) - before[1]
        return used / (each * CLIENTS) * 1e6

    async def _client(self, count: int) -> None:
        for _ in range(count):
            host = f"h{self._random.randrange(CREDENTIALS)}"
            await self._writer.submit(Lookup(host=host, purpose="ssh"), _CONTEXT)


async def _difference(url: str, lookups: int, rounds: int) -> list[tuple[float, float]]:
    writer = Writer(url, Keyring.from_kms_keys("k" * 32), HostCredentials())
    await writer.start()
    try:
        recorder = Recorder(writer)
        await recorder.store()
        await recorder.microseconds(lookups)
        turns = []
        for _ in range(rounds):
            shipped = await recorder.microseconds(lookups)
            with taken_out():
                plain = await recorder.microseconds(lookups)
            turns.append((shipped, plain))
            await _disown_what_has_no_mac(writer)
        return turns
    finally:
        await writer.close()


async def _disown_what_has_no_mac(writer: Writer) -> None:
    """What was recorded meanwhile is not the ledger's: begin from where it is known."""
    store = writer._committer._store
    assert store is not None
    head = await store.connection.execute("SELECT max(position) FROM ledger.events")
    ((position,),) = await head.fetchall()
    known = store.authenticator
    known.set_aside = (*known.set_aside, (0, position))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.authenticity", description=__doc__)
    parser.add_argument("--lookups", type=int, default=20_000, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8, help="of the run over HTTP")
    options = parser.parse_args()
    with stack.folder(None) as work, stack.cluster(work) as running:
        url = stack.ledger_database(running, "authenticity")
        turns = asyncio.run(_difference(url, options.lookups, options.rounds))
        assert running.pid is not None
        whole_url = stack.ledger_database(running, "whole")
        with stack.broker(work, whole_url) as service:
            load.store(service, CREDENTIALS)
            kind = Load("lookup", CLIENTS, CREDENTIALS, options.seconds)
            figures = load.run(service, running.pid, kind)
        facts = machine.facts(running.superuser_url("whole"), work)
    whole = figures.worker_cpu + figures.database_cpu
    more = [shipped - plain for shipped, plain in turns]
    share = median(more) / whole * 100
    print("\n".join(f"- {line}" for line in facts))
    rows = [
        ["recorded as shipped, us", number(median(shipped for shipped, _ in turns)), ""],
        ["without MACs and counting, us", number(median(plain for _, plain in turns)), ""],
        [f"difference, us ({min(more):.1f} to {max(more):.1f})", number(median(more)), ""],
        ["a whole lookup over HTTP, us", number(whole), ""],
        ["share, %", number(share), GOAL.judge(share)],
    ]
    print(f"\n{table(['CPU a lookup', '', 'goal'], rows)}")


if __name__ == "__main__":
    main()
