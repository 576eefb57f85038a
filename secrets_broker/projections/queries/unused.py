"""Live credentials that are older than a time, and that nobody has looked up since.

Each name's last change says what is live. A read is a lookup of the credential's id, of any
version. Lines of an earlier installation's access log count at the time when they occurred; a line
without a time counts as a read, but never as one since a time.
"""

import time
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.encoding import rfc3339, rfc3339_or_none
from secrets_broker.ledger.event_types import (
    ACCESS_IMPORTED,
    GONE,
    IMPORTED,
    IS_CHANGE,
    READ,
    REKEYED,
    is_one_of,
)
from secrets_broker.projections.paging import cursor as cursors
from secrets_broker.projections.paging.position_walk import PAGE_BUDGET, PageBudget, size

NAMES: Final = 200
"""Names for one statement, which reads all lookups of those that are unused."""
RECENT: Final = 50_000
"""For a credential that is in use, the last read is found among so many of the last events; that
avoids reading all lookups of a credential with many."""

_READ: Final = f"""ok AND (type = '{READ}'
                        OR type = '{ACCESS_IMPORTED}' AND details ->> 'access_type' = 'read')"""
# Nothing occurs after it was recorded. So a lookup among the last events is later than any event
# before them.
_HAPPENED: Final = f"""CASE type WHEN '{ACCESS_IMPORTED}' THEN
                      CASE WHEN occurred_at > at THEN at ELSE occurred_at END ELSE at END"""

# Names one after another, each by one search in the index events_changes.
_UNUSED: Final = f"""
    WITH RECURSIVE name AS (
        (SELECT host, purpose, position, 1 AS number FROM ledger.effective_events
         WHERE {IS_CHANGE} AND (host, purpose) > (%(host)s, %(purpose)s)
         ORDER BY host, purpose, position DESC LIMIT 1)
      UNION ALL
        SELECT following.*, name.number + 1 FROM name CROSS JOIN LATERAL (
            SELECT host, purpose, position FROM ledger.effective_events
            WHERE {IS_CHANGE} AND (host, purpose) > (name.host, name.purpose)
            ORDER BY host, purpose, position DESC LIMIT 1
        ) AS following
        WHERE name.number < %(names)s
    ), live AS MATERIALIZED (
        SELECT name.number, last.credential_id, last.version,
               CASE last.type WHEN '{REKEYED}' THEN (last.details ->> 'content')::bigint
                              ELSE last.position END AS content
        FROM name JOIN ledger.effective_events AS last USING (position)
        WHERE NOT last.{is_one_of(GONE)}
    ), recent AS MATERIALIZED (
        SELECT DISTINCT ON (credential_id) credential_id, position, actor, happened
        FROM (
            SELECT credential_id, position, actor, {_HAPPENED} AS happened,
                   bool_or(type = '{READ}') OVER (PARTITION BY credential_id) AS looked_up
            FROM ledger.effective_events
            WHERE position >= %(recent)s AND {_READ}
              AND credential_id IN (SELECT credential_id FROM live)
        ) AS read
        WHERE looked_up
        ORDER BY credential_id, happened DESC NULLS LAST, position DESC
    ), line AS (
        SELECT live.number, live.credential_id, live.version, live.content,
               coalesce(recent.position, older.position) AS position,
               coalesce(recent.happened, older.happened) AS happened,
               CASE WHEN recent.position IS NULL THEN older.actor ELSE recent.actor END AS actor
        FROM live
        LEFT JOIN recent USING (credential_id)
        LEFT JOIN LATERAL (
            SELECT position, actor, {_HAPPENED} AS happened
            FROM ledger.effective_events
            WHERE recent.position IS NULL AND credential_id = live.credential_id AND {_READ}
            ORDER BY happened DESC NULLS LAST, position DESC LIMIT 1
        ) AS older ON true
    )
    SELECT name.host, name.purpose, line.credential_id, line.version,
           coalesce((first.details ->> 'created_at')::timestamptz, first.at),
           CASE first.type WHEN '{IMPORTED}' THEN first.details ->> 'created_by'
                           ELSE first.actor END,
           coalesce((content.details ->> 'updated_at')::timestamptz, content.at),
           CASE content.type WHEN '{IMPORTED}' THEN content.details ->> 'updated_by'
                             ELSE content.actor END,
           line.happened, line.actor, line.position
    FROM name
    LEFT JOIN line ON line.number = name.number
        AND (line.happened IS NULL OR line.happened < %(since)s)
    LEFT JOIN ledger.events AS first ON first.position = line.credential_id - 1
    LEFT JOIN ledger.events AS content ON content.position = line.content
    ORDER BY name.number
"""  # noqa: S608 - our own words


class UnusedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A live credential, and its last read; times are RFC 3339 in UTC.

    It was never read where `last_read_position` is None. With a position and no time, it was read
    at an unknown time.
    """

    host: str
    purpose: str
    credential_id: int
    version: int
    created_at: str
    created_by: str | None
    updated_at: str
    updated_by: str | None
    last_read_at: str | None
    last_read_by: str | None
    last_read_position: int | None


class UnusedCursor(cursors.Cursor, frozen=True):
    """The name that a page looked at last."""

    question: ClassVar[str] = "unused"

    host: str
    purpose: str


BEGINNING: Final = UnusedCursor("", "")


async def page(
    connection: "AsyncConnection[Any]",
    since: datetime,
    limit: int,
    after: UnusedCursor | None = None,
    budget: PageBudget = PAGE_BUDGET,
    names: int | None = None,
    recent: int = RECENT,
) -> tuple[list[UnusedLine], UnusedCursor | None]:
    """At most `limit` lines by name; a short or empty page may have a next one."""
    give_up = time.monotonic() + budget.seconds
    events = await size(connection)
    names = names or min(NAMES, max(limit, NAMES // 4))
    values: dict[str, Any] = {"since": since, "recent": events - recent, "names": names}
    lines: list[UnusedLine] = []
    following: UnusedCursor | None = after or BEGINNING
    while following:
        values |= {"host": following.host, "purpose": following.purpose}
        answer = await connection.execute(_UNUSED.encode(), values)
        looked_at = await answer.fetchall()
        for host, purpose, *fields in looked_at:
            if fields[0] is None or (fields[2] is not None and fields[2] >= since):
                continue  # it is in use, or was created since then
            if len(lines) == limit:
                return lines, following
            following = UnusedCursor(host, purpose)
            lines.append(_line(host, purpose, *fields))
        following = UnusedCursor(*looked_at[-1][:2]) if len(looked_at) == names else None
        if time.monotonic() >= give_up:
            break
    return lines, following


def _line(
    host: str,
    purpose: str,
    credential_id: int,
    version: int,
    created_at: datetime,
    created_by: str | None,
    updated_at: datetime,
    updated_by: str | None,
    *last_read: Any,
) -> UnusedLine:
    happened, by, position = last_read
    return UnusedLine(
        host=host,
        purpose=purpose,
        credential_id=credential_id,
        version=version,
        created_at=rfc3339(created_at),
        created_by=created_by,
        updated_at=rfc3339(updated_at),
        updated_by=updated_by,
        last_read_at=rfc3339_or_none(happened),
        last_read_by=by,
        last_read_position=position,
    )
