"""Forgeries that are made to break whoever reads them, so that nothing names or ends them.

Each is refused by the database, or stops the ledger under its own position; and once it is
disowned, everything is as it was.
"""

import json
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.access.grants import Grants
from secrets_broker.ledger.access.grants import evolve as evolve_grants
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import UnauthenticEventError
from secrets_broker.ledger.event_macs.acceptance import Acceptance, evolve, in_force, ranges
from secrets_broker.ledger.events import Context, Subject
from secrets_broker.ledger.operations.disowning import disown
from secrets_broker.ledger.operations.require_macs import (
    authenticate,
    authenticated_since,
    to_accept,
)
from tests.conftest import Database
from tests.ledger.event_macs.planted_events import (
    POISON,
    append,
    plant,
)
from tests.ledger.event_macs.unauthentic import OPERATOR, refused_at
from tests.ledger.helpers import login_of, lookup, password_of, record, run, upsert, writing
from tests.ledger.rotating import fresh_kek, rotated
from tests.ledger.tree_checks import check_nodes
from tests.ledger.unauthenticated import unauthenticate

TOO_DEEP = '{"x":' + "[" * 65 + "]" * 65 + "}"


@pytest.mark.parametrize(("kind", "details"), POISON)
def test_it_is_named_and_can_be_disowned(
    database: Database, keyring: Keyring, kind: str, details: str | None
) -> None:
    """Whatever stands in it, unless the database takes no such event."""
    record(database, keyring, upsert("a"))
    with suppress(psycopg.errors.DataError):
        position = append(database, kind, details)
        assert refused_at(database, keyring) == (position, position)
        run(disown(login_of(database.owner_url, keyring), [(position, position)], OPERATOR))
    assert password_of(record(database, keyring, lookup("a"))[0]) == "hunter2"


@pytest.mark.parametrize(
    "details",
    [
        TOO_DEEP,
        '{"x":' + "[" * 3_000 + "]" * 3_000 + "}",
        json.dumps({"x": "y" * 40_000}),
        '{"x": 1e5000}',
        '{"x": [[-9007199254740992]]}',
    ],
    ids=["deep", "deeper", "large", "a huge number", "a large number"],
)
def test_what_nobody_could_read_is_not_taken(
    database: Database, keyring: Keyring, details: str
) -> None:
    """Disowned or not, it would stay in the log, and end every audit of it."""
    record(database, keyring, upsert("a"))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="too large"):
        append(database, "credential.read", details)


@pytest.mark.parametrize("count", [300, 5_000, 66_000])
def test_forgeries_without_their_nodes(database: Database, keyring: Keyring, count: int) -> None:
    """Who starts then names them still, and to disown them stores what was left out."""
    record(database, keyring, upsert("a"))
    last = append(database, "credential.read", None, count)
    span = (last - count + 1, last)
    assert refused_at(database, keyring) == (max(span[0], last - 1_000), last)
    run(disown(login_of(database.owner_url, keyring), [span], OPERATOR))
    assert password_of(record(database, keyring, lookup("a"))[0]) == "hunter2"
    check_nodes(database)


@pytest.mark.parametrize("some", [(3, 4), (2, 3), (4, 4)], ids=["tail", "head", "last"])
def test_none_is_left_beside_what_is_disowned(
    database: Database, keyring: Keyring, some: tuple[int, int]
) -> None:
    """Behind the event that disowns the others nobody would look at it again."""
    record(database, keyring, upsert("a"))
    assert append(database, "credential.read", None, 3) == 4
    with pytest.raises(UnauthenticEventError):
        run(disown(login_of(database.owner_url, keyring), [some], OPERATOR))
    assert refused_at(database, keyring) == (2, 4)
    run(disown(login_of(database.owner_url, keyring), [(2, 4)], OPERATOR))


def test_a_planted_event_key_keeps_no_kek(database: Database, keyring: Keyring) -> None:
    """A rotation goes through it, and the old KEK is retired."""
    record(database, keyring, upsert("a"))
    position = plant(database)
    assert refused_at(database, keyring) == (position, position)
    run(disown(login_of(database.owner_url, keyring), [(position, position)], OPERATOR))
    new = fresh_kek()
    assert run(rotated(database, keyring, new)).retired == (keyring.first.id,)
    assert password_of(record(database, Keyring([new]), lookup("a"))[0]) == "hunter2"


