"""Each version that a name ever had: who made it, when and why, and what ended it.

It covers all credential ids of the name: a name that is stored again after a delete is another
credential, which counts from 1. Events do not say whether a version has expired; only bodies do.
"""

from typing import Any, ClassVar, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.encoding import rfc3339_or_none
from secrets_broker.ledger.event_types import ERASED, REKEYED
from secrets_broker.projections.paging import cursor as cursors
from secrets_broker.projections.parameters.credential_name import CredentialName
from secrets_broker.projections.queries.answer_fields import COLUMNS, happening
from secrets_broker.projections.queries.credential_versions import ENDED, MAKES, OF_NAME, OF_NO_NAME

# Destroyed data keys, each with its first erasure. An erasure that left the live credential belongs
# to no name; its details name it.
_HISTORY: Final = f"""
    WITH destroyed AS MATERIALIZED (
        SELECT key, min(position) AS position
        FROM (
            SELECT position, details FROM ledger.effective_events
            WHERE {OF_NAME} AND type = '{ERASED}'
          UNION ALL
            SELECT position, details FROM ledger.effective_events
            WHERE {OF_NO_NAME} AND type = '{ERASED}'
              AND details ->> 'host' = %(host)s AND details ->> 'purpose' = %(purpose)s
        ) AS erasure, jsonb_array_elements_text(details -> 'data_keys') AS key
        GROUP BY key
    ), made AS (
        SELECT * FROM ledger.effective_events WHERE {OF_NAME} AND {MAKES} AND position > %(after)s
        ORDER BY position LIMIT %(limit)s
    )
    SELECT {", ".join(f"made.{name}" for name in COLUMNS)}, made.credential_id, made.version,
           ended.position, ended.at, ended.type, ended.actor,
           rekeyed.count, rekeyed.at, erased.position, erased.at
    FROM made {ENDED}
    CROSS JOIN LATERAL (
        SELECT count(*) AS count, max(at) AS at, array_agg(body ->> 'key') AS keys
        FROM ledger.effective_events
        WHERE {OF_NAME} AND type = '{REKEYED}' AND position > made.position
          AND position < coalesce(ended.position, 9223372036854775807)
    ) AS rekeyed
    LEFT JOIN LATERAL (
        SELECT max(destroyed.position) AS position
        FROM unnest(array_append(rekeyed.keys, made.body ->> 'key')) AS body (key)
        LEFT JOIN destroyed USING (key)
        HAVING count(*) = count(destroyed.position)
    ) AS gone ON true
    LEFT JOIN ledger.events AS erased ON erased.position = gone.position
    ORDER BY made.position
"""  # noqa: S608 - our own words


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version from its making to its end; times are RFC 3339 in UTC.

    The first eleven fields are its event's. `ended_by` is the type of the event that ended it,
    None while it is live. `rekeys` counts its further data keys. `erased_at` is when the last of
    its stored contents was destroyed, as the events say; None while there is one.
    """

    host: str
    purpose: str
    credential_id: int
    version: int
    type: str
    position: int
    at: str
    occurred_at: str | None
    actor: str | None
    authn: str
    ip: str | None
    request_id: str | None
    reason: str | None
    live: bool
    ended_at: str | None
    ended_by: str | None
    ended_by_actor: str | None
    ended_position: int | None
    rekeys: int
    rekeyed_at: str | None
    erased_at: str | None
    erased_position: int | None


class HistoryCursor(cursors.Cursor, frozen=True):
    """The position of the version that a page ended with."""

    question: ClassVar[str] = "history"

    position: cursors.Position


async def page(
    connection: "AsyncConnection[Any]",
    name: CredentialName,
    limit: int,
    after: HistoryCursor | None = None,
) -> tuple[list[Version], HistoryCursor | None]:
    """At most `limit` versions in their order, and the next page's cursor."""
    answer = await connection.execute(
        _HISTORY.encode(),
        {
            "host": name.host,
            "purpose": name.purpose,
            "after": after.position if after else -1,
            "limit": limit + 1,  # one more tells whether there is a next page
        },
    )
    found = [_version(name, record) for record in await answer.fetchall()]
    following = HistoryCursor(found[limit - 1].position) if len(found) > limit else None
    return found[:limit], following


def _version(name: CredentialName, record: tuple[Any, ...]) -> Version:
    told, rest = record[: len(COLUMNS)], record[len(COLUMNS) :]
    (credential_id, version, ended, ended_at, ended_by, ended_by_actor, *rekeyed) = rest
    rekeys, rekeyed_at, erased, erased_at = rekeyed
    return Version(
        host=name.host,
        purpose=name.purpose,
        credential_id=credential_id,
        version=version,
        **happening(told),
        live=ended is None,
        ended_at=rfc3339_or_none(ended_at),
        ended_by=ended_by,
        ended_by_actor=ended_by_actor,
        ended_position=ended,
        rekeys=rekeys,
        rekeyed_at=rfc3339_or_none(rekeyed_at),
        erased_at=rfc3339_or_none(erased_at),
        erased_position=erased,
    )
