"""What auditors ask reads no more of a large ledger than it must."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from secrets_broker.projections.parameters.credential_name import CredentialName
from secrets_broker.projections.queries import event_list, exposure, history, unused
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.ledger.helpers import run
from tests.projections.asking import Connection, auditor

NAMES = 300
EVENTS = 40_000
# Credentials, then reads, of which every other one is of the first.
CREATED = """
    INSERT INTO ledger.events (position, at, v, ok, leaf_hash, mac, type, authn, host,
                               purpose, credential_id, version, body)
    SELECT n, '2026-01-01Z', 1, true, decode(repeat('00', 32), 'hex'), sha256(''),
           'credential.created', 'cli', 'h' || n, 'ssh', n + 1, 1, '{"key": "k", "sha256": "s"}'
    FROM generate_series(0, %s - 1) AS n ORDER BY n
"""
READ = """
    INSERT INTO ledger.events (position, at, v, ok, leaf_hash, type, authn, host, purpose,
                               credential_id, version)
    SELECT n, '2026-01-02Z', 1, true, decode(repeat('00', 32), 'hex'), 'credential.read', 'cli',
           'h' || c, 'ssh', c + 1, 1
    FROM (SELECT n, CASE WHEN n %% 2 = 0 THEN 0 ELSE n %% %s END AS c
          FROM generate_series(%s, %s - 1) AS n) AS read
    ORDER BY n
"""
FIRST = CredentialName("h0", "ssh")
SINCE = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def large(cluster: Cluster) -> Iterator[str]:
    """The auditor's URL of a ledger that is worth an index."""
    with fresh_database(cluster, TEMPLATE) as database:
        with psycopg.connect(database.owner_url, autocommit=True) as connection:
            # Of a ledger that began before there were MACs.
            connection.execute("ALTER TABLE ledger.events DISABLE TRIGGER check_append")
            connection.execute(CREATED, (NAMES,))
            connection.execute(READ, (NAMES, NAMES, EVENTS))
            connection.execute("VACUUM (ANALYZE) ledger.events")
        yield auditor(cluster, database)


def rows_looked_at(url: str, question: Callable[[Connection], Awaitable[object]]) -> int:
    """How many rows all scans of the question's statements gave, by the server's own count."""
    counts: list[float] = []

    class Explained(AsyncConnection[Any]):
        async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            explain = b"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "
            text = query if isinstance(query, bytes) else str(query).encode()
            plan = await super().execute(explain + text, params, **more)
            counts.extend(scanned((await plan.fetchall())[0][0][0]["Plan"]))
            return await super().execute(query, params, **more)

    async def ask() -> None:
        async with await Explained.connect(url, autocommit=True) as connection:
            await question(connection)

    run(ask())
    return int(sum(counts))


def scanned(plan: dict[str, Any]) -> Iterator[float]:
    """Rows that each scan of the events gave or threw away."""
    if "Scan" in plan["Node Type"] and "CTE" not in plan["Node Type"]:
        given = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        yield given * plan["Actual Loops"]
    for part in plan.get("Plans", []):
        yield from scanned(part)


def test_a_history_reads_no_reads(large: str) -> None:
    """Of a name that is read all the time, only its changes are looked at."""
    assert rows_looked_at(large, lambda c: history.page(c, FIRST, 100)) < 50


def test_finding_a_version_reads_no_reads(large: str) -> None:
    """Whether by its number or not."""
    for which in exposure.LATEST, exposure.Which(1, 1):
        looked_at = rows_looked_at(large, partial(exposure.find, name=FIRST, which=which))
        assert looked_at < 50


def test_who_received_a_rare_one_is_in_an_index(large: str) -> None:
    """Its own reads and no others."""

    async def ask(connection: Connection) -> object:
        exposed = await exposure.find(connection, CredentialName("h7", "ssh"))
        assert exposed is not None
        return await exposure.page(connection, exposed, 1_000)

    assert rows_looked_at(large, ask) < 10 * EVENTS / NAMES


def test_a_page_of_events_ends_when_it_is_full(large: str) -> None:
    """From either end; and a host's own events are in an index."""
    for texts in {}, {"order": "newest"}, {"host": "h7"}:
        wanted = event_list.EventFilter.parse(texts)
        looked_at = rows_looked_at(large, partial(event_list.page, wanted=wanted, limit=20))
        assert looked_at < 10 * EVENTS / NAMES


def test_what_is_in_use_is_told_by_the_last_events(large: str) -> None:
    """A credential's own reads are looked at only where the last events have none of it."""

    async def ask(connection: Connection) -> object:
        return await unused.page(connection, SINCE, 1_000, names=NAMES + 1, recent=5_000)

    assert rows_looked_at(large, ask) < EVENTS / 2
