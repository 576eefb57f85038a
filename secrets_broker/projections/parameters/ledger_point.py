"""Points in the ledger as people write them: a position, a time, or how long ago.

A time means the last event that was recorded at that time or before. A time within the last
moments may be resolved before an event of that time is committed. The position that it resolved to
stays valid.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from secrets_broker.ledger.database.search_by_time import Fetch, first_at
from secrets_broker.ledger.errors import FieldError, InvalidCommandError, LedgerMismatchError
from secrets_broker.projections.parameters.duration import parse_duration
from secrets_broker.projections.parameters.times import parse_time

BEFORE_THE_FIRST: Final = -1
"""The position before the first event; the state there is empty."""

MAX_POSITION: Final = 2**63 - 1

_DIGITS: Final = re.compile("[0-9]+")
_DURATION: Final = re.compile("[0-9]+[a-z]")
_RULE: Final = (
    "must be a position, an RFC 3339 time with an offset, as 2026-01-02T03:04:05Z, "
    "or how long ago, as 30d"
)

_END: Final = """
    SELECT clock_timestamp(), last.position, last.at FROM (VALUES (1)) AS one
    LEFT JOIN LATERAL (
        SELECT position, at FROM ledger.events ORDER BY position DESC LIMIT 1
    ) AS last ON true
"""


@dataclass(frozen=True, slots=True)
class Point:
    """A point as it was written: exactly one of the others is set; `field` is for errors."""

    field: str
    position: int | None = None
    time: datetime | None = None
    ago: timedelta | None = None

    @classmethod
    def parse(cls, field: str, text: str) -> "Point":
        """Parse a point; raises InvalidCommandError, which names the field and not the text."""
        if _DIGITS.fullmatch(text):
            # Before int(): it raises an error of its own for very long ones.
            if len(text) > len(str(MAX_POSITION)) or int(text) > MAX_POSITION:
                raise InvalidCommandError(FieldError(field, "is past the ledger's end"))
            return cls(field, position=int(text))
        if _DURATION.fullmatch(text):
            return cls(field, ago=parse_duration(field, text))
        return cls(field, time=parse_time(field, text, _RULE))

    async def resolve(self, fetch: Fetch) -> int:
        """The position that it means, or BEFORE_THE_FIRST.

        Raises InvalidCommandError for a position or time past the ledger's end, and
        LedgerMismatchError where events are missing.
        """
        ((clock, last, last_at),) = await fetch(_END, {})
        if self.position is not None:
            return self._existing(self.position, last)
        time = self.time or clock - (self.ago or timedelta())
        if time > max(clock, last_at or clock):
            raise InvalidCommandError(FieldError(self.field, "is in the future"))
        if last is None:
            return BEFORE_THE_FIRST
        # A later event is later by a microsecond at least: PostgreSQL's times are no finer.
        later = await first_at(fetch, time + timedelta.resolution, last + 1)
        if later is None:
            raise LedgerMismatchError(
                "the ledger's positions have a gap: run secrets-broker verify"
            )
        return later - 1

    def _existing(self, position: int, last: int | None) -> int:
        if last is None:
            raise InvalidCommandError(FieldError(self.field, "the ledger has no event yet"))
        if position > last:
            message = f"is past the ledger's end: its last position is {last}"
            raise InvalidCommandError(FieldError(self.field, message))
        return position
