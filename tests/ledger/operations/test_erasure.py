"""An erasure takes everything that a name ever was, and nothing of what is known about it."""

import json
from typing import Any

import psycopg
import pytest

from secrets_broker.ledger.commands import Erase
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.operations import erasure
from secrets_broker.ledger.operations.erasure import KEYS_PER_EVENT, Erasable, Erasure
from tests.conftest import Database
from tests.ledger.helpers import delete, login_of, lookup, password_of, rebuilt, record, run, upsert
from tests.ledger.interruptions import at_commit, count
from tests.ledger.tree_checks import check_leaves, check_nodes
from tests.projections.keys import erased, erased_again, readable, rekeyed

LOG = "SELECT * FROM secrets.credential_access_log ORDER BY id"
EVENT = """
    SELECT type, host, purpose, credential_id, version, ok, actor, reason, details, body
    FROM ledger.events WHERE position = %s
"""


def fill(database: Database, keyring: Keyring) -> None:
    """Two lives of "a", the first of two versions, and one of "b"."""
    commands = upsert("a", "a1"), upsert("a", "a2"), lookup("a"), delete("a")
    record(database, keyring, *commands, upsert("a", "a3"), upsert("b", "b1"), lookup("a"))


def keys_of(database: Database, host: str) -> list[str]:
    """The data keys that the events of a host name, each once, in order."""
    query = "SELECT body ->> 'key' FROM ledger.events WHERE host = %s AND body IS NOT NULL"
    return list(dict.fromkeys(key for (key,) in database.fetch(query + " ORDER BY position", host)))


def found(database: Database, host: str, *, exact: bool = False) -> list[Erasable]:
    """What an erase of this pattern would take."""
    return run(erasure.find(database.owner_url, host, "*" if not exact else "ssh", exact=exact))


def test_everything_of_the_name_goes(database: Database, keyring: Keyring) -> None:
    """No key that is left opens anything of it; another name is untouched."""
    fill(database, keyring)
    before = readable(database, keyring)
    assert before == {("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")}
    erased(database, keyring, "a")
    assert readable(database, keyring) == {("b", "b1")}
    assert database.fetch("SELECT host FROM secrets.host_credentials") == [("b",)]
    assert database.fetch("SELECT count(*) FROM ledger.data_keys") == [(1,)]
    a, b = record(database, keyring, lookup("a"), lookup("b"))
    assert (a.error, password_of(b)) == ("not_found", "b1")


def test_the_event_says_what_was_destroyed(database: Database, keyring: Keyring) -> None:
    """It names the live credential, the keys of all lives, and has no body of its own."""
    fill(database, keyring)
    keys = keys_of(database, "a")
    (result,) = erased(database, keyring, "a")
    assert result is not None
    assert result.positions == (8,)
    details = {"data_keys": keys, "credential_ids": [2, 6], "bodies": 3}
    expected = ("credential.erased", "a", "ssh", 6, 1, True, "operator", "GDPR-1", details, None)
    assert database.fetch(EVENT, 8) == [expected]


def test_the_record_stays(database: Database, keyring: Keyring) -> None:
    """The tree verifies, and the access log still says who read it and when."""
    fill(database, keyring)
    before = database.fetch(LOG)
    leaves = check_leaves(database)
    erased(database, keyring, "a", "b")
    assert check_leaves(database)[: len(leaves)] == leaves
    check_nodes(database)
    after = database.fetch(LOG)
    assert after[: len(before)] == before
    assert [row[5] for row in after[len(before) :]] == ["erase", "erase"]


def test_a_name_that_was_deleted(database: Database, keyring: Keyring) -> None:
    """Its history goes as well; the event names the credential that there was last."""
    record(database, keyring, upsert("a", "a1"), upsert("a", "a2"), delete("a"))
    erased(database, keyring, "a")
    assert readable(database, keyring) == set()
    assert database.fetch(EVENT, 4)[0][3:5] == (2, 2)


def test_a_name_is_free_afterwards(database: Database, keyring: Keyring) -> None:
    """Stored again it is another credential, which another erasure takes, and no more."""
    record(database, keyring, upsert("a", "a1"))
    erased(database, keyring, "a")
    (stored,) = record(database, keyring, upsert("a", "a2"))
    assert (stored.credential_id, stored.version) == (4, 1)
    assert found(database, "a") == [Erasable("a", "ssh", 1, 1, 1)]
    erased(database, keyring, "a")
    ((details,),) = database.fetch("SELECT details FROM ledger.events WHERE position = 4")
    assert details["credential_ids"] == [4]
    assert rebuilt(database, keyring, check_only=True).differences == ()


