"""Unused: of the live credentials just those that nobody has read since then."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.commands import ImportAccess, ImportCredential
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.projections.paging.position_walk import PAGE_BUDGET, PageBudget
from secrets_broker.projections.parameters.times import parse_moment
from secrets_broker.projections.queries.unused import RECENT, UnusedCursor, UnusedLine, page
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import delete, lookup, record, upsert
from tests.projections.asking import Connection, auditor, lived, pages, steps
from tests.projections.keys import rekeyed

NOW = datetime.now(UTC)
THEN = datetime(2020, 2, 29, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    """One database for the properties."""
    with fresh_database(cluster, TEMPLATE) as database:
        yield database


def unused(
    url: str,
    since: datetime,
    limit: int = 1_000,
    names: int | None = None,
    budget: PageBudget = PAGE_BUDGET,
    recent: int = RECENT,
) -> list[UnusedLine]:
    """All of them, page by page."""

    async def one(
        connection: Connection, after: UnusedCursor | None
    ) -> tuple[list[UnusedLine], UnusedCursor | None]:
        return await page(connection, since, limit, after, budget, names, recent)

    found = pages(url, one)
    assert all(len(lines) <= limit for lines in found)
    return [line for lines in found for line in lines]


def time_of(database: Database, position: int) -> datetime:
    """When an event was recorded."""
    ((at,),) = database.fetch("SELECT at FROM ledger.events WHERE position = %s", position)
    assert isinstance(at, datetime)
    return at


@settings(max_examples=25)
@given(
    done=steps,
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    budget=st.sampled_from([PAGE_BUDGET, PageBudget(seconds=0)]),
    back=st.integers(0, 11),
    recent=st.sampled_from([0, 3, RECENT]),
)
def test_just_what_nobody_read(
    shared: Database,
    cluster: Cluster,
    keyring: Keyring,
    done: list[tuple[int, str]],
    sizes: tuple[int, int],
    budget: PageBudget,
    back: int,
    recent: int,
) -> None:
    """A read of the same credential counts, whatever the version; one of its predecessor not."""
    lives = lived(shared, keyring, done)
    ((size,),) = shared.fetch("SELECT count(*) FROM ledger.events")
    since = time_of(shared, max(0, size - back)) if back and size else NOW + timedelta(days=1)
    expected = []
    for life in lives:
        if life.live is None:
            continue
        reads = [
            position
            for one in life.versions
            if one.credential_id == life.live.credential_id
            for position in one.receipts
        ]
        last = max(reads, default=None)
        is_older = time_of(shared, life.live.credential_id - 1) < since
        if is_older and (last is None or time_of(shared, last) < since):
            expected.append((life.host, life.live.credential_id, life.live.version, last))
    lines = unused(auditor(cluster, shared), since, *sizes, budget, recent)
    hosts = [life.host for life in lives]
    assert [
        (line.host, line.credential_id, line.version, line.last_read_position)
        for line in lines
        if line.host in hosts
    ] == expected
    assert len({(line.host, line.purpose) for line in lines}) == len(lines)


def test_a_line_says_when_and_by_whom(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """Its times are those of the row that is served, also where its data key was changed since."""
    record(database, keyring, upsert("a"), upsert("b"))
    record(database, keyring, upsert("a"), lookup("a"))
    rekeyed(database, keyring, "a")
    first, second = unused(auditor(cluster, database), NOW + timedelta(days=1))
    rows = database.fetch(
        "SELECT host, created_at, created_by, updated_at, updated_by, version"
        " FROM secrets.host_credentials ORDER BY host"
    )
    assert [
        (
            line.host,
            datetime.fromisoformat(line.created_at),
            line.created_by,
            datetime.fromisoformat(line.updated_at),
            line.updated_by,
            line.version,
        )
        for line in (first, second)
    ] == rows
    assert datetime.fromisoformat(first.last_read_at or "") == time_of(database, 4)
    assert (first.last_read_by, first.last_read_position) == ("tester", 4)
    assert (second.last_read_at, second.last_read_by, second.last_read_position) == (None,) * 3


def test_a_failed_lookup_is_no_read(cluster: Cluster, database: Database, keyring: Keyring) -> None:
    """Who got nothing did not use it."""
    record(database, keyring, upsert("a", expires_at=NOW), lookup("a"), upsert("gone"))
    record(database, keyring, delete("gone"))
    (line,) = unused(auditor(cluster, database), NOW + timedelta(days=1))
    assert (line.host, line.last_read_position) == ("a", None)


def test_what_was_made_since_is_left_out(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """It could not be used before; what was only changed since then could."""
    record(database, keyring, upsert("old"))
    record(database, keyring, upsert("changed"))
    since = time_of(database, 2) + timedelta(microseconds=1)
    record(database, keyring, upsert("changed"), upsert("young"))
    url = auditor(cluster, database)
    assert [line.host for line in unused(url, since)] == ["changed", "old"]
    assert [line.host for line in unused(url, time_of(database, 2))] == ["old"]
    assert unused(url, time_of(database, 1)) == []


@pytest.mark.parametrize("names", [1, 2, None])
def test_what_is_imported_is_as_old_as_it_was_there(
    cluster: Cluster, database: Database, keyring: Keyring, names: int | None
) -> None:
    """By the time that the earlier installation had for it, whenever it was imported."""
    made = {"created_at": rfc3339(THEN)}
    for host, details in (("a-old", made), ("b-unknown", {}), ("c-old", made)):
        command = ImportCredential(
            host=host,
            purpose="ssh",
            content=Content(password="p"),
            occurred_at=None,
            details={"legacy_id": 1, **details},
        )
        record(database, keyring, command)
    lines = unused(auditor(cluster, database), THEN + timedelta(days=1), names=names)
    assert [line.host for line in lines] == ["a-old", "c-old"]


def imported(credential_id: int, occurred_at: datetime | None, **more: Any) -> ImportAccess:
    """A read of an earlier installation."""
    fields: dict[str, Any] = {"ok": True, "details": {"legacy_id": 1, "access_type": "read"}} | more
    return ImportAccess(
        host="old", purpose="ssh", credential_id=credential_id, occurred_at=occurred_at, **fields
    )


def test_imported_reads_count_from_when_they_happened(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """Not from their import; the last of them in time, not in the record."""
    created = {"created_at": "2019-01-01T00:00:00.000000Z", "created_by": "setup"}
    updated = {"updated_at": "2019-02-02T00:00:00.000000Z", "updated_by": "deploy"}
    credential = ImportCredential(
        host="old",
        purpose="ssh",
        content=Content(password="p"),
        occurred_at=THEN,
        details={"legacy_id": 1, **created, **updated},
    )
    day = timedelta(days=1)
    lines = [imported(2, THEN), imported(2, THEN - day)]
    lines += [
        imported(2, THEN + day, ok=False),
        imported(2, THEN + day, details={"legacy_id": 1, "access_type": "x"}),
    ]
    record(database, keyring, credential, *lines)
    url = auditor(cluster, database)
    assert unused(url, THEN) == []
    (line,) = unused(url, THEN + day)
    assert (line.last_read_at, line.last_read_position) == ("2020-02-29T12:00:00.000000Z", 2)
    assert (line.created_at, line.created_by) == (created["created_at"], "setup")
    assert (line.updated_at, line.updated_by) == (updated["updated_at"], "deploy")
    record(database, keyring, lookup("old"))
    assert unused(url, THEN + day) == []


@pytest.mark.parametrize("recent", range(6))
def test_the_last_read_is_the_last_in_time(
    cluster: Cluster, database: Database, keyring: Keyring, recent: int
) -> None:
    """However many of the last events are looked at first, and whenever it was imported."""
    credential = ImportCredential(
        host="old",
        purpose="ssh",
        content=Content(password="p"),
        occurred_at=None,
        details={"legacy_id": 1},
    )
    ahead = datetime.now(UTC) + timedelta(days=900)
    # The clock of the earlier installation was ahead: it happened no later than it was recorded.
    record(database, keyring, credential, imported(2, ahead))
    record(database, keyring, lookup("old"))
    between = datetime.now(UTC)
    record(database, keyring, imported(2, between), imported(2, THEN), upsert("new"))
    first, second = unused(auditor(cluster, database), ahead + timedelta(days=1), recent=recent)
    assert (first.host, second.host) == ("new", "old")
    assert second.last_read_position == 4
    assert datetime.fromisoformat(second.last_read_at or "") == between


def test_a_read_without_a_time_is_one_but_not_since(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """Listed, with the position of the line that says so, and no time."""
    credential = ImportCredential(
        host="old",
        purpose="ssh",
        content=Content(password="p"),
        occurred_at=None,
        details={"legacy_id": 1, "created_at": rfc3339(THEN - timedelta(days=1))},
    )
    record(database, keyring, credential, imported(2, None))
    (line,) = unused(auditor(cluster, database), THEN)
    assert (line.last_read_position, line.last_read_at) == (2, None)


@pytest.mark.parametrize("text", ["90d", "2026-01-02T03:04:05Z", "2026-01-02T04:04:05+01:00"])
def test_times_and_how_long_ago(text: str) -> None:
    """RFC 3339 with an offset, or a duration that ends now."""
    before = datetime.now(UTC)
    moment = parse_moment("since", text)
    if text == "90d":
        assert before - timedelta(days=90) <= moment <= datetime.now(UTC) - timedelta(days=90)
    else:
        assert moment == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert moment.utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["", "soon", "2026-01-02", "2026-01-02T03:04:05", "1y", "-1d"])
def test_other_times_are_refused(text: str) -> None:
    """The field is named."""
    with pytest.raises(InvalidCommandError, match=r"^since: must be a time with an offset"):
        parse_moment("since", text)
