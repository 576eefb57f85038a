"""How the ledger does, in numbers."""

from datetime import UTC, datetime, timedelta

import pytest

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import ACTIVE, Keyring
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.projections.queries.ledger_health import Vitals, vitals
from tests.conftest import Database
from tests.ledger.checkpoints import publish_checkpoint
from tests.ledger.helpers import lookup, record, run, upsert


def found(database: Database) -> Vitals:
    """As the service's login finds them."""

    async def asked() -> Vitals:
        async with await connect(database.service_url, READ_SESSION) as connection:
            return await vitals(connection)

    return run(asked())


def test_an_empty_ledger_has_nothing_to_cover(database: Database) -> None:
    """All numbers are 0, but for the space that empty tables take."""
    empty = found(database)
    assert (empty.events, empty.published, empty.uncovered_seconds) == (0, 0, 0.0)
    assert (empty.expired, empty.within_7d, empty.within_30d, empty.keks) == (0, 0, 0, ())
    assert empty.bytes > 0


def test_a_checkpoints_age_is_that_of_the_oldest_event_it_lacks(
    database: Database, keyring: Keyring
) -> None:
    """An idle ledger that is covered has age 0, and one event later no more than that event's."""
    record(database, keyring, upsert("a"), lookup("a"))
    before = found(database)
    assert before.uncovered_seconds == pytest.approx(_age(database, 0), abs=1.0)
    publish_checkpoint(database)
    covered = found(database)
    assert (covered.events, covered.published, covered.uncovered_seconds) == (3, 3, 0.0)
    record(database, keyring, lookup("a"), lookup("a"))
    behind = found(database)
    assert (behind.events, behind.published) == (5, 3)
    assert 0 < behind.uncovered_seconds <= _age(database, 3)


def _age(database: Database, position: int) -> float:
    query = "SELECT extract(epoch FROM clock_timestamp() - at)::float8 FROM ledger.events"
    ((age,),) = database.fetch(f"{query} WHERE position = %s", position)
    return float(age)


def test_what_expires_is_counted(database: Database, keyring: Keyring) -> None:
    """What is past its time is not counted as still to come."""
    now = datetime.now(UTC)
    ends = {"past": -1, "soon": 1, "week": 6, "later": 8, "month": 29, "far": 31}
    credentials = [
        upsert(host, expires_at=now + timedelta(days=days)) for host, days in ends.items()
    ]
    record(database, keyring, *credentials, upsert("never"))
    after = found(database)
    assert (after.expired, after.within_7d, after.within_30d) == (1, 2, 4)


def test_keks_are_those_that_wrap(database: Database, keyring: Keyring) -> None:
    """The one that the ledger began with is active."""
    record(database, keyring, upsert("a"))
    ((kek_id, state),) = [(kek.id, kek.state) for kek in found(database).keks]
    assert (kek_id, state) == (keyring.first.id, ACTIVE)
