"""Where a session is looked for, what is said where none can be had, and what is asked of it."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerUnavailableError, NotGrantedError
from secrets_broker.projections.paging.position_walk import size
from secrets_broker.projections.paging.reading_session import READ_SESSION, Reader
from secrets_broker.session import SessionError, connect_sync
from secrets_broker.session.database_url import DatabaseUrlError, parse
from secrets_broker.session.errors import grant_line
from secrets_broker.tools.postgres import Cluster
from tests.conftest import KMS_KEY, SERVICE_LOGIN, Database
from tests.ledger.helpers import BEGUN, CONTEXT, lookup, record, run, upsert, writing
from tests.ports import free_port
from tests.tools.command_line import run as command

KNOWN = ("sslmode=disable", "connect_timeout=3", "application_name=x", "keepalives=1")


@contextmanager
def silent(count: int) -> Iterator[list[int]]:
    """Ports where a machine takes connections and never says a word."""
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            ports.append(listener.getsockname()[1])
        yield ports


def asked(url: str) -> int:
    """A question to a reader of its own."""

    async def through_it() -> int:
        reader = Reader(url)
        try:
            return await reader.ask(size)
        finally:
            await reader.close()

    return run(through_it())


async def connected(url: str) -> None:
    """Begin a session, and end it."""
    await (await connect(url)).close()


def several(database: Database, cluster: Cluster, ports: list[int], **more: str) -> str:
    """A URL with dead hosts before the one that lives."""
    hosts = [*("127.0.0.1" for _ in ports), quote(str(cluster.socket_dir), safe="")]
    numbers = [*map(str, ports), "5432"]
    parameters = {"host": ",".join(hosts), "port": ",".join(numbers), **more}
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"postgresql://{SERVICE_LOGIN}@/{database.name}?{query}"


# Each takes as long as the hosts may: two for those who wait, and the others where nobody does.
_FEW = (("read-write", 1), ("prefer-standby", 2))
_MANY = [
    pytest.param(attributes, dead, marks=() if (attributes, dead) in _FEW else pytest.mark.long)
    for attributes in ("any", "read-write", "primary", "prefer-standby")
    for dead in (1, 2, 5)
]


@pytest.mark.parametrize(("attributes", "dead"), _MANY)
def test_dead_hosts_before_a_live_one(
    cluster: Cluster, database: Database, keyring: Keyring, attributes: str, dead: int
) -> None:
    """All hosts fit into a question's time and a batch's; those that are skipped are logged."""

    async def through_it(url: str) -> None:
        async with writing(url, keyring) as writer:
            await writer.submit(upsert("a"), CONTEXT)
            reader = Reader(url)
            assert await reader.ask(size) == BEGUN + 1
            await reader.close()

    with silent(dead) as ports, capture_logs() as logged:
        run(through_it(several(database, cluster, ports, target_session_attrs=attributes)))
    skipped = [entry for entry in logged if entry["event"] == "database_hosts_skipped"]
    assert len(skipped) == 1  # not for each connection
    for port in ports:
        assert f"127.0.0.1:{port}" in skipped[0]["why"]


def test_each_hosts_reason_is_in_the_error(cluster: Cluster, database: Database) -> None:
    """Refused, unknown and not answering: the one error has all of them, and no password."""
    refused = free_port()
    with silent(1) as (quiet,):
        hosts = f"127.0.0.1:{refused},no-such-host.invalid:5432,127.0.0.1:{quiet}"
        url = f"postgresql://login:s3cr3t@{hosts}/x"
        with pytest.raises(LedgerUnavailableError) as caught:
            run(connected(url))
        with pytest.raises(SessionError) as caught_too:
            connect_sync(url + "?connect_timeout=2", {})
    for said in (str(caught.value), str(caught_too.value)):
        assert f"127.0.0.1:{refused}" in said and "refused" in said
        assert "no-such-host.invalid" in said
        assert f"127.0.0.1:{quiet}" in said
        assert "s3cr3t" not in said


@pytest.mark.parametrize("attributes", ["any", "read-write", "primary", "prefer-standby"])
def test_target_session_attributes(
    cluster: Cluster, database: Database, tmp_path: Path, attributes: str
) -> None:
    """A URL that asks for a primary works for readers, commands and writers alike."""
    url = f"{database.service_url}?target_session_attrs={attributes}"
    assert asked(url) == 0
    for arguments in ("events", "due", "unused --since 1d", "access list", "migrate"):
        owner_url = f"{database.owner_url}?target_session_attrs={attributes}"
        env = {"DATABASE_URL": url, "MIGRATION_DATABASE_URL": owner_url}
        done = command(*arguments.split(), cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr


def test_a_reader_only_reads(database: Database) -> None:
    """Its transactions are read-only by the session's own setting, and cannot write."""

    async def through_it() -> None:
        async with await connect(database.owner_url, READ_SESSION) as connection:
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await connection.execute("CREATE TABLE ledger.more (id int)")

    run(through_it())


