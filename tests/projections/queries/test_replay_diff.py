"""The difference of two states: put to the first one it gives the second."""

from itertools import combinations
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from secrets_broker.ledger.commands import Command, Name
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.database.search_by_time import asking
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import DecryptionError
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.projections.queries import replay, replay_diff
from secrets_broker.projections.queries.replay import FIRST, Credential, Scope
from secrets_broker.projections.queries.replay_diff import StateDifference, differences
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import CONTEXT, delete, record, run, send, upsert, writing
from tests.projections.keys import erased, rekeyed
from tests.projections.queries.growth import grow, steps

State = dict[Name, tuple[Credential, Content | None]]


def state(database: Database, keyring: Keyring, position: int) -> State:
    """Each credential and its content, where it is left."""

    async def all_of_it() -> State:
        async with await connect(database.owner_url, READ_SESSION) as connection:
            fetch, scope = asking(connection), Scope(position)
            found = await replay.changes(fetch, scope, FIRST, 1_000)
            stored = await replay.bodies(fetch, keyring, found)
            made = await replay.rows(fetch, found, stored)
            return {
                change.name: (one, content(stored[change.position]))
                for change, one in zip(found, made, strict=True)
            }

    def content(stored: replay.Stored) -> Content | None:
        try:
            return stored.content()
        except DecryptionError:
            assert stored.erased
            return None

    return run(all_of_it())


def diff(
    database: Database, keyring: Keyring | None, since: int, until: int, *patterns: str
) -> list[StateDifference]:
    """What changed from one state to the other."""

    async def all_of_it() -> list[StateDifference]:
        async with await connect(database.service_url, READ_SESSION) as connection:
            scope = Scope.parse(until, *(patterns or (None, None)))
            pages = [one async for one in differences(asking(connection), keyring, since, scope)]
            assert all(found.unreadable == () for found in pages)
            return [one for found in pages for one in found.differences]

    return run(all_of_it())


def told(found: list[StateDifference]) -> list[tuple[str, str, tuple[str, ...] | None]]:
    """What became of which host."""
    return [(one.host, one.kind, one.columns) for one in found]


def expected_kind(before: Credential | None, after: Credential | None) -> str | None:
    """What the difference of two rows is called."""
    if before == after:
        return None
    if before is None or after is None:
        return "created" if after else "deleted"
    if before.id != after.id:
        return "recreated"
    return "rekeyed" if before.version == after.version else "changed"


def check(before: State, after: State, found: list[StateDifference]) -> None:
    """Each name is told of just where its row differs, and with what differs in it."""
    by_name = {(one.host, one.purpose): one for one in found}
    assert len(by_name) == len(found)
    for name in before.keys() | after.keys() | by_name.keys():
        old, old_content = before.get(name, (None, None))
        new, new_content = after.get(name, (None, None))
        one = by_name.get(name)
        assert (one and one.kind) == expected_kind(old, new)
        if one is None:
            continue
        assert (one.id_before, one.version_before) == (
            (old.id, old.version) if old else (None,) * 2
        )
        assert (one.id_after, one.version_after) == ((new.id, new.version) if new else (None,) * 2)
        if new is not None:
            assert one.position == new.position
        if old_content is None or new_content is None:
            assert one.columns is None
        else:
            assert one.columns == tuple(
                column
                for column in Content.__struct_fields__
                if written(old_content, column) != written(new_content, column)
            )


def written(content: Content, column: str) -> bytes:
    """A column as JSON, in which 1, 1.0 and true are not the same."""
    return msgspec.json.encode(getattr(content, column), order="sorted")


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=steps)
def test_any_two_states(cluster: Cluster, keyring: Keyring, wanted: list[Command | str]) -> None:
    """Put to the first state, the differences give the second; without keys they are the same."""
    with fresh_database(cluster, TEMPLATE) as database:
        positions = sorted(run(grow(database, keyring, wanted)))
        states = {position: state(database, keyring, position) for position in positions}
        for since, until in combinations(positions, 2):
            found = diff(database, keyring, since, until)
            check(states[since], states[until], found)
            assert diff(database, None, since, until) == [
                msgspec.structs.replace(one, columns=None) for one in found
            ]


