"""Who gets in: the user who runs the broker, through the socket, and nobody else."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from secrets_broker.tools.postgres import Cluster, PostgresError
from tests.tools.postgres.helpers import LOGIN, linux_only, nobody, query, root_only, run_as


def _psql(bin_dir: Path, url: str) -> list[str]:
    return [str(bin_dir / "psql"), "-XAtc", "SELECT 6 * 7", url]


def _refusal(bin_dir: Path, url: str) -> str:
    """What psql tells nobody; fails where it lets them in."""
    done = run_as(nobody(), _psql(bin_dir, url))
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


@contextmanager
def _loosened(cluster: Cluster) -> Iterator[None]:
    """The socket within everybody's reach, as a careless chmod would leave it."""
    socket = cluster.socket_dir / ".s.PGSQL.5432"
    cluster.socket_dir.chmod(0o755)
    socket.chmod(0o777)
    try:
        yield
    finally:
        socket.chmod(0o700)
        cluster.socket_dir.chmod(0o700)


@pytest.mark.parametrize("role", ["postgres", LOGIN])
def test_we_may_be_every_role(cluster: Cluster, role: str) -> None:
    """Whoever runs the broker is the superuser or the service as they like, with no password."""
    assert query(cluster.url(role, "postgres"), "SELECT current_user") == [(role,)]


def test_psql_takes_the_url(cluster: Cluster, bin_dir: Path) -> None:
    """The URL is libpq's own form, and the environment's PG* variables do not bend it."""
    environment = {**os.environ, "PGPORT": "1", "PGHOST": "elsewhere", "PGUSER": "another"}
    command = _psql(bin_dir, cluster.superuser_url())
    assert subprocess.check_output(command, env=environment, text=True) == "42\n"


def test_a_login_of_plain_sql_gets_in_once_admitted(cluster: Cluster) -> None:
    """A role that a migration created can connect after admit_logins, on every version."""
    for name in ("plain", 'odd "name'):
        quoted = name.replace('"', '""')
        query(cluster.superuser_url(), f'CREATE ROLE "{quoted}" LOGIN')
        cluster.admit_logins()
        assert query(cluster.url(name, "postgres"), "SELECT current_user") == [(name,)]


@linux_only
def test_nothing_listens_on_tcp(cluster: Cluster) -> None:
    """No process outside this machine's kernel can knock: there is no TCP socket at all."""
    held = {str(fd.readlink()) for fd in Path(f"/proc/{cluster.pid}/fd").iterdir()}
    inodes = {link.removeprefix("socket:[").rstrip("]") for link in held if "socket:" in link}
    assert inodes, "the Unix socket must be seen, or this test sees nothing"
    for table in ("tcp", "tcp6", "udp", "udp6"):
        path = Path(f"/proc/{cluster.pid}/net/{table}")
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        assert not inodes & {line.split()[9] for line in lines}
    assert query(cluster.superuser_url(), "SHOW listen_addresses") == [("",)]


def test_the_rules_in_force_are_peer_and_reject(cluster: Cluster) -> None:
    """Every local rule asks the kernel who it is, every network rule rejects, none is broken."""
    rules = query(
        cluster.superuser_url(),
        "SELECT DISTINCT type, auth_method, error FROM pg_hba_file_rules ORDER BY type",
    )
    assert rules == [("host", "reject", None), ("local", "peer", None)]


def test_no_rules_on_disk_trust_anybody(cluster: Cluster) -> None:
    """Not even PostgreSQL started by hand in the folder would let somebody in unproven."""
    for path in (cluster.layout.hba, cluster.layout.pgdata / "pg_hba.conf"):
        lines = [line for line in path.read_text().splitlines() if re.match(r"\s*[^#\s]", line)]
        assert lines
        for line in lines:
            assert re.search(r"\s(peer|reject)(\s+map=broker)?$", line), line


@root_only
def test_another_user_cannot_reach_the_socket(cluster: Cluster, bin_dir: Path) -> None:
    """The socket's folder is closed, so that another OS user does not get to the server."""
    assert run_as(nobody(), ["ls", str(cluster.socket_dir)]).returncode != 0
    for role in ("postgres", LOGIN, "nobody"):
        assert "Permission denied" in _refusal(bin_dir, cluster.url(role, "postgres"))


@root_only
def test_peer_refuses_another_user_even_at_an_open_socket(cluster: Cluster, bin_dir: Path) -> None:
    """Permissions loosened by mistake open nothing, not even a role of the intruder's own name."""
    for role in (LOGIN, "nobody"):
        cluster.ensure_login(role)
    with _loosened(cluster):
        for role in ("postgres", LOGIN, "nobody"):
            refusal = _refusal(bin_dir, cluster.url(role, "postgres"))
            assert f'Peer authentication failed for user "{role}"' in refusal


@root_only
def test_another_user_cannot_read_the_files(cluster: Cluster) -> None:
    """The cluster and its log are closed to other OS users."""
    assert run_as(nobody(), ["ls", str(cluster.layout.pgdata)]).returncode != 0
    assert run_as(nobody(), ["cat", str(cluster.layout.log)]).returncode != 0


@linux_only
def test_postgresql_does_not_inherit_our_keys(
    bin_dir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's environment is not the broker's: the keys in it are none of its business."""
    monkeypatch.setenv("SECRETS_KMS_KEY", "canary-of-the-kek")
    with Cluster(data_dir, bin_dir=bin_dir) as cluster:
        environment = Path(f"/proc/{cluster.pid}/environ").read_bytes()
    assert b"LC_ALL=C" in environment
    assert b"canary-of-the-kek" not in environment


def test_settings_are_passed_on(bin_dir: Path, data_dir: Path) -> None:
    """The caller's settings are in force, over the defaults."""
    settings = {"max_connections": "17"}
    with Cluster(data_dir, bin_dir=bin_dir, settings=settings) as cluster:
        assert query(cluster.superuser_url(), "SHOW max_connections") == [("17",)]


@pytest.mark.parametrize("name", ["listen_addresses", "Listen-Addresses", "hba_file", "port"])
def test_settings_cannot_open_the_cluster(place: Path, name: str) -> None:
    """What keeps the cluster private is no setting, however it is spelt."""
    with pytest.raises(PostgresError, match=name):
        Cluster(place / "data", settings={name: "*"})


def test_alter_system_cannot_open_the_cluster(cluster: Cluster) -> None:
    """Nor does a setting that was left in the data folder outlive a start."""
    query(cluster.superuser_url(), "ALTER SYSTEM SET listen_addresses = '*'")
    cluster.stop()
    cluster.start()
    assert query(cluster.superuser_url(), "SHOW listen_addresses") == [("",)]
    query(cluster.superuser_url(), "ALTER SYSTEM RESET listen_addresses")


def test_ensure_can_be_repeated(cluster: Cluster) -> None:
    """What is there stays as it is, and a login gets its membership."""
    query(cluster.superuser_url(), "CREATE ROLE service NOLOGIN")
    for _ in range(2):
        cluster.ensure_database("secrets_broker")
        cluster.ensure_login(LOGIN, member_of="service")
    url = cluster.url(LOGIN, "secrets_broker")
    assert query(url, "SHOW server_encoding") == [("UTF8",)]
    assert query(url, "SELECT pg_has_role('service', 'member')") == [(True,)]
    assert query(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]


def test_a_role_that_is_not_there_is_refused(cluster: Cluster) -> None:
    """The map lets us be every role, not make one up."""
    with pytest.raises(psycopg.OperationalError):
        query(cluster.url("no_such_role", "postgres"), "SELECT 1")
