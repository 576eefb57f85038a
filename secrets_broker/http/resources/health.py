"""Endpoints without a key: health, metrics for Prometheus, and the API's description."""

import asyncio
import time
from importlib.resources import files
from typing import Final

import falcon
import falcon.asgi
import msgspec
import structlog
from prometheus_client import CONTENT_TYPE_LATEST

from secrets_broker.http import error_handlers, problems
from secrets_broker.http.metrics import counters, metric_files
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.writer import Writer

_log = structlog.get_logger(__name__)

# Anybody may ask, and each probe takes the ledger's lock: at most one a second.
PROBE_SECONDS: Final = 1.0

DETAILS: Final = tuple(dict.fromkeys(each.not_ready for each in problems.OF_LEDGER.values()))
"""Every `detail` that /health/ready may answer."""


class Liveness:
    """GET /health/live: the process answers."""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Say that the process is there."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = b'{"status":"live"}'


class Readiness:
    """GET /health/ready: the database answers, the ledger can be written, its KEK is held."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._until = 0.0
        self._detail: str | None = None
        self._logged: str | None = None

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer 200, or 503 with the reason."""
        if time.monotonic() >= self._until:
            self._detail = await self._probe()
            self._until = time.monotonic() + PROBE_SECONDS
        ready = self._detail is None
        body = {"status": "ready"} if ready else {"status": "not_ready", "detail": self._detail}
        resp.status = 200 if ready else 503
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(body)

    async def _probe(self) -> str | None:
        try:
            await self._writer.probe()
        except LedgerUnavailableError as error:
            self._note(str(error))
            return problems.of_ledger(error).not_ready
        self._note(None)
        return None

    def _note(self, why: str | None) -> None:
        """Log a cause once, not at each probe."""
        if why and why != self._logged:
            _log.warning("not_ready", why=why)
        self._logged = why


class Metrics:
    """GET /metrics: Prometheus' text format."""

    def __init__(self) -> None:
        self._render_lock = asyncio.Lock()

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give the metrics of all workers; 503 from a worker without metric files."""
        if metric_files.is_off():
            error_handlers.write(resp, problems.METRICS_OFF)
            return
        # Adding up takes tens of milliseconds, so it runs in a thread and no lookup waits for it.
        # One at a time, since anybody may ask.
        async with self._render_lock:
            resp.data = await asyncio.to_thread(counters.render)
        resp.content_type = CONTENT_TYPE_LATEST


class OpenApi:
    """GET /openapi.yaml: this API's description."""

    def __init__(self) -> None:
        self._text = files("secrets_broker.http").joinpath("openapi.yaml").read_bytes()

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give the description."""
        resp.content_type = "application/yaml"
        resp.data = self._text
