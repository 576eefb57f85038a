"""Replay: at every position the state is what secrets.host_credentials was then."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.commands import Command
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.database.search_by_time import asking
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.projections.parameters.ledger_point import MAX_POSITION, Point
from secrets_broker.projections.queries import replay_diff
from secrets_broker.projections.queries.replay import (
    FIRST,
    Credential,
    Scope,
    StatePage,
    page,
    state,
)
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import delete, lookup, record, run, upsert
from tests.projections.keys import erased, erased_again, rekeyed
from tests.projections.queries.growth import Texts, grow, steps

METADATA = (
    *("id", "host", "purpose", "created_at", "updated_at", "created_by", "updated_by"),
    *("version", "position", "data_key", "erased"),
)


class Watched:
    """Asks for a replay, and keeps the rows that it was made of as PostgreSQL writes them."""

    def __init__(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        self._connection = connection
        self.texts: Texts = {}

    async def __call__(self, query: LiteralString, values: Mapping[str, Any]) -> list[Any]:
        """Ask."""
        if "bodies" in values:
            written = f"SELECT id, made::text FROM ({query}) AS made"  # noqa: S608
            self.texts |= dict(await asking(self._connection)(written, values))
        return await asking(self._connection)(query, values)


def replayed(
    url: str, keyring: Keyring | None, position: int, *patterns: str
) -> tuple[list[Credential], Texts]:
    """The state after that event, and its rows' texts."""

    async def all_of_it() -> tuple[list[Credential], Texts]:
        async with await connect(url, READ_SESSION) as connection:
            watched = Watched(connection)
            scope = Scope.parse(position, *(patterns or (None, None)))
            pages = [found async for found in state(watched, keyring, scope)]
            assert all(found.unreadable == () for found in pages)
            return [one for found in pages for one in found.credentials], watched.texts

    return run(all_of_it())


def hosts_at(database: Database, position: int, *patterns: str) -> list[str]:
    """The hosts that the state has, by their metadata."""
    return [one.host for one in replayed(database.service_url, None, position, *patterns)[0]]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=steps)
def test_every_position_gives_the_rows_of_its_time(
    cluster: Cluster, keyring: Keyring, wanted: list[Command | str]
) -> None:
    """To the byte the live rows of then; what was erased since is there without its content."""
    with fresh_database(cluster, TEMPLATE) as database:
        snapshots = run(grow(database, keyring, wanted))
        keys = {key for (key,) in database.fetch("SELECT id FROM ledger.data_keys")}
        for position, live in snapshots.items():
            found, texts = replayed(database.owner_url, keyring, position)
            assert {one.id for one in found} == live.keys()
            for one in found:
                assert one.erased == (one.data_key not in keys)
                if one.erased:
                    assert (one.password_encrypted, one.username, one.additional_data) == (
                        None,
                    ) * 3
                else:
                    assert texts[one.id] == live[one.id]
            # Without any key: the same, less what is in the bodies.
            seen, _ = replayed(database.service_url, None, position)
            for without, with_keys in zip(seen, found, strict=True):
                for name in Credential.__struct_fields__:
                    expected = getattr(with_keys, name) if name in METADATA else None
                    assert getattr(without, name) == expected


def test_columns_are_those_of_the_table(database: Database, keyring: Keyring) -> None:
    """A row has the table's columns with the same values, and one that tells of erasures."""
    fields: dict[str, Any] = {
        "username": "u",
        "domain": "d",
        "additional_data": {"a": [1, 1.5, None]},
        "secret_data": {"k": "s"},
        "expires_at": datetime(2031, 5, 6, tzinfo=UTC),
        "rotate_after": 90,
    }
    record(database, keyring, upsert("a", **fields))
    with database.owner() as connection:
        cursor = connection.execute("SELECT * FROM secrets.host_credentials")
        (row,) = cursor.fetchall()
        columns = [column.name for column in cursor.description or ()]
    ((one,), _) = replayed(database.owner_url, keyring, 1)
    assert [*columns, "erased"] == list(Credential.__struct_fields__)
    live = [
        rfc3339(value) if isinstance(value, datetime) else value
        for value in (v.astimezone(UTC) if isinstance(v, datetime) else v for v in row)
    ]
    assert [getattr(one, name) for name in columns] == live


