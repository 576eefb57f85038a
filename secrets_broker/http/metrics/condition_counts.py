"""Counts, for Prometheus, the conditions that follow from the events.

One worker of a service follows the ledger beside the requests, at a bounded rate. Where events are
recorded faster for long, it lags, and a gauge says by how much. Where that worker dies, the next
one continues from there, give or take a second. What is recorded while no worker runs is not
counted; `secrets-broker watch` misses nothing.
"""

import asyncio
from datetime import timedelta
from typing import Any, Final

import structlog
from psycopg import AsyncConnection

from secrets_broker.http.metrics import counters
from secrets_broker.http.metrics.leader_lock import LeaderLock
from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.ledger.scheduling.background import BackgroundTask
from secrets_broker.projections.conditions import Conditions, Thresholds
from secrets_broker.projections.conditions.following import ReadPosition, beginning, more
from secrets_broker.projections.paging.position_walk import size
from secrets_broker.projections.paging.reading_session import Reader

_log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 1.0
# A slice takes some 2 ms of the event loop, all slices at most 2 % of a core. With twice
# of both, lookups under full load took 5 % more CPU, and their 99th percentile was 10 % longer.
SLICE: Final = 100
SLICES: Final = 10
LEARNED: Final = timedelta(days=7)
"""How far back events are read first, without counting, to learn what is usual."""


class ConditionCounts:
    """One background task of the event loop."""

    def __init__(
        self, database_url: str, *, tick: float = TICK_SECONDS, thresholds: Thresholds | None = None
    ) -> None:
        self._reader = Reader(database_url)
        self._leader_lock = LeaderLock(counters.folder(), "condition_counts")
        self._tick = tick
        self._thresholds = thresholds or Thresholds()
        self._conditions = Conditions(self._thresholds)
        self._place: ReadPosition | None = None
        self._new = 0
        """The first position whose conditions are counted."""
        self._task = BackgroundTask("condition_counts", self._run)

    async def start(self) -> None:
        """Begin."""
        self._task.start()

    async def close(self) -> None:
        """Stop; a running query is cancelled."""
        await self._task.close()
        await self._reader.close()
        self._leader_lock.give_up()

    async def _run(self) -> None:
        while True:
            try:
                if self._leader_lock.taken():
                    await self._read_on()
            except LedgerMismatchError as error:
                _log.critical("ledger_mismatch", why=str(error))
                self._place = None  # start again with the ledger that is there now
            except LedgerUnavailableError:
                pass  # the reader has logged why; the next tick tries again
            except Exception as error:
                # Its text may quote anything; its type does not.
                _log.error("conditions_not_counted", kind=type(error).__qualname__)
            await asyncio.sleep(self._tick)

    async def _read_on(self) -> None:
        place = self._place or await self._begin()
        for _ in range(SLICES):
            place, found = await self._slice(place)
            self._place = place
            if found < SLICE:
                break
        end = await self._reader.ask(size)
        counters.WATCH_BEHIND.set(max(end - place.position, 0))

    async def _slice(self, place: ReadPosition) -> tuple[ReadPosition, int]:
        found = await self._reader.ask(lambda connection: more(connection, place, SLICE))
        for event, behind in found:
            for condition in self._conditions.take(event):
                if event.position >= self._new:
                    counters.condition(condition.condition)
            place = behind
        if place.position >= self._new:
            self._leader_lock.leave(place.position)
        return place, len(found)

    async def _begin(self) -> ReadPosition:
        async def ask(connection: "AsyncConnection[Any]") -> tuple[int, ReadPosition]:
            events = await size(connection)
            return events, await beginning(connection, events, LEARNED)

        self._conditions = Conditions(self._thresholds)
        events, place = await self._reader.ask(ask)
        left = self._leader_lock.left()
        self._new = events if left is None else min(left, events)
        return place
