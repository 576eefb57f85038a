"""The rebuild: at every position, from the events alone, the very same rows."""

import asyncio
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.commands import Command
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerUnavailableError, WrongKeyError
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.rebuild import CHUNK, rebuild
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import (
    BEGUN,
    CONTEXT,
    delete,
    lookup,
    password_of,
    rebuilt,
    record,
    run,
    send,
    upsert,
    writing,
)
from tests.projections.command_strategies import KEY_CHANGES, change_keys, commands

ROWS = "SELECT live::text FROM secrets.host_credentials AS live ORDER BY id"


def rows(database: Database) -> list[Any]:
    """The whole table, as text."""
    return database.fetch(ROWS)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(commands | st.sampled_from(KEY_CHANGES), min_size=1, max_size=8))
def test_any_prefix_gives_the_rows_of_its_time(
    cluster: Cluster, keyring: Keyring, wanted: list[Command | str]
) -> None:
    """After each change the rows made anew from nothing are, to the byte, the live ones."""

    async def grow(database: Database) -> None:
        async with writing(database.service_url, keyring) as writer:
            for command in wanted:
                if isinstance(command, str):
                    await change_keys(database, keyring, command)
                else:
                    await writer.submit(command, CONTEXT)
                live = rows(database)
                database.execute("TRUNCATE secrets.host_credentials")
                found = await rebuild(database.owner_url, keyring, CONTEXT)
                assert [found.rows, len(found.differences)] == [len(live)] * 2
                assert rows(database) == live

    with fresh_database(cluster, TEMPLATE) as database:
        run(grow(database))


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(commands, min_size=3, max_size=15), st.data())
def test_a_database_of_a_prefix(
    cluster: Cluster, keyring: Keyring, wanted: list[Command], data: st.DataObject
) -> None:
    """Cut back to any prefix of its events, a ledger gives the rows that it had there."""
    tables: list[list[Any]] = [[]]

    async def grow(database: Database) -> None:
        async with writing(database.service_url, keyring) as writer:
            for command in wanted:
                await writer.submit(command, CONTEXT)
                tables.append(rows(database))

    with fresh_database(cluster, TEMPLATE) as database:
        run(grow(database))
        size = BEGUN + data.draw(st.integers(1, len(wanted)))
        with database.owner() as connection, connection.transaction():
            for table, trigger in (("events", "append_only"), ("bodies", "destroyed_with_event")):
                connection.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER {trigger}")
                connection.execute(f"DELETE FROM ledger.{table} WHERE position >= %s", (size,))  # noqa: S608
        rebuilt(database, keyring)
        assert rows(database) == tables[size - BEGUN]


def test_a_rebuild_is_recorded(database: Database, keyring: Keyring) -> None:
    """A rebuild appends one event with its figures; a comparison appends nothing."""
    record(database, keyring, upsert("a"), upsert("b"))
    assert rebuilt(database, keyring, check_only=True).position is None
    database.execute("UPDATE secrets.host_credentials SET username = 'x' WHERE host = 'a'")
    assert rebuilt(database, keyring).position == 3
    assert database.fetch("SELECT position, type, actor, details FROM ledger.events OFFSET 3") == [
        (
            3,
            "projection.rebuilt",
            "tester",
            {
                "projection": "secrets.host_credentials",
                "size": 3,
                "rows": 2,
                "replaced": 1,
                "unreadable": 0,
            },
        )
    ]


