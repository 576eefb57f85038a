"""GET /internal/secrets/credentials: which credentials the caller may look up, without secrets.

The request is no event, since it discloses no secret. The page is read first. Then the caller is
judged under the ledger's lock, and the answer holds what it may read by the grants of that moment.
"""

from datetime import UTC, datetime
from typing import Any

import falcon
import falcon.asgi
import msgspec
from psycopg import AsyncConnection

from secrets_broker.http.auth.admission import Admission
from secrets_broker.http.query_string import known_fields, page_limit
from secrets_broker.ledger.access.rights import READ, Request, Rule, fit
from secrets_broker.ledger.events import Context
from secrets_broker.projections.paging.reading_session import Reader
from secrets_broker.projections.queries import credential_list

_Page = tuple[list[credential_list.CredentialLine], credential_list.CredentialCursor | None]


class Credentials:
    """The list, by host and purpose."""

    def __init__(self, admission: Admission, reader: Reader) -> None:
        self._admission = admission
        self._reader = reader

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give a page of live credentials that the caller may read."""
        fields = known_fields(req.query_string, ("host", "purpose", "limit", "cursor"))
        limit, cursor = page_limit(fields.pop("limit", None)), fields.pop("cursor", None)
        wanted = credential_list.CredentialFilter.parse(**fields)
        after = (
            credential_list.BEGINNING
            if cursor is None
            else credential_list.CredentialCursor.decode(cursor)
        )
        caller: Context = req.context.caller
        rules = self._rules(caller)

        async def ask(connection: "AsyncConnection[Any]") -> _Page:
            return await credential_list.page(connection, wanted, rules, limit, after)

        lines, following = await self._reader.ask(ask)
        await self._admission.recheck(READ, caller)
        if (now := self._rules(caller)) is not None:
            lines = credential_list.allowed(lines, now, _request(caller))
        resp.content_type = falcon.MEDIA_JSON
        page = {"items": lines, "next": following.encode() if following else None}
        resp.data = msgspec.json.encode(page)

    def _rules(self, caller: Context) -> tuple[Rule, ...] | None:
        """The rules that let the caller read from its address; None where it needs no rule."""
        if caller.subject is None:
            return None
        granted = self._admission.granted(caller.subject)
        rules = granted.rights.rules if granted and granted.rights else ()
        return tuple(rule for rule in rules if fit((rule,), _request(caller)).rule)


def _request(caller: Context) -> Request:
    return Request(READ, datetime.now(UTC), ip=caller.ip, reason=caller.reason)
