"""The questions of auditors and schedulers. They read beside the writer, and are no events.

Every question takes its parameters from the query string, each at most once, and is answered with
`{"items": [...], "next": cursor or null, "as_of": {...}}`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import falcon
import falcon.asgi
import msgspec
from psycopg import AsyncConnection

from secrets_broker.http.error_handlers import InvalidRequestError
from secrets_broker.http.query_string import known_fields, page_limit
from secrets_broker.ledger.errors import FieldError
from secrets_broker.projections.paging import cursor as cursors
from secrets_broker.projections.paging.as_of import AsOf, as_of
from secrets_broker.projections.paging.reading_session import Question, Reader
from secrets_broker.projections.parameters.credential_name import CredentialName
from secrets_broker.projections.parameters.times import parse_moment
from secrets_broker.projections.queries import due, event_list, exposure, history, unused, who_may

Fields = dict[str, str]
Connection = AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class _Page:
    items: Sequence[msgspec.Struct]
    following: cursors.Cursor | None
    about: tuple[str, Any] | None = None
    """One more member of the answer, about all items: its name and value."""

    def encode(self, known: AsOf) -> bytes:
        members: dict[str, Any] = dict([self.about] if self.about else [])
        members["items"] = self.items
        members["next"] = self.following.encode() if self.following else None
        members["as_of"] = known
        return msgspec.json.encode(members)


class _Audit(ABC):
    """A question; subclasses have its parameters and the query."""

    parameters: ClassVar[tuple[str, ...]]

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @abstractmethod
    def question(self, fields: Fields, limit: int, cursor: str | None) -> Question[_Page]:
        """Read the parameters, before the database is asked; raises InvalidCommandError."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give a page; no secret is in it."""
        fields = known_fields(req.query_string, (*self.parameters, "limit", "cursor"))
        limit, cursor = page_limit(fields.pop("limit", None)), fields.pop("cursor", None)
        question = self.question(fields, limit, cursor)

        async def ask(connection: Connection) -> bytes:
            known = await as_of(connection)
            return (await question(connection)).encode(known)

        resp.data = await self._reader.ask(ask)
        resp.content_type = falcon.MEDIA_JSON


class Due(_Audit):
    """GET /internal/audit/due."""

    parameters = ("within", "unchanged_for", "host", "purpose")

    def question(self, fields: Fields, limit: int, cursor: str | None) -> Question[_Page]:
        """Which live credentials need attention."""
        wanted = due.DueFilter.parse(**fields)
        after = due.BEGINNING if cursor is None else due.DueCursor.decode(cursor)

        async def ask(connection: Connection) -> _Page:
            return _Page(*await due.page(connection, wanted, limit, after))

        return ask


class History(_Audit):
    """GET /internal/audit/history."""

    parameters = ("host", "purpose")

    def question(self, fields: Fields, limit: int, cursor: str | None) -> Question[_Page]:
        """Every version that a name ever had."""
        name = CredentialName.parse(fields.get("host"), fields.get("purpose"))
        after = None if cursor is None else history.HistoryCursor.decode(cursor)

        async def ask(connection: Connection) -> _Page:
            return _Page(*await history.page(connection, name, limit, after))

        return ask


class Exposure(_Audit):
    """GET /internal/audit/exposure."""

    parameters = ("host", "purpose", "credential_id", "version", "since", "until")

    def question(self, fields: Fields, limit: int, cursor: str | None) -> Question[_Page]:
        """Who received a version."""
        name = CredentialName.parse(fields.get("host"), fields.get("purpose"))
        wanted = exposure.Which.parse(fields.get("credential_id"), fields.get("version"))
        span = exposure.Span.parse(fields.get("since"), fields.get("until"))
        after = None if cursor is None else exposure.ExposureCursor.decode(cursor)
        if after is not None:
            wanted = wanted.continued(after)

        async def ask(connection: Connection) -> _Page:
            exposed = await exposure.find(connection, name, wanted)
            if exposed is None and after is not None:
                raise cursors.refused()
            if exposed is None:
                return _Page([], None, ("exposed", None))
            found = await exposure.page(connection, exposed, limit, after, span=span)
            return _Page(*found, ("exposed", exposed))

        return ask


class Events(_Audit):
    """GET /internal/audit/events."""

    parameters = (
        *("host", "purpose", "actor", "reason", "type", "outcome", "error"),
        *("since", "until", "after", "order"),
    )

    def question(self, fields: Fields, limit: int, cursor: str | None) -> Question[_Page]:
        """The events themselves; several types are separated by commas."""
        types = fields.pop("type").split(",") if "type" in fields else ()
        wanted = event_list.EventFilter.parse(fields, types)
        after = None if cursor is None else event_list.EventCursor.decode(cursor)

        async def ask(connection: Connection) -> _Page:
            return _Page(*await event_list.page(connection, wanted, limit, after))

        return ask


class Who(_Audit):
    """GET /internal/audit/who."""

    parameters = ("host", "purpose")

    def __init__(self, reader: Reader, *, internal_key_is_on: bool) -> None:
        super().__init__(reader)
        self._internal_key = internal_key_is_on

    def question(self, fields: Fields, limit: int, cursor: str | None) -> Question[_Page]:
        """Who could do what to a credential now, by its grant or by the shared key."""
        name = CredentialName.parse(fields.get("host"), fields.get("purpose"))
        after = None if cursor is None else who_may.WhoCursor.decode(cursor)

        async def ask(connection: Connection) -> _Page:
            found = await who_may.page(connection, name, datetime.now(UTC), limit, after)
            return _Page(*found, ("internal_key", self._internal_key))

        return ask


class Unused(_Audit):
    """GET /internal/audit/unused."""

    parameters = ("since",)

    def question(self, fields: Fields, limit: int, cursor: str | None) -> Question[_Page]:
        """Live credentials that nobody has read since a time."""
        if "since" not in fields:
            raise InvalidRequestError(FieldError("since", "is required"))
        since = parse_moment("since", fields["since"])
        after = None if cursor is None else unused.UnusedCursor.decode(cursor)

        async def ask(connection: Connection) -> _Page:
            return _Page(*await unused.page(connection, since, limit, after))

        return ask
