"""A throw-away PostgreSQL cluster, and fresh databases in it."""

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from secrets_broker.settings import Settings
from secrets_broker.tools.postgres.account import Account, ourselves, postgres_account
from secrets_broker.tools.postgres.binaries import find_binaries
from secrets_broker.tools.postgres.installation import Installation, runnable
from secrets_broker.tools.postgres.layout import SHARED_DIR
from tests.ports import free_port

# Sockets need no password, so that a test may be anybody; TCP asks for one.
QUICK = (
    "-c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off -c autovacuum=off "
    "-c wal_level=minimal -c max_wal_senders=0 -c shared_buffers=32MB"
)
HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the cluster listens."""

    folder: Path
    port: int

    def url(self, database: str, user: str = "postgres") -> str:
        """By the socket."""
        host = quote(str(self.folder), safe="")
        return f"postgresql://{user}@/{database}?host={host}&port={self.port}"

    def tcp_url(self, database: str, user: str, password: str) -> str:
        """By TCP, with a password."""
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"


@cache
def account() -> Account:
    """Who runs the server: we, or as root an account of its own, as PostgreSQL insists on."""
    return postgres_account(Path("/nonexistent"), print)


@cache
def installation() -> Installation:
    """The programs that the suite runs on, where that account can reach them."""
    chosen = Settings.load().get("SECRETS_BROKER_POSTGRES_BIN")
    found = find_binaries(Path(chosen) if chosen else None)
    return runnable(found, account(), SHARED_DIR, print)


def run_program(name: str, *arguments: str, server: bool = False) -> str:
    """Run one of PostgreSQL's programs: the server's as its account, a client's as ourselves."""
    who = account() if server else ourselves()
    done = subprocess.run(
        [installation().program(name), *arguments],
        user=who.switch_uid,
        group=who.switch_gid,
        extra_groups=who.switch_groups,
        cwd="/",
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert done.returncode == 0, f"{name}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of its own: roles belong to a cluster, and these tests make and drop them."""
    folder = Path(tempfile.mkdtemp(prefix="sb-mig-", dir="/tmp"))
    if account().is_other:
        shutil.chown(folder, account().uid, account().gid)
    data, port = str(folder / "data"), free_port()
    encoding = ("--no-sync", "--encoding=UTF8", "--locale=C")
    run_program("initdb", "-D", data, "-U", "postgres", *encoding, server=True)
    (folder / "data" / "pg_hba.conf").write_text(HBA)
    options = f"-k {folder} -p {port} {QUICK}"
    start = ("-w", "-l", str(folder / "log"), "-o", options, "start")
    run_program("pg_ctl", "-D", data, *start, server=True)
    try:
        yield Cluster(folder, port)
    finally:
        run_program("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop", server=True)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Databases:
    """Makes databases, and drops them again."""

    cluster: Cluster
    made: list[str]

    def make(self, options: str = "") -> str:
        """The superuser's URL of a fresh, empty database."""
        name = f"t_{secrets.token_hex(6)}"
        execute(self.cluster.url("postgres"), f"CREATE DATABASE {name} {options}")
        self.made.append(name)
        return self.cluster.url(name)

    def drop(self) -> None:
        """Drop what was made."""
        for name in self.made:
            execute(self.cluster.url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def databases(cluster: Cluster) -> Iterator[Databases]:
    """For a test that needs a database with options, or several."""
    made = Databases(cluster, [])
    yield made
    made.drop()


@pytest.fixture
def empty_database(databases: Databases) -> str:
    """The superuser's URL of a fresh, empty database."""
    return databases.make()


@pytest.fixture
def no_roles(cluster: Cluster) -> Callable[[], None]:
    """Drops our roles; no database may use them."""

    def drop() -> None:
        for role in ("secrets_broker_service", "secrets_broker_auditor"):
            execute(cluster.url("postgres"), f"DROP ROLE IF EXISTS {role}")

    drop()
    return drop


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Run statements, one transaction each; returns the last one's rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows: list[tuple[object, ...]] = []
        for statement in statements:
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
        return rows


def psql(url: str, *files: Path) -> None:
    """Run files by hand, one after another."""
    for file in files:
        run_program("psql", url, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file))


def dump(url: str, *options: str) -> str:
    """The schema as SQL, without the lines that differ from run to run."""
    text = run_program("pg_dump", "--schema-only", *options, url)
    return "\n".join(line for line in text.splitlines() if not line.startswith("\\"))


def roles(url: str) -> set[object]:
    """Which of our roles the cluster has."""
    rows = execute(url, "SELECT rolname FROM pg_roles WHERE rolname LIKE 'secrets_broker%'")
    return {row[0] for row in rows}