def test_differences_are_named_and_never_shown(database: Database, keyring: Keyring) -> None:
    """A difference names the columns that differ, and holds no value of them."""
    record(database, keyring, upsert("a"))
    database.execute("UPDATE secrets.host_credentials SET username = 'm4rker', domain = 'm4rker'")
    found = rebuilt(database, keyring, check_only=True)
    assert found.differences[0].columns == ("domain", "username")
    assert "m4rker" not in repr(found)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ledger.bodies SET ciphertext = overlay(ciphertext PLACING '\\x00' FROM 20)",
        "DELETE FROM ledger.bodies",
    ],
)
def test_an_unreadable_body(database: Database, keyring: Keyring, damage: str) -> None:
    """A body that does not open is reported, and its row is left as it is; the rest is repaired."""
    record(database, keyring, upsert("a", "kept"), upsert("b", "kept too"))
    with database.owner() as connection:
        connection.execute("ALTER TABLE ledger.bodies DISABLE TRIGGER USER")
        connection.execute(damage.encode() + b" WHERE position = 1")
        connection.execute("UPDATE secrets.host_credentials SET updated_by = 'x' WHERE host = 'b'")
    before = rows(database)
    found = rebuilt(database, keyring)
    assert [(u.host, u.position) for u in found.unreadable] == [("a", 1)]
    assert [(d.host, d.columns) for d in found.differences] == [("b", ("updated_by",))]
    assert rows(database)[0] == before[0]
    first, second = record(database, keyring, lookup("a"), lookup("b"))
    assert (password_of(first), password_of(second)) == ("kept", "kept too")


def test_a_rebuild_with_a_wrong_key(database: Database, keyring: Keyring) -> None:
    """With another key nothing is compared and nothing is changed."""
    record(database, keyring, upsert("a"))
    before = rows(database)
    with pytest.raises(WrongKeyError):
        rebuilt(database, Keyring.from_kms_keys("another key"))
    assert rows(database) == before


def test_what_the_database_refuses(database: Database, keyring: Keyring) -> None:
    """A table that cannot be made beside the live one is one error of ours; nothing is replaced."""
    record(database, keyring, upsert("a"))
    database.execute("ALTER TABLE ledger.bodies RENAME TO elsewhere")
    before = rows(database)
    with pytest.raises(LedgerUnavailableError, match="does not exist; nothing was replaced"):
        rebuilt(database, keyring)
    assert rows(database) == before


def test_a_rebuild_while_writers_write(database: Database, keyring: Keyring) -> None:
    """While commands come, comparisons find nothing that is not there, and no write is lost."""
    done = asyncio.Event()

    async def write(writer: Writer, name: str) -> int:
        number = 0
        while not done.is_set():
            number += 1
            names = [f"{name}{number % 7}", f"{name}{number % 5}", f"new{name}{number}"]
            changes: list[Command] = [upsert(names[0], str(number)), upsert(names[2])]
            for outcome in await send(writer, *changes, delete(names[1]), lookup(names[0])):
                assert outcome.error in (None, "not_found")
        return number

    async def both() -> None:
        async with (
            writing(database.service_url, keyring) as first,
            writing(database.service_url, keyring) as second,
        ):
            writers = [asyncio.create_task(write(first, "x"))]
            writers.append(asyncio.create_task(write(second, "y")))
            for check_only in (True, False, True, False, True):
                context = Context(actor="tester", authn="cli")
                found = await rebuild(database.owner_url, keyring, context, check_only=check_only)
                assert (found.differences, found.unreadable) == ((), ())
            done.set()
            assert min(await asyncio.gather(*writers)) > 0

    run(both())
    live = rows(database)
    database.execute("TRUNCATE secrets.host_credentials")
    rebuilt(database, keyring)
    assert rows(database) == live


def test_more_rows_than_a_chunk(database: Database, keyring: Keyring) -> None:
    """A rebuild of several chunks leaves out no name and takes none twice."""
    names = [f"host{number}" for number in range(CHUNK + 96)]

    async def write() -> None:
        async with writing(database.service_url, keyring) as writer:
            for start in range(0, len(names), 2_048):
                await send(writer, *(upsert(name) for name in names[start : start + 2_048]))

    run(write())
    live = rows(database)
    database.execute("TRUNCATE secrets.host_credentials")
    found = rebuilt(database, keyring)
    assert (found.rows, len(found.differences)) == (len(names), len(names))
    assert rows(database) == live


def test_the_service_cannot_rebuild_the_past(database: Database) -> None:
    """The service's role changes rows of the projection, but no event and no body."""
    with psycopg.connect(database.service_url, autocommit=True) as connection:
        connection.execute("DELETE FROM secrets.host_credentials")
        for table in ("events", "bodies", "nodes"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"DELETE FROM ledger.{table}")  # noqa: S608
