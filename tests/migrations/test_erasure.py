"""Bodies and data keys are destroyed with their event, and in no other way, whoever asks."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from secrets_broker.migrations.manifest import FOLDER
from secrets_broker.migrations.runner import apply
from tests.migrations.conftest import Cluster, Databases
from tests.migrations.migration_files import quiet
from tests.migrations.roles import AUDITOR, BODY, KEK, SERVICE, Connection, become

APPEND = """
INSERT INTO ledger.events (position, at, v, ok, leaf_hash, mac, type, authn, host,
                           purpose, credential_id, version, details, body)
VALUES (%s, '2026-01-01T00:00:00Z', 1, true, decode(repeat('00', 32), 'hex'), sha256(''), %s,
        'cli', %s, 'ssh', %s, 1, %s, %s)
"""
BEGINNING = (0, "ledger.authenticated", None, None, None, None)
ERASURE = 3
"""Its position: after the ledger's beginning and two credentials."""
REFUSED = psycopg.errors.ObjectNotInPrerequisiteState
DELETES = ("DELETE FROM ledger.bodies", "DELETE FROM ledger.data_keys")


@pytest.fixture(scope="module")
def stored(cluster: Cluster) -> Iterator[str]:
    """A database with two credentials, committed."""
    databases = Databases(cluster, [])
    url = databases.make()
    apply(url, quiet)
    with psycopg.connect(url) as connection:
        connection.execute(KEK, ("kek", "active"))
        connection.execute(APPEND, BEGINNING)
        for position, host in enumerate(("a", "b"), start=1):
            reference = Jsonb(BODY | {"key": f"key-{host}"})
            created = ("credential.created", host, position + 1, None, reference)
            connection.execute(APPEND, (position, *created))
            connection.execute(
                "INSERT INTO ledger.bodies VALUES (%s, %s, '')", (position, f"key-{host}")
            )
            connection.execute(
                "INSERT INTO ledger.data_keys VALUES (%s, %s, 'kek', '')",
                (f"key-{host}", position + 1),
            )
    yield url
    databases.drop()


@pytest.fixture
def connection(stored: str) -> Iterator[Connection]:
    """A superuser in a transaction that is taken back."""
    with psycopg.connect(stored) as connection:
        yield connection
        connection.rollback()


def erase(
    connection: Connection, host: str = "a", *, position: int = ERASURE, **details: Any
) -> None:
    """Append an erasure of a host's key."""
    said = {"data_keys": [f"key-{host}"], "credential_ids": [2], "bodies": 1} | details
    connection.execute(APPEND, (position, "credential.erased", host, 2, Jsonb(said), None))


def left(connection: Connection) -> list[tuple[object, ...]]:
    """Which keys are left, of bodies and of data keys."""
    return connection.execute(
        "SELECT (SELECT array_agg(key ORDER BY key) FROM ledger.bodies),"
        " (SELECT array_agg(id ORDER BY id) FROM ledger.data_keys)"
    ).fetchall()


@pytest.mark.parametrize("replica", [False, True])
@pytest.mark.parametrize("statement", DELETES)
def test_nothing_is_deleted_without_its_erasure(
    connection: Connection, statement: str, replica: bool
) -> None:
    """The owner and the superuser are refused by trigger, as a replica too."""
    if replica:
        connection.execute("SET LOCAL session_replication_role = replica")
    with pytest.raises(REFUSED, match=r"credential\.erased event"):
        connection.execute(statement.encode())


def test_the_erasure_destroys_what_it_names(connection: Connection) -> None:
    """Body and key of its own name, and of no other."""
    erase(connection)
    connection.execute("SELECT ledger.destroy(%s)", (ERASURE,))
    assert left(connection) == [(["key-b"], ["key-b"])]


@pytest.mark.parametrize("statement", DELETES)
def test_an_erasure_allows_no_other_key(connection: Connection, statement: str) -> None:
    """What one event names does not open the way to more."""
    erase(connection)
    with pytest.raises(REFUSED):
        connection.execute(statement.encode())


@pytest.mark.parametrize(
    "details",
    [
        {"data_keys": None},
        {"data_keys": "key-a"},
        {"data_keys": {"key-a": 1}},
        {"data_keys": [None]},
        {"data_keys": [["key-a"]]},
        {"data_keys": []},
    ],
    ids=str,
)
@pytest.mark.parametrize("statement", DELETES)
def test_a_list_that_is_none_allows_nothing(
    connection: Connection, statement: str, details: dict[str, Any]
) -> None:
    """Only an array of texts names keys; a null in it stands for no key."""
    erase(connection, **details)
    with pytest.raises(REFUSED):
        connection.execute(f"{statement} WHERE true".encode())