def test_a_position_counts_itself_in(database: Database, keyring: Keyring) -> None:
    """The state is that after its event; a read and a failure change nothing."""
    record(database, keyring, upsert("a"), upsert("b"), lookup("a"), delete("a"), delete("a"))
    assert [hosts_at(database, n) for n in range(-1, 6)] == [
        *([], [], ["a"], ["a", "b"], ["a", "b"], ["b"], ["b"])
    ]


def test_patterns_choose(database: Database, keyring: Keyring) -> None:
    """Host and purpose both have to match; what LIKE would take for more is itself."""
    record(database, keyring, *map(upsert, ["db1", "db2", "db%", "db_", "x\\"]))
    assert set(hosts_at(database, 5, "db*", "s*")) == {"db1", "db2", "db%", "db_"}
    assert hosts_at(database, 5, "db_", "*") == ["db_"]
    assert hosts_at(database, 5, "db%", "ssh") == ["db%"]
    assert hosts_at(database, 5, "x\\", "ssh") == ["x\\"]
    assert hosts_at(database, 5, "*", "winrm") == hosts_at(database, 5, "", "*") == []


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 7), limit=st.integers(1, 4))
def test_pages_of_any_size_leave_out_nothing(
    cluster: Cluster, keyring: Keyring, number: int, limit: int
) -> None:
    """None is taken twice, a deleted one is in none, and the last page says that it is."""
    hosts = [f"h{n}" for n in range(number)]

    async def pages(url: str, position: int) -> list[StatePage]:
        async with await connect(url, READ_SESSION) as connection:
            scope, found = Scope(position), list[StatePage]()
            after = FIRST
            while True:
                found.append(await page(asking(connection), None, scope, after, limit))
                if (following := found[-1].following) is None:
                    return found
                after = following

    with fresh_database(cluster, TEMPLATE) as database:
        record(database, keyring, *map(upsert, hosts), upsert("h1x"), delete("h1x"))
        found = run(pages(database.service_url, number + 2))
    assert [one.host for some in found for one in some.credentials] == hosts
    assert len(found) == max(1, -(-number // limit))


@pytest.mark.parametrize("diff", [False, True])
def test_a_page_of_a_large_ledger_is_read_by_the_index(database: Database, diff: bool) -> None:
    """In the order of the names, and no more of them than the page has: nothing is sorted."""
    database.execute(
        "INSERT INTO ledger.events (position, at, credential_id, version, v, ok, leaf_hash, mac,"
        " type, authn, host, purpose, body)"
        " SELECT n, '2026-01-01Z', n + 1, 1, 1, true, sha256('leaf'), sha256('mac'),"
        " CASE n WHEN 0 THEN 'ledger.authenticated' ELSE 'credential.created' END, 'cli',"
        """ 'h' || n, 'ssh', '{"key": "k", "sha256": "x"}'"""
        " FROM generate_series(0, 19999) AS n"
    )
    database.execute("ANALYZE ledger.events")
    plans: list[str] = []

    async def explain() -> None:
        async with await connect(database.service_url, READ_SESSION) as connection:
            ask = asking(connection)

            async def fetch(query: LiteralString, values: Mapping[str, Any]) -> list[Any]:
                explained = await ask("EXPLAIN " + query, values)
                plans.append("\n".join(line for (line,) in explained))
                return await ask(query, values)

            if diff:
                await replay_diff.page(fetch, None, 5_000, Scope(15_000), limit=10)
            else:
                assert len((await page(fetch, None, Scope(15_000), limit=10)).credentials) == 10

    run(explain())
    assert "events_changes" in plans[0]
    assert not any("Sort" in plan or "Seq Scan" in plan for plan in plans)


def test_an_erasure_that_leaves_the_live_one(database: Database, keyring: Keyring) -> None:
    """Applied again after a restore it belongs to no name; its keys are found all the same."""
    record(database, keyring, upsert("a"), upsert("b"))
    ((key,),) = database.fetch("SELECT data_key FROM secrets.host_credentials WHERE host = 'a'")
    rekeyed(database, keyring)
    assert len(erased_again(database, keyring, key)) == 1
    assert database.fetch("SELECT host FROM ledger.events WHERE type = 'credential.erased'") == [
        (None,)
    ]
    told = [(one.host, one.erased) for one in replayed(database.service_url, None, 2)[0]]
    assert told == [("a", True), ("b", False)]
    assert [one.erased for one in replayed(database.service_url, keyring, 6)[0]] == [False, False]


def test_a_body_that_was_changed_is_told(database: Database, keyring: Keyring) -> None:
    """It is no erasure: the credential is there by its metadata, and named with the reason."""
    record(database, keyring, upsert("a"), upsert("b"), upsert("c"))
    with database.owner() as connection:
        connection.execute("ALTER TABLE ledger.bodies DISABLE TRIGGER USER")
        connection.execute("UPDATE ledger.bodies SET ciphertext = 'x' WHERE position = 1")
        connection.execute("DELETE FROM ledger.bodies WHERE position = 2")

    async def found() -> StatePage:
        async with await connect(database.service_url, READ_SESSION) as connection:
            return await page(asking(connection), keyring, Scope(3))

    result = run(found())
    assert [(u.host, u.position) for u in result.unreadable] == [("a", 1), ("b", 2)]
    told = [(one.host, one.erased, one.password_encrypted is None) for one in result.credentials]
    assert told == [("a", False, True), ("b", False, True), ("c", False, False)]


def test_an_auditors_login_is_enough_for_metadata(database: Database, keyring: Keyring) -> None:
    """It may read the events, and neither bodies nor keys nor the live table."""
    record(database, keyring, upsert("a"), upsert("gone"))
    erased(database, keyring, "gone")

    async def found() -> list[StatePage]:
        async with await connect(database.owner_url, READ_SESSION) as connection:
            await connection.execute("SET ROLE secrets_broker_auditor")
            fetch = asking(connection)
            assert await Point.parse("at", "0m").resolve(fetch) == 3
            return [one async for one in state(fetch, None, Scope(2))]

    (result,) = run(found())
    assert [(one.host, one.erased) for one in result.credentials] == [("a", False), ("gone", True)]


def resolved(database: Database, *texts: str) -> list[int | str]:
    """Which positions these mean, or why none."""

    async def one(text: str) -> int | str:
        async with await connect(database.service_url, READ_SESSION) as connection:
            try:
                return await Point.parse("at", text).resolve(asking(connection))
            except InvalidCommandError as error:
                return str(error)

    async def all_of_them() -> list[int | str]:
        return [await one(text) for text in texts]

    return run(all_of_them())


def test_a_time_means_the_last_event_at_or_before_it(database: Database, keyring: Keyring) -> None:
    """At each event's own time and a microsecond to either side; in any offset."""
    record(database, keyring, upsert("a"), upsert("b"))
    for _ in range(4):
        record(database, keyring, upsert("a"))
    times = [at for (at,) in database.fetch("SELECT at FROM ledger.events ORDER BY position")]
    microsecond = timedelta(microseconds=1)
    asked = [at + step for at in times for step in (-microsecond, timedelta(), microsecond)]
    meant = [sum(at <= moment for at in times) - 1 for moment in asked]
    assert resolved(database, *map(rfc3339, asked)) == meant
    assert meant[0] == -1
    assert resolved(database, "0m", "9999w", "2020-01-01T00:00:00+23:59") == [6, -1, -1]


def test_what_is_not_there_yet_has_no_state(database: Database, keyring: Keyring) -> None:
    """A position past the end and a time to come are errors, not the newest state."""
    assert resolved(database, "0", "0m") == ["at: the ledger has no event yet", -1]
    record(database, keyring, upsert("a"))
    ahead = rfc3339(datetime.now(UTC) + timedelta(hours=1))
    past_the_end = "at: is past the ledger's end: its last position is 1"
    assert resolved(database, "1", "2", str(MAX_POSITION), ahead) == [
        *(1, past_the_end, past_the_end, "at: is in the future")
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("", "m4rker", "-1", "+1", "1.0", "1e3", " 1", "30x", "2026-01-02", "٣"),
        *("2026-01-02T03:04:05", "2026-13-02T03:04:05Z", "0001-01-01T00:00:00+23:59", "\ud800"),
        *(str(MAX_POSITION + 1), "9" * 5_000, "99999d"),
    ],
)
def test_what_is_no_point_in_the_ledger_is_refused(text: str) -> None:
    """Whatever it is, an error that names the field and does not repeat it."""
    with pytest.raises(InvalidCommandError, match=r"^at: ") as caught:
        Point.parse("at", text)
    assert "m4rker" not in str(caught.value)
    assert "9" * 30 not in str(caught.value)
