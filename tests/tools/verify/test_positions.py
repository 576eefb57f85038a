"""Positions that a ledger cannot have: each is a finding that names it, and the rest is checked."""

import json
from pathlib import Path

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.tools.verify.sources import database as database_source
from tests.conftest import KMS_KEY, Database
from tests.ledger.helpers import BEGUN, lookup, record, upsert
from tests.tools.command_line import run as command
from tests.tools.everything import free
from tests.tools.verify.changing import KEY, Report, checkpoints, tables, unlock, verified

LARGEST = 2**63 - 1


@pytest.fixture
def ledger(database: Database, keyring: Keyring) -> Database:
    """Ten events under a checkpoint, and nothing in the way of who changes them."""
    record(database, keyring, upsert("h0"), *(lookup("h0") for _ in range(9 - BEGUN)))
    checkpoints(database, (10,))
    unlock(database)
    return database


def put(database: Database, *positions: int) -> None:
    """Copy the last event to other places."""
    columns = [
        name
        for (name,) in database.fetch(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = 'ledger.events'::regclass"
            " AND attnum > 0 AND NOT attisdropped AND attname <> 'position' ORDER BY attnum"
        )
    ]
    names = ", ".join(f'"{name}"' for name in columns)
    for position in positions:
        database.execute(
            f"INSERT INTO ledger.events (position, {names}) SELECT %s, {names} FROM ledger.events"
            " WHERE position = 9 LIMIT 1",
            position,
        )


def named(report: Report, *positions: int) -> None:
    """Each of them is told; and up to the first gap everything was checked."""
    assert not report.ok
    assert {position for position, _, _ in report.problems} >= set(positions), report.problems


@pytest.mark.parametrize("key", [None, KMS_KEY])
@pytest.mark.parametrize(
    "positions",
    [
        (LARGEST,),
        (LARGEST, LARGEST - 1),
        (LARGEST - 10_000, LARGEST),
        (2**62,),
        (10**9, 10**12, LARGEST),
        (10 + database_source.MAX_HOLES + 1,),
    ],
)
def test_far_behind_a_gap(ledger: Database, positions: tuple[int, ...], key: str | None) -> None:
    """It is named, and so is where the gap begins; what is before it is checked as ever."""
    put(ledger, *positions)
    report = verified(ledger, kms_key=key)
    gaps = [p for p in positions if p - 1 not in positions]
    named(report, 10, *gaps)
    assert (report.size, report.first_bad, report.checked["events"]) == (10, 10, 10)
    assert any("far behind a gap" in text for text in report.not_checked)


def test_behind_a_small_gap(ledger: Database) -> None:
    """Each event that is missing is named, and what follows is gone through."""
    put(ledger, 13)
    report = verified(ledger)
    named(report, 10, 11, 12)
    assert report.size == 14


def test_only_an_event_that_cannot_be(ledger: Database) -> None:
    """Nothing else is there."""
    put(ledger, LARGEST)
    ledger.execute("DELETE FROM ledger.events WHERE position < 10")
    report = verified(ledger)
    named(report, 0, LARGEST)
    assert (report.size, report.first_bad) == (0, 0)


@pytest.mark.parametrize("position", [-1, -(2**63)])
def test_before_the_first(ledger: Database, position: int) -> None:
    """A negative position."""
    put(ledger, position)
    report = verified(ledger, kms_key=KMS_KEY)
    named(report, position)
    assert (report.size, report.first_bad) == (10, position)


def test_behind_a_hole_nobody_is_blamed(ledger: Database) -> None:
    """The MAC there covers that of the event that is gone: it cannot be checked, nor disowned."""
    ledger.execute("DELETE FROM ledger.events WHERE position = 4")
    report = verified(ledger, kms_key=KMS_KEY)
    assert report.first_bad == 4
    assert "mac" not in report.checks
    assert any("1 events before which one is missing" in what for what in report.not_checked)


def test_holes_and_twins(ledger: Database) -> None:
    """An event that is gone, and one that is there twice."""
    ledger.execute("DELETE FROM ledger.events WHERE position = 4")
    put(ledger, 7)
    report = verified(ledger)
    named(report, 4, 7)
    assert report.first_bad == 4


@pytest.mark.parametrize("value", [LARGEST, -(2**63), -1])
def test_numbers_beside_the_events(ledger: Database, value: int) -> None:
    """Whatever a number is set to, wherever one is: verify ends with a finding."""
    free(ledger)
    found = ledger.fetch(
        "SELECT attrelid::regclass::text, attname::text FROM pg_attribute"
        " WHERE attrelid = ANY (%s::regclass[]) AND atttypid = 'bigint'::regtype AND attnum > 0",
        tables(ledger),
    )
    for table, column in found:
        ledger.execute(f"CREATE TABLE public.kept AS TABLE {table}")
        changed = ledger.fetch(
            f'UPDATE {table} SET "{column}" = %s'
            f" WHERE ctid = (SELECT min(ctid) FROM {table}) RETURNING 1",
            value,
        )
        report = verified(ledger, kms_key=KMS_KEY)
        assert not (report.ok and changed), (table, column)
        ledger.execute(f"TRUNCATE {table} CASCADE")
        ledger.execute(f"INSERT INTO {table} TABLE public.kept")
        ledger.execute("DROP TABLE public.kept")
        assert verified(ledger, kms_key=KMS_KEY).ok, (table, column)


def test_as_it_is_typed(ledger: Database, tmp_path: Path) -> None:
    """JSON with the position, exit 1, and no traceback."""
    put(ledger, LARGEST)
    env = {"DATABASE_URL": ledger.service_url, "LEDGER_VERIFIER_KEY": str(KEY.verifier)}
    done = command("verify", "--json", cwd=tmp_path, env=env)
    found = json.loads(done.stdout)
    assert (done.returncode, found["size"]) == (1, 10)
    assert LARGEST in [problem["position"] for problem in found["problems"]]
    assert "Traceback" not in done.stderr
