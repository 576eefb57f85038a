"""The events themselves, filtered: all columns of an event, without its body."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.database.name_pattern import ANY, like
from secrets_broker.ledger.encoding import rfc3339_or_none
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.ledger.events import IS_DISOWNED
from secrets_broker.projections.paging import cursor as cursors
from secrets_broker.projections.paging.position_walk import (
    PAGE_BUDGET,
    Filter,
    PageBudget,
    Stretch,
    begin_at,
    size,
    walk,
)
from secrets_broker.projections.parameters.credential_name import number, word
from secrets_broker.projections.parameters.times import parse_moment

OLDEST, NEWEST = "oldest", "newest"
MAX_WORD: Final = 64  # as long as a type or an error may be
MAX_TYPES: Final = 16

_OUTCOMES: Final = {"ok": True, "failed": False}
_FIELDS: Final = (
    *("position", "v", "type", "at", "occurred_at", "actor", "authn", "ip", "request_id"),
    *("reason", "host", "purpose", "credential_id", "version", "ok", "error", "details", "body"),
)
_COLUMNS: Final = f"{', '.join(_FIELDS)}, encode(leaf_hash, 'hex'), {IS_DISOWNED}"


class EventLine(msgspec.Struct, frozen=True, kw_only=True):
    """One event: its position, the keys of its entry, and its leaf hash in hex."""

    position: int
    v: int
    type: str
    at: str
    occurred_at: str | None
    actor: str | None
    authn: str
    ip: str | None
    request_id: str | None
    reason: str | None
    host: str | None
    purpose: str | None
    credential_id: int | None
    version: int | None
    ok: bool
    error: str | None
    details: dict[str, Any] | None
    body: dict[str, str] | None
    leaf_hash: str
    disowned: bool
    """Whether an operator left it out, as not made with the ledger's keys."""


class EventCursor(cursors.Cursor, frozen=True):
    """The next page's first position."""

    question: ClassVar[str] = "events"

    position: cursors.Position


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are asked for, as a condition of SQL and its values."""

    conditions: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    narrow: str | None = None
    since: datetime | None = None
    after: int = -1
    newest_first: bool = False

    @classmethod
    def parse(cls, texts: dict[str, str], types: Sequence[str] = ()) -> "EventFilter":
        """Read what a user wrote; raises InvalidCommandError, which names the field.

        `texts` may have host, purpose, actor, reason (patterns), outcome, error, since, until,
        after, order; `types` are patterns, of which one has to match.
        """
        conditions, values = _patterns(texts)
        if len(types) > MAX_TYPES:
            raise InvalidCommandError(FieldError("type", f"must be at most {MAX_TYPES}"))
        if types:
            values["types"] = [like("type", word("type", text, MAX_WORD)) for text in types]
            conditions.append("type LIKE ANY (%(types)s)")
        if "outcome" in texts:
            conditions.append("ok" if _choice("outcome", texts, _OUTCOMES) else "NOT ok")
        if "error" in texts:
            values["error"] = word("error", texts["error"], MAX_WORD)
            conditions.append("error = %(error)s")
        # An event cannot be recorded before it occurred: a later `occurred_at` is of another clock.
        for limit, comparison in ("since", ">="), ("until", "<"):
            if limit in texts:
                values[limit] = parse_moment(limit, texts[limit])
                conditions.append(f"least(occurred_at, at) {comparison} %({limit})s")
        exact_host = "host" in texts and ANY not in texts["host"]
        return cls(
            tuple(conditions),
            values,
            "host = %(exact_host)s" if exact_host else None,
            values.get("since"),
            number("after", texts["after"]) if "after" in texts else -1,
            "order" in texts and _choice("order", texts, {OLDEST: False, NEWEST: True}),
        )

    @property
    def filter(self) -> Filter:
        """The same for `walk`."""
        return Filter(_COLUMNS, " AND ".join(self.conditions) or "true", self.values, self.narrow)


async def page(
    connection: "AsyncConnection[Any]",
    wanted: EventFilter,
    limit: int,
    after: EventCursor | None = None,
    budget: PageBudget = PAGE_BUDGET,
) -> tuple[list[EventLine], EventCursor | None]:
    """At most `limit` events by position; a short or empty page may have a next one.

    Events recorded while pages are read are on a later page, or, newest first, on none.
    """
    events = await size(connection)
    # Positions that were recorded before this time need not be read.
    recorded = await begin_at(connection, wanted.since, events) if wanted.since else 0
    low, high = max(wanted.after + 1, recorded), events - 1
    if wanted.newest_first:
        stretch = Stretch(min(high, after.position) if after else high, low, newest_first=True)
    else:
        stretch = Stretch(max(low, after.position) if after else low, high)
    records, following = await walk(connection, wanted.filter, stretch, limit, budget)
    return [_line(record) for record in records], (
        None if following is None else EventCursor(following)
    )


def _patterns(texts: dict[str, str]) -> tuple[list[str], dict[str, Any]]:
    conditions: list[str] = []
    values: dict[str, Any] = {}
    for name in ("host", "purpose", "actor", "reason"):
        if name in texts:
            conditions.append(f"{name} LIKE %({name})s")
            values[name] = like(name, texts[name])
    if "host" in texts:
        values["exact_host"] = texts["host"]
    return conditions, values


def _choice(name: str, texts: dict[str, str], choices: dict[str, bool]) -> bool:
    if texts[name] not in choices:
        raise InvalidCommandError(FieldError(name, f"must be {' or '.join(choices)}"))
    return choices[texts[name]]


def _line(record: tuple[Any, ...]) -> EventLine:
    fields = dict(zip((*_FIELDS, "leaf_hash", "disowned"), record, strict=True))
    for name in ("at", "occurred_at"):
        fields[name] = rfc3339_or_none(fields[name])
    return EventLine(**fields)
