"""What would have been refused: proposed grants, judged on recorded requests.

The ledger holds what every caller asked for, so narrower rights can be tried on that before they
are granted. A caller with the shared key is judged by the name that it gave itself.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.access.grants import Grants
from secrets_broker.ledger.access.rights import Request, Rights, fit
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.event_types import TYPES
from secrets_broker.projections.paging.position_walk import Stretch, begin_at, size

NO_GRANT: Final = "no_grant"
POSITIONS: Final = 100_000
"""Events that one statement reads: some hundred milliseconds."""

_OPERATIONS: Final = {kind.name: kind.right for kind in TYPES if kind.right}
# The command line and the library need no grant.
_ASKED: Final = """
    SELECT actor, type, host, purpose, ip, reason IS NOT NULL,
           count(*), min(at), max(at), max(position)
    FROM ledger.effective_events
    WHERE position BETWEEN %(low)s AND %(high)s AND at >= %(since)s
      AND type = ANY (%(types)s) AND authn NOT IN ('cli', 'library', 'none')
      AND (%(name)s::text IS NULL OR actor = %(name)s)
    GROUP BY 1, 2, 3, 4, 5, 6
"""

Proposed = Mapping[str, Rights]
"""Rights by grantee name."""


class WhatIfLine(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that would have been refused, equal in everything that is judged."""

    actor: str | None
    operation: str
    host: str | None
    purpose: str | None
    ip: str | None
    rule: str
    count: int
    first_at: str
    last_at: str
    last_position: int


@dataclass(slots=True)
class _Requests:
    count: int
    first_at: datetime
    last_at: datetime
    last_position: int

    def add(self, other: "_Requests") -> None:
        self.count += other.count
        self.first_at = min(self.first_at, other.first_at)
        self.last_at = max(self.last_at, other.last_at)
        self.last_position = max(self.last_position, other.last_position)


class _Refused(NamedTuple):
    actor: str | None
    operation: str
    host: str | None
    purpose: str | None
    ip: str | None
    rule: str


@dataclass(slots=True)
class WhatIf:
    """Reads the ledger a range at a time; memory grows only with what would be refused."""

    proposed: Proposed
    since: datetime
    name: str | None = None
    asked: int = 0
    refused: int = 0
    _counts: dict[_Refused, _Requests] = field(default_factory=dict)

    async def run(self, connection: "AsyncConnection[Any]") -> AsyncIterator[tuple[int, int]]:
        """Read all; yields after each range how many positions are done, and of how many."""
        end = await size(connection)
        low = await begin_at(connection, self.since, end)
        rest = Stretch(low, end - 1)
        while rest:
            piece, rest = rest.split(POSITIONS)
            await self._look(connection, piece)
            yield piece.stop + 1 - low, end - low

    async def _look(self, connection: "AsyncConnection[Any]", piece: Stretch) -> None:
        values = {
            "low": piece.start,
            "high": piece.stop,
            "since": self.since,
            "types": list(_OPERATIONS),
            "name": self.name,
        }
        answer = await connection.execute(_ASKED, values)
        for actor, kind, host, purpose, ip, has_reason, *requests in await answer.fetchall():
            reason = "given" if has_reason else None
            request = Request(_OPERATIONS[kind], requests[2], host, purpose, ip, reason)
            self._judge(actor, request, _Requests(*requests))

    def _judge(self, actor: str | None, request: Request, requests: _Requests) -> None:
        self.asked += requests.count
        rule = refused_by(self.proposed.get(actor or ""), request)
        if rule is None:
            return
        self.refused += requests.count
        name, ip = (request.host, request.purpose), request.ip
        refused = _Refused(actor, request.operation, *name, ip, rule)
        self._counts.setdefault(refused, _Requests(0, requests.first_at, requests.last_at, 0)).add(
            requests
        )

    def lines(self) -> list[WhatIfLine]:
        """What would have been refused, the most frequent first."""
        found = [
            WhatIfLine(
                **refused._asdict(),
                count=requests.count,
                first_at=rfc3339(requests.first_at),
                last_at=rfc3339(requests.last_at),
                last_position=requests.last_position,
            )
            for refused, requests in self._counts.items()
        ]
        return sorted(found, key=lambda line: (-line.count, line.last_position))


def refused_by(rights: Rights | None, request: Request) -> str | None:
    """The rule by which these rights refuse a request, or None.

    Their `expires_at` is not judged: it is in the future, and the requests are in the past.
    """
    if rights is None:
        return NO_GRANT
    decided = fit(rights.rules, request)
    if decided.failed is None and decided.reason and not request.reason:
        return "reason"
    return decided.failed


def current(grants: Grants) -> dict[str, Rights]:
    """The rights that are in force now, by name."""
    live = (grants.by_id[granted_id] for granted_id in grants.live.values())
    return {granted.name: granted.rights for granted in live if granted.rights}
