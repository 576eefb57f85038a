"""What needs no key: health, counters for Prometheus, and the API's description."""

import time
from importlib.resources import files
from typing import Final

import falcon
import falcon.asgi
import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from secrets_broker.http import metrics
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.writer import Writer

# Anybody may ask, and each probe takes the ledger's lock: one a second is enough.
PROBE_SECONDS: Final = 1.0


class Live:
    """GET /health/live: the process answers."""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Say that the process is there."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = b'{"status":"live"}'


class Ready:
    """GET /health/ready: the database answers, the ledger can be written, the KEK is at hand."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._until = 0.0
        self._why: str | None = None

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer 200, or 503 and why not."""
        if time.monotonic() >= self._until:
            self._why = await self._probe()
            self._until = time.monotonic() + PROBE_SECONDS
        ready = self._why is None
        body = {"status": "ready"} if ready else {"status": "not_ready", "detail": self._why}
        resp.status = 200 if ready else 503
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(body)

    async def _probe(self) -> str | None:
        try:
            await self._writer.probe()
        except LedgerUnavailableError as error:
            return str(error)
        return None


class Metrics:
    """GET /metrics: Prometheus' text format."""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give the counters of all workers."""
        resp.content_type = CONTENT_TYPE_LATEST
        resp.data = metrics.render()


class OpenApi:
    """GET /openapi.yaml: this API's description."""

    def __init__(self) -> None:
        self._text = files("secrets_broker.http").joinpath("openapi.yaml").read_bytes()

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Give the description."""
        resp.content_type = "application/yaml"
        resp.data = self._text
