"""Expiry: what is past its time is not given out, and that it was asked for is recorded."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.commands import Upsert, parse
from secrets_broker.ledger.encoding import from_rfc3339, rfc3339
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.ledger.fold import Outcome
from tests.conftest import Database
from tests.ledger.helpers import (
    delete,
    lookup,
    password_of,
    record,
    record_at,
    rotations,
    times,
    upsert,
)

GOOD = {"host": "db1", "purpose": "ssh", "password": "p"}
PAST = datetime(2020, 1, 2, tzinfo=UTC)
FUTURE = datetime(2120, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def refused(**fields: Any) -> FieldError:
    """The one error that the fields get."""
    with pytest.raises(InvalidCommandError) as caught:
        parse(Upsert, {**GOOD, **fields})
    (error,) = caught.value.errors
    return error


@given(times, st.booleans())
def test_any_offset_names_the_same_instant(moment: datetime, as_text: bool) -> None:
    """A time with whatever offset, as text or datetime, is kept as the same instant in UTC."""
    given_time = moment.isoformat() if as_text else moment
    expires_at = parse(Upsert, {**GOOD, "expires_at": given_time}).expires_at
    assert expires_at == moment
    assert expires_at is not None
    assert expires_at.tzinfo is UTC
    assert from_rfc3339(rfc3339(expires_at)) == moment


@given(times, times)
def test_texts_of_times_are_in_the_order_of_the_times(one: datetime, other: datetime) -> None:
    """An instant has one text, and texts compare as their instants do."""
    assert (one < other) == (rfc3339(one) < rfc3339(other))


@pytest.mark.parametrize(
    "value",
    [
        "2031-01-02T03:04:05",
        datetime(2031, 1, 2),
        "2031-01-02",
        "2031-13-02T03:04:05Z",
        "2031-01-02T24:00:00Z",
        "2031-01-02T03:04:60Z",
        "2031-01-02T03:04:05 Europe/Zurich",
        "m4rker",
        "",
        "\ud800",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        1_893_456_000,
        1.5,
        True,
        [],
        {"m4rker": 1},
    ],
    ids=ascii,
)
def test_a_time_that_is_none_is_refused(value: Any) -> None:
    """No offset, no such time, a wrong type, out of range: the field is named, not the value."""
    error = refused(expires_at=value)
    assert error.field in ("expires_at", "")  # a lone surrogate is found before the field is
    assert error.message
    assert "m4rker" not in error.message
    assert "2031" not in error.message


@pytest.mark.parametrize("value", [0, -1, 36_501, 2**70, 1.5, 30.0, True, "30", [], {"m4rker": 1}])
def test_days_that_are_none_are_refused(value: Any) -> None:
    """Whole days from 1 to 36,500 and nothing else; the field is named, not the value."""
    error = refused(rotate_after=value)
    assert error.field == "rotate_after"
    assert "m4rker" not in error.message


@pytest.mark.parametrize("days", [1, 36_500])
def test_the_ends_of_the_range_are_in_it(days: int) -> None:
    """A day, and a hundred years."""
    assert parse(Upsert, {**GOOD, "rotate_after": days}).rotate_after == days


def test_a_body_without_them_is_as_it_ever_was(database: Database, keyring: Keyring) -> None:
    """Where neither is set, nothing of them is in the row; null is the same as absent."""
    record(database, keyring, upsert("a"), upsert("b", expires_at=None, rotate_after=None))
    query = "SELECT expires_at, rotate_after FROM secrets.host_credentials"
    assert database.fetch(query) == [(None, None)] * 2
    assert [password_of(o) for o in record(database, keyring, lookup("a"), lookup("b"))] == (
        ["hunter2"] * 2
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moment=times, days=st.none() | rotations)
def test_a_trip_through_the_row(
    database: Database, keyring: Keyring, moment: datetime, days: int | None
) -> None:
    """Any instant, read back from its column, is still the one that the ciphertext is bound to."""
    record(database, keyring, upsert("h", expires_at=moment, rotate_after=days))
    (found,) = record(database, keyring, lookup("h"))
    stored = database.fetch(
        "SELECT to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),"
        " rotate_after FROM secrets.host_credentials"
    )
    assert stored == [(rfc3339(moment), days)]
    if found.error:
        assert (found.error, found.content) == ("expired", None)
        assert moment <= datetime.now(UTC) + timedelta(minutes=5)
    else:
        assert found.content is not None
        assert (found.content.expires_at, found.content.rotate_after) == (moment, days)


def ended(outcome: Outcome) -> bool:
    """Whether a lookup found what is past its time, and gave nothing of it."""
    return (outcome.error, outcome.content) == ("expired", None)


def test_a_lookup_past_its_time_discloses_nothing(database: Database, keyring: Keyring) -> None:
    """It comes to nothing, in the batch of the upsert and after, and is recorded as a failure."""
    first = record(database, keyring, upsert("a", expires_at=PAST), lookup("a"))
    second = record(database, keyring, lookup("a"))
    assert ended(first[1])
    assert ended(second[0])
    assert (
        database.fetch(
            "SELECT type, ok, error, credential_id, version, body IS NULL FROM ledger.events"
            " WHERE position > 1 ORDER BY position"
        )
        == [("credential.read", False, "expired", 2, 1, True)] * 2
    )
    assert (
        database.fetch(
            "SELECT access_type, success, error_message FROM secrets.credential_access_log"
            " WHERE id > 1"
        )
        == [("read", False, "expired")] * 2
    )


def test_it_ends_at_the_time_of_the_event(database: Database, keyring: Keyring) -> None:
    """The event's own time decides, so that the record shows why: not a clock read elsewhere."""
    soon = datetime.now(UTC) + timedelta(minutes=4)
    (stored,) = record(database, keyring, upsert("a", expires_at=soon))
    assert stored.error is None
    record_at(database, keyring, soon, lookup("b"))  # the ledger's time never runs backwards
    (found,) = record(database, keyring, lookup("a"))
    assert ended(found)
    assert database.fetch("SELECT max(at) FROM ledger.events") == [(soon,)]


