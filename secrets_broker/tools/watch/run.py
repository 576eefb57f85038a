"""The watch itself: reads on, tells, and keeps how far it has told."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.projections.conditions import Condition, Conditions, Memory, Thresholds
from secrets_broker.projections.conditions.following import AT_ONCE, ReadPosition, learn, more
from secrets_broker.projections.conditions.time_windows import LastTold
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.session import safe_message
from secrets_broker.tools.watch.checks import Checks
from secrets_broker.tools.watch.delivery import Delivery
from secrets_broker.tools.watch.state import StateFile, WatchState

_log = structlog.get_logger(__name__)

# A pass over a large table may take longer than a request may.
SESSION: Final = {**READ_SESSION, "statement_timeout": "60s"}

_KEEP_SECONDS: Final = 5.0
"""How often the place is kept where nothing is told: reading on from an older one is no harm."""
_LONGEST_WAIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a user asked for."""

    database_url: str
    thresholds: Thresholds
    learn: timedelta
    interval: float
    projection_seconds: float
    """Between two looks at the rows; 0 is never."""
    without: frozenset[str] = frozenset()
    once: bool = False


class Watch:
    """Continues from a place, with a memory of what was before."""

    def __init__(
        self,
        plan: Plan,
        place: ReadPosition,
        delivery: Delivery,
        state: StateFile | None,
        memory: Memory,
    ) -> None:
        self._plan = plan
        self._place = place
        self._conditions = Conditions(plan.thresholds, memory)
        self._delivery = delivery
        self._state = state
        self._untold = False
        """Whether the memory is ahead of what was told."""
        self._kept: ReadPosition | None = None
        self._kept_at = 0.0
        self._checks = Checks(self._conditions, plan.projection_seconds)
        self._failures = 0
        """Of the database, one after the other."""

    async def run(self) -> None:
        """Until it is cancelled or, if only once, to the present.

        Raises LedgerMismatchError where the ledger is not the one that was read before,
        WatchStateError, and, if only once, DeliveryError and LedgerUnavailableError.
        """
        self._keep()
        try:
            while True:
                try:
                    return await self._session()
                except (LedgerUnavailableError, psycopg.Error) as error:
                    if isinstance(error, LedgerMismatchError) or self._plan.once:
                        raise
                    await self._wait(error)
        finally:
            # What was found and not told stays untold: it is found again from the place before.
            if not self._untold:
                self._keep()

    async def _wait(self, error: Exception) -> None:
        if not self._failures:
            _log.warning("database_away", why=safe_message(error))
        await asyncio.sleep(min(_LONGEST_WAIT, 2.0 ** min(self._failures, 8)))
        self._failures += 1

    async def _session(self) -> None:
        connection = await connect(self._plan.database_url, SESSION)
        try:
            while True:
                found = await self._read_on(connection)
                if self._failures:
                    self._failures = 0
                    _log.info("database_back")
                await self._tell(await self._checks.look(connection), self._place)
                if found == AT_ONCE:
                    continue
                if self._plan.once:
                    return
                await asyncio.sleep(self._plan.interval)
        finally:
            await connection.close()

    async def _read_on(self, connection: "AsyncConnection[Any]") -> int:
        found = await more(connection, self._place)
        for event, behind in found:
            conditions = self._conditions.take(event)
            if conditions:
                await self._tell(conditions, behind)
            self._place = behind
        if self._place != self._kept and time.monotonic() - self._kept_at > _KEEP_SECONDS:
            self._keep()
        return len(found)

    async def _tell(self, conditions: Iterable[Condition], behind: ReadPosition) -> None:
        wanted = [one for one in conditions if one.condition not in self._plan.without]
        if not wanted:
            return
        self._untold = True
        for condition in wanted:
            await self._delivery.tell(condition)
        self._untold = False
        self._place = behind
        # Died before this: they are told again by the next run, with the same ids. Died after:
        # not again.
        self._keep()

    def _keep(self) -> None:
        if self._state is not None and not self._untold:
            self._state.keep(self._place, self._plan.thresholds, self._conditions.memory)
        self._kept, self._kept_at = self._place, time.monotonic()


async def prepare(
    connection: "AsyncConnection[Any]", plan: Plan, place: ReadPosition, kept: WatchState | None
) -> Memory:
    """What is known at a place: as it was kept, or learned from the events before it.

    Raises LedgerMismatchError where the place is not one of this ledger.
    """
    await more(connection, place, 0)
    if kept is not None and kept.thresholds == plan.thresholds:
        return kept.memory
    conditions = Conditions(plan.thresholds)
    if kept is not None:  # who was seen where is the same by any threshold
        conditions.memory.sources = kept.memory.sources
    await learn(connection, conditions, place.position, plan.learn)
    # Learned events were not told: a condition that lasts is told at its next event.
    conditions.memory.told = kept.memory.told if kept else LastTold({})
    return conditions.memory