@given(
    st.lists(st.sampled_from(KNOWN), max_size=3),
    st.from_regex(r"[a-z_]{3,20}x", fullmatch=True),
    st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=8),
)
def test_an_unknown_parameter_is_named(before: list[str], name: str, value: str) -> None:
    """Whatever libpq does not know of a URL's query is named; its value never is."""
    secret = f"{value}S3CR3T"
    query = "&".join([*before, f"{name}={secret}"])
    with pytest.raises(DatabaseUrlError) as caught:
        parse(f"postgresql://login:pw@host/db?{query}")
    assert str(caught.value).endswith(f": {name}")
    assert "S3CR3T" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://login@host/db?password=ab&secretpiece=ef",
        "postgresql://login@host/db?sslmode=require&password=ab&secretpiece=ef",
        "postgresql://login:p@ss?secretpiece=x@host/db",
        "postgresql://login:a/b?secretpiece=x@host/db",
        "postgresql://login:p%zz@host/db?secretpiece=1@",
    ],
)
def test_a_piece_of_a_password_is_never_taken_for_a_parameter(url: str) -> None:
    """Where the name may be a part of a password, it is not told."""
    with pytest.raises(DatabaseUrlError) as caught:
        parse(url)
    assert "secretpiece" not in str(caught.value)


@pytest.fixture
def stranger(cluster: Cluster) -> Iterator[str]:
    """A login that nobody granted anything; its name needs quotes."""
    name = 'New "Login"'
    cluster.ensure_login(name)
    yield name
    with psycopg.connect(cluster.superuser_url(), autocommit=True) as connection:
        connection.execute('DROP ROLE "New ""Login"""')


COMMANDS = (
    *("events", "history a b", "exposure a b", "unused --since 1d", "due", "access list", "serve"),
    *("replay --at 0", "proof 0", "verify", "export out", "rebuild --check", "watch --once"),
    *("rotate-key --check", "erase --list", "access explain a read", "import-legacy"),
)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_login_without_the_role(
    cluster: Cluster, database: Database, stranger: str, arguments: str, tmp_path: Path
) -> None:
    """Every command says the line to run, and no traceback; once it is run, it is not said."""
    url = cluster.url(stranger, database.name)
    env = {
        "DATABASE_URL": url,
        "MIGRATION_DATABASE_URL": url,
        "SECRETS_KMS_KEY": KMS_KEY,
        "INTERNAL_KEY": "an-internal-key-of-the-tests",
    }
    done = command(*arguments.split(), cwd=tmp_path, env=env)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    assert grant_line(stranger) in done.stderr + done.stdout


def test_the_line_is_the_one_to_run(
    cluster: Cluster, database: Database, stranger: str, keyring: Keyring
) -> None:
    """As it stands it makes the service work; a member that inherits nothing is told of INHERIT."""
    url = cluster.url(stranger, database.name)
    with pytest.raises(NotGrantedError, match="GRANT secrets_broker_service"):
        run(connected(url))
    database.execute(grant_line(stranger))
    run(connected(url))
    with database.owner() as connection:
        connection.execute('REVOKE secrets_broker_service FROM "New ""Login"""')
        connection.execute('ALTER ROLE "New ""Login""" NOINHERIT')
        connection.execute(grant_line(stranger).encode())
    with pytest.raises(NotGrantedError, match="INHERIT"):
        run(connected(url))


@pytest.mark.parametrize("value", ["off", "local"])
def test_commits_that_are_not_durable_are_refused(database: Database, value: str) -> None:
    """For what writes; a question needs no durable commit, and is answered."""
    database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = {value}")
    with pytest.raises(LedgerUnavailableError, match=f"synchronous_commit is {value}"):
        run(connected(database.service_url))
    assert asked(database.service_url) == 0


@pytest.mark.parametrize(
    ("value", "taken"), [("on", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")]
)
def test_what_waits_for_a_standby_is_pinned(
    cluster: Cluster, database: Database, value: str, taken: str
) -> None:
    """remote_write is taken as on; and a reload cannot change what a session has."""

    async def through_it() -> None:
        async with await connect(database.service_url) as connection:
            for _ in range(2):
                cursor = await connection.execute("SHOW synchronous_commit")
                assert await cursor.fetchall() == [(taken,)]
                database.execute("ALTER SYSTEM SET synchronous_commit = off")
                database.execute("SELECT pg_reload_conf()")
                await asyncio.sleep(0.3)

    database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = {value}")
    try:
        run(through_it())
    finally:
        database.execute("ALTER SYSTEM RESET synchronous_commit")
        database.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    "ending",
    [
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'service_login'"
        " AND datname = current_database()",
        "a restart",
    ],
)
def test_a_question_after_the_connection_was_lost(
    cluster: Cluster, database: Database, keyring: Keyring, ending: str
) -> None:
    """A reader asks again on a new connection, and its caller does not notice."""
    record(database, keyring, upsert("a"), lookup("a"))

    async def through_it() -> None:
        reader = Reader(database.service_url)
        for _ in range(3):
            assert await reader.ask(size) == BEGUN + 2
            if ending == "a restart":
                await asyncio.to_thread(_restart, cluster)
            else:
                database.execute(ending)
        assert await reader.ask(size) == BEGUN + 2
        await reader.close()

    run(through_it())


def _restart(cluster: Cluster) -> None:
    with psycopg.connect(cluster.superuser_url(), autocommit=True) as connection:
        # As a restart looks from outside: every other session is ended at once.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
