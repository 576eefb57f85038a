"""Reads the gauges of the database regularly, beside the requests and not at each scrape.

One worker of a service does so at a time: the one that holds the leader lock. Each worker also
gauges the queue of its own writer.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

import structlog

from secrets_broker.http.metrics import counters, gauges
from secrets_broker.http.metrics.leader_lock import LeaderLock
from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.scheduling.background import BackgroundTask
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections import row_check
from secrets_broker.projections.paging.reading_session import Reader
from secrets_broker.projections.queries.ledger_health import vitals

_log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
COMPARE_SECONDS: Final = 300.0
"""From the start of one comparison of all names to the start of the next, or longer."""


class RowComparison:
    """The comparison of all names, a page at a time."""

    def __init__(self, reader: Reader, seconds: float, entries: int) -> None:
        self._reader = reader
        self._seconds = seconds
        self._entries = entries
        self._began: float | None = None
        self._after: Name | None = None
        self._differing = 0

    async def advance(self) -> None:
        """Compare the next page, unless the next comparison is not due yet."""
        now = time.monotonic()
        if self._after is None:
            if self._began is not None and now - self._began < self._seconds:
                return
            self._began, self._differing = now, 0
        after = self._after
        page = await self._reader.ask(
            lambda connection: row_check.page(connection, after, self._entries)
        )
        self._differing += page.differing
        self._after = page.last
        if page.last is None:
            gauges.compared(self._differing)


class Gatherer:
    """Two background tasks of the event loop."""

    def __init__(
        self,
        database_url: str,
        writer: Writer,
        keyring: Keyring,
        seconds: float,
        *,
        signs: bool,
        compare_seconds: float = COMPARE_SECONDS,
        entries: int = row_check.ENTRIES,
    ) -> None:
        self._reader = Reader(database_url)
        self._writer = writer
        self._keyring = keyring
        self._seconds = seconds
        self._signs = signs
        self._leader_lock = LeaderLock(counters.folder(), "gatherer")
        self._comparison = RowComparison(self._reader, compare_seconds, entries)
        self._tasks = (
            BackgroundTask("queue-gauge", self._count),
            BackgroundTask("gatherer", self._run),
        )

    async def start(self) -> None:
        """Begin."""
        for task in self._tasks:
            task.start()

    async def close(self) -> None:
        """Stop; a running query is cancelled."""
        for task in self._tasks:
            await task.close()
        await self._reader.close()
        self._leader_lock.give_up()

    async def _count(self) -> None:
        while True:
            counters.QUEUE.set(self._writer.waiting)
            await asyncio.sleep(TICK_SECONDS)

    async def _run(self) -> None:
        while True:
            pause = TICK_SECONDS
            try:
                if self._leader_lock.taken():
                    pause = self._seconds
                    await self._gather()
            except Exception as error:
                # Its text may quote anything; its type does not.
                _log.error("gauges_not_gathered", kind=type(error).__qualname__)
                gauges.down()
            await asyncio.sleep(pause)

    async def _gather(self) -> None:
        try:
            found = await self._reader.ask(vitals)
        except LedgerUnavailableError:
            gauges.down()  # the reader has logged why
            return
        gauges.up(found, self._keyring, signs=self._signs)
        gauges.WRITABLE.set(await self._is_writable())
        with suppress(
            LedgerUnavailableError
        ):  # logged by the reader; the next call continues there
            await self._comparison.advance()

    async def _is_writable(self) -> bool:
        try:
            await self._writer.probe()
        except LedgerUnavailableError:
            return False
        return True
