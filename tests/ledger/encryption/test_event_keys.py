"""Event keys through rotations, and across a restore."""

from typing import Any

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import UnauthenticEventError, WrongKeyError
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.operations.rekey import rekey
from tests.conftest import Database
from tests.ledger.helpers import login_of, lookup, password_of, record, run, upsert, writing
from tests.ledger.publishing.checkpointers import tamper
from tests.ledger.rotating import DiedError, die_after, fresh_kek, rotated

OPERATOR = Context(actor="operator", authn="cli")
_KEKS = "SELECT kek FROM ledger.event_keys ORDER BY from_position"


def test_a_rotation_wraps_them_anew(database: Database, keyring: Keyring) -> None:
    """Afterwards the new KEK alone is enough, and MACs from before still hold."""
    record(database, keyring, upsert("a"))
    new = fresh_kek()
    report = run(rotated(database, keyring, new))
    assert report.retired == (keyring.first.id,)
    assert database.fetch(_KEKS) == [(new.id,)]
    assert password_of(record(database, Keyring([new]), lookup("a"))[0]) == "hunter2"


def test_a_kek_that_wraps_only_an_event_key_is_needed(database: Database, keyring: Keyring) -> None:
    """An empty ledger's KEK opens what its MACs are made with."""
    record(database, keyring, lookup("nobody"))
    new = fresh_kek()
    with pytest.raises(WrongKeyError):
        record(database, Keyring([new]), lookup("nobody"))
    run(rotated(database, keyring, new))
    record(database, Keyring([new]), lookup("nobody"))


def test_a_killed_rotation_goes_on(database: Database, keyring: Keyring) -> None:
    """Died after the event keys, before the last chunk: both KEKs serve, the next run ends it."""
    record(database, keyring, *[upsert(f"h{number}") for number in range(7)])
    new = fresh_kek()
    with pytest.raises(DiedError):
        run(rotated(database, keyring, new, die_after(3)))
    both = Keyring([*keyring, new])
    assert password_of(record(database, both, lookup("h0"))[0]) == "hunter2"
    assert run(rotated(database, keyring, new)).retired == (keyring.first.id,)


def test_new_data_keys_bring_a_new_event_key(database: Database, keyring: Keyring) -> None:
    """In the same ledger, named by an event; what follows is made with it."""
    record(database, keyring, upsert("a"))
    run(rekey(login_of(database.owner_url, keyring), OPERATOR))
    rows = database.fetch(
        "SELECT position, details ->> 'ledger', details ->> 'event_key' FROM ledger.events"
        " WHERE type = 'ledger.authenticated' ORDER BY position"
    )
    assert [position for position, _, _ in rows] == [0, 2]
    assert len({ledger for _, ledger, _ in rows}) == 1
    stored = database.fetch("SELECT from_position, id FROM ledger.event_keys ORDER BY 1")
    assert stored == [(position, key) for position, _, key in rows]
    assert password_of(record(database, keyring, lookup("a"))[0]) == "hunter2"


def test_an_event_of_a_lost_timeline_does_not_come_back(
    database: Database, keyring: Keyring
) -> None:
    """Its MAC covers the one before it, which is another one now."""
    record(database, keyring, upsert("a"), lookup("a"))
    lost = _rows(database, 3, lambda: record(database, keyring, lookup("a")))
    # The database is set back, and goes on otherwise.
    tamper(database, "DELETE FROM ledger.events WHERE position >= 2")
    record(database, keyring, lookup("other"))
    _put(database, lost)

    async def start() -> None:
        async with writing(database.service_url, keyring):
            pass

    with pytest.raises(UnauthenticEventError, match="position 3 "):
        run(start())


def _rows(database: Database, position: int, make: Any) -> list[tuple[Any, ...]]:
    make()
    return database.fetch("SELECT e::text FROM ledger.events AS e WHERE position = %s", position)


def _put(database: Database, rows: list[tuple[Any, ...]]) -> None:
    """By the owner: the database itself takes no event that is earlier than the one before."""
    ((text,),) = rows
    with database.owner() as owner:
        owner.execute("ALTER TABLE ledger.events DISABLE TRIGGER check_append")
        owner.execute("INSERT INTO ledger.events SELECT (%s::ledger.events).*", (text,))
        owner.execute("ALTER TABLE ledger.events ENABLE ALWAYS TRIGGER check_append")
