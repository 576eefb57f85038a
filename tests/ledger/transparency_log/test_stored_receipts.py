"""Receipts out of a real database, by one statement."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerMismatchError
from secrets_broker.ledger.transparency_log.checkpoint_store import NotPublishedError
from secrets_broker.ledger.transparency_log.receipt import Receipt
from secrets_broker.ledger.transparency_log.stored_receipts import receipt
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import lookup, record, run
from tests.tools.verify.changing import KEY, checkpoints, unlock

SIZES = (1, 2, 255, 256, 257, 511, 512, 513, 600)


@pytest.fixture(scope="module")
def ledger(cluster: Cluster, keyring: Keyring) -> Iterator[Database]:
    """600 events and a few more, which no checkpoint covers."""
    with fresh_database(cluster, TEMPLATE) as made:
        record(made, keyring, *(lookup(f"h{number}") for number in range(1, 600)))
        checkpoints(made, SIZES)
        record(made, keyring, *(lookup(f"h{number}") for number in range(5)))
        yield made


async def receipts(database: Database, *wanted: tuple[int, int | None]) -> list[Receipt]:
    """Several, over one connection."""
    async with await connect(database.service_url, READ_SESSION) as connection:
        return [await receipt(connection, position, size) for position, size in wanted]


@given(st.data())
@hypothesis_settings(max_examples=25)
def test_a_receipt_of_any_event_under_any_checkpoint(ledger: Database, data: st.DataObject) -> None:
    """It verifies with nothing but the key, and reads back as what it was."""
    pairs = st.sampled_from(SIZES).flatmap(
        lambda size: st.tuples(st.integers(0, size - 1), st.just(size))
    )
    wanted = data.draw(st.lists(pairs, min_size=1, max_size=20))
    made = run(receipts(ledger, *wanted))
    for (position, size), one in zip(wanted, made, strict=True):
        assert (one.position, one.checkpoint.checkpoint.size) == (position, size)
        assert Receipt.parse(str(one)) == one
        one.verify([KEY.verifier])


def test_without_a_size_it_is_the_published_one(ledger: Database) -> None:
    """What it does not cover yet is told apart from what was never published."""
    (made,) = run(receipts(ledger, (599, None)))
    assert made.checkpoint.checkpoint.size == 600
    for wanted in (600, None), (3, 300), (256, 256), (0, 0):
        with pytest.raises(NotPublishedError):
            run(receipts(ledger, wanted))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger.events SET reason = 'x' WHERE position = 300",
        "UPDATE ledger.events SET leaf_hash = sha256('x') WHERE position = 301",
        "UPDATE ledger.nodes SET hash = sha256('x') WHERE index = 0",
        "DELETE FROM ledger.events WHERE position = 300",
        "DELETE FROM ledger.events WHERE position = 599",
        "DELETE FROM ledger.nodes WHERE index = 0",
        "UPDATE ledger.checkpoints SET note = 'x' WHERE size = 600",
        "DELETE FROM ledger.checkpoints WHERE size = 600",
        "DELETE FROM ledger.published",
        "UPDATE ledger.checkpoints AS c SET note = other.note FROM ledger.checkpoints AS other"
        " WHERE c.size = 600 AND other.size = 513",
    ],
)
def test_what_does_not_lead_to_what_was_signed(
    cluster: Cluster, ledger: Database, change: str
) -> None:
    """No receipt is made of it."""
    with fresh_database(cluster, ledger.name) as changed:
        unlock(changed)
        changed.execute(change)
        with pytest.raises(LedgerMismatchError):
            run(receipts(changed, (300, None)))
