"""The moment that an answer holds for: the last event, and whether a standby answered."""

from typing import Any, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.encoding import rfc3339_or_none

_AS_OF: Final = """
    SELECT last.position, last.at, pg_catalog.pg_is_in_recovery(),
           pg_catalog.pg_last_xact_replay_timestamp()
    FROM (SELECT) AS always
    LEFT JOIN (SELECT position, at FROM ledger.events ORDER BY position DESC LIMIT 1) AS last
        ON true
"""


class AsOf(msgspec.Struct, frozen=True, kw_only=True):
    """The answer covers all events up to `position`; times are RFC 3339 in UTC."""

    position: int | None
    """None where there is no event."""
    at: str | None
    """When that event was recorded."""
    standby: bool
    """Whether the database is a standby; it cannot tell how far behind its primary it is."""
    replayed_at: str | None
    """When the primary committed what a standby replayed last; None on a primary."""

    @property
    def sentence(self) -> str:
        """The same in words."""
        if self.position is None:
            event = "as of no event: the ledger is empty"
        else:
            event = f"as of position {self.position} of {self.at}"
        if not self.standby:
            return event
        known = "which has replayed nothing since it started"
        if self.replayed_at is not None:
            known = f"which last replayed what was committed at {self.replayed_at}"
        return f"{event}, a standby, {known}"


async def as_of(connection: "AsyncConnection[Any]") -> AsOf:
    """Read it before the question itself, so that the answer misses nothing up to there."""
    cursor = await connection.execute(_AS_OF)
    ((position, at, standby, replayed),) = await cursor.fetchall()
    return AsOf(
        position=position,
        at=rfc3339_or_none(at),
        standby=standby,
        replayed_at=rfc3339_or_none(replayed) if standby else None,
    )
