"""What shows in no event, and is looked at now and then: checkpoints, and the rows."""

import time
from datetime import datetime
from typing import Any, Final

import psycopg
import structlog
from psycopg import AsyncConnection

from secrets_broker.projections.conditions import Condition, Conditions
from secrets_broker.projections.conditions.following import uncovered
from secrets_broker.projections.row_check import may_read, mismatches
from secrets_broker.session import safe_message

_log = structlog.get_logger(__name__)

_CHECKPOINT_SECONDS: Final = 10.0
_MAX_MISMATCHES: Final = 1_000
_NO_CHECKPOINTS: Final = "checkpoint_age_not_watched"
_NO_ROWS: Final = "projection_difference_not_watched"


class Checks:
    """Looks where it is time to; what cannot be looked at is said once."""

    def __init__(self, conditions: Conditions, projection_seconds: float) -> None:
        self._conditions = conditions
        self._projection_seconds = projection_seconds
        self._next_checkpoint = self._next_projection = 0.0
        self._said: set[str] = set()

    async def look(self, connection: "AsyncConnection[Any]") -> list[Condition]:
        """What is to be told of."""
        now, late, wrong = time.monotonic(), None, None
        # The next time is set first: what takes too long is not asked again at once.
        if now >= self._next_checkpoint:
            self._next_checkpoint = now + _CHECKPOINT_SECONDS
            late = await self._uncovered(connection)
        if self._projection_seconds and now >= self._next_projection:
            self._next_projection = now + self._projection_seconds
            wrong = await self._mismatches(connection)
        # Only now, when nothing can come between: what is judged here counts as told.
        found = [] if late is None else self._conditions.checkpoint(*late)
        return found if wrong is None else [*found, *self._conditions.projection(*wrong)]

    async def _uncovered(
        self, connection: "AsyncConnection[Any]"
    ) -> tuple[int, datetime, datetime] | None:
        now, ever, first = await uncovered(connection)
        if not ever:
            self._say(_NO_CHECKPOINTS, "no checkpoint was ever published")
        return None if first is None or not ever else (*first, now)

    async def _mismatches(
        self, connection: "AsyncConnection[Any]"
    ) -> tuple[list[int], datetime] | None:
        if not await may_read(connection):
            self._say(_NO_ROWS, "this login may not read secrets.host_credentials")
            return None
        try:
            positions = await mismatches(connection, _MAX_MISMATCHES)
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
            self._say(_NO_ROWS, f"for now, the database refused ({safe_message(error)})")
            return None
        self._said.discard(_NO_ROWS)
        return positions, (await uncovered(connection))[0]

    def _say(self, what: str, why: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning(what, why=why)
