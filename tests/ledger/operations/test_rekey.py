"""A rekey gives a credential another data key, and changes nothing else of it."""

from typing import Any

import pytest

from secrets_broker.ledger.commands import ImportCredential
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerError, WrongKeyError
from secrets_broker.ledger.operations.rekey import BATCH, Rekeyed
from tests.conftest import Database
from tests.ledger.helpers import delete, lookup, password_of, rebuilt, record, upsert
from tests.ledger.interruptions import at_commit, count
from tests.ledger.tree_checks import check_leaves, check_nodes
from tests.projections.keys import erased, readable, rekeyed

UNCHANGED = """
    SELECT id, host, purpose, username, domain, additional_data, created_at, updated_at, created_by,
           updated_by, version
    FROM secrets.host_credentials ORDER BY id
"""
FIELDS: dict[str, Any] = {
    "username": "root",
    "domain": "corp",
    "additional_data": {"ratio": 0.1},
    "secret_data": {"pin": "1234"},
}


def data_keys(database: Database) -> dict[str, str]:
    """The live credentials' data keys, by host."""
    return dict(database.fetch("SELECT host, data_key FROM secrets.host_credentials"))


def test_the_content_is_served_as_before(database: Database, keyring: Keyring) -> None:
    """Content, id and version are the same, under another key; the old one is kept."""
    record(database, keyring, upsert("a", "a1"), upsert("a", "a2", **FIELDS))
    (before,) = record(database, keyring, lookup("a"))
    rows, keys = database.fetch(UNCHANGED), data_keys(database)
    assert rekeyed(database, keyring) == Rekeyed(since=4, rekeyed=1)
    (after,) = record(database, keyring, lookup("a"))
    assert after.content == before.content
    assert (after.credential_id, after.version) == (before.credential_id, before.version)
    assert database.fetch(UNCHANGED) == rows
    assert data_keys(database)["a"] != keys["a"]
    assert database.fetch("SELECT count(*) FROM ledger.data_keys") == [(2,)]
    assert readable(database, keyring) == {("a", "a1"), ("a", "a2")}


def test_the_event(database: Database, keyring: Keyring) -> None:
    """It keeps id and version, names the change that set the content, and has a body."""
    record(database, keyring, upsert("a"), upsert("a"), lookup("a"))
    rekeyed(database, keyring)
    rekeyed(database, keyring)
    query = """
        SELECT type, host, credential_id, version, ok, details, body ->> 'key'
        FROM ledger.events WHERE type = 'credential.rekeyed' ORDER BY position
    """
    first, second = database.fetch(query)
    assert first[:6] == ("credential.rekeyed", "a", 2, 2, True, {"content": 2})
    assert second[:6] == first[:6]
    assert second[6] == data_keys(database)["a"] != first[6]
    check_leaves(database)


def test_it_is_not_in_the_access_log(database: Database, keyring: Keyring) -> None:
    """Nobody got anything by it."""
    record(database, keyring, upsert("a"))
    rekeyed(database, keyring)
    assert database.fetch("SELECT count(*) FROM secrets.credential_access_log") == [(1,)]


def test_the_next_version_follows(database: Database, keyring: Keyring) -> None:
    """It is under the new key, and has its own times and names."""
    record(database, keyring, upsert("a", "a1"))
    rekeyed(database, keyring)
    keys = data_keys(database)
    (stored,) = record(database, keyring, upsert("a", "a2"))
    assert (stored.credential_id, stored.version) == (2, 2)
    assert data_keys(database) == keys
    query = "SELECT updated_at = (SELECT max(at) FROM ledger.events) FROM secrets.host_credentials"
    assert database.fetch(query) == [(True,)]
    assert rebuilt(database, keyring, check_only=True).differences == ()


def test_an_imported_credential_keeps_its_times_and_names(
    database: Database, keyring: Keyring
) -> None:
    """They come from the import's details, through any number of rekeys."""
    details = {"legacy_id": 1, "created_by": "old", "updated_by": "older"}
    details |= {"created_at": "2020-01-01T00:00:00Z", "updated_at": "2021-01-01T00:00:00Z"}
    command = ImportCredential(
        host="a", purpose="ssh", content=Content(password="p"), occurred_at=None, details=details
    )
    record(database, keyring, command)
    rows = database.fetch(UNCHANGED)
    rekeyed(database, keyring)
    rekeyed(database, keyring)
    assert database.fetch(UNCHANGED) == rows
    live = database.fetch("SELECT live::text FROM secrets.host_credentials AS live")
    database.execute("TRUNCATE secrets.host_credentials")
    rebuilt(database, keyring)
    assert database.fetch("SELECT live::text FROM secrets.host_credentials AS live") == live


