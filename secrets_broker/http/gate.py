"""What every request passes: an id, the key check, and on the way out one log line and a count."""

import time
from collections import Counter
from typing import Any, Final

import falcon.asgi
import structlog

from secrets_broker.http import errors, metrics
from secrets_broker.http.batch import Told
from secrets_broker.http.caller import header, known, new_request_id, stranger
from secrets_broker.http.desk import Desk, RefusedError
from secrets_broker.http.doors import LOG, Doors, is_protected, only_reads, right
from secrets_broker.http.peer import Peers
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.events import MAX_NAME, Context, Subject
from secrets_broker.ledger.rights import ADMIN, AUDIT

_log = structlog.get_logger("secrets_broker.request")


class Gate:
    """Falcon middleware."""

    def __init__(self, doors: Doors, desk: Desk, peers: Peers) -> None:
        self._doors = doors
        self._desk = desk
        self._requests = metrics.Requests({*_LABELS.values(), metrics.OTHER})
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
        seconds = time.perf_counter() - req.context.started
        self._count(operation, resp, outcome, seconds)
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
            **_items(resp),
            duration_ms=round(seconds * 1000, 2),
        )

    def _count(
        self, operation: str, resp: falcon.asgi.Response, outcome: str, seconds: float
    ) -> None:
        label = _LABELS.get(operation, metrics.OTHER)
        self._requests.observe(label, resp.status_code, seconds)
        kind = ITEMS.get(operation, operation)
        for item, times in _outcomes(resp, outcome).items():
            metrics.count(kind, item.status, item.reason, times)
            if item.rule is not None:
                metrics.refused(item.rule, counted=item.counted, times=times)

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


def _outcomes(resp: falcon.asgi.Response, outcome: str) -> Counter[Told]:
    """What became of each item of a batch, or of the one thing that was asked for."""
    found: Counter[Told] | None = resp.context.get("outcomes")
    if found is not None:
        return found
    rule, counted = resp.context.get("rule"), bool(resp.context.get("counted"))
    return Counter([Told(resp.status_code, outcome, rule, counted)])


def _items(resp: falcon.asgi.Response) -> dict[str, dict[str, int]]:
    found: Counter[Told] | None = resp.context.get("outcomes")
    if found is None:
        return {}
    reasons: Counter[str] = Counter()
    for item, times in found.items():
        reasons[item.reason] += times
    return {"items": dict(reasons)}


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
    "/internal/audit/who": "who",
}


def _label(path: str, operation: str) -> str:
    """The operation as metrics have it: credentials' each by itself, others by their right."""
    needed = right(path)
    return needed if needed in (AUDIT, ADMIN) else operation


_LABELS: Final = {
    **{operation: _label(path, operation) for path, operation in OPERATIONS.items()},
    "log": AUDIT,
}
