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

from secrets_broker.ledger.conditions import Condition, Conditions, Memory, Thresholds
from secrets_broker.ledger.conditions.windows import Told
from secrets_broker.ledger.connection import connect
from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.projections.following import AT_ONCE, Place, learn, more, uncovered
from secrets_broker.projections.mismatches import may_read, mismatches
from secrets_broker.projections.reader import READ_SESSION
from secrets_broker.tools.watch.delivery import Delivery
from secrets_broker.tools.watch.state import Kept, StateFile

_log = structlog.get_logger(__name__)

# A pass over a large table may take longer than a request may.
SESSION: Final = {**READ_SESSION, "statement_timeout": "60s"}

_KEEP_SECONDS: Final = 5.0
"""How often the place is kept where nothing is told: reading on from an older one is no harm."""
_CHECKPOINT_SECONDS: Final = 10.0
_NO_ROWS: Final = "projection_difference_not_watched"
_MAX_MISMATCHES: Final = 1_000
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
    """Goes on from a place, with a memory of what was before."""

    def __init__(
        self, plan: Plan, place: Place, delivery: Delivery, state: StateFile | None, memory: Memory
    ) -> None:
        self._plan = plan
        self._place = place
        self._conditions = Conditions(plan.thresholds, memory)
        self._delivery = delivery
        self._state = state
        self._untold = False
        """Whether the memory is ahead of what was told."""
        self._kept: Place | None = None
        self._kept_at = 0.0
        self._next_checkpoint = self._next_projection = 0.0
        self._said: set[str] = set()

    async def run(self) -> None:
        """Until it is cancelled or, if only once, to the present.

        Raises LedgerMismatchError where the ledger is not the one that was read before,
        WatchStateError, and, if only once, DeliveryError and LedgerUnavailableError.
        """
        self._keep()
        failures = 0
        try:
            while True:
                try:
                    await self._session()
                except (LedgerUnavailableError, psycopg.Error) as error:
                    if isinstance(error, LedgerMismatchError) or self._plan.once:
                        raise
                    failures = 1 if self._said_now("database_away", why=words(error)) else failures
                    await asyncio.sleep(min(_LONGEST_WAIT, 2.0 ** min(failures, 8) / 2))
                    failures += 1
                else:
                    return
        finally:
            # What was found and not told stays untold: it is found again from the place before.
            if not self._untold:
                self._keep()

    async def _session(self) -> None:
        connection = await connect(self._plan.database_url, SESSION)
        try:
            while True:
                found = await self._read_on(connection)
                if "database_away" in self._said:
                    self._said.remove("database_away")
                    _log.info("database_back")
                await self._look(connection)
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

    async def _look(self, connection: "AsyncConnection[Any]") -> None:
        """What does not show in events."""
        now = time.monotonic()
        if now >= self._next_checkpoint:
            await self._tell(await self._checkpoint(connection), self._place)
            self._next_checkpoint = now + _CHECKPOINT_SECONDS
        if self._plan.projection_seconds and now >= self._next_projection:
            # First: where it takes too long, it is not asked again at once.
            self._next_projection = now + self._plan.projection_seconds
            await self._tell(await self._projection(connection), self._place)

    async def _checkpoint(self, connection: "AsyncConnection[Any]") -> list[Condition]:
        now, ever, first = await uncovered(connection)
        if not ever:
            self._said_now("checkpoint_age_not_watched", why="no checkpoint was ever published")
        if first is None or not ever:
            return []
        return self._conditions.checkpoint(*first, now)

    async def _projection(self, connection: "AsyncConnection[Any]") -> list[Condition]:
        if not await may_read(connection):
            why = "this login may not read secrets.host_credentials"
            self._said_now(_NO_ROWS, why=why)
            return []
        try:
            positions = await mismatches(connection, _MAX_MISMATCHES)
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
            self._said_now(_NO_ROWS, why=f"for now: {words(error)}")
            return []
        self._said.discard(_NO_ROWS)
        now, _, _ = await uncovered(connection)
        return self._conditions.projection(positions, now)

    async def _tell(self, conditions: Iterable[Condition], behind: Place) -> None:
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

    def _said_now(self, what: str, why: str) -> bool:
        """Say it, unless it was said already; tell which."""
        if what in self._said:
            return False
        self._said.add(what)
        _log.warning(what, why=why)
        return True


async def prepare(
    connection: "AsyncConnection[Any]", plan: Plan, place: Place, kept: Kept | None
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
    # What is learned was not told: what goes on from before is told at its next event.
    conditions.memory.told = kept.memory.told if kept else Told({})
    return conditions.memory


def words(error: Exception) -> str:
    """Why the database did not answer; never its own text, which may quote values of a row."""
    if isinstance(error, psycopg.Error):
        return f"{type(error).__name__} (SQLSTATE {error.sqlstate})"
    return str(error)
