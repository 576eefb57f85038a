"""Events that only a holder of the KEK can make: whatever a stolen database login appends.

Each forgery is made as that login can make it: with a right leaf, at the right position, in a
right order. What it cannot make is the MAC.
"""

import asyncio
import os
import re
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.access.access_key import digest
from secrets_broker.ledger.access.grant_commands import Grant
from secrets_broker.ledger.access.rights import Rights
from secrets_broker.ledger.encryption.event_key import NO_MAC, EventKey, unwrap
from secrets_broker.ledger.encryption.keyring import Kek, Keyring
from secrets_broker.ledger.errors import (
    DecryptionError,
    LedgerError,
    LedgerUnavailableError,
    UnauthenticEventError,
)
from secrets_broker.ledger.event_macs.acceptance import Acceptance, evolve, spans
from secrets_broker.ledger.events import Context, Subject
from secrets_broker.ledger.operations.disowning import DisownRefusedError, disown
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.continuity import Continuity
from secrets_broker.ledger.transparency_log.merkle import leaf_hash
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from tests.conftest import Database
from tests.ledger.event_macs.unauthentic import OPERATOR, refused_at
from tests.ledger.forging import forge
from tests.ledger.helpers import (
    CONTEXT,
    delete,
    login_of,
    lookup,
    password_of,
    rebuilt,
    record,
    run,
    upsert,
    writing,
)
from tests.ledger.unauthenticated import unauthenticate

GRANT = {
    "id": "0123456789abcdef",
    "name": "mallory",
    "sha256": digest("a key of the thief's own, that nobody granted"),
    "rules": [{"allow": ["read"], "hosts": ["*"], "purposes": ["*"]}],
}


def disowned(database: Database, keyring: Keyring, *ranges: tuple[int, int]) -> int:
    """Disown as the command does; the event's position."""
    return run(disown(login_of(database.owner_url, keyring), ranges, OPERATOR)).position


def old_row(database: Database, host: str) -> dict[str, object]:
    """A credential's row, and its last change, for somebody to put back later."""
    ((row,),) = database.fetch(
        "SELECT to_jsonb(c) FROM secrets.host_credentials AS c WHERE host = %s", host
    )
    ((event,),) = database.fetch(
        "SELECT to_jsonb(e) FROM ledger.events AS e WHERE host = %s AND body IS NOT NULL"
        " ORDER BY position DESC LIMIT 1",
        host,
    )
    return {"row": row, "event": event}


def put_back(database: Database, old: dict[str, object]) -> int:
    """Forge a change that says what an old one said, and put the old row back for it."""
    row, event = old["row"], old["event"]
    assert isinstance(row, dict) and isinstance(event, dict)
    fields = ("host", "purpose", "credential_id", "version", "body", "actor")
    position = forge(
        database.service_url, "credential.updated", **{name: event[name] for name in fields}
    )
    with psycopg.connect(database.service_url, autocommit=True) as thief:
        thief.execute("DELETE FROM secrets.host_credentials WHERE host = %s", (row["host"],))
        thief.execute(
            "INSERT INTO secrets.host_credentials SELECT * FROM"
            " jsonb_populate_record(NULL::secrets.host_credentials, %s)",
            (psycopg.types.json.Jsonb({**row, "position": position}),),
        )
    return position


def test_a_new_ledger_is_authenticated_from_its_first_event(
    database: Database, keyring: Keyring
) -> None:
    """Its first event says so, and every event has a MAC of its own."""
    record(database, keyring, upsert("a"), lookup("a"), lookup("b"))
    rows = database.fetch("SELECT type, mac FROM ledger.events ORDER BY position")
    assert rows[0][0] == "ledger.authenticated"
    assert len({mac for _, mac in rows}) == len(rows) == 4
    assert all(len(mac) == 32 for _, mac in rows)


FORGERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "a grant": ("access_key.granted", {"details": GRANT}),
    "a read that never was": (
        "credential.read",
        {"host": "a", "purpose": "ssh", "credential_id": 2, "version": 1, "actor": "bob"},
    ),
    "a delete": (
        "credential.deleted",
        {"host": "a", "purpose": "ssh", "credential_id": 2, "version": 1},
    ),
    "a disowning": ("ledger.disowned", {"details": {"ranges": [[1, 1]]}}),
    "a restore": (
        "ledger.restored",
        {"details": {"origin": "x", "size": 9, "root": "", "new_origin": "y"}},
    ),
    "another beginning": (
        "ledger.authenticated",
        {"details": {"ledger": "00" * 16, "event_key": "11" * 16}},
    ),
    "a rotation": ("key.rotation_started", {"details": {"kek": "22" * 16}}),
    "a type of a later version": ("something.new", {"details": {"x": 1}}),
    "a time that is to come": (
        "credential.read",
        {"host": "a", "purpose": "ssh", "ahead": timedelta(minutes=4)},
    ),
}


@pytest.mark.parametrize("what", FORGERIES)
@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is down"])
def test_a_forged_event_stops_the_ledger(
    database: Database, keyring: Keyring, what: str, running: bool
) -> None:
    """Nothing is served or recorded behind it, and it is named by its position."""
    kind, columns = FORGERIES[what]
    record(database, keyring, upsert("a"))

    async def attempt() -> int:
        async with writing(database.service_url, keyring) as writer:
            position = forge(database.service_url, kind, **columns)
            for command in (lookup("a"), upsert("a", "another"), delete("a")):
                with pytest.raises(UnauthenticEventError, match=f"position {position} ") as told:
                    await writer.submit(command, CONTEXT)
                assert (told.value.first, told.value.last) == (position, position)
            with pytest.raises(UnauthenticEventError):
                await writer.probe()
            return position

    position = run(attempt()) if running else forge(database.service_url, kind, **columns)
    assert refused_at(database, keyring) == (position, position)
    assert database.fetch("SELECT max(position) FROM ledger.events") == [(position,)]


def test_a_run_of_forgeries_is_named_whole(database: Database, keyring: Keyring) -> None:
    """From the first to the last, so that one command can disown them."""
    record(database, keyring, upsert("a"))
    positions = [forge(database.service_url, "credential.read", host="a") for _ in range(7)]
    assert refused_at(database, keyring) == (positions[0], positions[-1])


def test_a_forged_grant_opens_nothing(database: Database, keyring: Keyring) -> None:
    """Neither before nor after the forgery is disowned; the service goes on without a restart."""
    record(database, keyring, upsert("a"))
    thief = Context(actor=None, authn="none", subject=Subject(sha256=str(GRANT["sha256"])))

    async def attempt() -> None:
        async with writing(database.service_url, keyring) as writer:
            position = forge(database.service_url, "access_key.granted", details=GRANT)
            with pytest.raises(UnauthenticEventError):
                await writer.submit(lookup("a"), thief)
            await asyncio.to_thread(disowned_elsewhere, database, keyring, position)
            outcome = await writer.submit(lookup("a"), thief)
            assert outcome.error == "forbidden"
            assert outcome.refusal is not None
            assert outcome.refusal.rule == "unknown_key"
            assert password_of(outcome) is None
            assert password_of(await writer.submit(lookup("a"), CONTEXT)) == "hunter2"

    run(attempt())
    assert database.fetch("SELECT count(*) FROM secrets.access_keys") == [(0,)]


def disowned_elsewhere(database: Database, keyring: Keyring, position: int) -> None:
    """Disown from a thread that has no event loop."""
    disowned(database, keyring, (position, position))


@pytest.mark.parametrize("deleted", [False, True], ids=["an old version", "after a delete"])
def test_an_old_password_does_not_come_back(
    database: Database, keyring: Keyring, deleted: bool
) -> None:
    """Not by a forged change with the old row beside it, nor once that is disowned."""
    record(database, keyring, upsert("a", "old"))
    old = old_row(database, "a")
    record(database, keyring, upsert("a", "new"), *([delete("a")] if deleted else []))
    position = put_back(database, old)
    assert refused_at(database, keyring) == (position, position)

    disowned(database, keyring, (position, position))
    (outcome,) = record(database, keyring, lookup("a"))
    assert outcome.error == "decrypt_failed"  # the row is the thief's still
    assert password_of(outcome) is None
    rebuilt(database, keyring)
    (outcome,) = record(database, keyring, lookup("a"))
    assert password_of(outcome) == (None if deleted else "new")


