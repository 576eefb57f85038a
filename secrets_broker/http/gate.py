"""What every request passes: an id, the key check, and on the way out one log line and a count."""

import time
from typing import Any, Final

import falcon.asgi
import structlog

from secrets_broker.http import errors, metrics
from secrets_broker.http.caller import context, header, new_request_id
from secrets_broker.http.doors import LOG, Doors, is_protected
from secrets_broker.ledger.events import MAX_NAME

_log = structlog.get_logger("secrets_broker.request")


class Gate:
    """Falcon middleware."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Refuse without a key of the path, before a route, a body or a header is looked at."""
        req.context.started = time.perf_counter()
        req.context.request_id = new_request_id()
        if not is_protected(req.path):
            return
        resp.set_header("Cache-Control", "no-store")
        if not self._doors.admits(req):
            errors.write(resp, 403, "forbidden", errors.FORBIDDEN)
            resp.complete = True
            return
        request_id = header(req, "X-Request-Id", MAX_NAME)
        if request_id:
            req.context.request_id = request_id
        req.context.caller = context(req, req.context.request_id)

    async def process_response(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        resource: Any,
        req_succeeded: bool,
    ) -> None:
        """Echo the request's id, count it, and log it in one line."""
        resp.set_header("X-Request-Id", req.context.request_id)
        operation = "log" if req.path.startswith(LOG) else OPERATIONS.get(req.path, "none")
        outcome = str(resp.context.get("outcome", "ok"))
        if operation == "none" and outcome != "forbidden":
            return
        metrics.count(operation, resp.status_code, outcome)
        caller = req.context.get("caller")
        _log.info(
            "request",
            request_id=req.context.request_id,
            actor=caller.actor if caller else None,
            ip=caller.ip if caller else None,
            operation=operation,
            outcome=outcome,
            status=resp.status_code,
            position=resp.context.get("position"),
            duration_ms=round((time.perf_counter() - req.context.started) * 1000, 2),
        )


OPERATIONS: Final = {
    "/internal/secrets/credential-upsert": "upsert",
    "/internal/secrets/credential-lookup": "lookup",
    "/internal/secrets/credential-delete": "delete",
    "/internal/audit/due": "due",
    "/internal/audit/proof": "proof",
    "/internal/audit/consistency": "consistency",
    "/internal/audit/checkpoints": "checkpoints",
    "/internal/audit/replay": "replay",
    "/internal/audit/replay/diff": "replay_diff",
}
