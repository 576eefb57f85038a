"""What tests share: one real PostgreSQL a process, and a fresh database a test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.migrations import runner
from secrets_broker.settings import Settings
from secrets_broker.tools.postgres import Cluster
from tests.leftovers import nothing_is_left_behind, pytest_configure, pytest_sessionfinish

__all__ = ["nothing_is_left_behind", "pytest_configure", "pytest_sessionfinish"]  # for pytest

KMS_KEY = "a-test-key-that-opens-nothing-else"
INTERNAL_KEY = "an-internal-key-of-the-tests"
AUDITOR_KEY = "an-auditors-key-of-the-tests"
# Both of the published example of Go's note package, which is nobody's.
SIGNING_KEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
VERIFIER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SERVICE_LOGIN = "service_login"
TEMPLATE = "migrated"
MEMORY = Path("/dev/shm")
ROOM = 4 << 30
"""In bytes: what must be free for a cluster in memory; one comes to a tenth of it."""

# No deadline: these machines are noisy, and no test is about time.
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("suite")

_numbers = count()


@dataclass(frozen=True, slots=True)
class Database:
    """A fresh, migrated database."""

    name: str
    owner_url: str
    service_url: str

    def owner(self) -> "psycopg.Connection[Any]":
        """Connect as the superuser, who made the schemas; each statement commits."""
        return psycopg.connect(self.owner_url, autocommit=True)

    def fetch(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask something as the superuser."""
        with self.owner() as connection:
            return connection.execute(query, parameters or None).fetchall()

    def execute(self, query: str, *parameters: Any) -> None:
        """Do something as the superuser."""
        with self.owner() as connection:
            connection.execute(query, parameters or None)


@pytest.fixture(scope="session")
def bin_dir() -> Path | None:
    """The PostgreSQL that the suite runs on: the wheel's, or what the setting names."""
    chosen = Settings.load().get("SECRETS_BROKER_POSTGRES_BIN")
    return Path(chosen) if chosen else None


def cluster_folder() -> Path:
    """A new folder for a cluster: in memory where there is room, for there a flush is free."""
    has_room = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM
    folder = Path(tempfile.mkdtemp(prefix="secrets-broker-test-", dir=MEMORY if has_room else None))
    folder.chmod(0o711)  # as root, PostgreSQL's own account has to pass through
    return folder


@contextmanager
def migrated_cluster(bin_dir: Path | None) -> Iterator[Cluster]:
    """A PostgreSQL of its own, with a migrated database to copy and the service's login."""
    folder = cluster_folder()
    try:
        with Cluster(folder, bin_dir=bin_dir) as running:
            running.ensure_login(SERVICE_LOGIN)
            running.ensure_database(TEMPLATE)
            runner.apply(running.superuser_url(TEMPLATE), lambda _: None)
            running.ensure_login(SERVICE_LOGIN, member_of="secrets_broker_service")
            yield running
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cluster(bin_dir: Path | None) -> Iterator[Cluster]:
    """One PostgreSQL for all tests of this process."""
    with migrated_cluster(bin_dir) as running:
        yield running


@pytest.fixture
def empty_database(cluster: Cluster) -> Iterator[str]:
    """The superuser's URL for a fresh database with nothing in it."""
    with fresh_database(cluster, "template0") as database:
        yield database.owner_url


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """A fresh, migrated database."""
    with fresh_database(cluster, TEMPLATE) as made:
        yield made


@pytest.fixture
def owner_url(database: Database) -> str:
    """The superuser's URL for a fresh, migrated database."""
    return database.owner_url


@pytest.fixture
def service_url(database: Database) -> str:
    """The service's URL for the same database."""
    return database.service_url


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    """The keys of the tests; derived once, since that is slow on purpose."""
    return Keyring.from_kms_keys(KMS_KEY)


class fresh_database:  # noqa: N801 - used as a context manager, as a function would be
    """Make a database from a template, and drop it at the end."""

    def __init__(self, cluster: Cluster, template: str) -> None:
        self._cluster = cluster
        self._template = template
        self._name = f"test_{next(_numbers)}"

    def __enter__(self) -> Database:
        with self._connect() as connection:
            query = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*self._names())
            # In memory a plain copy is the fastest; PostgreSQL 14 has no other way, nor the word.
            if self._is_in_memory and connection.info.server_version >= 150_000:
                query += sql.SQL(" STRATEGY FILE_COPY")
            connection.execute(query)
        return Database(
            self._name,
            self._cluster.superuser_url(self._name),
            self._cluster.url(SERVICE_LOGIN, self._name),
        )

    def __exit__(self, *_: object) -> None:
        with self._connect() as connection:
            query = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(query.format(sql.Identifier(self._name)))

    @property
    def _is_in_memory(self) -> bool:
        return self._cluster.data_dir.is_relative_to(MEMORY)

    def _names(self) -> tuple[sql.Identifier, sql.Identifier]:
        return sql.Identifier(self._name), sql.Identifier(self._template)

    def _connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self._cluster.superuser_url(), autocommit=True)
