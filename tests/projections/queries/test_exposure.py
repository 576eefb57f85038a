"""Exposure: who received a version, and nobody else."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.commands import ImportAccess, ImportCredential
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.projections.paging.position_walk import PAGE_BUDGET, PageBudget
from secrets_broker.projections.parameters.credential_name import CredentialName
from secrets_broker.projections.queries.exposure import (
    LATEST,
    Disclosure,
    Exposed,
    ExposureCursor,
    Which,
    find,
    page,
)
from secrets_broker.projections.queries.replay import Scope
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.replay.reveal import reveal
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import delete, login_of, lookup, record, run, send, upsert, writing
from tests.projections.asking import Connection, answer, auditor, lived, pages, steps

AUDIT = Context(actor="auditor", authn="cli", reason="AUD-1")
NOW = datetime.now(UTC)
# One that reads all of a credential's events together, and ones that walk along all events.
budgets = st.sampled_from(
    [PAGE_BUDGET, PageBudget(positions=3, few=0, seconds=0), PageBudget(positions=7, few=0)]
)


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    """One database for the properties."""
    with fresh_database(cluster, TEMPLATE) as database:
        yield database


def asked(url: str, host: str, which: Which = LATEST) -> Exposed | None:
    """Which version is meant."""
    return answer(url, lambda connection: find(connection, CredentialName(host, "ssh"), which))


def received(
    url: str, host: str, which: Which = LATEST, limit: int = 1_000, budget: PageBudget = PAGE_BUDGET
) -> list[Disclosure]:
    """All who received it, page by page."""
    exposed = asked(url, host, which)
    assert exposed is not None

    async def one(
        connection: Connection, after: ExposureCursor | None
    ) -> tuple[list[Disclosure], ExposureCursor | None]:
        return await page(connection, exposed, limit, after, budget)

    found = pages(url, one)
    assert all(len(lines) <= limit for lines in found)
    return [line for lines in found for line in lines]


@settings(max_examples=25)
@given(done=steps, limit=st.integers(1, 4), budget=budgets)
def test_just_those_who_received_it(
    shared: Database,
    cluster: Cluster,
    keyring: Keyring,
    done: list[tuple[int, str]],
    limit: int,
    budget: PageBudget,
) -> None:
    """Of each version of each credential: the lookups that disclosed it, through any pages."""
    url = auditor(cluster, shared)
    for life in lived(shared, keyring, done):
        for one in life.versions:
            which = Which(one.credential_id, one.version)
            lines = received(url, life.host, which, limit, budget)
            assert [line.position for line in lines] == list(one.receipts)
            assert {(line.credential_id, line.version, line.live) for line in lines} <= {
                (one.credential_id, one.version, one.ended is None)
            }
        exposed = asked(url, life.host)
        last = life.versions[-1] if life.versions else None
        assert (exposed and (exposed.credential_id, exposed.version, exposed.live)) == (
            last and (last.credential_id, last.version, last.ended is None)
        )


def test_a_receipt_says_who_and_why(cluster: Cluster, database: Database, keyring: Keyring) -> None:
    """Its event's own columns."""
    reader = Context(
        actor="deploy", authn="internal_key", ip="192.0.2.8", request_id="r-8", reason="CHG-1"
    )

    async def both() -> None:
        async with writing(database.service_url, keyring) as writer:
            await send(writer, upsert("a"))
            await send(writer, lookup("a"), context=reader)

    run(both())
    (line,) = received(auditor(cluster, database), "a")
    assert (line.actor, line.authn, line.ip) == ("deploy", "internal_key", "192.0.2.8")
    assert (line.request_id, line.reason, line.type) == ("r-8", "CHG-1", "credential.read")
    ((at,),) = database.fetch("SELECT at FROM ledger.events WHERE position = 2")
    assert (datetime.fromisoformat(line.received_at), line.occurred_at) == (at, None)


@pytest.mark.parametrize("budget", [PAGE_BUDGET, PageBudget(positions=3, few=0, seconds=0)])
def test_who_read_it_out_of_the_history_received_it_too(
    cluster: Cluster, database: Database, keyring: Keyring, budget: PageBudget
) -> None:
    """However long after that version ended, and of an earlier credential of the name too."""
    record(database, keyring, upsert("a"), lookup("a"), upsert("a"), delete("a"), upsert("a"))

    async def reveal_all(position: int) -> None:
        async for _ in reveal(login_of(database.service_url, keyring), AUDIT, Scope(position)):
            pass

    run(reveal_all(1))
    run(reveal_all(3))
    url = auditor(cluster, database)
    first, second = Which(2, 1), Which(2, 2)
    assert [(o.position, o.actor) for o in received(url, "a", first, budget=budget)] == [
        (2, "tester"),
        (6, "auditor"),
    ]
    assert [one.position for one in received(url, "a", second, budget=budget)] == [7]
    assert received(url, "a", budget=budget) == []


