"""The three endpoints of the internal API: a request becomes a command, an outcome an answer."""

from typing import Any

import falcon
import falcon.asgi
import msgspec

from secrets_broker.http import errors
from secrets_broker.http.body import read_json
from secrets_broker.http.desk import Desk
from secrets_broker.http.query import read_query
from secrets_broker.ledger.commands import Command, Delete, Lookup, Upsert, parse
from secrets_broker.ledger.credential import DECRYPT_FAILED, EXPIRED, NOT_FOUND
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.fold import Outcome


class _Resource:
    operation: str

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def _record(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, command: Command
    ) -> Outcome | None:
        """Record the command; None where the answer already says that it came to nothing."""
        outcome = await self._desk.submit(command, req.context.caller)
        resp.set_header("X-Ledger-Position", str(outcome.position))
        resp.context.position = outcome.position
        if outcome.error is None:
            return outcome
        if outcome.error == NOT_FOUND:
            errors.not_found(resp)
        elif outcome.error == EXPIRED:
            errors.expired(resp)
        else:
            assert outcome.error == DECRYPT_FAILED  # noqa: S101 - the only other one
            detail = "Failed to decrypt credential: what is stored does not follow from the ledger."
            errors.write(resp, 500, DECRYPT_FAILED, detail)
        return None


class CredentialUpsert(_Resource):
    """POST /internal/secrets/credential-upsert."""

    operation = "upsert"

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Store a credential."""
        command = parse(Upsert, await read_json(req))
        outcome = await self._record(req, resp, command)
        if outcome:
            _answer(
                resp,
                {
                    "success": True,
                    "credential_id": outcome.credential_id,
                    "host": command.host,
                    "purpose": command.purpose,
                    "version": outcome.version,
                },
            )


class CredentialLookup(_Resource):
    """POST /internal/secrets/credential-lookup."""

    operation = "lookup"

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Disclose a credential."""
        command = parse(Lookup, await read_json(req))
        outcome = await self._record(req, resp, command)
        if outcome and outcome.content:
            content = outcome.content
            answer = {
                "host": command.host,
                "purpose": command.purpose,
                "username": content.username,
                "password": content.password,
                "domain": content.domain,
                "additional_data": content.additional_data,
                "version": outcome.version,
            }
            if content.secret_data is not None:
                answer["secret_data"] = content.secret_data
            if content.expires_at is not None:
                answer["expires_at"] = rfc3339(content.expires_at)
            if content.rotate_after is not None:
                answer["rotate_after"] = content.rotate_after
            _answer(resp, answer)


class CredentialDelete(_Resource):
    """DELETE /internal/secrets/credential-delete."""

    operation = "delete"

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Take a credential out of what is served."""
        command = parse(Delete, read_query(req.query_string))
        if await self._record(req, resp, command):
            _answer(resp, {"success": True, "host": command.host, "purpose": command.purpose})


def _answer(resp: falcon.asgi.Response, body: dict[str, Any]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)