def test_what_became_of_each(database: Database, keyring: Keyring) -> None:
    """Every kind by its name; what was made and taken away again in between is none."""
    record(database, keyring, *map(upsert, ["changed", "deleted", "erased", "new life", "same"]))
    record(database, keyring, upsert("rekeyed"))
    record(database, keyring, upsert("changed", "other", username="u", rotate_after=7))
    record(database, keyring, delete("new life"), upsert("new life"), upsert("created"))
    record(database, keyring, upsert("gone again"), delete("gone again"), delete("deleted"))
    erased(database, keyring, "erased")
    rekeyed(database, keyring, "rekeyed")
    ((last,),) = database.fetch("SELECT max(position) FROM ledger.events")
    assert told(diff(database, keyring, 6, last)) == [
        ("changed", "changed", ("password", "username", "rotate_after")),
        ("created", "created", None),
        ("deleted", "deleted", None),
        ("erased", "deleted", None),
        ("new life", "recreated", ()),
        ("rekeyed", "rekeyed", ()),
    ]
    assert told(diff(database, keyring, 6, last, "de*", "*")) == [("deleted", "deleted", None)]
    assert diff(database, keyring, last, last) == []


def test_it_says_who_when_and_why(database: Database, keyring: Keyring) -> None:
    """Of the last event that changed the name."""
    other = msgspec.structs.replace(CONTEXT, actor="other", reason="CHG-7")

    async def twice() -> None:
        async with writing(database.service_url, keyring) as writer:
            await send(writer, upsert("a"))
            await send(writer, upsert("a"), delete("a"), context=other)

    run(twice())
    (found,) = diff(database, None, 1, 3)
    query = "SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    ((at,),) = database.fetch(f"{query} FROM ledger.events WHERE position = 3")
    assert found == StateDifference(
        host="a",
        purpose="ssh",
        kind="deleted",
        id_before=2,
        version_before=1,
        id_after=None,
        version_after=None,
        position=3,
        type="credential.deleted",
        at=at,
        actor="other",
        reason="CHG-7",
        columns=None,
    )


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_leave_out_nothing(database: Database, keyring: Keyring, limit: int) -> None:
    """Also where a page's names came and went without a difference."""
    record(database, keyring, *(c for n in range(7) for c in (upsert(f"h{n}"), upsert(f"x{n}"))))
    record(database, keyring, *(delete(f"h{n}") for n in range(7)))

    async def pages() -> list[list[str]]:
        async with await connect(database.service_url, READ_SESSION) as connection:
            found, after = list[list[str]](), FIRST
            while True:
                fetch, scope = asking(connection), Scope(21)
                part = await replay_diff.page(fetch, None, -1, scope, after, limit)
                found.append([one.host for one in part.differences])
                if part.following is None:
                    return found
                after = part.following

    found: list[list[str]] = run(pages())
    assert [len(part) for part in found[:-1]] == [limit] * (len(found) - 1)
    assert [host for part in found for host in part] == [f"x{n}" for n in range(7)]


def test_a_body_that_does_not_open_is_told(database: Database, keyring: Keyring) -> None:
    """The difference is there all the same, without its columns."""
    record(database, keyring, upsert("a"), upsert("a"))
    with database.owner() as connection:
        connection.execute("ALTER TABLE ledger.bodies DISABLE TRIGGER USER")
        connection.execute("DELETE FROM ledger.bodies WHERE position = 1")

    async def found() -> Any:
        async with await connect(database.service_url, READ_SESSION) as connection:
            return await replay_diff.page(asking(connection), keyring, 1, Scope(2))

    part = run(found())
    assert told(list(part.differences)) == [("a", "changed", None)]
    assert [(u.host, u.position) for u in part.unreadable] == [("a", 1)]
