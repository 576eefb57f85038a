"""Reads the uses of grants with limits, by SQL, for their meters."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.access.grants import Granted, Grants
from secrets_broker.ledger.access.quota import Meters, Use
from secrets_broker.ledger.database.round_trip import Statement
from secrets_broker.ledger.database.search_by_time import asking, first_at

# One entry of an index a row: what one grant did, newest first.
_OF_GRANT: Final = """
    SELECT position, at, host, type FROM ledger.effective_events
    WHERE __who__ AND type LIKE 'credential.%%' AND position >= %(since)s AND position < %(size)s
"""
_BY_KEY: Final = "authn = %(authn)s AND (authn LIKE 'access_key:%%' OR authn LIKE 'mtls:%%')"
_BY_CERTIFICATE: Final = "authn LIKE 'mtls:%%' AND actor = %(name)s"
_REQUESTS: Final = "SELECT * FROM (__used__ ORDER BY position DESC LIMIT %(most)s) AS used"
_HOSTS: Final = """
    SELECT max(position), max(at), host, 'credential.read'
    FROM (__used__) AS used WHERE type = 'credential.read' GROUP BY host
"""
_BEGIN: Final = """
    SELECT now() - %(span)s, (SELECT coalesce(max(position) + 1, 0) FROM ledger.events)
"""
# Bounded: a process that is further behind reads from the history instead.
_NEW_USES: Final = """
    SELECT position, at, host, type, authn, actor FROM ledger.events
    WHERE position >= $1 AND position < $1::bigint + $2 AND type LIKE 'credential.%'
      AND (authn IN (SELECT jsonb_array_elements_text($3::jsonb))
           OR authn LIKE 'mtls:%' AND actor IN (SELECT jsonb_array_elements_text($4::jsonb)))
    ORDER BY position
"""


async def load_uses(
    connection: "AsyncConnection[Any]", granted: Granted
) -> tuple[int, Sequence[Use]]:
    """The size of the ledger, and the grant's uses within its limits' windows."""
    rights = granted.rights
    limits = [limit for limit in (rights and rights.requests, rights and rights.hosts) if limit]
    span = timedelta(seconds=max(limit.seconds for limit in limits))
    fetch = asking(connection)
    ((begin, size),) = await fetch(_BEGIN, {"span": span})
    # If an event is missing, start at 0: the meters drop uses before the window.
    since = await first_at(fetch, begin, size) or 0
    values = {
        "authn": f"access_key:{granted.id}",
        "name": granted.name,
        "since": max(since, granted.position),
        "size": size,
        "most": rights.requests.most if rights and rights.requests else 0,
    }
    used = _OF_GRANT.replace("__who__", _BY_CERTIFICATE if granted.certificate else _BY_KEY)
    found: dict[int, Use] = {}
    for query in (_REQUESTS, _HOSTS):
        cursor = await connection.execute(query.replace("__used__", used).encode(), values)
        found |= {row[0]: _use(*row) for row in await cursor.fetchall()}
    return size, [found[position] for position in sorted(found)]


def new_uses(size: int, most: int, grants: Sequence[Granted]) -> Statement:
    """The statement that reads these grants' uses from position `size` on."""
    keys = [f"access_key:{granted.id}" for granted in grants if not granted.certificate]
    names = [granted.name for granted in grants if granted.certificate]
    encode = msgspec.json.encode
    return Statement(_NEW_USES, (b"%d" % size, b"%d" % most, encode(keys), encode(names)))


def add_uses(meters: Meters, grants: Grants, rows: Sequence[Sequence[Any]], size: int) -> None:
    """Count the rows of `new_uses`, which are complete below that size."""
    for position, at, host, kind, authn, actor in rows:
        granted = _granted(grants, authn, actor)
        if granted is not None:
            meters.add(granted.id, _use(position, at, host, kind))
    meters.see(size)


def _granted(grants: Grants, authn: str, actor: str | None) -> Granted | None:
    kind, _, rest = authn.partition(":")
    return grants.by_id.get(rest) if kind == "access_key" else grants.named(actor or "")


def _use(position: int, at: datetime, host: str | None, kind: str) -> Use:
    return Use(position, at, host if kind == "credential.read" else None)