def test_an_upsert_replaces_both(database: Database, keyring: Keyring) -> None:
    """An upsert without them clears them: what had expired is given out again, as stored anew."""
    record(database, keyring, upsert("a", expires_at=PAST, rotate_after=3))
    *_, found = record(database, keyring, upsert("a", "new"), lookup("a"))
    assert password_of(found) == "new"
    query = "SELECT expires_at, rotate_after FROM secrets.host_credentials"
    assert database.fetch(query) == [(None, None)]
    (found,) = record(database, keyring, lookup("a"))
    assert found.content is not None
    assert (found.content.expires_at, found.content.rotate_after) == (None, None)


def test_what_has_expired_can_be_deleted(database: Database, keyring: Keyring) -> None:
    """Expiry hides a credential; it does not remove it."""
    record(database, keyring, upsert("a", expires_at=PAST))
    first, second = record(database, keyring, delete("a"), lookup("a"))
    assert (first.error, second.error) == (None, "not_found")


EDITS = [
    "expires_at = NULL",
    "expires_at = expires_at + interval '1 microsecond'",
    "expires_at = expires_at - interval '200 years'",
    "rotate_after = NULL",
    "rotate_after = rotate_after + 1",
]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("expires_at", [PAST, FUTURE], ids=["expired", "not yet"])
def test_an_edited_row_is_never_merely_expired(
    database: Database, keyring: Keyring, edit: str, expires_at: datetime
) -> None:
    """Whatever was edited, and in whichever direction: decrypt_failed, and nothing disclosed."""
    record(database, keyring, upsert("a", expires_at=expires_at, rotate_after=30))
    database.execute(f"UPDATE secrets.host_credentials SET {edit}")  # noqa: S608
    (found,) = record(database, keyring, lookup("a"))
    assert (found.error, found.content) == ("decrypt_failed", None)


@pytest.mark.parametrize(
    "edit", ["username = 'x'", "expires_at = '2020-01-01Z'", "rotate_after = 1"]
)
def test_a_limit_cannot_be_set_by_hand(database: Database, keyring: Keyring, edit: str) -> None:
    """A row that had neither is bound to having neither."""
    record(database, keyring, upsert("a"))
    database.execute(f"UPDATE secrets.host_credentials SET {edit}")  # noqa: S608
    (found,) = record(database, keyring, lookup("a"))
    assert (found.error, found.content) == ("decrypt_failed", None)