def test_a_copied_mac_is_of_its_own_place(database: Database, keyring: Keyring) -> None:
    """The same event at another position has another MAC."""
    record(database, keyring, upsert("a"), lookup("a"))
    ((columns, mac),) = database.fetch(
        "SELECT to_jsonb(e) - 'position' - 'leaf_hash' - 'mac' - 'type' - 'at' - 'v', mac"
        " FROM ledger.events AS e ORDER BY position DESC LIMIT 1"
    )
    position = forge(database.service_url, "credential.read", mac=mac, **columns)
    assert refused_at(database, keyring) == (position, position)


def test_a_time_far_ahead_is_refused_by_the_database(database: Database, keyring: Keyring) -> None:
    """Else all later events were of that time, and what expires were expired."""
    record(database, keyring, upsert("a"))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="ahead of the clock"):
        forge(database.service_url, "credential.read", ahead=timedelta(minutes=6))


def test_a_disowned_event_moves_no_time(database: Database, keyring: Keyring) -> None:
    """What follows is of the clock again, although the forgery was minutes ahead."""
    record(database, keyring, upsert("a"))
    position = forge(database.service_url, "credential.read", ahead=timedelta(minutes=4))
    by = disowned(database, keyring, (position, position))
    record(database, keyring, lookup("a"))
    ahead = "SELECT bool_or(at > clock_timestamp()) FROM ledger.events WHERE position >= %s"
    assert database.fetch(ahead, by) == [(False,)]


def test_no_event_comes_without_a_mac(database: Database, keyring: Keyring) -> None:
    """A service of an earlier version gets an error, and cannot stop the others."""
    record(database, keyring, upsert("a"))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="needs a MAC"):
        database.execute(
            "INSERT INTO ledger.events (position, at, v, ok, leaf_hash, type, authn)"
            " SELECT max(position) + 1, clock_timestamp(), 1, true, sha256('x'), 'x', 'none'"
            " FROM ledger.events"
        )
    assert password_of(record(database, keyring, lookup("a"))[0]) == "hunter2"


@pytest.mark.parametrize("kind", ["credential.read", "access_key.granted", "ledger.authenticated"])
def test_an_empty_ledger_cannot_be_begun_by_others(
    database: Database, keyring: Keyring, kind: str
) -> None:
    """Whatever is put there before the first service starts is refused, by one or the other."""
    try:
        with psycopg.connect(database.service_url, autocommit=True) as thief:
            thief.execute(
                "INSERT INTO ledger.events (position, at, v, ok, leaf_hash, mac, type, authn)"
                " VALUES (0, clock_timestamp(), 1, true, sha256('x'), sha256('x'), %s, 'none')",
                (kind,),
            )
    except psycopg.Error as error:
        assert "begins with ledger.authenticated" in str(error)
        record(database, keyring, upsert("a"))
    else:
        assert kind == "ledger.authenticated"
        assert refused_at(database, keyring) == (0, 0)


def test_a_stolen_login_writes_neither_keys_nor_disownings(
    database: Database, keyring: Keyring
) -> None:
    """They come with their events alone: the event key by a function, disowning by the owner."""
    record(database, keyring, upsert("a"))
    for statement in (
        "INSERT INTO ledger.event_keys VALUES ('x', 'y', 'z', 5)",
        "UPDATE ledger.event_keys SET wrapped = 'z'",
        "DELETE FROM ledger.event_keys",
        "INSERT INTO ledger.disowned VALUES (1, 1, 2)",
        "SELECT ledger.disown(1)",
        "SELECT ledger.begin_event_key('x', (SELECT kek FROM ledger.event_keys), 'z', 1)",
        "SELECT ledger.rewrap_event_keys('{x}', '{y}', '{z}')",
    ):
        with psycopg.connect(database.service_url) as thief, pytest.raises(psycopg.Error):
            thief.execute(statement.encode())


