"""Upsert, lookup and delete: a request becomes a command, and its outcome the answer."""

from datetime import UTC, datetime

import falcon
import falcon.asgi
import msgspec

from secrets_broker.http import answers, error_handlers, problems
from secrets_broker.http.auth.admission import Admission
from secrets_broker.http.query_string import read_query
from secrets_broker.http.request_body import read_json
from secrets_broker.ledger.commands import Delete, Lookup, Upsert, parse, parse_at


class _Resource:
    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def _record(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        command: Upsert | Lookup | Delete,
    ) -> None:
        outcome = await self._admission.submit(command, req.context.caller)
        resp.set_header("X-Ledger-Position", str(outcome.position))
        resp.context.position = outcome.position
        if outcome.error is not None:
            error_handlers.write(resp, problems.OF_OUTCOMES[outcome.error])
            return
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(answers.body(command, outcome))


class CredentialUpsert(_Resource):
    """POST /internal/secrets/credential-upsert."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Store a credential."""
        await self._record(req, resp, parse_at(Upsert, await read_json(req), datetime.now(UTC)))


class CredentialLookup(_Resource):
    """POST /internal/secrets/credential-lookup."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Disclose a credential."""
        await self._record(req, resp, parse(Lookup, await read_json(req)))


class CredentialDelete(_Resource):
    """DELETE /internal/secrets/credential-delete."""

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Take a credential out of what is served."""
        await self._record(req, resp, parse(Delete, read_query(req.query_string)))