@pytest.mark.parametrize("event_type", ["credential.deleted", "credential.rekeyed", "erased"])
def test_another_event_allows_nothing(connection: Connection, event_type: str) -> None:
    """Whatever its details say."""
    said = Jsonb({"data_keys": ["key-a", "key-b"], "bodies": 2})
    connection.execute(APPEND, (ERASURE, event_type, "a", 2, said, None))
    with pytest.raises(REFUSED):
        connection.execute(DELETES[0].encode())


def test_a_failed_erasure_allows_nothing(connection: Connection) -> None:
    """An event that is not ok destroyed nothing."""
    connection.execute(
        """INSERT INTO ledger.events (position, at, v, ok, error, leaf_hash, mac, type, authn,
                                      details)
           VALUES (%s, '2026-01-01T00:00:00Z', 1, false, 'failed', decode(repeat('00', 32), 'hex'),
                   sha256(''), 'credential.erased', 'cli', '{"data_keys": ["key-a", "key-b"]}')""",
        (ERASURE,),
    )
    with pytest.raises(REFUSED):
        connection.execute(DELETES[0].encode())


def test_an_erasure_of_another_transaction_allows_nothing(databases: Databases) -> None:
    """Once it is committed, what it names can no longer be destroyed by it."""
    url = databases.make()
    apply(url, quiet)
    with psycopg.connect(url) as connection:
        created = ("credential.created", "a", 2, None, Jsonb(BODY | {"key": "key-a"}))
        connection.execute(APPEND, BEGINNING)
        connection.execute(APPEND, (1, *created))
        connection.execute("INSERT INTO ledger.bodies VALUES (1, 'key-a', '')")
    with psycopg.connect(url) as connection:
        erase(connection, position=2)
    with psycopg.connect(url) as connection, pytest.raises(REFUSED):
        connection.execute(DELETES[0].encode())


def test_bodies_are_as_many_as_the_event_says(connection: Connection) -> None:
    """An erasure that says another number destroys nothing."""
    erase(connection, bodies=2)
    with pytest.raises(REFUSED, match="does not say"):
        connection.execute("SELECT ledger.destroy(%s)", (ERASURE,))


@pytest.mark.parametrize("position", [0, 1, 2, 9])
def test_only_an_erasure_destroys(connection: Connection, position: int) -> None:
    """There is no destroying by another event, nor by none."""
    with pytest.raises((REFUSED, psycopg.errors.NoDataFound)):
        connection.execute("SELECT ledger.destroy(%s)", (position,))


@pytest.mark.parametrize(
    "statement", [f"SELECT ledger.destroy({ERASURE})", "SELECT ledger.erased_here()"]
)
@pytest.mark.parametrize("role", [SERVICE, AUDITOR])
def test_the_roles_destroy_nothing(connection: Connection, role: str, statement: str) -> None:
    """Though the service may append the event."""
    become(connection, SERVICE)
    erase(connection)
    become(connection, role)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize("replica", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger.data_keys SET id = 'another' WHERE id = 'key-a'",
        "UPDATE ledger.data_keys SET credential_id = 7 WHERE id = 'key-a'",
        "UPDATE ledger.data_keys SET credential_id = credential_id + 1, wrapped = 'x'",
        "TRUNCATE ledger.data_keys",
    ],
)
def test_a_key_keeps_its_id_and_its_credential(
    connection: Connection, statement: str, replica: bool
) -> None:
    """With an erasure too; it destroys, it does not change."""
    if replica:
        connection.execute("SET LOCAL session_replication_role = replica")
    erase(connection)
    with pytest.raises(REFUSED):
        connection.execute(statement.encode())


def test_a_key_can_be_wrapped_anew(connection: Connection) -> None:
    """kek and wrapped are what a rotation changes."""
    connection.execute("UPDATE ledger.keks SET state = 'retiring' WHERE state = 'active'")
    connection.execute(KEK, ("new", "active"))
    connection.execute("UPDATE ledger.data_keys SET kek = 'new', wrapped = 'x'")


@pytest.mark.parametrize(
    "statement", ["UPDATE ledger.bodies SET key = key", "TRUNCATE ledger.bodies"]
)
def test_a_body_is_never_changed(connection: Connection, statement: str) -> None:
    """With an erasure too."""
    erase(connection)
    with pytest.raises(REFUSED, match="is append-only"):
        connection.execute(statement.encode())


def test_the_rollback_gives_the_earlier_trigger_back(connection: Connection) -> None:
    """Nothing can be deleted then, with an erasure or without."""
    connection.execute((FOLDER / "0008.erasure.rollback.sql").read_bytes())
    erase(connection)
    with pytest.raises(REFUSED, match="DELETE is refused"):
        connection.execute("DELETE FROM ledger.bodies WHERE key = 'key-a'")