def test_nothing_left_is_no_event(database: Database, keyring: Keyring) -> None:
    """A second erasure finds nothing, and records nothing."""
    record(database, keyring, upsert("a"))
    erased(database, keyring, "a")
    assert erased(database, keyring, "a", "never") == [None, None]
    assert count(database) == 2
    assert found(database, "*") == []


def test_a_row_whose_keys_are_gone(database: Database, keyring: Keyring) -> None:
    """What is readable without a key, a user name, goes with the row all the same."""
    record(database, keyring, upsert("a", username="named"))
    with database.owner() as connection:
        for table in ("bodies", "data_keys"):
            connection.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER USER")
            connection.execute(f"DELETE FROM ledger.{table}")  # noqa: S608
    assert found(database, "a") == [Erasable("a", "ssh", 0, 0, 0)]
    erased(database, keyring, "a")
    assert database.fetch("SELECT * FROM secrets.host_credentials") == []


@pytest.mark.parametrize(
    ("pattern", "exact", "names"),
    [
        ("*", False, ["%", "*.x", "ab.x", "b.x"]),
        ("*.x", False, ["*.x", "ab.x", "b.x"]),
        ("*.x", True, ["*.x"]),
        ("%", False, ["%"]),
        ("%", True, ["%"]),
        ("_.x", False, []),
        ("a*", False, ["ab.x"]),
        ("b.x", False, ["b.x"]),
        ("B.x", False, []),
    ],
)
def test_which_names_match(
    database: Database, keyring: Keyring, pattern: str, exact: bool, names: list[str]
) -> None:
    """A star matches any run of characters; taken exactly it matches itself."""
    record(database, keyring, *map(upsert, ["ab.x", "b.x", "*.x", "%"]))
    assert sorted(one.host for one in found(database, pattern, exact=exact)) == names


def test_more_keys_than_an_event_names(database: Database, keyring: Keyring) -> None:
    """They are named by several events of one transaction, each key once, in order."""
    lives = KEYS_PER_EVENT + 3
    commands = [command for _ in range(lives) for command in (upsert("a"), delete("a"))]
    record(database, keyring, *commands, upsert("a", "live"))
    keys = keys_of(database, "a")
    (result,) = erased(database, keyring, "a")
    assert result is not None
    first, second = (database.fetch(EVENT, position)[0] for position in result.positions)
    assert first[8]["data_keys"] + second[8]["data_keys"] == keys
    assert (first[8]["bodies"], second[8]["bodies"]) == (KEYS_PER_EVENT, 4)
    assert readable(database, keyring) == set()
    query = "SELECT count(DISTINCT xmin::text) FROM ledger.events WHERE type = 'credential.erased'"
    assert database.fetch(query) == [(1,)]
    check_leaves(database)


def test_an_event_of_the_longest_names_fits(database: Database, keyring: Keyring) -> None:
    """A full list of keys, and a name that JSON escapes throughout, are under 16 KiB."""
    host, purpose = "\x01" * 255, "\x01" * 50
    key = "0" * 32
    command = Erase(
        host=host,
        purpose=purpose,
        credential_id=1,
        version=None,
        data_keys=(key,) * KEYS_PER_EVENT,
        credential_ids=(2**53 - 1,) * KEYS_PER_EVENT,
        bodies=2**53 - 1,
        again=True,
        keeps_live=True,
    )
    assert len(json.dumps(command.details, separators=(",", ":"))) <= 16_384


def test_died_before_the_commit(database: Database, keyring: Keyring) -> None:
    """Everything is there, nothing says otherwise, and the next run takes it."""
    fill(database, keyring)
    before = readable(database, keyring)
    at_commit(database, "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5)")
    with pytest.raises(LedgerError):
        erased(database, keyring, "a")
    database.execute("DROP TRIGGER act ON ledger.events")
    assert count(database) == 7
    assert readable(database, keyring) == before
    assert password_of(record(database, keyring, lookup("a"))[0]) == "a3"
    erased(database, keyring, "a")
    assert readable(database, keyring) == {("b", "b1")}


