"""What is measured, started: one PostgreSQL, and services under gunicorn before it.

Everything lives in a folder of its own outside the repository. PostgreSQL runs as
`secrets-broker dev` runs it, fsync and synchronous_commit on; only max_connections is raised,
for the reference's pools.
"""

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import machine
from secrets_broker.migrations import runner
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.serve import default_workers

REPOSITORY: Final = Path(__file__).parents[1]
INTERNAL_KEY: Final = "bench-internal-key"
AUDITOR_KEY: Final = "bench-auditor-key"
KMS_KEY: Final = "a-bench-key-that-opens-nothing-else"
SERVICE_LOGIN: Final = "bench_service"
REFERENCE_LOGIN: Final = "bench_reference"
WORKERS: Final = 2
SHIPPED: Final = default_workers()
UVICORN_WORKER: Final = "secrets_broker.http.server.worker.BrokerWorker"
START_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: gunicorn's master and its workers."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def workers(self) -> list[int]:
        """Its workers' process ids."""
        return machine.children(self.process.pid)


@contextmanager
def folder(kept: Path | None) -> Iterator[Path]:
    """A folder to work in: the given one, which stays, or one that goes afterwards."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        kept.chmod(0o711)
        yield kept.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="secrets-broker-bench-"))
    made.chmod(0o711)  # as root, PostgreSQL's own account has to pass through
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def cluster(work: Path) -> Iterator[Cluster]:
    """The one PostgreSQL."""
    with Cluster(work / "cluster", settings={"max_connections": "100"}) as running:
        yield running


def ledger_database(running: Cluster, name: str) -> str:
    """A migrated database; returns the service's URL for it."""
    running.ensure_database(name)
    runner.apply(running.superuser_url(name), lambda _: None)
    running.ensure_login(SERVICE_LOGIN, member_of="secrets_broker_service")
    return running.url(SERVICE_LOGIN, name)


@contextmanager
def broker(
    work: Path,
    database_url: str,
    *,
    worker_class: str = UVICORN_WORKER,
    workers: int = SHIPPED,
    previous: str = "",
    signing_key: str = "",
) -> Iterator[Service]:
    """Our service, with the configuration that is shipped; `previous` are more of its keys.

    Without a signing key it makes no checkpoints.
    """
    arguments = [
        *("-c", str(REPOSITORY / "secrets_broker/http/server/gunicorn_conf.py")),
        *("--worker-class", worker_class, "--asgi-lifespan", "on", "--workers", str(workers)),
    ]
    settings = {
        "DATABASE_URL": database_url,
        "SECRETS_KMS_KEY": KMS_KEY,
        "SECRETS_KMS_KEY_PREVIOUS": previous,
        "LEDGER_SIGNING_KEY": signing_key,
        "AUDITOR_KEY": AUDITOR_KEY,
    }
    with _serve(work, "broker", arguments, settings) as service:
        _wait(service, "/health/ready")
        yield service


@contextmanager
def reference(work: Path, database_url: str) -> Iterator[Service]:
    """The reference service."""
    arguments = [
        *("--worker-class", "gthread", "--workers", str(WORKERS), "--threads", "16"),
        *("--keep-alive", "75", "--no-control-socket", "bench.reference:from_environment()"),
    ]
    settings = {"DATABASE_URL": database_url, "SECRETS_KMS_KEY": KMS_KEY}
    with _serve(work, "reference", arguments, settings) as service:
        _wait(service, "/")
        yield service


@contextmanager
def _serve(
    work: Path, name: str, arguments: list[str], settings: Mapping[str, str]
) -> Iterator[Service]:
    port = _free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *arguments]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(REPOSITORY),
        "INTERNAL_KEY": INTERNAL_KEY,
        **settings,
    }
    # Run from the work folder: a .env in the developer's own must not be read.
    with (work / f"{name}-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield Service(port, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(service: Service, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            break
        if _answers(service.port, path):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the service on port {service.port} did not start; see its log")


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()
