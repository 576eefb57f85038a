"""The search by time: over any ledger, what looking at every event finds."""

from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.database.ledger_session import SESSION, connect
from secrets_broker.ledger.database.search_by_time import asking, first_at
from secrets_broker.ledger.errors import LedgerMismatchError
from secrets_broker.projections.paging.position_walk import begin_at
from secrets_broker.projections.parameters.ledger_point import Point
from secrets_broker.session import Session
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.ledger.helpers import run

BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
INSERT = """
    INSERT INTO ledger.events (position, at, v, ok, leaf_hash, mac, type, authn)
    SELECT number - 1, at, 1, true, sha256(''), sha256(''), 'credential.deleted', 'cli'
    FROM unnest(%s::timestamptz[]) WITH ORDINALITY AS made (at, number) ORDER BY number
"""
# Many at the same time, a microsecond apart, or far from each other.
steps = st.sampled_from([0, 0, 1, 2, 3, 10**9])
ledgers = st.lists(steps, max_size=40).map(
    lambda gaps: [BEGIN + timedelta(microseconds=sum(gaps[: n + 1])) for n in range(len(gaps))]
)


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> Iterator[str]:
    """The owner's URL of a database that takes events of any time."""
    with fresh_database(cluster, TEMPLATE) as database:
        with database.owner() as connection:
            connection.execute("ALTER TABLE ledger.events DISABLE TRIGGER check_append")
        yield database.owner_url


@asynccontextmanager
async def ledger(
    url: str, times: Sequence[datetime], missing: int | None = None
) -> AsyncIterator[Session]:
    """A session in which the ledger has events of these times, until its end."""
    async with await connect(url, SESSION) as session, session.transaction(force_rollback=True):
        await session.execute("ALTER TABLE ledger.events DISABLE TRIGGER append_only")
        await session.execute(INSERT, (list(times),))
        await session.execute("DELETE FROM ledger.events WHERE position = %s", (missing,))
        yield session


def around(times: Sequence[datetime]) -> list[datetime]:
    """Before all, after all, and each time with a microsecond to either side: between, too."""
    steps = [timedelta(microseconds=by) for by in (-1, 0, 1)]
    return [BEGIN - timedelta(days=1), *(at + by for at in times for by in steps)]


@settings(max_examples=60, deadline=None)
@given(times=ledgers, fewer=st.integers(0, 40))
def test_it_finds_what_looking_at_every_event_finds(
    url: str, times: list[datetime], fewer: int
) -> None:
    """The first event of a time or later, of so many events as are asked about; or the end."""
    asked = around(times)
    size = max(len(times) - fewer, 0)

    async def found() -> list[tuple[int | None, int, int]]:
        async with ledger(url, times) as session:
            fetch = asking(session)
            return [
                (
                    await first_at(fetch, moment, size),
                    await begin_at(session, moment, size),
                    await Point("at", time=moment).resolve(fetch),
                )
                for moment in asked
            ]

    assert run(found()) == [
        (
            bisect_left(times, moment, hi=size),
            bisect_left(times, moment, hi=size),
            bisect_right(times, moment) - 1,
        )
        for moment in asked
    ]


def test_where_an_event_is_missing_no_search_can_tell(url: str) -> None:
    """A point is refused, and a walk looks at all; neither takes a wrong place for a right one."""
    times = [BEGIN + timedelta(seconds=number) for number in range(4)]

    async def found() -> tuple[int | None, int]:
        async with ledger(url, times, missing=2) as session:
            with pytest.raises(LedgerMismatchError, match="have a gap"):
                await Point("at", time=times[3]).resolve(asking(session))
            return await first_at(asking(session), times[3], 4), await begin_at(
                session, times[3], 4
            )

    assert run(found()) == (None, 0)
