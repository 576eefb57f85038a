"""The ledger's health in numbers, for metrics. Read every few seconds, so each uses an index.

No text of a row is among them: anybody who may read the metrics sees them.
"""

from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.encryption.keks import StoredKek, stored_keks

# One statement, so that the checkpoint and the ledger are of the same moment. A clock may be set
# back, so an age below 0 becomes 0.
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
    """Size of the ledger's tables with their indexes."""
    published: int
    """Events that the published checkpoint covers."""
    uncovered_seconds: float
    """The age of the oldest event that no published checkpoint covers; 0 without one."""
    expired: int
    within_7d: int
    within_30d: int
    """Will expire within 30 days, including those within 7."""
    keks: tuple[StoredKek, ...]
    """The KEKs that are not retired."""


async def vitals(connection: "AsyncConnection[Any]") -> Vitals:
    """Read the numbers; raises psycopg.Error."""
    cursor = await connection.execute(_VITALS)
    numbers: tuple[Any, ...]
    (numbers,) = await cursor.fetchall()
    return Vitals(*numbers, *[tuple(await stored_keks(connection))])
