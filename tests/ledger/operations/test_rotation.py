"""Rotation: one KEK after another, while nothing is lost and nothing is wrapped twice."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from secrets_broker.ledger.database.ledger_session import TOOL_SESSION
from secrets_broker.ledger.encryption.keks import NewKek
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import (
    BusyError,
    LedgerUnavailableError,
    RotationRefusedError,
    WrongKeyError,
)
from secrets_broker.ledger.operations.rotation import rotate
from secrets_broker.ledger.store import Store
from secrets_broker.projections.host_credentials import HostCredentials
from tests.conftest import Database
from tests.ledger.helpers import (
    lookup,
    password_of,
    rebuilt,
    record,
    run,
    send,
    upsert,
    writing,
)
from tests.ledger.rotating import OPERATOR, DiedError, die_after, fresh_kek, rotated, wraps

HOSTS = [f"host-{number}" for number in range(10)]


def filled(database: Database, keyring: Keyring) -> None:
    """Ten credentials, each with a password of its own."""
    record(database, keyring, *(upsert(host, f"secret of {host}") for host in HOSTS))


def readable(database: Database, keyring: Keyring) -> bool:
    """Whether every credential of `filled` is served, with the right password."""
    found = record(database, keyring, *map(lookup, HOSTS))
    return [password_of(outcome) for outcome in found] == [f"secret of {h}" for h in HOSTS]


def states(database: Database) -> dict[str, str]:
    """The state of each KEK."""
    return dict(database.fetch("SELECT id, state FROM ledger.keks"))


def types(database: Database, like: str = "key.%") -> list[str]:
    """The types of events, in order."""
    query = "SELECT type FROM ledger.events WHERE type LIKE %s ORDER BY position"
    return [word for (word,) in database.fetch(query, like)]


def test_the_new_key_alone_opens_everything(database: Database, keyring: Keyring) -> None:
    """After a rotation the new key serves all, the old one nothing, and rebuild agrees."""
    filled(database, keyring)
    new = fresh_kek()
    report = run(rotated(database, keyring, new))
    assert (report.rewrapped, report.unwrappable) == (10, ())
    assert report.retired == (keyring.first.id,)
    assert wraps(database) == {new.id: 10}
    assert states(database) == {keyring.first.id: "retired", new.id: "active"}
    assert readable(database, Keyring([new]))
    with pytest.raises(WrongKeyError, match=new.id):
        record(database, keyring, lookup(HOSTS[0]))
    assert rebuilt(database, Keyring([new]), check_only=True).differences == ()


def test_no_event_is_touched_and_two_are_added(database: Database, keyring: Keyring) -> None:
    """Start and end are events with counts and key ids; what stood before stands as it was."""
    filled(database, keyring)
    everything = "SELECT * FROM ledger.events WHERE position <= 10 ORDER BY position"
    before = database.fetch(everything)
    new = fresh_kek()
    run(rotated(database, keyring, new))
    assert database.fetch(everything) == before
    query = "SELECT type, actor, authn, details FROM ledger.events WHERE position > 10"
    started, finished = database.fetch(query + " ORDER BY position")
    assert started[:3] == ("key.rotation_started", "operator", "cli")
    assert started[3] == {
        "kek": new.id,
        "provider": "environment",
        "data_keys": {keyring.first.id: 10},
    }
    assert finished[0] == "key.rotated"
    assert finished[3] == {"kek": new.id, "data_keys": 10, "retired": [keyring.first.id]}


def test_a_late_service_wraps_nothing_under_the_old_key(
    database: Database, keyring: Keyring
) -> None:
    """A writer that began before the rotation wraps under the new KEK, or is refused."""
    new = fresh_kek()

    async def through_it() -> None:
        both, late = Keyring([*keyring, new]), keyring
        async with (
            writing(database.service_url, both) as knowing,
            writing(database.service_url, late) as unknowing,
        ):
            await send(knowing, upsert("before"))
            await rotated(database, keyring, new)
            await send(knowing, upsert("after"))
            with pytest.raises(LedgerUnavailableError, match="SECRETS_KMS_KEY"):
                await send(unknowing, upsert("never"))
            with pytest.raises(LedgerUnavailableError, match=new.id):
                await unknowing.probe()

    run(through_it())
    assert wraps(database) == {new.id: 2}


def test_readiness_names_the_key_that_a_rotation_still_needs(
    database: Database, keyring: Keyring
) -> None:
    """While keys are wrapped under the old KEK, a service with the new one alone serves nothing."""
    filled(database, keyring)
    new = fresh_kek()
    with pytest.raises(DiedError):
        run(rotated(database, keyring, new, die_after(3)))
    with pytest.raises(WrongKeyError, match="SECRETS_KMS_KEY_PREVIOUS"):
        record(database, Keyring([new]), lookup(HOSTS[0]))
    assert readable(database, Keyring([new, *keyring]))
    assert types(database, "credential.read") == ["credential.read"] * 10  # none is a failure's


@pytest.mark.parametrize("count", [3, 6, 9, 10])
def test_died_after_a_chunk(database: Database, keyring: Keyring, count: int) -> None:
    """Dead after any chunk: all is readable with both keys, and the next run does the rest only."""
    filled(database, keyring)
    new = fresh_kek()
    with pytest.raises(DiedError):
        run(rotated(database, keyring, new, die_after(count)))
    assert readable(database, Keyring([*keyring, new]))
    before = dict(database.fetch("SELECT id, wrapped FROM ledger.data_keys WHERE kek = %s", new.id))
    report = run(rotated(database, keyring, new))
    after = dict(database.fetch("SELECT id, wrapped FROM ledger.data_keys"))
    assert {key: after[key] for key in before} == before, "no key is wrapped twice"
    assert report.rewrapped == 10 - len(before)
    assert types(database) == ["key.rotation_started", "key.rotated"]
    assert readable(database, Keyring([new]))


STEPS: list[tuple[str, str, dict[str, str]]] = [
    # What the server refuses to do, and what then holds: the state of old and new.
    ("INSERT ON ledger.keks", "NEW.state = 'prepared'", {"old": "active"}),
    ("UPDATE ON ledger.keks", "NEW.state = 'active'", {"old": "active", "new": "prepared"}),
    ("UPDATE ON ledger.data_keys", "true", {"old": "retiring", "new": "active"}),
    ("UPDATE ON ledger.keks", "NEW.state = 'retired'", {"old": "retiring", "new": "active"}),
]


@pytest.mark.parametrize(("event", "condition", "expected"), STEPS)
def test_died_before_a_step_commits(
    database: Database, keyring: Keyring, event: str, condition: str, expected: dict[str, str]
) -> None:
    """Where the database is lost in the middle of a step, the step did not happen; run again."""
    filled(database, keyring)
    new = fresh_kek()
    _lose_the_database_at(database, event, condition)
    with pytest.raises((psycopg.Error, LedgerUnavailableError)):
        run(rotated(database, keyring, new))
    named = {keyring.first.id: "old", new.id: "new"}
    assert {named[kek]: state for kek, state in states(database).items()} == expected
    database.execute("DROP FUNCTION public.lose() CASCADE")
    assert readable(database, Keyring([*keyring, new]))
    report = run(rotated(database, keyring, new))
    assert (wraps(database), report.unwrappable) == ({new.id: 10}, ())
    assert types(database) == ["key.rotation_started", "key.rotated"]
    assert readable(database, Keyring([new]))


def _lose_the_database_at(database: Database, event: str, condition: str) -> None:
    """End the tool's session, as a crashed server would, once it does this."""
    table = event.rpartition(" ")[2]
    database.execute(
        "CREATE FUNCTION public.lose() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5);"
        " RETURN NEW; END $$"
    )
    database.execute(
        f"CREATE TRIGGER lose BEFORE {event.split(' ', maxsplit=1)[0]} ON {table} FOR EACH ROW"
        f" WHEN ({condition}) EXECUTE FUNCTION public.lose()"
    )
    database.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER lose")