def test_a_grant_that_was_edited_is_not_believed(database: Database, keyring: Keyring) -> None:
    """By the owner, with the guards off: the leaf is made of the row that is read."""
    grant = Grant(grantee="ci", id="ab" * 8, sha256="cd" * 32, rights=rights())
    record(database, keyring, grant)
    with database.owner() as owner:
        owner.execute("ALTER TABLE ledger.events DISABLE TRIGGER append_only")
        owner.execute(
            "UPDATE ledger.events SET details = jsonb_set(details, '{sha256}', %s)"
            " WHERE type = 'access_key.granted'",
            (psycopg.types.json.Jsonb(GRANT["sha256"]),),
        )
    assert refused_at(database, keyring) == (1, 1)


def rights() -> Rights:
    """Everything, everywhere."""
    return msgspec.convert({"rules": GRANT["rules"]}, Rights)


class TestDisown:
    """What may be disowned, and what not."""

    def test_what_was_made_with_the_keys_stays(self, database: Database, keyring: Keyring) -> None:
        """Whoever runs the command cannot take back what somebody did."""
        record(database, keyring, upsert("a"), lookup("a"))
        forged = forge(database.service_url, "credential.read", host="a")
        for first, last in [(0, 0), (1, 1), (2, forged), (forged, forged + 1)]:
            with pytest.raises(LedgerError):
                disowned(database, keyring, (first, last))
        assert database.fetch("SELECT max(position) FROM ledger.events") == [(forged,)]
        disowned(database, keyring, (forged, forged))
        with pytest.raises(DisownRefusedError, match="already"):
            disowned(database, keyring, (forged, forged))
        for first, last in [(0, 0), (1, 2), (2, forged)]:
            with pytest.raises(DisownRefusedError, match="made with this ledger's keys"):
                disowned(database, keyring, (first, last))

    def test_all_of_them_or_none(self, database: Database, keyring: Keyring) -> None:
        """With a forgery left over nothing is recorded, and that one is named."""
        record(database, keyring, upsert("a"))
        first, second = (forge(database.service_url, "credential.read", host="a") for _ in "ab")
        with pytest.raises(UnauthenticEventError, match=f"position {second} "):
            disowned(database, keyring, (first, first))
        disowned(database, keyring, (first, first), (second, second))
        assert database.fetch("SELECT first_position, last_position FROM ledger.disowned") == [
            (first, second)
        ]

    def test_another_forgery_later(self, database: Database, keyring: Keyring) -> None:
        """The chain goes on over what was disowned, and a second time."""
        record(database, keyring, upsert("a"))
        for _ in range(3):
            position = forge(database.service_url, "access_key.granted", details=GRANT)
            disowned(database, keyring, (position, position))
            assert password_of(record(database, keyring, lookup("a"))[0]) == "hunter2"

    def test_a_ledger_that_was_never_authenticated(
        self, database: Database, keyring: Keyring
    ) -> None:
        """There nothing tells a forgery from an event."""
        record(database, keyring, upsert("a"))
        unauthenticate(database)
        with pytest.raises(LedgerError, match="secrets-broker authenticate"):
            disowned(database, keyring, (1, 1))


def test_it_shows_in_the_access_log(database: Database, keyring: Keyring) -> None:
    """A read that never was is no access, and is not hidden either."""
    record(database, keyring, upsert("a"))
    position = forge(database.service_url, "credential.read", host="a", purpose="ssh", actor="bob")
    disowned(database, keyring, (position, position))
    assert database.fetch(
        "SELECT success, error_message FROM secrets.credential_access_log WHERE id = %s", position
    ) == [(False, "disowned")]


keys = st.binary(min_size=32, max_size=32)
hashes = st.binary(min_size=32, max_size=32)
positions = st.integers(0, 2**63 - 1)


