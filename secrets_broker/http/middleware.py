"""The middleware of every request: an id and admission first; one log line and a count at the end.

The request's route decides what is checked. A request for no route is refused without another look.
Anybody can send requests without a key, so `log_sampling` writes a line for some of them only; the
metrics count all of them.
"""

import time
from collections import Counter
from typing import Any, Final

import falcon
import falcon.asgi
import structlog

from secrets_broker.http import error_handlers
from secrets_broker.http.auth.admission import Admission, RefusedError
from secrets_broker.http.auth.authentication import Authentication
from secrets_broker.http.auth.caller import known, new_request_id, request_id, stranger
from secrets_broker.http.log_sampling import LogSampling
from secrets_broker.http.metrics import counters
from secrets_broker.http.resources.batch import ItemOutcome
from secrets_broker.http.router import matched
from secrets_broker.http.routes import NONE, Route, Routes
from secrets_broker.http.server.peer import Peers
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.events import Context

_log = structlog.get_logger("secrets_broker.request")

MALFORMED: Final = frozenset({400, 405, 413, 415})
"""Statuses of requests that break a rule of the interface; none of them has an event."""


class RequestMiddleware:
    """Falcon's middleware: runs before and after each resource."""

    def __init__(
        self, routes: Routes, authentication: Authentication, admission: Admission, peers: Peers
    ) -> None:
        self._authentication = authentication
        self._admission = admission
        self._requests = counters.Requests({*(route.label for route in routes.all), NONE})
        self._peers = peers
        self._log_sampling = LogSampling()

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Authenticate and admit the caller, before its body or other headers are read.

        Raises HTTPRouteNotFound for a request for no route, RefusedError, and
        LedgerUnavailableError where the caller cannot be judged.
        """
        req.context.started = time.perf_counter()
        req.context.request_id = new_request_id()
        req.context.ip = self._peers.address(req.scope)
        match = matched(req)
        req.context.route = route = match.route if match else None
        if route is None:
            resp.set_header("Cache-Control", "no-store")
            raise falcon.HTTPRouteNotFound
        if route.right is None:
            return
        resp.set_header("Cache-Control", "no-store")
        authn, subject = self._authentication.identify(req, route)
        if subject is not None:
            req.context.caller = stranger(req, authn, self._admission.granted(subject), subject)
            await self._admission.enter(route.right, req.context.caller, names=route.names)
        req.context.request_id = request_id(req) or req.context.request_id
        req.context.caller = known(req, authn, self._admission.granted(subject), subject)

    async def process_response(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        resource: Any,
        req_succeeded: bool,
    ) -> None:
        """Echo the request's id, count it, and log it in one line.

        An answer that was only read is sent if the caller's grant still allows it.
        """
        resp.set_header("X-Request-Id", req.context.request_id)
        route: Route | None = req.context.route
        await self._recheck(req, resp, route)
        await self._count_malformed(req, resp, route)
        outcome = str(resp.context.get("outcome", "ok"))
        seconds = time.perf_counter() - req.context.started
        self._count(route, resp, outcome, seconds)
        if not self._is_logged(req, resp):
            return
        caller = req.context.get("caller")
        _log.info(
            "request",
            request_id=req.context.request_id,
            actor=caller.actor if caller else None,
            ip=req.context.ip,
            operation=route.operation if route else NONE,
            outcome=outcome,
            rule=resp.context.get("rule"),
            status=resp.status_code,
            position=resp.context.get("position"),
            **_items(resp),
            duration_ms=round(seconds * 1000, 2),
        )

    def _is_logged(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> bool:
        if resp.context.get("counted"):
            return False  # counted refusals must not fill the disk through the log
        if req.context.get("caller") is not None:
            return True
        return self._log_sampling.take(req.context.ip)

    def _count(
        self, route: Route | None, resp: falcon.asgi.Response, outcome: str, seconds: float
    ) -> None:
        self._requests.observe(route.label if route else NONE, resp.status_code, seconds)
        kind = route.counted_as if route else NONE
        for item, times in _outcomes(resp, outcome).items():
            counters.count(kind, item.status, item.reason, times)
            if item.rule is not None:
                counters.refused(item.rule, counted=item.counted, times=times)

    async def _count_malformed(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, route: Route | None
    ) -> None:
        """Count malformed requests and batch items; past the caller's rate, answer 429 instead.

        Died before or after: what was malformed is no event, and counts in this process only.
        """
        caller: Context | None = req.context.get("caller")
        whole = resp.status_code in MALFORMED
        times = 1 if whole else _malformed_items(resp)
        if route is None or route.right is None or not times:
            return
        if caller is None or caller.subject is None:
            return
        try:
            await self._admission.malformed(route.right, caller, times)
        except RefusedError as error:
            if whole:
                error_handlers.answer(resp, error)
        except LedgerUnavailableError:
            pass  # the request has failed anyway; its answer stays

    async def _recheck(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, route: Route | None
    ) -> None:
        caller: Context | None = req.context.get("caller")
        if route is None or route.right is None or not route.recheck:
            return
        if caller is None or caller.subject is None:
            return
        if resp.status_code >= 400:  # it discloses nothing
            return
        try:
            await self._admission.recheck(route.right, caller)
        except (RefusedError, LedgerUnavailableError) as error:
            resp.text = resp.media = resp.stream = None
            error_handlers.answer(resp, error)


def _outcomes(resp: falcon.asgi.Response, outcome: str) -> Counter[ItemOutcome]:
    """The outcome of each item of a batch, or of the single request."""
    found: Counter[ItemOutcome] | None = resp.context.get("outcomes")
    if found is not None:
        return found
    rule, counted = resp.context.get("rule"), bool(resp.context.get("counted"))
    return Counter([ItemOutcome(resp.status_code, outcome, rule, counted)])


def _malformed_items(resp: falcon.asgi.Response) -> int:
    found: Counter[ItemOutcome] = resp.context.get("outcomes") or Counter()
    return sum(times for item, times in found.items() if item.status in MALFORMED)


def _items(resp: falcon.asgi.Response) -> dict[str, dict[str, int]]:
    found: Counter[ItemOutcome] | None = resp.context.get("outcomes")
    if found is None:
        return {}
    reasons: Counter[str] = Counter()
    for item, times in found.items():
        reasons[item.reason] += times
    return {"items": dict(reasons)}
