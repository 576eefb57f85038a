"""gunicorn's configuration, as shipped."""

import os
import shutil
import tempfile
from typing import Any

import structlog

from secrets_broker import tls
from secrets_broker.settings import Settings

_METRICS = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = f"secrets-broker-metrics-{os.getpid()}-"

# Set before anything imports prometheus_client, and empty, or an earlier run would be counted
# again. A reload (HUP) reads this file again in the same process and keeps its counts.
if _PREFIX not in os.environ.get(_METRICS, ""):
    os.environ[_METRICS] = tempfile.mkdtemp(prefix=_PREFIX)

from prometheus_client.multiprocess import mark_process_dead  # noqa: E402 - it reads the above

wsgi_app = "secrets_broker.http.app:from_settings()"
worker_class = "secrets_broker.http.worker.BrokerWorker"
logger_class = "secrets_broker.http.server_log.BrokerLogger"
control_socket_disable = True  # on by default, and one more way in
accesslog = None  # the application writes one line a request itself
keepalive = 75
timeout = 30
graceful_timeout = 2  # what waits for the ledger is answered in well under that

_tls = Settings.load().tls
# That it is TLS; what it is served with, minimum version and authorities too, is in tls.py.
certfile = str(_tls.cert_file) if _tls else None
keyfile = str(_tls.key_file) if _tls else None


def on_starting(server: Any) -> None:
    """Read the files of TLS once for all workers, and warn of what the keys are like."""
    _warn_of_keys()
    if server.cfg.is_ssl:
        tls.SERVED.load()


def on_reload(server: Any) -> None:
    """The same again, for the workers to come."""
    _warn_of_keys()
    if server.cfg.is_ssl or tls.SERVED.context:
        tls.SERVED.reload()


def _warn_of_keys() -> None:
    for why in Settings.load().key_warnings:
        structlog.get_logger(__name__).warning("guessable_key", why=why)


def child_exit(_server: Any, worker: Any) -> None:
    """Forget a dead worker's gauges of what it found; what it counted stays."""
    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it has no types


def on_exit(_server: Any) -> None:
    """Remove what was made above; a dead worker's counts stay until then."""
    shutil.rmtree(os.environ[_METRICS], ignore_errors=True)
