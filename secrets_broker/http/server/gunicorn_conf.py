"""gunicorn's configuration, as shipped."""

from typing import Any

import structlog

from secrets_broker import tls
from secrets_broker.http.metrics import metric_files
from secrets_broker.http.server.connection_counts import SHARED
from secrets_broker.http.server.descriptors import Caps, raised
from secrets_broker.ledger.committer import BATCH_SECONDS
from secrets_broker.settings import Settings

metric_files.begin()

wsgi_app = "secrets_broker.http.app:from_settings()"
worker_class = "secrets_broker.http.server.worker.BrokerWorker"
logger_class = "secrets_broker.http.server.gunicorn_log.BrokerLogger"
control_socket_disable = True  # on by default, and one more thing to attack
accesslog = None  # the middleware writes one line a request
keepalive = 75
timeout = 30
# After a SIGTERM every request that waits for the ledger still gets its answer. The current batch
# and the next one may each take BATCH_SECONDS; mostly this takes less than a second.
graceful_timeout = int(2 * BATCH_SECONDS) + 5

_tls = Settings.load().tls
# These tell gunicorn to serve TLS; tls.py makes the context that is used.
certfile = str(_tls.cert_file) if _tls else None
keyfile = str(_tls.key_file) if _tls else None


def on_starting(server: Any) -> None:
    """Read the TLS files once for all workers, and log warnings about the settings."""
    _warn_of_keys()
    if warning := Caps.of(Settings.load(), raised()).warning:
        server.log.warning(warning)
    if server.cfg.is_ssl:
        tls.SERVED.load()


def pre_fork(_server: Any, worker: Any) -> None:
    """Reserve a worker's part of the shared connection counts."""
    SHARED.reserve(worker)


def on_reload(server: Any) -> None:
    """Do the same again for the new workers."""
    _warn_of_keys()
    if server.cfg.is_ssl or tls.SERVED.context:
        tls.SERVED.reload()


def post_fork(_server: Any, worker: Any) -> None:
    """Reserve a worker's metric files before it counts."""
    metric_files.reserve(worker.pid)


def _warn_of_keys() -> None:
    for why in Settings.load().key_warnings:
        structlog.get_logger(__name__).warning("guessable_key", why=why)


def child_exit(_server: Any, worker: Any) -> None:
    """Clear a dead worker's connections and live gauges; its counters stay."""
    SHARED.release(worker)
    metric_files.forget(worker.pid)


def on_exit(_server: Any) -> None:
    """Remove the metric files."""
    metric_files.end()
