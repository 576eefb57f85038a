"""The ASGI application: the routes, the middleware before them, and the writer behind them."""

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


class BackgroundJob(Protocol):
    """A background job that runs beside the requests."""

    async def start(self) -> None:
        """Begin; return at once."""

    async def close(self) -> None:
        """End within a few seconds."""


class _Lifespan:
    """Starts the writer and the background jobs with the server, and ends them before it ends."""

    def __init__(
        self, writer: Writer, admission: Admission, reader: Reader, jobs: Sequence[BackgroundJob]
    ) -> None:
        self._writer = writer
        self._admission = admission
        self._reader = reader
        self._jobs = jobs

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        try:
            await self._writer.start()
        except LedgerUnavailableError as error:
            # Not fatal: requests get 503 until the writer, which tries again, succeeds.
            _log.error("not_ready", why=str(error))
        await self._log_lost_events()
        for task in (self._admission, *self._jobs):
            await task.start()
        _settle_garbage_collector()

    async def _log_lost_events(self) -> None:
        """Log which events are lost for good: an operator looks for that in the log first."""
        try:
            lost = await self._reader.ask(last_loss)
        except LedgerUnavailableError:
            return  # already logged where the ledger was not reached
        if lost:
            _log.warning("events_were_lost", of=lost.origin, first=lost.first, last=lost.last)

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._reader.close()
        await self._admission.close()  # before the writer: it records counted refusals
        await self._writer.close()
        for task in self._jobs:  # after the writer: its last events are signed, too
            await task.close()


def _settle_garbage_collector() -> None:
    # Modules and classes live as long as the process, so the collector need not scan them again.
    # A batch's own objects are freed by their reference counts.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)


def create_app(
    writer: Writer,
    reader: Reader,
    authentication: Authentication,
    jobs: Sequence[BackgroundJob] = (),
    peers: Peers | None = None,
) -> App:
    """Assemble the application; `jobs` start and end with it."""
    admission = Admission(writer)
    app: App = table_app(SERVICE, _resources(writer, reader, admission, authentication))
    app.add_middleware(RequestMiddleware(SERVICE, authentication, admission, peers or Peers()))
    app.add_middleware(_Lifespan(writer, admission, reader, jobs))
    error_handlers.install(app)
    return app


def _resources(
    writer: Writer, reader: Reader, admission: Admission, authentication: Authentication
) -> dict[str, object]:
    """The resource that answers each operation of the table of routes."""
    return {
        "upsert": CredentialUpsert(admission),
        "lookup": CredentialLookup(admission),
        "delete": CredentialDelete(admission),
        "upsert_batch": UpsertBatch(admission),
        "lookup_batch": LookupBatch(admission),
        "credentials": Credentials(admission, reader),
        "access_keys": Keys(reader),
        "access_key_grant": KeyGrant(admission),
        "access_key_change": KeyChange(admission),
        "access_key_rotate": KeyRotate(admission),
        "access_key_revoke": KeyRevoke(admission),
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
        "who": Who(reader, internal_key_is_on=authentication.internal_key_is_on),
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
    authentication = Authentication(settings.internal_key_if_on, settings.auditor_key)
    submitter = Submitter(settings.database_url, witnesses(settings), writer.halt)
    checkpointer = list(_checkpointer(settings, known, writer))
    url, seconds, signs = settings.database_url, settings.metrics_seconds, bool(checkpointer)
    gatherer = Gatherer(url, writer, keys, seconds, signs=signs)
    jobs = [*checkpointer, submitter, gatherer, ConditionCounts(url)]
    peers = Peers(settings.trusted_proxies)
    return create_app(writer, Reader(url), authentication, jobs, peers)


def _checkpointer(settings: Settings, known: Continuity, writer: Writer) -> Iterator[BackgroundJob]:
    key = signing_key(settings)
    if key is None:
        _log.warning("no_checkpoints", why="LEDGER_SIGNING_KEY is not set")
        return
    url, seconds = settings.database_url, settings.checkpoint_seconds
    yield Checkpointer(url, key, seconds, known, writer.halt)
