"""gunicorn's configuration, as shipped."""

import os
import shutil
import tempfile
from typing import Any

# Set before anything imports prometheus_client, and empty: files of an earlier run would be
# counted again.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="secrets-broker-metrics-")

from prometheus_client import multiprocess

wsgi_app = "secrets_broker.http.app:from_settings()"
worker_class = os.environ.get("WC", "secrets_broker.http.worker.BrokerWorker")
control_socket_disable = True
accesslog = None
keepalive = 75
graceful_timeout = 3
timeout = 30


def child_exit(_server: Any, worker: Any) -> None:
    """Let go of a dead worker's gauges; its counts stay."""
    multiprocess.mark_process_dead(worker.pid)


def on_exit(_server: Any) -> None:
    """Remove what was made above."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
