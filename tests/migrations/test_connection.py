"""Which databases we connect to, and that no password shows."""

import logging
import traceback

import psycopg
import pytest

from secrets_broker.migrations.connection import Server
from secrets_broker.migrations.errors import (
    BadDatabaseUrlError,
    CannotConnectError,
    MigrationError,
    UnfitServerError,
)
from secrets_broker.migrations.runner import apply, pending, rollback
from tests.migrations.conftest import Cluster, Databases, execute

AWKWARD = "s3cr3t/p@ss:w?rd#100%&="


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (Server(130014, "UTF8"), "PostgreSQL 13: 14 is the oldest"),
        (Server(90600, "UTF8"), "14 is the oldest"),
        (Server(180000, "SQL_ASCII"), "encoding is SQL_ASCII"),
        (Server(140000, "LATIN1"), "encoding is LATIN1"),
    ],
)
def test_an_unfit_server_is_refused(server: Server, message: str) -> None:
    """PostgreSQL 14 or newer, and UTF8: anything else is refused in words."""
    with pytest.raises(UnfitServerError, match=message):
        server.check()


def test_a_database_of_another_encoding_is_refused(databases: Databases) -> None:
    """The refusal comes before anything is made."""
    url = databases.make("ENCODING 'SQL_ASCII' TEMPLATE template0")
    with pytest.raises(UnfitServerError, match="ENCODING 'UTF8'"):
        apply(url, print)
    assert execute(url, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'secrets%'") == []


def test_a_password_over_tcp_works_and_shows_nowhere(
    cluster: Cluster,
    empty_database: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Percent-encoded passwords reach the server, and neither log nor output holds them."""
    caplog.set_level(logging.DEBUG)
    name = psycopg.conninfo.conninfo_to_dict(empty_database)["dbname"]
    quoted = AWKWARD.replace("'", "''")
    execute(empty_database, f"CREATE ROLE awkward SUPERUSER LOGIN PASSWORD '{quoted}'")
    url = cluster.tcp_url(str(name), "awkward", AWKWARD) + "?application_name=x&connect_timeout=5"
    try:
        assert apply(url, print)[0] == "0001.legacy"
        assert rollback(url, print)[-1] == "0001.legacy"
    finally:
        execute(empty_database, "DROP ROLE awkward")
    printed = capsys.readouterr()
    assert "s3cr3t" not in caplog.text + printed.out + printed.err


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://app:s3cr3t/more@127.0.0.1:1/db", BadDatabaseUrlError),
        ("postgresql://app:p@s3cr3t@127.0.0.1:1/db", BadDatabaseUrlError),
        ("postgresql://app:s3cr3t%zz@127.0.0.1:1/db", BadDatabaseUrlError),
        ("postgresql://app:s3cr3t/db", BadDatabaseUrlError),
        ("postgresql://app:1/2?s3cr3t@127.0.0.1/db", BadDatabaseUrlError),
        ("postgresql://app@127.0.0.1:1/db?pasword=s3cr3t", BadDatabaseUrlError),
        ("postgresql+psycopg://app:s3cr3t@127.0.0.1:1/db", BadDatabaseUrlError),
        ("host=127.0.0.1 password=s3cr3t", BadDatabaseUrlError),
        ("postgresql://app:s3cr3t@127.0.0.1:1/db", CannotConnectError),
        ("postgresql://app@127.0.0.1:1/db?password=s3cr3t", CannotConnectError),
    ],
)
def test_no_error_shows_the_password(url: str, kind: type[MigrationError]) -> None:
    """A URL that does not work is an error whose whole traceback is free of the password."""
    with pytest.raises(kind) as caught:
        pending(url)
    without_source = "".join(str(error) + repr(error) for error in _chain(caught.value))
    assert "s3cr3t" not in without_source


def _chain(error: BaseException | None) -> list[BaseException]:
    # What a printed traceback would show: an error whose context is not suppressed.
    chain: list[BaseException] = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


def test_a_wrong_password_is_a_clear_error(cluster: Cluster) -> None:
    """The server's reason is passed on, and the password is not in it."""
    with pytest.raises(CannotConnectError, match="password authentication failed") as caught:
        pending(cluster.tcp_url("postgres", "postgres", "s3cr3t"))
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value)[-1:])
