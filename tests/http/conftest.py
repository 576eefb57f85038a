"""The service as it ships: gunicorn with its configuration, on a fresh database."""

import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

import secrets_broker.http
from secrets_broker.tools.postgres import Cluster
from tests.conftest import (
    AUDITOR_KEY,
    INTERNAL_KEY,
    KMS_KEY,
    SIGNING_KEY,
    TEMPLATE,
    fresh_database,
    migrated_cluster,
)
from tests.http.client import Service
from tests.ports import free_port

CONFIGURATION = Path(secrets_broker.http.__file__).parent / "server" / "gunicorn_conf.py"
START_SECONDS = 30
WORKERS = 2


@pytest.fixture(scope="module")
def own_cluster(bin_dir: Path | None) -> Iterator[Cluster]:
    """A PostgreSQL that a test may stop."""
    with migrated_cluster(bin_dir) as running:
        yield running


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    """One service for the tests of a module."""
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        log = place / "gunicorn.log"
        with serving(database.service_url, log) as running:
            running.database = database
            yield running


@pytest.fixture
def fresh(cluster: Cluster) -> Iterator[Service]:
    """A service that no other test has asked."""
    with started(cluster) as running:
        yield running


@contextmanager
def started(cluster: Cluster) -> Iterator[Service]:
    """A service on an empty ledger."""
    with (
        fresh_database(cluster, TEMPLATE) as database,
        folder() as place,
        serving(database.service_url, place / "gunicorn.log") as running,
    ):
        running.database = database
        yield running


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="secrets-broker-http-"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


@contextmanager
def serving(
    database_url: str,
    log: Path,
    *options: str,
    kms_key: str = KMS_KEY,
    internal_key: str = INTERNAL_KEY,
    until: int = 200,
    settings: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    by: str = "gunicorn",
    descriptors: int | None = None,
) -> Iterator[Service]:
    """Run gunicorn, or `serve`, with two workers; wait for both, and that of /health/ready."""
    port = free_port()
    # Nothing of the developer's own: neither settings nor a .env in the working folder.
    environment = {
        "PATH": os.environ["PATH"],
        "SECRETS_KMS_KEY": kms_key,
        "INTERNAL_KEY": internal_key,
        "AUDITOR_KEY": AUDITOR_KEY,
        "LEDGER_SIGNING_KEY": SIGNING_KEY,
        "LEDGER_CHECKPOINT_SECONDS": "0.1",
        "DATABASE_URL": database_url,
        "PYTHONPATH": str(CONFIGURATION.parents[3]),
        **(settings or {}),
    }
    command = [sys.executable, "-m", "gunicorn", "-c", str(CONFIGURATION)]
    command += ["--bind", f"127.0.0.1:{port}", *options]
    if by == "serve":
        command = [sys.executable, "-m", "secrets_broker", "serve", "--port", str(port), *options]
    command += ["--workers", str(WORKERS)]
    if descriptors is not None:  # the hard limit, which a process cannot raise again
        command = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *command]
    with _process(command, environment, log) as process:
        running = Service(port, log, internal_key, process.pid, tls=tls)
        _wait(running, process, until)
        yield running


@contextmanager
def _process(
    command: list[str], environment: dict[str, str], log: Path
) -> "Iterator[subprocess.Popen[bytes]]":
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=40)  # longer than it gives to those who wait
        finally:
            process.kill()


def _wait(running: Service, process: "subprocess.Popen[bytes]", status: int) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        try:
            ready = running.get("/health/ready").status == status
            if ready and len(running.workers()) == WORKERS:  # the first may be there alone
                return
        except (OSError, HTTPException):  # nobody listens yet: a connection may meet itself
            pass
        time.sleep(0.05)
    pytest.fail(f"the service did not become ready:\n{running.log.read_text()}")