def test_only_live_credentials_that_match(database: Database, keyring: Keyring) -> None:
    """Deleted and erased ones have nothing to encrypt; others were not asked for."""
    record(database, keyring, *map(upsert, ["a1", "a2", "a3", "b"]), delete("a2"))
    erased(database, keyring, "a3")
    before = data_keys(database)
    assert rekeyed(database, keyring, "a*").rekeyed == 1
    after = data_keys(database)
    assert {host for host in after if before[host] != after[host]} == {"a1"}


def test_one_that_does_not_open_fails_alone(database: Database, keyring: Keyring) -> None:
    """It is named, a failed event says so, and the others get their keys."""
    record(database, keyring, upsert("a"), upsert("b"), upsert("c"))
    database.execute("UPDATE secrets.host_credentials SET username = 'x' WHERE host = 'b'")
    before = data_keys(database)
    assert rekeyed(database, keyring) == Rekeyed(4, rekeyed=2, failures=(("b", "ssh"),))
    query = "SELECT host, error, details, body FROM ledger.events WHERE NOT ok"
    assert database.fetch(query) == [("b", "decrypt_failed", None, None)]
    after = data_keys(database)
    assert [host for host in after if before[host] == after[host]] == ["b"]
    rebuilt(database, keyring)
    assert record(database, keyring, lookup("b"))[0].error is None


def test_a_second_run_goes_on_with_since(database: Database, keyring: Keyring) -> None:
    """Given the first run's `since`, those that it has done are left out."""
    record(database, keyring, upsert("a"), upsert("b"), upsert("b"))
    first = rekeyed(database, keyring, "a")
    record(database, keyring, upsert("a"))  # another version, under the new key all the same
    keys = data_keys(database)
    second = rekeyed(database, keyring, since=first.since)
    assert second == Rekeyed(first.since, rekeyed=1, left_out=1)
    assert data_keys(database)["a"] == keys["a"]
    assert rekeyed(database, keyring, since=first.since) == Rekeyed(first.since, left_out=2)
    assert rekeyed(database, keyring).rekeyed == 2


def test_several_batches(database: Database, keyring: Keyring) -> None:
    """None is left out and none taken twice; progress is told after each."""
    record(database, keyring, *(upsert(f"h{number}") for number in range(2 * BATCH + 1)))
    told, begun = list[int](), list[int]()
    result = rekeyed(database, keyring, progress=told.append, begun=begun.append)
    assert result == Rekeyed(2 * BATCH + 2, rekeyed=2 * BATCH + 1)
    assert (told, begun) == ([BATCH, 2 * BATCH, 2 * BATCH + 1], [2 * BATCH + 2])
    assert rebuilt(database, keyring, check_only=True).differences == ()
    check_leaves(database)
    check_nodes(database)


def test_died_before_a_commit(database: Database, keyring: Keyring) -> None:
    """The credentials are under their old keys and are served; the next run takes them."""
    record(database, keyring, upsert("a", "a1"))
    keys = data_keys(database)
    at_commit(database, "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5)")
    with pytest.raises(LedgerError):
        rekeyed(database, keyring)
    database.execute("DROP TRIGGER act ON ledger.events")
    assert count(database) == 1
    assert data_keys(database) == keys
    assert rekeyed(database, keyring).rekeyed == 1
    assert password_of(record(database, keyring, lookup("a"))[0]) == "a1"


def test_died_between_two_batches(database: Database, keyring: Keyring) -> None:
    """Those of the first are under new keys, the others under old; `since` takes the others."""
    record(database, keyring, *(upsert(f"h{number:03}") for number in range(BATCH + 5)))

    def die(_: int) -> None:
        raise KeyboardInterrupt

    begun = list[int]()
    with pytest.raises(KeyboardInterrupt):
        rekeyed(database, keyring, progress=die, begun=begun.append)
    assert count(database) == 2 * BATCH + 5
    assert rekeyed(database, keyring, since=begun[0]) == Rekeyed(begun[0], 5, BATCH)


def test_a_wrong_key(database: Database, keyring: Keyring) -> None:
    """Nothing is recorded."""
    record(database, keyring, upsert("a"))
    with pytest.raises(WrongKeyError):
        rekeyed(database, Keyring.from_kms_keys("another key"))
    assert count(database) == 1