def test_a_wrong_old_key_touches_nothing(database: Database, keyring: Keyring) -> None:
    """A rotation without the key that data keys are wrapped under is refused before it begins."""
    filled(database, keyring)
    with pytest.raises(WrongKeyError, match=keyring.first.id):
        run(rotated(database, Keyring([fresh_kek()]), fresh_kek()))
    assert states(database) == {keyring.first.id: "active"}
    assert types(database) == []


def test_a_retired_key_does_not_come_back(database: Database, keyring: Keyring) -> None:
    """A key that was retired protects nothing again: NIST SP 800-57 part 1, section 7."""
    filled(database, keyring)
    new = fresh_kek()
    run(rotated(database, keyring, new))
    with pytest.raises(RotationRefusedError, match="retired"):
        run(rotated(database, Keyring([new]), keyring.first))
    assert states(database)[new.id] == "active"


def test_two_at_once(database: Database, keyring: Keyring) -> None:
    """The second rotation is refused, and told who runs the first."""
    filled(database, keyring)

    async def through_it() -> None:
        new = fresh_kek()
        held = Keyring([*keyring, new])
        store = await Store.connect(database.owner_url, HostCredentials(), held, TOOL_SESSION)
        try:
            with pytest.raises(DiedError):
                await rotate(store, held, NewKek(new), OPERATOR, progress=die_after(3), chunk=3)
            # Stopped half-way, its session lives still, and with it its lock.
            with pytest.raises(BusyError, match=r"rotate-key by \S+ on \S+, process \d+"):
                await rotated(database, held, fresh_kek())
        finally:
            await store.close()

    run(through_it())


