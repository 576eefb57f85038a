"""For auditors: the state as it was, and what changed, from the events alone, without any key.

The first page resolves the requested points to positions. Each cursor holds these, so all pages
show the same states whatever is recorded meanwhile.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import falcon
import falcon.asgi
import msgspec
from msgspec import Meta
from psycopg import AsyncConnection

from secrets_broker.http.error_handlers import InvalidRequestError
from secrets_broker.http.query_string import known_fields, page_limit
from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.database.search_by_time import Fetch, asking
from secrets_broker.ledger.encoding import text_problem
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.projections.paging import cursor as cursors
from secrets_broker.projections.paging.reading_session import Reader
from secrets_broker.projections.parameters.ledger_point import (
    BEFORE_THE_FIRST,
    MAX_POSITION,
    Point,
)
from secrets_broker.projections.queries import replay, replay_diff
from secrets_broker.projections.queries.replay import FIRST, Scope
from secrets_broker.projections.queries.replay_diff import StateChange

Ends = list[Annotated[int, Meta(ge=BEFORE_THE_FIRST, le=MAX_POSITION)]]
"""The positions that a question's points resolve to, in their order."""


class StateItem(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a credential as it was without decrypting anything."""

    id: int
    host: str
    purpose: str
    version: int
    position: int
    created_at: str
    updated_at: str
    created_by: str | None
    updated_by: str | None
    erased: bool


class StateCursor(cursors.Cursor, frozen=True):
    """The positions of the states, and the last name of the page."""

    ends: Ends
    host: str
    purpose: str

    def __post_init__(self) -> None:
        """Raise ValueError for what PostgreSQL cannot take as a name."""
        if text_problem(self.host) or text_problem(self.purpose):
            raise ValueError

    @property
    def name(self) -> Name:
        """The name after which the next page begins."""
        return self.host, self.purpose


class _StateCursor(StateCursor, frozen=True):
    question: ClassVar[str] = "replay"


class _DiffCursor(StateCursor, frozen=True):
    question: ClassVar[str] = "replay/diff"


_Part = tuple[Sequence[msgspec.Struct], Name | None]


class _Replayed(ABC):
    points: ClassVar[tuple[str, ...]]
    """The parameters that select states, the older one first."""
    cursor: ClassVar[type[StateCursor]]

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @abstractmethod
    async def part(
        self, fetch: Fetch, ends: Ends, patterns: Sequence[str | None], after: Name, limit: int
    ) -> _Part:
        """A page's items, and the name after which the next one begins."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give a page; it holds no secret and no ciphertext."""
        fields = known_fields(
            req.query_string, (*self.points, "host", "purpose", "limit", "cursor")
        )
        points = [_point(fields, name) for name in self.points]
        patterns = fields.get("host"), fields.get("purpose")
        Scope.parse(BEFORE_THE_FIRST, *patterns)
        limit = page_limit(fields.get("limit"))
        cursor = self.cursor.decode(fields["cursor"]) if "cursor" in fields else None

        async def question(connection: "AsyncConnection[Any]") -> tuple[Ends, _Part]:
            fetch, after = asking(connection), cursor.name if cursor else FIRST
            ends = await _ends(fetch, points, cursor)
            return ends, await self.part(fetch, ends, patterns, after, limit)

        ends, (items, following) = await self._reader.ask(question)
        answer: dict[str, Any] = {
            name: None if end == BEFORE_THE_FIRST else end
            for name, end in zip(self.points, ends, strict=True)
        }
        answer["items"] = items
        answer["next"] = self.cursor(ends, *following).encode() if following else None
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(answer)


class Replay(_Replayed):
    """GET /internal/audit/replay."""

    points = ("at",)
    cursor = _StateCursor

    async def part(
        self, fetch: Fetch, ends: Ends, patterns: Sequence[str | None], after: Name, limit: int
    ) -> _Part:
        """The credentials of a state."""
        page = await replay.page(fetch, None, Scope.parse(ends[0], *patterns), after, limit)
        found = [msgspec.convert(o, StateItem, from_attributes=True) for o in page.credentials]
        return found, page.following


class ReplayDiff(_Replayed):
    """GET /internal/audit/replay/diff."""

    points = ("from", "to")
    cursor = _DiffCursor

    async def part(
        self, fetch: Fetch, ends: Ends, patterns: Sequence[str | None], after: Name, limit: int
    ) -> _Part:
        """What changed between two states; the columns that differ are only in the bodies."""
        scope = Scope.parse(ends[1], *patterns)
        page = await replay_diff.page(fetch, None, ends[0], scope, after, limit)
        found = [msgspec.convert(o, StateChange, from_attributes=True) for o in page.differences]
        return found, page.following


def _point(fields: dict[str, str], name: str) -> Point:
    if name not in fields:
        raise InvalidRequestError(FieldError(name, "is required"))
    return Point.parse(name, fields[name])


async def _ends(fetch: Fetch, points: Sequence[Point], cursor: StateCursor | None) -> Ends:
    if cursor is not None:
        return await _continued(fetch, points, cursor)
    ends = [await point.resolve(fetch) for point in points]
    if ends != sorted(ends):
        raise InvalidCommandError(FieldError(points[-1].field, "must not be before `from`"))
    return ends


async def _continued(fetch: Fetch, points: Sequence[Point], cursor: StateCursor) -> Ends:
    if len(cursor.ends) != len(points) or cursor.ends != sorted(cursor.ends):
        raise cursors.refused()
    for point, end in zip(points, cursor.ends, strict=True):
        if point.position not in (None, end):
            raise cursors.refused()  # of another question
        if end != BEFORE_THE_FIRST:
            await Point("cursor", position=end).resolve(fetch)
    return cursor.ends
