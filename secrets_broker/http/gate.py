"""What every request passes: an id, the key check, and on the way out one log line and a count."""

import time
from typing import Any, Final

import falcon.asgi
import structlog

from secrets_broker.http import errors, metrics
from secrets_broker.http.caller import header, known, new_request_id, stranger
from secrets_broker.http.desk import Desk, RefusedError
from secrets_broker.http.doors import LOG, Doors, is_protected, only_reads, right
from secrets_broker.http.peer import Peers
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.events import MAX_NAME, Context, Subject

_log = structlog.get_logger("secrets_broker.request")


class Gate:
    """Falcon middleware."""

    def __init__(self, doors: Doors, desk: Desk, peers: Peers) -> None:
        self._doors = doors
        self._desk = desk
        self._peers = peers

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Refuse who may not enter, before a route, a body or a header is looked at.

        Raises RefusedError, or LedgerUnavailableError where a refusal cannot be judged.
        """
        req.context.started = time.perf_counter()
        req.context.request_id = new_request_id()
        if not is_protected(req.path):
            return
        req.context.ip = self._peers.address(req.scope)
        resp.set_header("Cache-Control", "no-store")
        authn, subject = self._doors.identify(req)
        if subject is not None:
            await self._enter(req, authn, subject)
        request_id = header(req, "X-Request-Id", MAX_NAME)
        if request_id:
            req.context.request_id = request_id
        req.context.caller = known(req, authn, self._desk.granted(subject), subject)

    async def _enter(self, req: falcon.asgi.Request, authn: str, subject: Subject) -> None:
        req.context.caller = stranger(req, authn, self._desk.granted(subject), subject)
        await self._desk.enter(right(req.path), req.context.caller)

    async def process_response(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        resource: Any,
        req_succeeded: bool,
    ) -> None:
        """Echo the request's id, count it, and log it in one line.

        What was only read for a caller with a grant goes out if he has it still.
        """
        resp.set_header("X-Request-Id", req.context.request_id)
        await self._leave(req, resp)
        operation = "log" if req.path.startswith(LOG) else OPERATIONS.get(req.path, "none")
        outcome = str(resp.context.get("outcome", "ok"))
        if operation == "none" and outcome != "forbidden":
            return
        items: dict[tuple[int, str], int] = resp.context.get("outcomes") or {}
        for (status, reason), times in items.items():
            metrics.count(ITEMS[operation], status, reason, times)
        if not items:
            metrics.count(ITEMS.get(operation, operation), resp.status_code, outcome)
        if resp.context.get("counted"):
            return  # nor may a flood of refusals fill the disk by way of the log
        caller = req.context.get("caller")
        _log.info(
            "request",
            request_id=req.context.request_id,
            actor=caller.actor if caller else None,
            ip=caller.ip if caller else None,
            operation=operation,
            outcome=outcome,
            rule=resp.context.get("rule"),
            status=resp.status_code,
            position=resp.context.get("position"),
            **({"items": _by_reason(items)} if items else {}),
            duration_ms=round((time.perf_counter() - req.context.started) * 1000, 2),
        )

    async def _leave(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        caller: Context | None = req.context.get("caller")
        if caller is None or caller.subject is None or not only_reads(req.path):
            return
        if resp.status_code >= 400:  # it gives nothing out
            return
        try:
            await self._desk.leave(right(req.path), caller)
        except (RefusedError, LedgerUnavailableError) as error:
            resp.text = resp.media = resp.stream = None
            errors.answer(resp, error)


def _by_reason(items: dict[tuple[int, str], int]) -> dict[str, int]:
    return {reason: times for (_, reason), times in items.items()}


ITEMS: Final = {"lookup_batch": "lookup", "upsert_batch": "upsert"}
"""What each item of a batch is; a batch that is refused as a whole counts as one."""

OPERATIONS: Final = {
    "/internal/secrets/credential-upsert": "upsert",
    "/internal/secrets/credential-lookup": "lookup",
    "/internal/secrets/credential-delete": "delete",
    "/internal/secrets/credential-upsert-batch": "upsert_batch",
    "/internal/secrets/credential-lookup-batch": "lookup_batch",
    "/internal/secrets/credentials": "credentials",
    "/internal/access/keys": "access_keys",
    "/internal/access/key-grant": "access_key_grant",
    "/internal/access/key-change": "access_key_change",
    "/internal/access/key-rotate": "access_key_rotate",
    "/internal/access/key-revoke": "access_key_revoke",
    "/internal/audit/due": "due",
    "/internal/audit/proof": "proof",
    "/internal/audit/consistency": "consistency",
    "/internal/audit/checkpoints": "checkpoints",
    "/internal/audit/replay": "replay",
    "/internal/audit/replay/diff": "replay_diff",
    "/internal/audit/history": "history",
    "/internal/audit/exposure": "exposure",
    "/internal/audit/events": "events",
    "/internal/audit/unused": "unused",
}
