"""Rows that are not of their name's last change: found without a key, page by page."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.projections.row_check import MISMATCHES, page
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import delete, record, upsert

HOSTS = ["", "a", "b", "c", "d", "e", "f", "g"]
TAMPERING = {
    "removed": "DELETE FROM secrets.host_credentials WHERE host = %s",
    "older": "UPDATE secrets.host_credentials SET version = version + 1 WHERE host = %s",
    "rekeyed": "UPDATE secrets.host_credentials SET data_key = 'another' WHERE host = %s",
    "added": """
        INSERT INTO secrets.host_credentials (id, host, purpose, created_at, updated_at, version,
                                              position, data_key)
        SELECT 1000 + ascii(name.host || '!'), name.host, 'ssh', now(), now(), 1, 0, 'none'
        FROM (VALUES (%s)) AS name (host)
        ON CONFLICT (host, purpose) DO UPDATE SET position = host_credentials.position + 1
    """,
}


def pages(database: Database, entries: int) -> list[int]:
    """How many differ, on each page of so many changes."""

    async def all_of_them() -> list[int]:
        found: list[int] = []
        after = None
        async with await connect(database.service_url, READ_SESSION) as connection:
            while not found or after:
                one = await page(connection, after, entries)
                found.append(one.differing)
                after = one.last
        return found

    return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def filled(cluster: Cluster, keyring: Keyring) -> Iterator[Database]:
    """Names with one version, with many, deleted, and stored again."""
    with fresh_database(cluster, TEMPLATE) as database:
        stored = [upsert(host) for host in "abcdf" for _ in range(3)]
        record(database, keyring, *stored, delete("c"), delete("d"), upsert("d"), upsert("f"))
        yield database


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(HOSTS), st.sampled_from(sorted(TAMPERING)), max_size=6),
    st.integers(1, 25),
)
def test_pages_of_any_size_find_what_one_statement_finds(
    filled: Database, tampering: dict[str, str], entries: int
) -> None:
    """And both find each name whose row was changed, and no other."""
    live = {"a", "b", "d", "f"}
    wrong = {host for host, how in tampering.items() if host in live or how == "added"}
    with filled.owner() as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM secrets.host_credentials")
    try:
        for host, how in tampering.items():
            filled.execute(TAMPERING[how], host)
        assert sum(pages(filled, entries)) == len(wrong)
        assert len(filled.fetch(MISMATCHES, 100)) == len(wrong)
    finally:
        filled.execute("DELETE FROM secrets.host_credentials")
        filled.execute("INSERT INTO secrets.host_credentials SELECT * FROM kept")
        filled.execute("DROP TABLE kept")


def test_a_page_ends_behind_so_many_changes(filled: Database) -> None:
    """A name with many versions costs a page no more than it may look at."""
    assert pages(filled, 1_000) == [0]
    assert pages(filled, 1) == [0] * 6  # five names, and the end behind them


def test_an_empty_ledger_has_no_difference(database: Database) -> None:
    """But a row that somebody put there is one."""
    assert pages(database, 10) == [0]
    database.execute(TAMPERING["added"], "a")
    assert pages(database, 10) == [1]
