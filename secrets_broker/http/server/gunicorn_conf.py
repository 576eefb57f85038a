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
control_socket_disable = True  # on by default, and one more way in
accesslog = None  # the application writes one line a request itself
keepalive = 75
timeout = 30
# What waits for the ledger when a SIGTERM comes is answered, or refused in words, before that is
# over: a batch, and the one that it waits for, may each take their time. Mostly it takes no second.
graceful_timeout = int(2 * BATCH_SECONDS) + 5

_tls = Settings.load().tls
# That it is TLS; what it is served with, minimum version and authorities too, is in tls.py.
certfile = str(_tls.cert_file) if _tls else None
keyfile = str(_tls.key_file) if _tls else None


def on_starting(server: Any) -> None:
    """Read the files of TLS once for all workers, and say what is not as it should be."""
    _warn_of_keys()
    if warning := Caps.of(Settings.load(), raised()).warning:
        server.log.warning(warning)
    if server.cfg.is_ssl:
        tls.SERVED.load()


def pre_fork(_server: Any, worker: Any) -> None:
    """Give a worker its part of what all of them count."""
    SHARED.reserve(worker)


def on_reload(server: Any) -> None:
    """The same again, for the workers to come."""
    _warn_of_keys()
    if server.cfg.is_ssl or tls.SERVED.context:
        tls.SERVED.reload()


def post_fork(_server: Any, worker: Any) -> None:
    """Take the room for what a worker counts, before it begins to."""
    metric_files.reserve(worker.pid)


def _warn_of_keys() -> None:
    for why in Settings.load().key_warnings:
        structlog.get_logger(__name__).warning("guessable_key", why=why)


def child_exit(_server: Any, worker: Any) -> None:
    """Forget a dead worker's connections, and its gauges; what it counted otherwise stays."""
    SHARED.release(worker)
    metric_files.forget(worker.pid)


def on_exit(_server: Any) -> None:
    """Remove what the workers counted in."""
    metric_files.end()
