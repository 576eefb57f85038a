"""All grants, for people: their rules, their state, and when they were last used."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.access.grants import Granted
from secrets_broker.ledger.access.rights import Rights
from secrets_broker.ledger.access.stored_grants import read_grants
from secrets_broker.ledger.encoding import rfc3339

_LAST: Final = 2**63 - 1
"""The largest bigint: after every position."""

VALID, EXPIRED, REVOKED = "valid", "expired", "revoked"

_LAST_USED: Final = """
    SELECT wanted.id, used.at, used.ip FROM unnest(%(ids)s::text[]) AS wanted (id)
    CROSS JOIN LATERAL (
        SELECT at, ip FROM ledger.effective_events
        WHERE authn = 'access_key:' || wanted.id
          AND (authn LIKE 'access_key:%%' OR authn LIKE 'mtls:%%')
        ORDER BY position DESC LIMIT 1
    ) AS used
"""
# A certificate's name can be granted again: earlier events then belong to the earlier grant.
_LAST_SHOWN: Final = """
    SELECT wanted.id, used.at, used.ip
    FROM unnest(%(ids)s::text[], %(names)s::text[], %(since)s::bigint[], %(until)s::bigint[])
         AS wanted (id, name, since, until)
    CROSS JOIN LATERAL (
        SELECT at, ip FROM ledger.effective_events
        WHERE authn LIKE 'mtls:%%' AND actor = wanted.name
          AND position > wanted.since AND position < wanted.until
        ORDER BY position DESC LIMIT 1
    ) AS used
"""


class GrantLine(msgspec.Struct, frozen=True, kw_only=True):
    """A grant for people, without its key or anything that a key could be derived from."""

    id: str
    name: str
    state: str
    proof: str
    """`key` or `certificate`."""
    rules: list[dict[str, Any]]
    expires_at: str | None
    requests: list[int] | None
    hosts: list[int] | None
    granted_at_position: int
    previous_until: str | None
    """When the keys before the newest one end, where some are still valid."""
    revoked_at: str | None
    last_used_at: str | None
    last_used_from: str | None


async def lines(connection: "AsyncConnection[Any]", now: datetime) -> list[GrantLine]:
    """Every grant, in the order in which they were made."""
    grants = (await read_grants(connection)).by_id.values()
    used: dict[str, tuple[str | None, str | None]] = {}
    for query, values in (
        (_LAST_USED, {"ids": [granted.id for granted in grants]}),
        (_LAST_SHOWN, _spans([granted for granted in grants if granted.certificate])),
    ):
        cursor = await connection.execute(query, values)
        used |= {id_: (rfc3339(at), ip) for id_, at, ip in await cursor.fetchall()}
    return [_line(granted, used.get(granted.id, (None, None)), now) for granted in grants]


def _spans(grants: Sequence[Granted]) -> dict[str, list[Any]]:
    """The range of each grant's events: after its own, before the next grant of its name."""
    following: dict[str, int] = {}
    until = []
    for granted in reversed(grants):
        until.append(following.get(granted.name, _LAST))
        following[granted.name] = granted.position
    return {
        "ids": [granted.id for granted in grants],
        "names": [granted.name for granted in grants],
        "since": [granted.position for granted in grants],
        "until": until[::-1],
    }


def _line(granted: Granted, used: tuple[str | None, str | None], now: datetime) -> GrantLine:
    fields = granted.rights.details if granted.rights else {}
    ends = [end for end in granted.keys.values() if end is not None and end > now]
    return GrantLine(
        id=granted.id,
        name=granted.name,
        state=_state(granted, granted.rights, now),
        proof="certificate" if granted.certificate else "key",
        rules=fields.get("rules", []),
        expires_at=fields.get("expires_at"),
        requests=fields.get("requests"),
        hosts=fields.get("hosts"),
        granted_at_position=granted.position,
        previous_until=rfc3339(max(ends)) if ends else None,
        revoked_at=granted.revoked_at,
        last_used_at=used[0],
        last_used_from=used[1],
    )


def _state(granted: Granted, rights: Rights | None, now: datetime) -> str:
    if granted.revoked_at is not None:
        return REVOKED
    expires_at = rights.expires_at if rights else None
    return EXPIRED if expires_at is not None and expires_at <= now else VALID
