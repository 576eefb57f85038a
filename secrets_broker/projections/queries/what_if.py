"""What would have been refused: proposed grants, run over what was asked for.

Nobody dares to narrow rights blind. The ledger knows what every caller asked for, so a change can
be tried on that before it is made. Whoever asked with the shared key is judged by the name that
he gave himself.
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
"""Looked at by one statement: some hundred milliseconds."""

_OPERATIONS: Final = {kind.name: kind.right for kind in TYPES if kind.right}
# Who does not come by way of a door needs no key.
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
"""Rights by the name of whom they are for."""


class WhatIfLine(msgspec.Struct, frozen=True, kw_only=True):
    """What would have been refused, alike in everything that is judged."""

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
class _Tally:
    count: int
    first_at: datetime
    last_at: datetime
    last_position: int

    def add(self, other: "_Tally") -> None:
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
    """Takes the ledger a stretch at a time; memory grows with what would be refused only."""

    proposed: Proposed
    since: datetime
    name: str | None = None
    asked: int = 0
    refused: int = 0
    _tallies: dict[_Refused, _Tally] = field(default_factory=dict)

    async def run(self, connection: "AsyncConnection[Any]") -> AsyncIterator[tuple[int, int]]:
        """Look at all of it; says after each stretch how many positions are done, of how many."""
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
        for actor, kind, host, purpose, ip, has_reason, *tally in await answer.fetchall():
            reason = "given" if has_reason else None
            request = Request(_OPERATIONS[kind], tally[2], host, purpose, ip, reason)
            self._judge(actor, request, _Tally(*tally))

    def _judge(self, actor: str | None, request: Request, tally: _Tally) -> None:
        self.asked += tally.count
        rule = refused_by(self.proposed.get(actor or ""), request)
        if rule is None:
            return
        self.refused += tally.count
        name, ip = (request.host, request.purpose), request.ip
        refused = _Refused(actor, request.operation, *name, ip, rule)
        self._tallies.setdefault(refused, _Tally(0, tally.first_at, tally.last_at, 0)).add(tally)

    def lines(self) -> list[WhatIfLine]:
        """What would have been refused, most of all first."""
        found = [
            WhatIfLine(
                **refused._asdict(),
                count=tally.count,
                first_at=rfc3339(tally.first_at),
                last_at=rfc3339(tally.last_at),
                last_position=tally.last_position,
            )
            for refused, tally in self._tallies.items()
        ]
        return sorted(found, key=lambda line: (-line.count, line.last_position))


def refused_by(rights: Rights | None, request: Request) -> str | None:
    """The rule by which these rights refuse a request, or None.

    Their own end has no say: it is yet to come, and what is looked at is past.
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