def test_which_version_is_meant(cluster: Cluster, database: Database, keyring: Keyring) -> None:
    """Numbers begin anew with a new credential; none is taken for one of another."""
    record(database, keyring, upsert("a"), upsert("a"), delete("a"), upsert("a"), upsert("b"))
    url = auditor(cluster, database)

    def meant(which: Which) -> tuple[int, int, bool] | None:
        exposed = asked(url, "a", which)
        return (exposed.credential_id, exposed.version, exposed.live) if exposed else None

    assert meant(LATEST) == (5, 1, True)
    assert meant(Which(credential_id=2)) == (2, 2, False)
    assert meant(Which(credential_id=2, version=1)) == (2, 1, False)
    assert meant(Which(version=1)) == (5, 1, True)
    # The first credential's version 2 is not the second one's.
    assert meant(Which(version=2)) is None
    assert meant(Which(credential_id=6)) is None
    assert asked(url, "A") is None


def test_who_was_refused_received_nothing(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """A lookup past its time, or of a row that was edited, disclosed nothing."""
    record(database, keyring, upsert("a", expires_at=NOW), lookup("a"))
    record(database, keyring, upsert("b"))
    database.execute("UPDATE secrets.host_credentials SET username = 'x' WHERE host = 'b'")
    record(database, keyring, lookup("b"))
    assert received(auditor(cluster, database), "a") == []
    assert received(auditor(cluster, database), "b") == []


def imported_line(
    credential_id: int | None, kind: str = "read", *, ok: bool = True
) -> ImportAccess:
    """A line of an earlier installation's access log."""
    return ImportAccess(
        host="old",
        purpose="ssh",
        ok=ok,
        credential_id=credential_id,
        occurred_at=datetime(2020, 2, 29, 12, tzinfo=UTC),
        details={"legacy_id": 1, "access_type": kind},
    )


@pytest.mark.parametrize("budget", [PAGE_BUDGET, PageBudget(positions=2, few=0)])
def test_earlier_reads_belong_to_the_imported_version(
    cluster: Cluster, database: Database, keyring: Keyring, budget: PageBudget
) -> None:
    """Successful reads alone, without a version, also where they were imported after its end."""
    content = Content(password="p")
    credential = ImportCredential(
        host="old", purpose="ssh", content=content, occurred_at=None, details={"legacy_id": 1}
    )
    lines = [imported_line(2), imported_line(2, "update"), imported_line(2, ok=False)]
    record(database, keyring, credential, *lines, imported_line(None), lookup("old"))
    record(database, keyring, upsert("old"), lookup("old"), imported_line(2))
    url = auditor(cluster, database)

    def told(which: Which) -> list[tuple[int, str, int | None, str | None]]:
        found = received(url, "old", which, 2, budget)
        return [(line.position, line.type, line.version, line.occurred_at) for line in found]

    then = "2020-02-29T12:00:00.000000Z"
    assert told(Which(version=1)) == [
        (2, "access.imported", None, then),
        (6, "credential.read", 1, None),
        (9, "access.imported", None, then),
    ]
    assert told(Which(version=2)) == [(8, "credential.read", 2, None)]


def test_a_line_of_another_installation_is_not_of_a_created_credential(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """Whatever id such a line claims, nobody read elsewhere what was made here."""
    record(database, keyring, upsert("old"), imported_line(2), lookup("old"))
    assert [line.position for line in received(auditor(cluster, database), "old")] == [3]


def test_a_page_stays_with_its_version(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """An update between two pages does not change what is asked."""
    record(database, keyring, upsert("a"), lookup("a"), lookup("a"))
    url = auditor(cluster, database)
    first = asked(url, "a")
    assert first is not None
    lines, following = answer(url, lambda connection: page(connection, first, 1))
    assert ([line.position for line in lines], following) == ([2], ExposureCursor(2, 1, 3))
    record(database, keyring, upsert("a"), lookup("a"))
    assert following is not None
    then = asked(url, "a", Which().continued(following))
    assert then is not None
    lines, end = answer(url, lambda connection: page(connection, then, 5, following))
    assert ([line.position for line in lines], end, then.live) == ([3], None, False)
