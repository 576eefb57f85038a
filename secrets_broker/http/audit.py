"""What auditors and schedulers ask: it reads, beside the writer, and is no event."""

import re
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec
from psycopg import AsyncConnection

from secrets_broker.http.errors import InvalidRequestError
from secrets_broker.http.query import read_query
from secrets_broker.ledger.errors import FieldError
from secrets_broker.projections import due
from secrets_broker.projections.reader import Reader

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000

_WANTED: Final = ("within", "unchanged_for", "host", "purpose")
_KNOWN: Final = (*_WANTED, "limit", "cursor")
_NUMBER: Final = re.compile("[0-9]{1,4}")


class Due:
    """GET /internal/audit/due."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give a page of the credentials that want attention; no secret is in it."""
        fields = _fields(req.query_string)
        wanted = due.Wanted.parse(**{name: fields.get(name) for name in _WANTED})
        limit = _limit(fields.get("limit"))
        after = due.Cursor.decode(fields["cursor"]) if "cursor" in fields else due.BEGINNING

        async def question(
            connection: "AsyncConnection[Any]",
        ) -> tuple[list[due.Line], due.Cursor | None]:
            return await due.page(connection, wanted, limit, after)

        lines, following = await self._reader.ask(question)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(
            {"items": lines, "next": following.encode() if following else None}
        )


def _fields(query: str) -> dict[str, str]:
    fields = read_query(query)
    if not fields.keys() <= set(_KNOWN):
        message = f"has a parameter that is not known; known are {', '.join(_KNOWN)}"
        raise InvalidRequestError(FieldError("", message))
    return fields


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    limit = int(text) if _NUMBER.fullmatch(text) else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequestError(FieldError("limit", f"must be a number from 1 to {MAX_LIMIT}"))
    return limit
