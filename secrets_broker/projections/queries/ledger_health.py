"""How the ledger does, in numbers: asked every few seconds, so each is an index look-up.

No row's own text is among them: they are for whoever may see metrics.
"""

from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.encryption.keks import StoredKek, stored_keks

# In one statement, so that the checkpoint and the ledger are of the same moment. A new event's
# time may be that of an earlier one, and a clock may be set back: no age is below 0.
_VITALS: Final = """
    SELECT (SELECT coalesce(max(position) + 1, 0) FROM ledger.events),
           (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
            WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r'),
           published.size,
           coalesce((SELECT greatest(0, extract(epoch FROM clock_timestamp() - at))::float8
                     FROM ledger.events WHERE position = published.size), 0),
           due.expired, due.within_7d, due.within_30d
    FROM ledger.published, (
        SELECT count(*) FILTER (WHERE expires_at <= now()) AS expired,
               count(*) FILTER (WHERE expires_at > now()
                                AND expires_at <= now() + interval '168 hours') AS within_7d,
               count(*) FILTER (WHERE expires_at > now()) AS within_30d
        FROM secrets.host_credentials
        WHERE expires_at <= now() + interval '720 hours') AS due
"""


@dataclass(frozen=True, slots=True)
class Vitals:
    """The ledger's state at one moment."""

    events: int
    bytes: int
    """Of the ledger's tables, with their indexes."""
    published: int
    """Events that the published checkpoint covers."""
    uncovered_seconds: float
    """How long the oldest event that it does not cover has been recorded; 0 where there is none."""
    expired: int
    within_7d: int
    within_30d: int
    """To expire, those within 7 days among them."""
    keks: tuple[StoredKek, ...]
    """Those that are not retired."""


async def vitals(connection: "AsyncConnection[Any]") -> Vitals:
    """Read them; raises psycopg.Error."""
    cursor = await connection.execute(_VITALS)
    numbers: tuple[Any, ...]
    (numbers,) = await cursor.fetchall()
    return Vitals(*numbers, *[tuple(await stored_keks(connection))])
