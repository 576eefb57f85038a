"""Which KEKs there are and in which state, as the events of rotations say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.event_types import KEY_ROTATED, KEY_ROTATION_STARTED
from secrets_broker.tools.verify.checks.facts import Fact
from secrets_broker.tools.verify.checks.kek_states import KekRow, KekStates

STATES = ("prepared", "active", "retiring", "retired")


def fact(position: int, kind: str, details: dict[str, Any] | None) -> Fact:
    """An event of a rotation."""
    return Fact(position, kind, None, None, None, None, True, None, None, details)


def started(position: int, kek: str, *used: str) -> Fact:
    """A rotation to a KEK, while data keys are under others."""
    details = {"kek": kek, "provider": "p", "data_keys": dict.fromkeys(used, 1)}
    return fact(position, KEY_ROTATION_STARTED, details)


def finished(position: int, kek: str, *retired: str) -> Fact:
    """Its end."""
    return fact(position, KEY_ROTATED, {"kek": kek, "data_keys": 1, "retired": list(retired)})


@given(st.integers(0, 5), st.booleans(), st.data())
def test_a_state_is_what_the_events_say(count: int, under_way: bool, data: st.DataObject) -> None:
    """After any number of rotations, the last one finished or not: no other state passes."""
    rotations = KekStates()
    states = {"k0": "active"}
    for number in range(1, count + 1):
        assert rotations.take(started(2 * number, f"k{number}", f"k{number - 1}")) is None
        states[f"k{number - 1}"], states[f"k{number}"] = "retiring", "active"
        if number < count or not under_way:
            assert rotations.take(finished(2 * number + 1, f"k{number}", f"k{number - 1}")) is None
            states[f"k{number - 1}"] = "retired"
    rows = {kek: KekRow("p", state) for kek, state in states.items()} | {
        "next": KekRow("p", "prepared")
    }
    assert list(rotations.problems(rows)) == []
    kek = data.draw(st.sampled_from(sorted(states)))
    other = data.draw(st.sampled_from([s for s in STATES if s != states[kek]]))
    if count:
        assert list(rotations.problems(rows | {kek: KekRow("p", other)}))
        assert list(rotations.problems({k: row for k, row in rows.items() if k != kek}))
        assert list(rotations.problems(rows | {f"k{count}": KekRow("q", states[f"k{count}"])}))
    assert list(rotations.problems(rows | {"one more": KekRow("p", "retired")}))


@pytest.mark.parametrize("kind", [KEY_ROTATION_STARTED, KEY_ROTATED])
@pytest.mark.parametrize("details", [None, {}, {"kek": 1}, {"kek": "k", "retired": [[]]}])
def test_an_event_that_does_not_name_its_keks(kind: str, details: dict[str, Any] | None) -> None:
    """It is told, and nothing follows from it."""
    rotations = KekStates()
    assert rotations.take(fact(3, kind, details)) == f"{kind} does not name its KEKs"
    assert list(rotations.problems({"k0": KekRow("p", "active")})) == []
