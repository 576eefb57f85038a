"""History: every version that a name ever had, and what ended it."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.commands import ImportCredential
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.projections.parameters.credential_name import CredentialName
from secrets_broker.projections.queries.history import HistoryCursor, Version, page
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import imported, lookup, record, run, send, upsert, writing
from tests.projections.asking import Connection, Known, auditor, lived, pages, steps
from tests.projections.keys import erased, erased_again, rekeyed


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    """One database for the properties."""
    with fresh_database(cluster, TEMPLATE) as database:
        yield database


def history(url: str, host: str, limit: int = 1_000) -> list[Version]:
    """All of it, page by page."""

    async def one(
        connection: Connection, after: HistoryCursor | None
    ) -> tuple[list[Version], HistoryCursor | None]:
        return await page(connection, CredentialName(host, "ssh"), limit, after)

    found = pages(url, one)
    assert all(len(lines) == limit for lines in found[:-1])
    return [line for lines in found for line in lines]


def known(line: Version) -> Known:
    """The part that a model knows; receipts are another question."""
    ended = None
    if line.ended_by is not None and line.ended_position is not None:
        ended = line.ended_by, line.ended_position
    assert line.live == (ended is None)
    return Known(
        line.credential_id,
        line.version,
        line.position,
        ended,
        line.rekeys,
        line.erased_position,
    )


@settings(max_examples=25)
@given(done=steps, limit=st.integers(1, 4))
def test_whatever_was_done_is_told(
    shared: Database,
    cluster: Cluster,
    keyring: Keyring,
    done: list[tuple[int, str]],
    limit: int,
) -> None:
    """Every version once and in order, its end and its erasure, in pages of any size."""
    for life in lived(shared, keyring, done):
        found = history(auditor(cluster, shared), life.host, limit)
        expected = [
            Known(one.credential_id, one.version, one.position, one.ended, one.rekeys, one.erased)
            for one in life.versions
        ]
        assert [known(line) for line in found] == expected


def test_a_version_says_who_made_it_and_who_ended_it(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """The event's own columns; a lookup or a failure is no part of it."""
    maker = Context(
        actor="Zoë", authn="internal_key", ip="192.0.2.9", request_id="r-9", reason="CHG-42"
    )

    async def both() -> None:
        async with writing(database.service_url, keyring) as writer:
            await send(writer, lookup("a"), upsert("a"), context=maker)
            await send(writer, lookup("a"), upsert("a"))

    run(both())
    first, second = history(auditor(cluster, database), "a")
    ((at, ended_at),) = database.fetch(
        "SELECT a.at, b.at FROM ledger.events a, ledger.events b"
        " WHERE a.position = 2 AND b.position = 4"
    )
    assert (first.actor, first.authn, first.ip) == ("Zoë", "internal_key", "192.0.2.9")
    assert (first.request_id, first.reason, first.type) == ("r-9", "CHG-42", "credential.created")
    assert datetime.fromisoformat(first.at) == at
    assert datetime.fromisoformat(first.ended_at or "") == ended_at
    assert (first.ended_by_actor, second.ended_by_actor) == ("tester", None)
    assert (second.type, second.live, second.occurred_at) == ("credential.updated", True, None)


def test_an_imported_version_has_its_own_time(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """When it was changed in the earlier installation, beside when it was taken over."""
    long_ago = datetime(2020, 2, 29, 12, tzinfo=UTC)
    command = ImportCredential(
        host="old",
        purpose="ssh",
        content=Content(password="p"),
        occurred_at=long_ago,
        details={"legacy_id": 1},
    )
    # The second one finds a credential of that name, and makes none.
    record(database, keyring, command, command, upsert("old"))
    imported, updated = history(auditor(cluster, database), "old")
    assert (imported.type, imported.occurred_at) == (
        "credential.imported",
        "2020-02-29T12:00:00.000000Z",
    )
    assert (imported.credential_id, imported.version, imported.ended_position) == (2, 1, 3)
    assert (updated.credential_id, updated.version) == (2, 2)


def test_erased_again_is_told_of_what_it_destroyed(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """An erasure that left the live credential belongs to no name, and still counts."""
    record(database, keyring, upsert("a"), upsert("a"))
    rekeyed(database, keyring, "a")
    ((key,),) = database.fetch("SELECT body ->> 'key' FROM ledger.events WHERE position = 1")
    (again,) = erased_again(database, keyring, key)
    first, second = history(auditor(cluster, database), "a")
    assert database.fetch("SELECT host FROM ledger.events WHERE position = 5") == [(None,)]
    # The second version's content is there still, under its newer key.
    assert (first.erased_position, second.erased_position) == (again.positions[0], None)
    assert second.live
    erased(database, keyring, "a")
    first, second = history(auditor(cluster, database), "a")
    assert (first.erased_position, second.erased_position) == (5, 6)
    assert (second.ended_by, second.ended_position) == ("credential.erased", 6)


def test_a_name_that_never_was_has_none(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """Not even where it was asked for."""
    record(database, keyring, lookup("a"), imported("a "))
    assert history(auditor(cluster, database), "a") == []
