"""When the gatherer compares, and what of it may be seen."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import REGISTRY

from secrets_broker.http.metrics import counters, gauges
from secrets_broker.http.metrics.gatherer import RowComparison
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.encryption.kms import open_provider
from secrets_broker.projections.paging.reading_session import Reader
from tests.conftest import Database
from tests.ledger.helpers import record, upsert

DIFFERENCES = "secrets_projection_differences"
COMPARED = "secrets_projection_compared_timestamp_seconds"


def compared(
    database: Database,
    steps: Callable[[RowComparison], Awaitable[None]],
    seconds: float,
    entries: int,
) -> None:
    """Go through the steps with a comparison of this database."""

    async def all_of_them() -> None:
        reader = Reader(database.service_url)
        try:
            await steps(RowComparison(reader, seconds, entries))
        finally:
            await reader.close()

    asyncio.run(all_of_them())


def test_it_compares_no_more_often_than_it_may(database: Database, keyring: Keyring) -> None:
    """What was edited meanwhile is found by the next comparison, and not before."""
    record(database, keyring, upsert("a"), upsert("b"))

    async def steps(comparison: RowComparison) -> None:
        await comparison.advance()
        assert REGISTRY.get_sample_value(DIFFERENCES) == 0.0
        first = REGISTRY.get_sample_value(COMPARED)
        database.execute("UPDATE secrets.host_credentials SET version = 7 WHERE host = 'a'")
        await comparison.advance()
        assert REGISTRY.get_sample_value(COMPARED) == first

    async def at_once(comparison: RowComparison) -> None:
        await comparison.advance()
        assert REGISTRY.get_sample_value(DIFFERENCES) == 1.0

    compared(database, steps, 3_600, 100)
    compared(database, at_once, 3_600, 100)


def test_a_comparison_is_told_of_once_all_names_were_looked_at(
    database: Database, keyring: Keyring
) -> None:
    """Half of one is no number; the pages of the next one begin with nothing."""
    record(database, keyring, *(upsert(host) for host in "abcd"))
    database.execute("UPDATE secrets.host_credentials SET version = 7 WHERE host IN ('a', 'd')")
    gauges.DIFFERENCES.set(-1)

    async def steps(comparison: RowComparison) -> None:
        for before in (-1.0, 2.0):  # with pages of three, a comparison is two of them
            await comparison.advance()
            assert REGISTRY.get_sample_value(DIFFERENCES) == before
            await comparison.advance()
            assert REGISTRY.get_sample_value(DIFFERENCES) == 2.0

    compared(database, steps, 0.0, 3)


@pytest.mark.parametrize(
    ("provider", "shown"),
    [
        ("environment", "environment"),
        (
            open_provider("transit+https://vault.internal:8200/transit/keys/k", token="t").id,
            "transit",
        ),
        ("aws-kms:arn:aws:kms:eu-west-1:111122223333:key/1234", "aws-kms"),
        ("pkcs11:token=main;object=kek", "pkcs11"),
        ("somewhere.internal/key", "other"),
    ],
)
def test_of_a_kms_only_its_kind_is_shown(provider: str, shown: str) -> None:
    """Metrics need no key, so where a KEK is kept is not in them."""
    assert gauges.kind(provider) == shown


def test_conditions_are_of_a_closed_set() -> None:
    """Each counts in its own counter, and an unknown one in none."""
    name = "secrets_watch_conditions_total"
    for word in counters.CONDITIONS:
        before = REGISTRY.get_sample_value(name, {"condition": word})
        assert before is not None
        counters.condition(word)
        assert REGISTRY.get_sample_value(name, {"condition": word}) == before + 1
    with pytest.raises(KeyError):
        counters.condition("web-1.example")