FROM_BEFORE: list[tuple[str, str | None]] = [
    ("ledger.disowned", '{"ranges": [[1, 1]]}'),
    ("ledger.authenticated", f'{{"ledger": "{"ab" * 16}", "event_key": "x"}}'),
    ("ledger.restored", '{"event_key": "x"}'),
    ("ledger.restored", '{"event_key": "planted"}'),
    ("access_key.granted", "{}"),
    ("access_key.granted", None),
    ("access_key.granted", '{"id": [], "name": "x"}'),
    ("access_key.granted", '{"id": "x", "name": {}}'),
    ("access_key.granted", '{"id": "x", "name": "y", "sha256": {}, "rules": 5}'),
    ("access_key.rotated", '{"id": {}}'),
]


@pytest.mark.parametrize(("kind", "details"), FROM_BEFORE)
def test_a_ledger_from_before_with_one_in_it(
    database: Database, keyring: Keyring, kind: str, details: str | None
) -> None:
    """It can be authenticated all the same, and nothing follows from the forgery."""
    record(database, keyring, upsert("a"))
    unauthenticate(database)
    if details == '{"event_key": "planted"}':
        plant(database)
    else:
        append(database, kind, details)
    begun, size = run(authenticated_since(login_of(database.owner_url, keyring)))
    assert (begun, size) == (None, 3)
    run(to_accept(login_of(database.owner_url, keyring), size, 5))
    assert run(authenticate(login_of(database.owner_url, keyring), size, OPERATOR)) == 3
    assert password_of(record(database, keyring, lookup("a"))[0]) == "hunter2"
    assert asked_by(database, keyring, "x") == "forbidden"


def asked_by(database: Database, keyring: Keyring, sha256: str) -> str | None:
    """What somebody gets who presents this key."""
    thief = Context(actor=None, authn="none", subject=Subject(sha256=sha256))

    async def ask() -> str | None:
        async with writing(database.service_url, keyring) as writer:
            return (await writer.submit(lookup("a"), thief)).error

    return run(ask())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda some: (
        st.lists(some, max_size=4) | st.dictionaries(st.text(max_size=5), some, max_size=4)
    ),
    max_leaves=8,
)
_MEMBERS = ("ranges", "ledger", "event_key", "id", "name", "sha256", "rules", "previous_until")
_DETAILS = st.none() | st.dictionaries(st.sampled_from(_MEMBERS), _JSON)


def test_a_disowned_event_disowns_nothing() -> None:
    """An export has no MACs: what is left out there is left out by what is not."""
    forged, right = (5, ((1, 1),)), (6, ((5, 5),))
    assert in_force([forged]) == ((1, 1),)
    assert in_force([forged, right]) == ((5, 5),)
    assert in_force([(4, ((2, 3),)), forged, right]) == ((2, 3), (5, 5))


@given(_DETAILS)
def test_ranges_are_positions(details: dict[str, Any] | None) -> None:
    """Of whatever stands there: a first that is no more than the last, or nothing."""
    assert all(0 <= first <= last for first, last in ranges(details))


@given(_DETAILS, st.sampled_from(["ledger.disowned", "ledger.authenticated", "ledger.restored"]))
def test_every_event_leaves_something_believed(details: dict[str, Any] | None, kind: str) -> None:
    """Nothing raises, and nothing is disowned before MACs are demanded."""
    for before in (Acceptance(), Acceptance("ab" * 16, ((0, "k"),))):
        after = evolve(before, kind, details, 7)
        assert after.key_id(6) == before.key_id(6)
        assert not (after.disowned and before.begun is None)


@given(_DETAILS, st.lists(st.sampled_from(["granted", "changed", "rotated", "revoked"])))
def test_every_event_leaves_some_grants(details: dict[str, Any] | None, kinds: list[str]) -> None:
    """Nothing raises, and no key opens anything that is not a text."""
    known = {"id": "a", "name": "b", "sha256": "c", "rules": []}
    grants = evolve_grants(Grants(), "access_key.granted", known, 0, "2026-01-01T00:00:00.000000Z")
    for position, kind in enumerate(kinds, 1):
        at = "2026-01-01T00:00:00.000000Z"
        about = {"id": "a", **(details or {})}
        grants = evolve_grants(grants, f"access_key.{kind}", about, position, at)
    assert all(isinstance(key, str) for key in grants.by_key)
