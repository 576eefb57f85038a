"""What changed between two states of secrets.host_credentials: one difference a name.

Names with a change after the first position, up to the second, are compared. The earlier state of a
name follows from its last change at or before the first position. So what was created and deleted
again in between is no difference.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.database.search_by_time import Fetch
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import DecryptionError
from secrets_broker.ledger.event_types import GONE, IS_CHANGE
from secrets_broker.projections.queries.replay import (
    FIRST,
    PAGE_NAMES,
    LastChange,
    Scope,
    Stored,
    bodies,
)
from secrets_broker.projections.unreadable import Unreadable

Kind = Literal["created", "changed", "rekeyed", "recreated", "deleted"]

_DIFFERENCES: Final = """
    SELECT after.*, before.position, before.type, before.credential_id, before.version
    FROM (
        SELECT DISTINCT ON (host, purpose)
               host, purpose, position, type, credential_id, version, at, actor, reason
        FROM ledger.effective_events
        WHERE __is_change__
          AND (host, purpose) > (%(after_host)s, %(after_purpose)s)
          AND position > %(since)s AND position <= %(position)s
          AND host LIKE %(host)s ESCAPE '\\' AND purpose LIKE %(purpose)s ESCAPE '\\'
        ORDER BY host, purpose, position DESC LIMIT %(limit)s
    ) AS after
    LEFT JOIN LATERAL (
        SELECT position, type, credential_id, version FROM ledger.effective_events AS event
        WHERE event.host = after.host AND event.purpose = after.purpose
          AND __is_change__ AND event.position <= %(since)s
        ORDER BY position DESC LIMIT 1
    ) AS before ON true
    ORDER BY after.host, after.purpose
""".replace("__is_change__", IS_CHANGE)


class StateChange(msgspec.Struct, frozen=True, kw_only=True):
    """How a name changed; the event is its last change, `at` is RFC 3339.

    `rekeyed` is a new data key for the same content, `recreated` another credential of the same
    name.
    """

    host: str
    purpose: str
    kind: Kind
    id_before: int | None
    version_before: int | None
    id_after: int | None
    version_after: int | None
    position: int
    type: str
    at: str
    actor: str | None
    reason: str | None


class StateDifference(StateChange, frozen=True, kw_only=True):
    """A change, and which columns differ in content.

    They are None where that is unknown: without keys, where a body was erased, and where a name has
    a credential in one of the states only.
    """

    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DiffPage:
    """A part of the differences, in the order of the names."""

    differences: tuple[StateDifference, ...]
    unreadable: tuple[Unreadable, ...]
    following: Name | None


@dataclass(frozen=True, slots=True)
class _Pair:
    before: LastChange | None
    after: LastChange | None
    last: LastChange
    at: datetime
    actor: str | None
    reason: str | None

    @property
    def kind(self) -> Kind:
        if self.before is None:
            return "created"
        if self.after is None:
            return "deleted"
        if self.before.credential_id != self.after.credential_id:
            return "recreated"
        return "rekeyed" if self.before.version == self.after.version else "changed"


async def differences(
    fetch: Fetch, keyring: Keyring | None, since: int, scope: Scope
) -> AsyncIterator[DiffPage]:
    """All that changed after the position `since`, up to the scope's, page by page."""
    after: Name | None = FIRST
    while after is not None:
        found = await page(fetch, keyring, since, scope, after)
        yield found
        after = found.following


async def page(
    fetch: Fetch,
    keyring: Keyring | None,
    since: int,
    scope: Scope,
    after: Name = FIRST,
    limit: int = PAGE_NAMES,
) -> DiffPage:
    """At most `limit` differences after a name; without a keyring, without columns."""
    found = await _pairs(fetch, since, scope, after, limit + 1)  # one more tells of a next page
    shown = found[:limit]
    columns: dict[int, tuple[str, ...] | None] = {}
    unreadable: list[Unreadable] = []
    if keyring is not None:
        both = [change for pair in shown if (change := pair.before) and pair.after]
        both += [change for pair in shown if (change := pair.after) and pair.before]
        contents = _contents(both, await bodies(fetch, keyring, both), unreadable)
        columns = {pair.last.position: _columns(pair, contents) for pair in shown}
    return DiffPage(
        tuple(_difference(pair, columns.get(pair.last.position)) for pair in shown),
        tuple(unreadable),
        shown[-1].last.name if len(found) > limit else None,
    )


async def _pairs(fetch: Fetch, since: int, scope: Scope, after: Name, limit: int) -> list[_Pair]:
    found: list[_Pair] = []
    wanted = limit
    while True:
        values = scope.values(after, wanted) | {"since": since}
        pairs = [_pair(*record) for record in await fetch(_DIFFERENCES, values)]
        found += [pair for pair in pairs if pair.before or pair.after]
        if len(pairs) < wanted or len(found) >= limit:
            return found[:limit]
        after, wanted = (
            pairs[-1].last.name,
            PAGE_NAMES,
        )  # after names that were created and deleted in between


def _pair(host: str, purpose: str, *record: Any) -> _Pair:
    (at, actor, reason), before = record[4:7], record[7:]
    last = LastChange(host, purpose, *record[:4])
    there = before[0] is not None and before[1] not in GONE
    return _Pair(
        LastChange(host, purpose, *before) if there else None,
        None if last.type in GONE else last,
        last,
        at,
        actor,
        reason,
    )


def _difference(pair: _Pair, columns: tuple[str, ...] | None) -> StateDifference:
    before, after, last = pair.before, pair.after, pair.last
    return StateDifference(
        host=last.host,
        purpose=last.purpose,
        kind=pair.kind,
        id_before=before.credential_id if before else None,
        version_before=before.version if before else None,
        id_after=after.credential_id if after else None,
        version_after=after.version if after else None,
        position=last.position,
        type=last.type,
        at=rfc3339(pair.at),
        actor=pair.actor,
        reason=pair.reason,
        columns=columns,
    )


def _contents(
    changes: list[LastChange], stored: Mapping[int, Stored], unreadable: list[Unreadable]
) -> dict[int, Content]:
    opened: dict[int, Content] = {}
    for change in changes:
        found = stored[change.position]
        if found.erased:
            continue
        try:
            opened[change.position] = found.content()
        except DecryptionError as error:
            unreadable.append(Unreadable(*change.name, change.position, str(error)))
    return opened


def _columns(pair: _Pair, contents: Mapping[int, Content]) -> tuple[str, ...] | None:
    if pair.before is None or pair.after is None:
        return None
    before, after = contents.get(pair.before.position), contents.get(pair.after.position)
    if before is None or after is None:
        return None
    # Compared as JSON: to Python 1, 1.0 and True are the same.
    return tuple(
        name
        for name in Content.__struct_fields__
        if msgspec.json.encode(getattr(before, name), order="sorted")
        != msgspec.json.encode(getattr(after, name), order="sorted")
    )
