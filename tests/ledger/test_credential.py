"""The life of a credential, against a model of a few lines."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.commands import (
    CredentialCommand,
    Delete,
    Erase,
    ImportCredential,
    Lookup,
    Record,
    Rekey,
    Upsert,
)
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.credential import (
    INITIAL,
    UNDISCLOSABLE,
    Decision,
    LiveCredential,
    Opened,
    State,
    decide,
    evolve,
)
from secrets_broker.ledger.events import BodyReference, Event

NAME: dict[str, Any] = {"host": "db1", "purpose": "ssh"}
CONTENT = Content(password="p")
UPSERT = Upsert(**NAME, password="p")
LOOKUP, DELETE = Lookup(**NAME), Delete(**NAME)
IMPORT = ImportCredential(**NAME, content=CONTENT, occurred_at=None, details={"legacy_id": 1})
LIVE = LiveCredential(4, 2, 9, "key")
NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)

commands: st.SearchStrategy[CredentialCommand] = st.sampled_from([UPSERT, LOOKUP, DELETE, IMPORT])


def event_of(decision: Decision) -> Event:
    """The event that records a decision."""
    return Event(
        type=decision.type,
        at="",
        authn="none",
        credential_id=decision.credential_id,
        version=decision.version,
        ok=decision.error is None,
        error=decision.error,
        body=BodyReference("key", "") if decision.content else None,
    )


@given(st.lists(st.tuples(commands, st.integers(1, 5)), max_size=40))
def test_a_life(steps: list[tuple[CredentialCommand, int]]) -> None:
    """Versions count from 1 without a gap, and no id ever serves two lives of a name."""
    state: State = INITIAL
    ids, alive, version, position = list[int](), False, 0, 0
    for command, distance in steps:
        position += distance
        opened = CONTENT if alive and command is LOOKUP else None
        decision = decide(state, command, position, opened, at=NOW)
        state = evolve(state, event_of(decision), position)
        if command is UPSERT or (command is IMPORT and not alive):
            if not alive:
                ids.append(position + 1)
            version = version + 1 if alive else 1
            alive = True
            assert decision.error is None
            assert state == LiveCredential(ids[-1], version, position, "key")
        elif command is IMPORT:
            assert decision.error == "already_there"
        elif not alive:
            assert decision.error == "not_found"
            assert decision.credential_id is None
        else:
            assert (decision.error, decision.version) == (None, version)
            assert decision.credential_id == ids[-1]
            alive = command is not DELETE
        assert (state is not None) == alive
    assert len(ids) == len(set(ids))


@given(commands, st.integers(0, 100))
def test_decide_is_pure(command: CredentialCommand, position: int) -> None:
    """Asked twice, the same answer: no clock, no randomness, nothing remembered."""
    for state in (None, LIVE):
        assert decide(state, command, position, at=NOW) == decide(state, command, position, at=NOW)


@pytest.mark.parametrize("state", [None, LIVE])
def test_what_does_not_follow_from_the_ledger_is_not_disclosed(state: State) -> None:
    """A lookup of an undisclosable content fails, is recorded, and changes nothing."""
    decision = decide(state, LOOKUP, 10, UNDISCLOSABLE, at=NOW)
    assert decision.error == "decrypt_failed"
    assert evolve(state, event_of(decision), 10) == state


def test_no_next_version_without_its_key() -> None:
    """An upsert over a credential whose key does not open fails, and changes nothing."""
    decision = decide(LIVE, UPSERT, 10, UNDISCLOSABLE, at=NOW)
    assert decision.error == "decrypt_failed"
    assert decision.content is None
    assert evolve(LIVE, event_of(decision), 10) == LIVE


@given(st.text(max_size=20), st.booleans())
def test_an_event_of_another_type_changes_nothing(event_type: str, ok: bool) -> None:
    """A type that is not known, or of no credential, leaves every state as it is."""
    for state in (None, LIVE):
        assert evolve(state, Event(type=event_type, at="", authn="none", ok=ok), 10) == state


@pytest.mark.parametrize("event_type", ["credential.deleted", "credential.erased"])
def test_a_failed_event_changes_nothing(event_type: str) -> None:
    """A delete that failed deletes nothing; one that is ok does."""
    failed = Event(type=event_type, at="", authn="none", ok=False, error="not_found")
    done = Event(type=event_type, at="", authn="none", credential_id=4, version=2)
    assert evolve(LIVE, failed, 10) == LIVE
    assert evolve(LIVE, done, 10) is None


def test_a_rebuild_is_recorded_with_its_details() -> None:
    """The record of a rebuild belongs to no credential and keeps its details."""
    record = Record(type="projection.rebuilt", details={"rows": 3})
    decision = decide(None, record, 10, at=NOW)
    assert decision == Decision("projection.rebuilt", details={"rows": 3})


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-2, 2))
def test_a_credential_ends_at_its_time(ends: datetime, microseconds: int) -> None:
    """Before expires_at it is disclosed; from that very microsecond on it is not."""
    try:
        at = ends + timedelta(microseconds=microseconds)
    except OverflowError:
        return
    content = msgspec.structs.replace(CONTENT, expires_at=ends)
    decision = decide(LIVE, LOOKUP, 10, content, at=at)
    assert decision.error == (None if microseconds < 0 else "expired")
    assert (decision.credential_id, decision.version) == (LIVE.id, LIVE.version)
    assert evolve(LIVE, event_of(decision), 10) == LIVE


def test_only_a_lookup_minds_that_a_credential_has_expired() -> None:
    """What has expired can be stored anew, and deleted."""
    ended = msgspec.structs.replace(CONTENT, expires_at=NOW)
    for command in (UPSERT, DELETE):
        assert decide(LIVE, command, 10, ended, at=NOW).error is None


def test_a_rekey_keeps_the_credential_and_its_version() -> None:
    """The same content, id and version under another key; the event names where it was set."""
    decision = decide(LIVE, Rekey(**NAME, content=7), 10, CONTENT, at=NOW)
    expected = Decision("credential.rekeyed", 4, 2, details={"content": 7}, content=CONTENT)
    assert decision == replace(expected, new_key=True)
    assert evolve(LIVE, event_of(decision), 10) == LiveCredential(4, 2, 10, "key")


@pytest.mark.parametrize("opened", [None, UNDISCLOSABLE])
def test_what_does_not_open_is_not_rekeyed(opened: Opened) -> None:
    """It fails, is recorded, and stays under its key."""
    decision = decide(LIVE, Rekey(**NAME, content=7), 10, opened, at=NOW)
    assert (decision.error, decision.version) == ("decrypt_failed", 2)
    assert evolve(LIVE, event_of(decision), 10) == LIVE


def test_there_is_nothing_to_rekey() -> None:
    """A credential that is gone gets no key, and no id."""
    decision = decide(None, Rekey(**NAME, content=7), 10, at=NOW)
    assert decision == Decision("credential.rekeyed", error="not_found")


def test_an_erasure_ends_the_credential() -> None:
    """Its event names what is destroyed, and nothing is live after it."""
    found: dict[str, Any] = {"data_keys": ("k",), "credential_ids": (4,), "bodies": 2}
    erase = Erase(**NAME, credential_id=4, version=2, **found)
    decision = decide(LIVE, erase, 10, at=NOW)
    details = {"data_keys": ["k"], "credential_ids": [4], "bodies": 2}
    assert decision == Decision("credential.erased", 4, 2, details=details)
    assert evolve(LIVE, event_of(decision), 10) is None


def test_an_erasure_of_history_ends_nothing() -> None:
    """It belongs to no name, so that no live credential ends with it; its details say whose."""
    erase = Erase(
        **NAME,
        credential_id=1,
        version=None,
        data_keys=("k",),
        credential_ids=(1,),
        bodies=2,
        again=True,
        keeps_live=True,
    )
    assert erase.name is None
    assert {"again": True, **NAME}.items() <= erase.details.items()
