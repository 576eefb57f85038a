"""Every type of event, as our own code wrote it: each is what its declaration says."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from secrets_broker.ledger.commands import Record
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.event_types import BY_NAME, LEDGER_RESTORED
from secrets_broker.ledger.events import Event
from secrets_broker.ledger.transparency_log.stored_entries import read_rows
from secrets_broker.tools.export import access_log
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import record, run
from tests.tools.everything import NEW_KEY, everything

DISOWNED = "SELECT first_position, last_position FROM ledger.disowned"
VIEW = "SELECT id, access_type, success, error_message FROM secrets.credential_access_log"
RESTORED = {"origin": "lost.example", "size": 10**6, "root": "", "new_origin": "log.example"}
Line = tuple[str | None, bool, str | None]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The events that nobody forged, by position, and the lines of the view."""

    events: dict[int, Event]
    lines: dict[int, Line]


@pytest.fixture(scope="module")
def ledger(cluster: Cluster, keyring: Keyring) -> Iterator[Ledger]:
    """Every type is in it."""
    with fresh_database(cluster, TEMPLATE) as made:
        everything(made, keyring)
        record(
            made,
            Keyring.from_kms_keys(NEW_KEY),
            Record(type=LEDGER_RESTORED, details=RESTORED),
        )
        disowned = {
            position
            for first, last in made.fetch(
                "SELECT first_position, last_position FROM ledger.disowned"
            )
            for position in range(first, last + 1)
        }
        events = {position: event for position, event in _events(made) if position not in disowned}
        lines = {position: tuple(line) for position, *line in made.fetch(VIEW)}
        yield Ledger(events, {at: line for at, line in lines.items() if at not in disowned})


def _events(database: Database) -> list[tuple[int, Event]]:
    async def read() -> list[tuple[int, Event]]:
        async with await connect(database.service_url) as connection:
            rows = await read_rows(connection, 0, 10_000)
            return [(row.position, msgspec.json.decode(row.entry, type=Event)) for row in rows]

    return run(read())


def test_every_type_was_written(ledger: Ledger) -> None:
    """And no other."""
    assert {event.type for event in ledger.events.values()} == BY_NAME.keys()


def test_each_event_says_what_its_type_says(ledger: Ledger) -> None:
    """Its details and its outcome are of its type; it has a body where one of its type has."""
    for event in ledger.events.values():
        kind = BY_NAME[event.type]
        assert kind.problem_of(event.details, ok=event.ok) is None, event
        assert (event.body is not None) is (event.ok and kind.has_body), event


@pytest.mark.parametrize("kind", BY_NAME)
def test_other_details_are_refused(ledger: Ledger, kind: str) -> None:
    """One that is missing, one of another kind, and one that nobody declared."""
    declared = BY_NAME[kind]
    event = next(one for one in ledger.events.values() if one.type == kind)
    said: dict[str, Any] = event.details or {}
    assert declared.problem_of({**said, "claim": "me"}, ok=event.ok) is None
    assert declared.problem_of({**said, "claim": 1}, ok=event.ok)
    assert declared.problem_of({**said, "unheard_of": 1}, ok=event.ok)
    for detail in declared.details:
        # No detail is a float: the format has none.
        assert declared.problem_of({**said, detail.name: 0.5}, ok=event.ok)
        without = {name: value for name, value in said.items() if name != detail.name}
        assert bool(declared.problem_of(without, ok=event.ok)) is detail.required


def test_the_view_is_what_is_declared_of_each_type(ledger: Ledger) -> None:
    """A released view cannot change: a type with another line needs a new view."""
    declared = {
        position: (
            access_log.access_type(event),
            access_log.success(event),
            access_log.error_message(event),
        )
        for position, event in ledger.events.items()
        if BY_NAME[event.type].access is not None
    }
    assert declared == ledger.lines
    shown = {name for name, kind in BY_NAME.items() if kind.access}
    assert {ledger.events[position].type for position in ledger.lines} == shown