def test_a_tampered_wrap_fails_alone(database: Database, keyring: Keyring) -> None:
    """A data key whose wrap was changed is named and left; all others are re-wrapped and served."""
    filled(database, keyring)
    _tamper_with(database, HOSTS[4])
    new = fresh_kek()
    report = run(rotated(database, keyring, new))
    assert [(u.host, u.purpose) for u in report.unwrappable] == [(HOSTS[4], "ssh")]
    assert wraps(database) == {new.id: 9, keyring.first.id: 1}
    assert report.retired == ()
    assert types(database) == ["key.rotation_started"]
    found = record(database, Keyring([*keyring, new]), *map(lookup, HOSTS))
    assert [o.error for o in found] == [None] * 4 + ["decrypt_failed"] + [None] * 5


def _tamper_with(database: Database, host: str) -> None:
    database.execute(
        "UPDATE ledger.data_keys SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)"
        " WHERE id = (SELECT data_key FROM secrets.host_credentials WHERE host = %s)",
        host,
    )


def test_on_to_a_third_key_before_the_second_is_done(database: Database, keyring: Keyring) -> None:
    """A rotation that died may be followed by one to a third key, for which it takes all."""
    filled(database, keyring)
    second, third = fresh_kek(), fresh_kek()
    with pytest.raises(DiedError):
        run(rotated(database, keyring, second, die_after(3)))
    with pytest.raises(WrongKeyError, match="SECRETS_KMS_KEY_PREVIOUS"):
        run(rotated(database, Keyring([second]), third))
    run(rotated(database, Keyring([second, *keyring]), third))
    assert wraps(database) == {third.id: 10}
    assert readable(database, Keyring([third]))


def test_done_is_done(database: Database, keyring: Keyring) -> None:
    """Run again after its end, a rotation does nothing and records nothing."""
    filled(database, keyring)
    new = fresh_kek()
    run(rotated(database, keyring, new))
    report = run(rotated(database, keyring, new))
    assert (report.rewrapped, report.retired) == (0, ())
    assert types(database) == ["key.rotation_started", "key.rotated"]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT ledger.activate_kek(id) FROM ledger.keks",
        "SELECT ledger.retire_keks()",
        "SELECT ledger.rewrap_data_keys('{}', '{}', '{}')",
        "SELECT ledger.prepare_kek('a', 'b', 'c', NULL)",
        "UPDATE ledger.data_keys SET kek = kek",
        "UPDATE ledger.keks SET state = 'retired'",
    ],
)
def test_the_service_cannot_rotate(database: Database, keyring: Keyring, statement: str) -> None:
    """Re-wrapping, and moving the active mark, are not for the service's role."""
    filled(database, keyring)
    with (
        psycopg.connect(database.service_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("SELECT ledger.activate_kek(id) FROM ledger.keks", "key.rotation_started"),
        ("SELECT ledger.retire_keks()", "key.rotated"),
        ("UPDATE ledger.keks SET state = 'retired'", "cannot go from active to retired"),
        ("UPDATE ledger.keks SET canary = ''", "cannot go"),
        ("DELETE FROM ledger.keks", "append-only"),
    ],
)
def test_the_owner_moves_no_mark_without_its_event(
    database: Database, keyring: Keyring, statement: str, word: str
) -> None:
    """The database itself holds rotation to its order, and to its events."""
    filled(database, keyring)
    with pytest.raises(psycopg.Error, match=word):
        database.execute(statement)


def test_under_load_nothing_fails(database: Database, keyring: Keyring) -> None:
    """While keys rotate twice, no lookup and no upsert of a service that holds them fails."""
    filled(database, keyring)
    second, third = fresh_kek(), fresh_kek()
    held = Keyring([*keyring, second, third])

    async def load(writing_: Callable[..., Any], stop: asyncio.Event) -> int:
        served = 0
        async with writing_(database.service_url, held) as writer:
            while not stop.is_set():
                outcomes = await send(writer, *map(lookup, HOSTS), upsert(f"new-{served}"))
                assert all(outcome.error is None for outcome in outcomes)
                served += 1
        return served

    async def through_it() -> None:
        stop = asyncio.Event()
        loads = [asyncio.create_task(load(writing, stop)) for _ in range(2)]
        await asyncio.sleep(0.2)
        await rotated(database, keyring, second)
        await rotated(database, Keyring([second]), third)
        await asyncio.sleep(0.2)
        stop.set()
        assert all(served > 1 for served in await asyncio.gather(*loads))

    run(through_it())
    assert set(wraps(database)) == {third.id}
    assert readable(database, Keyring([third]))
    assert rebuilt(database, Keyring([third]), check_only=True).differences == ()
