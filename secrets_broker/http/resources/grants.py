"""Grants over HTTP, for callers with the right `admin`; each change is an event.

The shared key does not open these paths: with a leaked one, somebody could make an access key that
outlives it. So the first grant of `admin` comes from the command line.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import falcon
import falcon.asgi
import msgspec
from msgspec import Meta
from psycopg import AsyncConnection

from secrets_broker.http.auth.admission import Admission
from secrets_broker.http.query_string import known_fields
from secrets_broker.http.request_body import read_json
from secrets_broker.ledger.access.access_key import digest, new_access_key, new_grant_id
from secrets_broker.ledger.access.grant_commands import (
    ChangeGrant,
    Grant,
    GrantCommand,
    GranteeName,
    Revoke,
    RotateKey,
)
from secrets_broker.ledger.access.rights import Rights
from secrets_broker.ledger.commands import parse
from secrets_broker.projections.paging.reading_session import Reader
from secrets_broker.projections.queries import grant_list


class ChangedRights(Rights, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body: a name and its rights."""

    name: GranteeName

    @property
    def rights(self) -> Rights:
        """The same without the name."""
        return Rights(**{field: getattr(self, field) for field in Rights.__struct_fields__})


class NewGrant(ChangedRights, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body: a new name, its rights, and whether a client certificate proves it."""

    certificate: bool = False


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body: whose key is rotated, and until when the earlier keys are valid."""

    name: GranteeName
    previous_until: Annotated[datetime, Meta(tz=True)]


class GrantNameBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body: a name."""

    name: GranteeName


class _Change:
    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def _record(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, command: GrantCommand
    ) -> None:
        # Died before the commit: nothing has changed, and a key that was made opens nothing. Died
        # after it: the change stands, but nobody was told the key; it is rotated or revoked.
        outcome = await self._admission.submit(command, req.context.caller)
        resp.set_header("X-Ledger-Position", str(outcome.position))
        resp.context.position = outcome.position


class KeyGrant(_Change):
    """POST /internal/access/key-grant."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give a name rights, and a key, which is in this answer and nowhere else."""
        wanted = parse(NewGrant, await read_json(req))
        key = None if wanted.certificate else new_access_key()
        proof = digest(key) if key else None
        fields = {"grantee": wanted.name, "sha256": proof, "rights": wanted.rights}
        command = parse(Grant, {"id": new_grant_id(), **fields})
        await self._record(req, resp, command)
        shown = {} if key is None else {"key": key}
        _give(resp, {"id": command.id, "name": command.grantee, **shown})


class KeyChange(_Change):
    """POST /internal/access/key-change."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Replace the rights of a grant; its keys stay."""
        wanted = parse(ChangedRights, await read_json(req))
        command = parse(ChangeGrant, {"grantee": wanted.name, "rights": wanted.rights})
        await self._record(req, resp, command)
        _give(resp, {"success": True, "name": command.grantee})


class KeyRotate(_Change):
    """POST /internal/access/key-rotate."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give a grant another key, which is in this answer and nowhere else."""
        wanted = parse(NewKey, await read_json(req))
        key = new_access_key()
        fields = {"sha256": digest(key), "previous_until": wanted.previous_until}
        command = parse(RotateKey, {"grantee": wanted.name, **fields})
        await self._record(req, resp, command)
        _give(resp, {"name": command.grantee, "key": key})


class KeyRevoke(_Change):
    """POST /internal/access/key-revoke."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """End a grant and all its keys."""
        wanted = parse(GrantNameBody, await read_json(req))
        command = parse(Revoke, {"grantee": wanted.name})
        await self._record(req, resp, command)
        _give(resp, {"success": True, "name": command.grantee})


class Keys:
    """GET /internal/access/keys."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give every grant ever made, in the order in which they were made."""
        known_fields(req.query_string, ())
        _give(resp, {"items": await self._reader.ask(_lines)})


async def _lines(connection: "AsyncConnection[Any]") -> list[grant_list.GrantLine]:
    return await grant_list.lines(connection, datetime.now(UTC))


def _give(resp: falcon.asgi.Response, body: dict[str, Any]) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)
