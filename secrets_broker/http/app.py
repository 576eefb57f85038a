"""The ASGI application: routes, the gate before them, and the writer behind them."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import falcon.asgi
import structlog

from secrets_broker import logs
from secrets_broker.http import errors, metrics
from secrets_broker.http.access import KeyChange, KeyGrant, KeyRevoke, KeyRotate, Keys
from secrets_broker.http.audit import Due, Events, Exposure, History, Unused, Who
from secrets_broker.http.batch import LookupBatch, UpsertBatch
from secrets_broker.http.credentials import CredentialDelete, CredentialLookup, CredentialUpsert
from secrets_broker.http.desk import Desk
from secrets_broker.http.doors import Doors
from secrets_broker.http.evidence import Checkpoints, ProofOfConsistency, ProofOfInclusion
from secrets_broker.http.gate import Gate
from secrets_broker.http.gatherer import Gatherer
from secrets_broker.http.health import Live, Metrics, OpenApi, Ready
from secrets_broker.http.log import LogCheckpoint, LogTile
from secrets_broker.http.peer import Peers
from secrets_broker.http.replay import Replay, ReplayDiff
from secrets_broker.http.search import Credentials
from secrets_broker.http.watching import Watching
from secrets_broker.keys import continuity, keyring, providers, signing_key, witnesses
from secrets_broker.ledger.checkpointer import Checkpointer
from secrets_broker.ledger.continuity import Continuity
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.submitter import Submitter
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.projections.reader import Reader
from secrets_broker.settings import Settings

_log = structlog.get_logger(__name__)

_GARBAGE_THRESHOLD: Final = 20_000  # allocations; some hundred requests

App = falcon.asgi.App[Any, Any]


class Beside(Protocol):
    """What works beside the requests."""

    async def start(self) -> None:
        """Begin, without waiting for anything."""

    async def close(self) -> None:
        """End within a few seconds."""


class _Lifespan:
    """Starts the writer with the server and lets it finish before the server ends."""

    def __init__(
        self, writer: Writer, desk: Desk, reader: Reader, beside: Sequence[Beside]
    ) -> None:
        self._writer = writer
        self._desk = desk
        self._reader = reader
        self._beside = beside

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        try:
            await self._writer.start()
        except LedgerUnavailableError as error:
            # Not fatal: requests get 503 until the writer, which tries again, succeeds.
            _log.error("not_ready", why=str(error))
        for task in (self._desk, *self._beside):
            await task.start()
        _settle_garbage_collector()

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._reader.close()
        await self._desk.close()  # before the writer: it has refusals to tell of
        await self._writer.close()
        for task in self._beside:  # after the writer: what it recorded last is signed, too
            await task.close()


def _settle_garbage_collector() -> None:
    # Modules and classes live as long as the process: they need not be looked through again and
    # again. A batch's own objects die by their reference counts.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)


def create_app(
    writer: Writer,
    reader: Reader,
    doors: Doors,
    beside: Sequence[Beside] = (),
    peers: Peers | None = None,
) -> App:
    """Put the application together; what runs beside the requests starts and ends with it."""
    app: App = falcon.asgi.App()
    desk = Desk(writer)
    app.add_middleware(Gate(doors, desk, peers or Peers()))
    app.add_middleware(_Lifespan(writer, desk, reader, beside))
    errors.install(app)
    app.add_route("/internal/secrets/credential-upsert", CredentialUpsert(desk))
    app.add_route("/internal/secrets/credential-lookup", CredentialLookup(desk))
    app.add_route("/internal/secrets/credential-delete", CredentialDelete(desk))
    app.add_route("/internal/secrets/credential-upsert-batch", UpsertBatch(desk))
    app.add_route("/internal/secrets/credential-lookup-batch", LookupBatch(desk))
    app.add_route("/internal/secrets/credentials", Credentials(desk, reader))
    app.add_route("/internal/access/keys", Keys(reader))
    app.add_route("/internal/access/key-grant", KeyGrant(desk))
    app.add_route("/internal/access/key-change", KeyChange(desk))
    app.add_route("/internal/access/key-rotate", KeyRotate(desk))
    app.add_route("/internal/access/key-revoke", KeyRevoke(desk))
    app.add_route("/internal/audit/due", Due(reader))
    app.add_route("/internal/audit/proof", ProofOfInclusion(reader))
    app.add_route("/internal/audit/consistency", ProofOfConsistency(reader))
    app.add_route("/internal/audit/checkpoints", Checkpoints(reader))
    app.add_route("/log/checkpoint", LogCheckpoint(reader))
    app.add_route("/log/tile/{path:path}", LogTile(reader))
    app.add_route("/internal/audit/replay", Replay(reader))
    app.add_route("/internal/audit/replay/diff", ReplayDiff(reader))
    app.add_route("/internal/audit/history", History(reader))
    app.add_route("/internal/audit/exposure", Exposure(reader))
    app.add_route("/internal/audit/events", Events(reader))
    app.add_route("/internal/audit/unused", Unused(reader))
    app.add_route("/internal/audit/who", Who(reader, internal_key_is_on=doors.internal_key_is_on))
    app.add_route("/health/live", Live())
    app.add_route("/health/ready", Ready(writer))
    app.add_route("/metrics", Metrics())
    app.add_route("/openapi.yaml", OpenApi())
    return app


def from_settings() -> App:
    """The application as gunicorn starts it, from the environment."""
    settings = Settings.load()
    logs.configure(readable=settings.readable_logs)
    keys, asked = keyring(settings), providers(settings)
    known = continuity(settings)
    writer = Writer(settings.database_url, keys, HostCredentials(), asked, known, metrics.committed)
    doors = Doors(settings.internal_key_if_on, settings.auditor_key)
    submitter = Submitter(settings.database_url, witnesses(settings))
    checkpointer = list(_checkpointer(settings, known, writer))
    url, seconds, signs = settings.database_url, settings.metrics_seconds, bool(checkpointer)
    gatherer = Gatherer(url, writer, keys, seconds, signs=signs)
    beside = [*checkpointer, submitter, gatherer, Watching(url)]
    peers = Peers(settings.trusted_proxies)
    return create_app(writer, Reader(url), doors, beside, peers)


def _checkpointer(settings: Settings, known: Continuity, writer: Writer) -> Iterator[Beside]:
    key = signing_key(settings)
    if key is None:
        _log.warning("no_checkpoints", why="LEDGER_SIGNING_KEY is not set")
        return
    url, seconds = settings.database_url, settings.checkpoint_seconds
    yield Checkpointer(url, key, seconds, known.file, writer.stop)
