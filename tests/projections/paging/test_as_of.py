"""Of when an answer is."""

import pytest

from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.projections.paging.as_of import AsOf, as_of
from secrets_broker.projections.queries.event_list import EventCursor
from secrets_broker.tools.postgres import Cluster
from tests.conftest import Database
from tests.ledger.helpers import record, upsert
from tests.projections.asking import Connection, auditor, pages


def asked(url: str) -> AsOf:
    """What an auditor's login is told."""

    async def one(
        connection: Connection, after: EventCursor | None
    ) -> tuple[list[AsOf], EventCursor | None]:
        del after
        return [await as_of(connection)], None

    ((found,),) = pages(url, one)
    return found


def test_the_last_event_says_it(cluster: Cluster, database: Database, keyring: Keyring) -> None:
    """By its position and its time; an empty ledger has none."""
    url = auditor(cluster, database)
    empty = asked(url)
    assert (empty.position, empty.at, empty.sentence) == (
        *(None, None),
        "as of no event: the ledger is empty",
    )
    record(database, keyring, upsert("a"), upsert("b"))
    ((at,),) = database.fetch("SELECT at FROM ledger.events WHERE position = 2")
    found = asked(url)
    assert found == AsOf(position=2, at=rfc3339(at), standby=False, replayed_at=None)
    assert found.sentence == f"as of position 2 of {found.at}"


@pytest.mark.parametrize("replayed", ["2026-11-30T23:59:59.000001Z", None])
def test_a_standby_says_that_it_is_one(replayed: str | None) -> None:
    """And what it knows of its primary, which may be nothing."""
    at = "2026-11-30T23:00:00.000000Z"
    found = AsOf(position=41, at=at, standby=True, replayed_at=replayed)
    assert found.sentence.startswith(f"as of position 41 of {at}, a standby")
    assert (replayed or "nothing") in found.sentence
    assert "None" not in found.sentence
