"""Reads all grants at once from their events, by SQL."""

from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.access.grants import Grants, evolve
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.event_types import IS_ACCESS_KEY

_GRANTS: Final = f"""
    SELECT position, type, details, at FROM ledger.effective_events
    WHERE ok AND {IS_ACCESS_KEY} ORDER BY position
"""  # noqa: S608 - a constant of ours


async def read_grants(connection: "AsyncConnection[Any]") -> Grants:
    """All grants, as their events left them."""
    grants = Grants()
    cursor = await connection.execute(_GRANTS)
    for position, kind, details, at in await cursor.fetchall():
        grants = evolve(grants, kind, details or {}, position, rfc3339(at))
    return grants
