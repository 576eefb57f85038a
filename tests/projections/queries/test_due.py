"""What is due: of the live credentials just those that want attention, page by page."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import InvalidCommandError, LedgerUnavailableError
from secrets_broker.projections.paging.reading_session import READ_SESSION, Reader
from secrets_broker.projections.queries.due import BEGINNING, DueCursor, DueFilter, DueLine, page
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import delete, rebuilt, record, run, upsert

NOW = datetime.now(UTC)
ROW = """
    INSERT INTO secrets.host_credentials (id, host, purpose, created_at, updated_at, updated_by,
                                          version, position, data_key, expires_at, rotate_after)
    VALUES (%s, %s, 'ssh', '2020-01-01Z', now() - %s, 'me', 1, 0, '', now() + %s, %s)
"""
days = st.integers(-200, 200)


def day(number: int) -> timedelta:
    """Some days, and an hour, so that no test depends on how long it takes."""
    return timedelta(days=number, hours=1)


def ask(database: Database, wanted: DueFilter, limit: int = 1_000) -> list[DueLine]:
    """All lines, page by page."""

    async def pages() -> list[DueLine]:
        reader = Reader(database.service_url)
        lines: list[DueLine] = []
        following: DueCursor | None = BEGINNING
        while following:
            after = following

            async def question(
                connection: "AsyncConnection[Any]", after: DueCursor = after
            ) -> tuple[list[DueLine], DueCursor | None]:
                return await page(connection, wanted, limit, after)

            more, following = await reader.ask(question)
            assert len(more) <= limit
            lines += more
        await reader.close()
        return lines

    return run(pages())


def told(lines: list[DueLine]) -> list[tuple[str, str]]:
    """What of which host."""
    return [(line.what, line.host) for line in lines]


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    """One database for the properties."""
    with fresh_database(cluster, TEMPLATE) as database:
        yield database


def fill(database: Database, rows: list[tuple[int, int | None, int | None]]) -> None:
    """Put in rows of: days since the last change, until expiry, between changes."""
    with database.owner() as connection:
        connection.execute("TRUNCATE secrets.host_credentials")
        for number, (changed, expires, rotate) in enumerate(rows):
            until = None if expires is None else day(expires)
            connection.execute(ROW, (number, f"h{number}", day(changed), until, rotate))


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 200), st.none() | days, st.none() | st.integers(1, 200)),
        max_size=12,
    ),
    within=st.integers(0, 100),
    unchanged_for=st.none() | st.integers(0, 100),
    limit=st.integers(1, 5),
)
def test_just_what_is_due(
    shared: Database,
    rows: list[tuple[int, int | None, int | None]],
    within: int,
    unchanged_for: int | None,
    limit: int,
) -> None:
    """Each credential is listed once for each reason, and pages of any size leave out nothing."""
    fill(shared, rows)
    meant = []
    for number, (changed, expires, rotate) in enumerate(rows):
        host = f"h{number}"
        if expires is not None and expires < within:
            meant.append((0, expires, number, "expired" if expires < 0 else "expires", host))
        if rotate is not None and rotate - changed <= within:
            what = "overdue" if rotate <= changed else "due"
            meant.append((1, rotate - changed, number, what, host))
        if unchanged_for is not None and changed >= unchanged_for:
            meant.append((2, -changed, number, "unchanged", host))
    wanted = DueFilter(
        timedelta(days=within),
        None if unchanged_for is None else timedelta(days=unchanged_for),
    )
    assert {*told(ask(shared, wanted, limit))} == {line[3:] for line in meant}
    # Rows of one statement each: within a kind only the day orders them for sure.
    kinds = [line.what for line in ask(shared, wanted, limit)]
    assert kinds == [line[3] for line in sorted(meant, key=lambda line: line[:2])]


def test_a_line_says_when_and_who(database: Database, keyring: Keyring) -> None:
    """Of a credential that was really stored: its times, and who changed it last."""
    ends = NOW + timedelta(days=3)
    record(database, keyring, upsert("a", expires_at=ends, rotate_after=1))
    record(database, keyring, upsert("b"), upsert("gone", expires_at=NOW), delete("gone"))
    ((changed,),) = database.fetch("SELECT at FROM ledger.events WHERE position = 1")
    lines = ask(database, DueFilter())
    assert [(line.what, line.host, line.purpose, line.changed_by) for line in lines] == [
        ("expires", "a", "ssh", "tester"),
        ("due", "a", "ssh", "tester"),
    ]
    assert [datetime.fromisoformat(line.at) for line in lines] == [
        ends,
        changed + timedelta(hours=24),
    ]
    assert {datetime.fromisoformat(line.changed_at) for line in lines} == {changed}


def test_a_change_starts_the_days_anew(database: Database, keyring: Keyring) -> None:
    """Overdue is counted from the last change, and a new version ends it."""
    record(database, keyring, upsert("a", rotate_after=7))
    database.execute("UPDATE secrets.host_credentials SET updated_at = now() - interval '8 days'")
    assert told(ask(database, DueFilter())) == [("overdue", "a")]
    record(database, keyring, upsert("a", rotate_after=7))
    assert told(ask(database, DueFilter())) == [("due", "a")]
    assert ask(database, DueFilter(timedelta(days=6))) == []


def test_patterns_choose(database: Database, keyring: Keyring) -> None:
    """Host and purpose both have to match; what LIKE would take for more is itself."""
    names = ["db1.example", "db2.example", "db%", "db_.example"]
    record(database, keyring, *(upsert(name, expires_at=NOW) for name in names))

    def hosts(**patterns: str) -> list[str]:
        return [line.host for line in ask(database, DueFilter.parse(**patterns))]

    assert hosts(host="db*.example") == ["db1.example", "db2.example", "db_.example"]
    assert hosts(host="db_.example", purpose="s*") == ["db_.example"]
    assert hosts(host="db%") == ["db%"]
    assert hosts(host="*", purpose="winrm") == []


def test_rebuild_makes_both_anew(database: Database, keyring: Keyring) -> None:
    """A limit that was edited by hand is found by column, never shown, and put right."""
    record(database, keyring, upsert("a", expires_at=NOW, rotate_after=5))
    query = "SELECT row::text FROM secrets.host_credentials AS row"
    before = database.fetch(query)
    database.execute("UPDATE secrets.host_credentials SET expires_at = '2099-01-02Z'")
    found = rebuilt(database, keyring, check_only=True)
    assert [d.columns for d in found.differences] == [("expires_at",)]
    assert "2099" not in repr(found)
    database.execute("UPDATE secrets.host_credentials SET rotate_after = NULL")
    assert rebuilt(database, keyring).differences[0].columns == ("expires_at", "rotate_after")
    assert database.fetch(query) == before


def test_a_large_table_is_not_read_as_a_whole(shared: Database) -> None:
    """What has no limit set costs nothing: expiry and rotation come from partial indexes."""
    with shared.owner() as connection:
        connection.execute("TRUNCATE secrets.host_credentials")
        connection.execute(
            "INSERT INTO secrets.host_credentials (id, host, purpose, created_at, updated_at,"
            " version, position, data_key, expires_at, rotate_after)"
            " SELECT n, 'h' || n, 'ssh', now(), now(), 1, n, '',"
            " CASE WHEN n % 500 = 0 THEN now() + n * interval '1 minute' END,"
            " CASE WHEN n % 500 = 1 THEN 30 END FROM generate_series(1, 20000) AS n"
        )
        connection.execute("ANALYZE secrets.host_credentials")
    plans: list[str] = []

    class Explained(AsyncConnection[Any]):
        async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            plan = await super().execute("EXPLAIN " + query, params, **more)
            plans.extend(line for (line,) in await plan.fetchall())
            return await super().execute(query, params, **more)

    async def explain() -> None:
        connection = await Explained.connect(shared.service_url, autocommit=True)
        async with connection:
            await page(connection, DueFilter(), 100)

    run(explain())
    assert any("idx_host_credentials_expires_at" in line for line in plans)
    assert any("idx_host_credentials_rotate_after" in line for line in plans)


def test_a_cursor_survives_its_text() -> None:
    """What a page ended with, exactly."""
    cursor = DueCursor(1, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), 2**63 - 1)
    assert DueCursor.decode(cursor.encode()) == cursor


@pytest.mark.parametrize(
    "text",
    ["", "x", "m4rker", "ü", "bnVsbA", "WzEsMiwzXQ", "WzksIjIwMjYtMDEtMDFUMDA6MDA6MDBaIiwxXQ"],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """Whatever it is, one error, which does not repeat it."""
    with pytest.raises(InvalidCommandError, match=r"^cursor: must be that of a page$"):
        DueCursor.decode(text)


def test_a_reader_only_reads(database: Database) -> None:
    """Its session refuses to write, whoever's login it is."""

    async def write() -> None:
        reader = Reader(database.owner_url)
        try:
            await reader.ask(lambda c: c.execute("DELETE FROM secrets.host_credentials"))
        finally:
            await reader.close()

    assert READ_SESSION["default_transaction_read_only"] == "on"
    with pytest.raises(LedgerUnavailableError, match="the database refused a question"):
        run(write())


def test_a_reader_whose_connection_was_lost_makes_a_new_one(database: Database) -> None:
    """A connection that ended while idle costs no answer."""

    async def pid(connection: "AsyncConnection[Any]") -> int:
        cursor = await connection.execute("SELECT pg_backend_pid()")
        return int((await cursor.fetchall())[0][0])

    async def twice() -> tuple[int, int]:
        reader = Reader(database.service_url)
        first = await reader.ask(pid)
        database.fetch("SELECT pg_terminate_backend(%s, 5000)", first)
        second = await reader.ask(pid)
        assert await reader.ask(pid) == second
        await reader.close()
        return first, second

    first, second = run(twice())
    assert first != second


@pytest.mark.parametrize(
    "edit", ["expires_at = 'infinity'", "expires_at = '10000-01-01Z'", "rotate_after = 0"]
)
def test_the_database_keeps_the_ranges(database: Database, keyring: Keyring, edit: str) -> None:
    """Not even by hand a row gets a time that has no text, or days that are none."""
    record(database, keyring, upsert("a", expires_at=NOW, rotate_after=1))
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute(f"UPDATE secrets.host_credentials SET {edit}")  # noqa: S608
