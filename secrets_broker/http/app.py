"""The ASGI application: routes, the gate before them, and the writer behind them."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import falcon.asgi
import structlog

from secrets_broker import logging_setup
from secrets_broker.http import error_handlers
from secrets_broker.http.auth.admission import Admission
from secrets_broker.http.auth.authentication import Authentication
from secrets_broker.http.metrics import counters
from secrets_broker.http.metrics.condition_counts import ConditionCounts
from secrets_broker.http.metrics.gatherer import Gatherer
from secrets_broker.http.middleware import RequestMiddleware
from secrets_broker.http.resources.audit import Due, Events, Exposure, History, Unused, Who
from secrets_broker.http.resources.batch import LookupBatch, UpsertBatch
from secrets_broker.http.resources.credential_list import Credentials
from secrets_broker.http.resources.credentials import (
    CredentialDelete,
    CredentialLookup,
    CredentialUpsert,
)
from secrets_broker.http.resources.grants import KeyChange, KeyGrant, KeyRevoke, KeyRotate, Keys
from secrets_broker.http.resources.health import Liveness, Metrics, OpenApi, Readiness
from secrets_broker.http.resources.proofs import Checkpoints, ProofOfConsistency, ProofOfInclusion
from secrets_broker.http.resources.replay import Replay, ReplayDiff
from secrets_broker.http.resources.tiles import LogCheckpoint, LogTile
from secrets_broker.http.router import table_app
from secrets_broker.http.routes import SERVICE
from secrets_broker.http.server.peer import Peers
from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.publishing.checkpointer import Checkpointer
from secrets_broker.ledger.publishing.submitter import Submitter
from secrets_broker.ledger.rollback_detection.continuity import Continuity, last_loss
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.projections.paging.reading_session import Reader
from secrets_broker.settings import Settings
from secrets_broker.wiring import continuity, keyring, providers, signing_key, witnesses

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
        self, writer: Writer, desk: Admission, reader: Reader, beside: Sequence[Beside]
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
        await self._tell_of_a_loss()
        for task in (self._desk, *self._beside):
            await task.start()
        _settle_garbage_collector()

    async def _tell_of_a_loss(self) -> None:
        """Say what is missing for good, since whoever looks for it will look here first."""
        try:
            lost = await self._reader.ask(last_loss)
        except LedgerUnavailableError:
            return  # who cannot reach the ledger has said so
        if lost:
            _log.warning("events_were_lost", of=lost.origin, first=lost.first, last=lost.last)

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
    doors: Authentication,
    beside: Sequence[Beside] = (),
    peers: Peers | None = None,
) -> App:
    """Put the application together; what runs beside the requests starts and ends with it."""
    desk = Admission(writer)
    app: App = table_app(SERVICE, _behind(writer, reader, desk, doors))
    app.add_middleware(RequestMiddleware(SERVICE, doors, desk, peers or Peers()))
    app.add_middleware(_Lifespan(writer, desk, reader, beside))
    error_handlers.install(app)
    return app


def _behind(
    writer: Writer, reader: Reader, desk: Admission, doors: Authentication
) -> dict[str, object]:
    """What answers for each operation of the table of routes."""
    return {
        "upsert": CredentialUpsert(desk),
        "lookup": CredentialLookup(desk),
        "delete": CredentialDelete(desk),
        "upsert_batch": UpsertBatch(desk),
        "lookup_batch": LookupBatch(desk),
        "credentials": Credentials(desk, reader),
        "access_keys": Keys(reader),
        "access_key_grant": KeyGrant(desk),
        "access_key_change": KeyChange(desk),
        "access_key_rotate": KeyRotate(desk),
        "access_key_revoke": KeyRevoke(desk),
        "due": Due(reader),
        "proof": ProofOfInclusion(reader),
        "consistency": ProofOfConsistency(reader),
        "checkpoints": Checkpoints(reader),
        "replay": Replay(reader),
        "replay_diff": ReplayDiff(reader),
        "history": History(reader),
        "exposure": Exposure(reader),
        "events": Events(reader),
        "unused": Unused(reader),
        "who": Who(reader, internal_key_is_on=doors.internal_key_is_on),
        "log_checkpoint": LogCheckpoint(reader),
        "log_tile": LogTile(reader),
        "live": Liveness(),
        "ready": Readiness(writer),
        "metrics": Metrics(),
        "openapi": OpenApi(),
    }


def from_settings() -> App:
    """The application as gunicorn starts it, from the environment."""
    settings = Settings.load()
    logging_setup.configure(readable=settings.readable_logs)
    keys, asked = keyring(settings), providers(settings)
    known = continuity(settings)
    writer = Writer(
        settings.database_url, keys, HostCredentials(), asked, known, counters.committed
    )
    doors = Authentication(settings.internal_key_if_on, settings.auditor_key)
    submitter = Submitter(settings.database_url, witnesses(settings), writer.halt)
    checkpointer = list(_checkpointer(settings, known, writer))
    url, seconds, signs = settings.database_url, settings.metrics_seconds, bool(checkpointer)
    gatherer = Gatherer(url, writer, keys, seconds, signs=signs)
    beside = [*checkpointer, submitter, gatherer, ConditionCounts(url)]
    peers = Peers(settings.trusted_proxies)
    return create_app(writer, Reader(url), doors, beside, peers)


def _checkpointer(settings: Settings, known: Continuity, writer: Writer) -> Iterator[Beside]:
    key = signing_key(settings)
    if key is None:
        _log.warning("no_checkpoints", why="LEDGER_SIGNING_KEY is not set")
        return
    url, seconds = settings.database_url, settings.checkpoint_seconds
    yield Checkpointer(url, key, seconds, known, writer.halt)