@given(keys, positions, hashes, hashes, st.integers(0, 3), st.integers(0, 255))
def test_any_other_bit_is_another_mac(
    key: bytes, position: int, leaf: bytes, before: bytes, which: int, bit: int
) -> None:
    """Of the key, the place, the leaf, or the MAC before."""
    ours = EventKey("ab" * 16, "id", key)
    mac = ours.mac(position, leaf, before)
    assert ours.fits(mac, position, leaf, before)
    parts = [bytearray(key), bytearray(position.to_bytes(8, "big")), bytearray(leaf)]
    parts.append(bytearray(before))
    index = bit // 8 % len(parts[which])
    parts[which][index] ^= 1 << bit % 8
    changed_key, place, changed_leaf, changed_before = map(bytes, parts)
    other = EventKey("ab" * 16, "id", changed_key)
    assert not other.fits(mac, int.from_bytes(place, "big"), changed_leaf, changed_before)


def test_openssls_macs() -> None:
    """The vectors of docs/format.md, which OpenSSL's HMAC-SHA256 made."""
    text = (Path(__file__).parents[3] / "docs" / "format.md").read_text()
    rows = re.findall(r"^\| (\d) \| `([0-9a-f]{64})` \| `([0-9a-f]{64})` \|$", text, re.MULTILINE)
    assert len(rows) == 2
    key, before = EventKey(bytes(range(16)).hex(), "id", bytes(range(32))), NO_MAC
    for (position, leaf, mac), entry in zip(rows, (b"", b"{}"), strict=True):
        assert leaf_hash(entry).hex() == leaf
        before = key.mac(int(position), bytes.fromhex(leaf), before)
        assert before.hex() == mac


def test_a_wrapped_key_opens_in_its_place_alone() -> None:
    """Bound to its ledger, its id and where it begins."""
    kek = Kek.from_bytes(os.urandom(32))
    key = EventKey.random("ab" * 16)
    stored = key.wrap(kek, 7)
    assert unwrap(kek, key.ledger, stored) == key
    for ledger, other in (
        ("cd" * 16, stored),
        (key.ledger, replace(stored, id="other")),
        (key.ledger, replace(stored, from_position=8)),
        (key.ledger, replace(stored, wrapped=stored.wrapped[:-1] + b"x")),
    ):
        with pytest.raises(DecryptionError):
            unwrap(kek, ledger, other)
    with pytest.raises(DecryptionError):
        unwrap(Kek.from_bytes(os.urandom(32)), key.ledger, stored)


@given(st.sets(st.integers(0, 60)))
def test_spans_are_the_positions(positions: set[int]) -> None:
    """As few as can be, in order, and all of them."""
    found = spans(sorted(positions))
    assert {p for first, last in found for p in range(first, last + 1)} == positions
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))


def test_a_ledger_has_one_id() -> None:
    """An event that names another begins nothing."""
    begun = evolve(Acceptance(), "ledger.authenticated", {"ledger": "aa", "event_key": "k"}, 3)
    assert (begun.begun, begun.key_id(2), begun.key_id(3)) == (3, None, "k")
    other = evolve(begun, "ledger.authenticated", {"ledger": "bb", "event_key": "l"}, 9)
    assert other == begun
    again = evolve(begun, "ledger.restored", {"event_key": "m"}, 9)
    assert (again.key_id(8), again.key_id(9)) == ("k", "m")


def test_an_older_database_does_not_take_it_back(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """That MACs are demanded stands beside the checkpoint file; without it, it is only said."""
    known = Continuity(file=CheckpointFile(tmp_path / "checkpoint"))

    async def serve(continuity: Continuity) -> None:
        writer = Writer(database.service_url, keyring, HostCredentials(), continuity=continuity)
        try:
            await writer.start()
            await writer.submit(upsert("a"), CONTEXT)
        finally:
            await writer.close()

    run(serve(known))
    unauthenticate(database)
    for _ in range(2):
        with pytest.raises(LedgerUnavailableError, match="run secrets-broker authenticate"):
            run(serve(known))
    run(serve(Continuity()))