def test_died_after_the_commit(database: Database, keyring: Keyring) -> None:
    """The first name is wholly gone, the second wholly there, and the ledger says just that."""
    fill(database, keyring)

    async def die_after_the_first() -> None:
        names = [("a", "ssh"), ("b", "ssh")]
        context = Context(actor="operator", authn="cli")
        running = erasure.erase(login_of(database.owner_url, keyring), context, names)
        await anext(running)
        await running.aclose()  # type: ignore[attr-defined]

    run(die_after_the_first())
    assert readable(database, keyring) == {("b", "b1")}
    listed = run(erasure.recorded(database.service_url))
    assert {line.host for line in listed} == {"a"}
    erased(database, keyring, "a", "b")
    assert readable(database, keyring) == set()


def test_the_list_names_every_key_that_was_destroyed(database: Database, keyring: Keyring) -> None:
    """With the event's position and time; the service may ask for it."""
    fill(database, keyring)
    keys = keys_of(database, "a")
    (result,) = erased(database, keyring, "a")
    listed = run(erasure.recorded(database.service_url))
    assert result is not None
    assert sorted(listed, key=lambda line: line.data_key) == sorted(
        result.erasures, key=lambda line: line.data_key
    )
    ((at,),) = database.fetch(
        """SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
           FROM ledger.events WHERE position = 8"""
    )
    expected = {Erasure(data_key=key, position=8, host="a", purpose="ssh", at=at) for key in keys}
    assert set(listed) == expected


def test_again_takes_the_live_credential_under_that_key(
    database: Database, keyring: Keyring
) -> None:
    """What a restore brought back goes again, and the event says that it is again."""
    record(database, keyring, upsert("a", "a1"), upsert("b", "b1"))
    (key,) = keys_of(database, "a")
    (result,) = erased_again(database, keyring, key, "0" * 32)
    assert result.positions == (3,)
    details = {"data_keys": [key], "credential_ids": [2], "bodies": 1, "again": True}
    assert database.fetch(EVENT, 3)[0][1:9] == (
        *("a", "ssh", 2, 1, True, "operator", "GDPR-1"),
        details,
    )
    assert readable(database, keyring) == {("b", "b1")}
    assert record(database, keyring, lookup("a"))[0].error == "not_found"
    assert erased_again(database, keyring, key) == []


def test_again_leaves_what_is_under_another_key(database: Database, keyring: Keyring) -> None:
    """A live credential of the same name under another key stays, and is served as before."""
    record(database, keyring, upsert("a", "a1"), delete("a"), upsert("a", "a2"))
    old, _ = keys_of(database, "a")
    before = database.fetch("SELECT live::text FROM secrets.host_credentials AS live")
    erased_again(database, keyring, old)
    assert readable(database, keyring) == {("a", "a2")}
    event = database.fetch(EVENT, 4)[0]
    # No host and purpose: by those it would be the end of the one that lives.
    assert event[1:6] == (None, None, 2, None, True)
    details = {"data_keys": [old], "credential_ids": [2], "bodies": 1, "again": True}
    assert event[8] == {**details, "host": "a", "purpose": "ssh"}
    assert [line.host for line in run(erasure.recorded(database.owner_url))] == ["a"]
    assert password_of(record(database, keyring, lookup("a"))[0]) == "a2"
    assert database.fetch("SELECT live::text FROM secrets.host_credentials AS live") == before
    assert rebuilt(database, keyring, check_only=True).differences == ()


def test_after_a_rekey_both_keys_go(database: Database, keyring: Keyring) -> None:
    """The old key, which the history is under, and the new one."""
    record(database, keyring, upsert("a", "a1"), upsert("a", "a2"))
    rekeyed(database, keyring)
    (result,) = erased(database, keyring, "a")
    assert result is not None
    assert (len(result.erasures), result.bodies) == (2, 3)
    assert readable(database, keyring) == set()


def test_the_service_cannot_erase(database: Database, keyring: Keyring) -> None:
    """Its role is refused, and nothing is recorded."""
    record(database, keyring, upsert("a", "a1"))

    async def as_the_service() -> list[Any]:
        context = Context(actor="service", authn="cli")
        names = [("a", "ssh")]
        return [
            r async for r in erasure.erase(login_of(database.service_url, keyring), context, names)
        ]

    with pytest.raises(LedgerError):
        run(as_the_service())
    assert count(database) == 1
    with psycopg.connect(database.service_url) as connection:
        for table in ("bodies", "data_keys"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(f"DELETE FROM ledger.{table}".encode())  # noqa: S608
