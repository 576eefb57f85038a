"""One place opens sessions, and every function of ours has names that nobody can shadow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import secrets_broker
from tests.conftest import Database

PACKAGE = Path(secrets_broker.__file__).parent
# What of psycopg opens a connection, under whatever name it is imported.
OPENS = {"connect", "connect_start", "ConnectionPool", "AsyncConnectionPool", "PGconn"}
CONNECTIONS = {"Connection", "AsyncConnection", "Session", "PGconn", "psycopg"}


def opened_in(source: str) -> Iterator[str]:
    """Where a module calls what opens a session, or takes it from psycopg."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("psycopg"):
            yield from (alias.name for alias in node.names if alias.name in OPENS)
        if isinstance(node, ast.Import):
            packages = ("psycopg_pool", "psycopg.pq")
            yield from (alias.name for alias in node.names if alias.name.startswith(packages))
        if isinstance(node, ast.Attribute) and node.attr in OPENS:
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in CONNECTIONS:
                yield f"{name}.{node.attr}"


def test_only_one_module_opens_sessions() -> None:
    """Nothing but session/opening.py calls psycopg's connect, by any of its names."""
    found = {
        str(path.relative_to(PACKAGE)): [*opened_in(path.read_text())]
        for path in PACKAGE.rglob("*.py")
    }
    assert {path for path, calls in found.items() if calls} == {"session/opening.py"}
    assert len(found["session/opening.py"]) == 3


@pytest.mark.parametrize(
    "source",
    [
        "import psycopg\npsycopg.connect('')",
        "from psycopg import connect",
        "from psycopg import AsyncConnection\nAsyncConnection.connect('')",
        "import psycopg\npsycopg.AsyncConnection.connect('')",
        "from psycopg_pool import ConnectionPool",
        "from psycopg.pq import PGconn",
    ],
)
def test_the_rule_finds_what_it_is_for(source: str) -> None:
    """Each of psycopg's ways to open a session is one that the rule sees."""
    assert [*opened_in(source)]


def test_every_function_has_a_search_path_of_its_own(database: Database) -> None:
    """pg_catalog first, and pg_temp last: else a session's temporary types come before all."""
    functions = database.fetch(
        "SELECT p.oid::regprocedure::text, array_to_string(proconfig, ';') FROM pg_proc AS p"
        " WHERE pronamespace::regnamespace::text IN ('ledger', 'secrets')"
    )
    assert len(functions) > 10
    wrong = [name for name, config in functions if config != "search_path=pg_catalog, pg_temp"]
    assert wrong == []


# As domains of these: what a guard would compare then is another thing.
TYPES = {
    **dict.fromkeys(("timestamptz", "record", "bigint", "regclass"), "text"),
    **{name: name for name in ("text", "bool", "jsonb", "xid", "int8")},
}


def test_temporary_types_do_not_fool_the_guards(database: Database) -> None:
    """A login that shadows every type and table in its own session still cannot go back in time."""
    columns = "position, at, v, ok, leaf_hash, mac, type, authn"
    with psycopg.connect(database.service_url, autocommit=True) as connection:
        for name, base in TYPES.items():
            connection.execute(f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{base}".encode())
        for table in ("events", "appended", "fresh", "destroyed", "keks", "lock"):
            connection.execute(f"CREATE TEMP TABLE {table} (id text, at text)".encode())
        insert = (
            f"INSERT INTO ledger.events ({columns})"  # noqa: S608 - our own constant
            " VALUES (%s, %s, 1, true, %s, sha256(''), %s, 'x')"
        )
        connection.execute(insert.encode(), (0, "2026-01-02Z", bytes(32), "ledger.authenticated"))
        for position, at in ((1, "2026-01-01Z"), (2, "2026-01-03Z"), (1, "0999-01-01Z")):
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                connection.execute(insert.encode(), (position, at, bytes(32), "credential.deleted"))
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(1,)]
