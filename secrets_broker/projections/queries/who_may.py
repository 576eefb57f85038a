"""Who could do what to a credential now: every grant whose rules fit its name. Pure but `page`.

The first rule of a grant that fits decides, and that depends on the request's address and on the
operation. So a line is a rule: all rules that could decide are listed, in order. After a rule that
fits from anywhere, no later rule can decide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.access.grants import Granted, Grants
from secrets_broker.ledger.access.rights import DELETE, READ, WRITE, Rights, Rule, matches
from secrets_broker.ledger.access.stored_grants import read_grants
from secrets_broker.ledger.encoding import rfc3339, rfc3339_or_none
from secrets_broker.projections.paging import cursor as cursors
from secrets_broker.projections.parameters.credential_name import CredentialName

ON_CREDENTIALS: Final = (READ, WRITE, DELETE)


class WhoLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a grant allows for the credential, by one of its rules; times are RFC 3339 in UTC."""

    name: str
    id: str
    proof: str
    """`key` or `certificate`."""
    allow: list[str]
    """Those of read, write and delete that this rule may decide."""
    rule: int
    """Counted from 1."""
    hosts: list[str]
    """Patterns of the rule that fit."""
    purposes: list[str]
    networks: list[str]
    """Empty means from anywhere."""
    reason: bool
    """Whether an X-Access-Reason is demanded."""
    requests: list[int] | None
    """At most so many requests of the grant within so many seconds."""
    hosts_limit: list[int] | None
    """At most so many distinct hosts read within so many seconds."""
    expires_at: str | None
    previous_until: str | None
    """When the keys before the newest one end, where some are still valid."""
    granted_at_position: int


class WhoCursor(cursors.Cursor, frozen=True):
    """The line that a page ended with."""

    question: ClassVar[str] = "who"

    granted_at: cursors.Position
    rule: cursors.Version


async def page(
    connection: "AsyncConnection[Any]",
    name: CredentialName,
    now: datetime,
    limit: int,
    after: WhoCursor | None = None,
) -> tuple[list[WhoLine], WhoCursor | None]:
    """At most `limit` lines; grants in the order in which they were made."""
    found = [
        line
        for line in lines(await read_grants(connection), name, now)
        if after is None or (line.granted_at_position, line.rule) > (after.granted_at, after.rule)
    ]
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], WhoCursor(last.granted_at_position, last.rule)


def lines(grants: Grants, name: CredentialName, now: datetime) -> Iterator[WhoLine]:
    """Every line; grants that were revoked or have expired have none."""
    for granted in grants.by_id.values():
        rights = granted.rights
        if granted.revoked_at is not None or rights is None:
            continue
        if rights.expires_at is not None and now >= rights.expires_at:
            continue
        for decided in _deciding(rights, name):
            yield _line(granted, rights, decided, now)


@dataclass(frozen=True, slots=True)
class _Decided:
    number: int
    rule: Rule
    operations: list[str]
    hosts: list[str]
    purposes: list[str]


def _deciding(rights: Rights, name: CredentialName) -> Iterator[_Decided]:
    """The rules that may decide a request for that name, each with what it may decide."""
    open_to_others: list[str] = list(ON_CREDENTIALS)
    for number, rule in enumerate(rights.rules, 1):
        hosts = [pattern for pattern in rule.hosts if matches(pattern, name.host)]
        purposes = [pattern for pattern in rule.purposes if matches(pattern, name.purpose)]
        operations: list[str] = [one for one in open_to_others if one in rule.allow]
        if not (hosts and purposes and operations):
            continue
        yield _Decided(number, rule, operations, hosts, purposes)
        if not rule.networks:
            open_to_others = [one for one in open_to_others if one not in operations]


def _line(granted: Granted, rights: Rights, decided: _Decided, now: datetime) -> WhoLine:
    ends = [end for end in granted.keys.values() if end is not None and end > now]
    return WhoLine(
        name=granted.name,
        id=granted.id,
        proof="certificate" if granted.certificate else "key",
        allow=decided.operations,
        rule=decided.number,
        hosts=decided.hosts,
        purposes=decided.purposes,
        networks=list(decided.rule.networks),
        reason=decided.rule.reason,
        requests=list(msgspec.structs.astuple(rights.requests)) if rights.requests else None,
        hosts_limit=list(msgspec.structs.astuple(rights.hosts)) if rights.hosts else None,
        expires_at=rfc3339_or_none(rights.expires_at),
        previous_until=rfc3339(max(ends)) if ends else None,
        granted_at_position=granted.position,
    )
