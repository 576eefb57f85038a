"""Passwords out of the history: none leaves before it is on record that it left."""

from datetime import UTC, datetime

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerError, OutcomeUnknownError, WrongKeyError
from secrets_broker.ledger.events import Context
from secrets_broker.projections.queries.replay import Scope
from secrets_broker.tools.replay.reveal import BATCH, Revealed, reveal
from tests.conftest import Database
from tests.ledger.helpers import delete, login_of, lookup, password_of, record, run, upsert
from tests.ledger.interruptions import as_usual, at_commit, count
from tests.ledger.tree_checks import check_leaves, check_nodes
from tests.projections.keys import erased, rekeyed

AUDIT = Context(actor="auditor", authn="cli", reason="AUD-1")
READS = """
    SELECT host, credential_id, version, ok, error, actor, authn, reason, details, body
    FROM ledger.events WHERE type = 'credential.read' ORDER BY position
"""


def revealed(database: Database, keyring: Keyring, position: int, *patterns: str) -> list[Revealed]:
    """Disclose a state, with the service's login."""
    given: list[Revealed] = []

    async def all_of_it() -> None:
        scope = Scope.parse(position, *(patterns or (None, None)))
        async for batch in reveal(login_of(database.service_url, keyring), AUDIT, scope):
            given.extend(batch)

    try:
        run(all_of_it())
    except LedgerError as error:
        raise Interrupted(given) from error
    return given


class Interrupted(Exception):  # noqa: N818 - what it holds is what a test is about
    """The run ended; with what was given out before."""


def passwords(found: list[Revealed]) -> list[tuple[str, str | None]]:
    """What was given out of which host."""
    return [(one.credential.host, one.content.password if one.content else None) for one in found]


def test_the_password_of_then(database: Database, keyring: Keyring) -> None:
    """Of that state, not of now: changed, deleted and rekeyed since, past its time."""
    record(database, keyring, upsert("a", "a1"), upsert("b", "b1", secret_data={"pin": "1"}))
    record(database, keyring, upsert("a", "a2"), delete("b"))
    record(database, keyring, upsert("c", "c1", expires_at=datetime(2020, 1, 1, tzinfo=UTC)))
    rekeyed(database, keyring, "a")
    assert passwords(revealed(database, keyring, 2)) == [("a", "a1"), ("b", "b1")]
    assert passwords(revealed(database, keyring, 5)) == [("a", "a2"), ("c", "c1")]
    assert passwords(revealed(database, keyring, 7, "a", "*")) == [("a", "a2")]
    (found,) = revealed(database, keyring, 2, "b", "*")
    assert found.content is not None
    assert found.content.secret_data == {"pin": "1"}


def test_each_is_on_record_as_a_read(database: Database, keyring: Keyring) -> None:
    """Of that id and version, by whom and why; the details tell it from a lookup."""
    record(database, keyring, upsert("a"), upsert("a"), upsert("b"), upsert("a"))
    found = revealed(database, keyring, 3)
    details = {"replay": {"at": 3}}
    assert database.fetch(READS) == [
        ("a", 2, 2, True, None, "auditor", "cli", "AUD-1", details, None),
        ("b", 4, 1, True, None, "auditor", "cli", "AUD-1", details, None),
    ]
    assert [one.read for one in found] == [5, 6]
    query = "SELECT access_type, accessed_by, version FROM secrets.credential_access_log"
    assert database.fetch(f"{query} WHERE id >= 5 ORDER BY id") == [
        ("read", "auditor", 2),
        ("read", "auditor", 1),
    ]
    check_leaves(database)


def test_it_changes_nothing_else(database: Database, keyring: Keyring) -> None:
    """What is served is served as before, also to a service that runs on."""
    record(database, keyring, upsert("a", "a1"), upsert("a", "a2"))
    query = "SELECT live::text FROM secrets.host_credentials AS live"
    before = database.fetch(query)
    revealed(database, keyring, 1)
    assert database.fetch(query) == before
    assert password_of(record(database, keyring, lookup("a"))[0]) == "a2"


def test_what_was_erased_is_not_read(database: Database, keyring: Keyring) -> None:
    """There is nothing to give out, so nothing is recorded of it; the others are."""
    record(database, keyring, upsert("a"), upsert("b", "b1"))
    erased(database, keyring, "a")
    found = revealed(database, keyring, 2)
    assert passwords(found) == [("a", None), ("b", "b1")]
    assert [(one.credential.erased, one.read, one.why) for one in found] == [
        *((True, None, None), (False, 4, None))
    ]
    assert revealed(database, keyring, 2, "a", "*")[0].read is None
    assert count(database) == 4


def test_what_does_not_open_is_recorded_as_failed(database: Database, keyring: Keyring) -> None:
    """A body that was changed: no password, a failed read, and the others as usual."""
    record(database, keyring, upsert("a"), upsert("b", "b1"))
    with database.owner() as connection:
        connection.execute("ALTER TABLE ledger.bodies DISABLE TRIGGER USER")
        connection.execute("UPDATE ledger.bodies SET ciphertext = 'x' WHERE position = 1")
    found = revealed(database, keyring, 2)
    assert passwords(found) == [("a", None), ("b", "b1")]
    assert found[0].why
    assert [row[:5] for row in database.fetch(READS)] == [
        ("a", 2, 1, False, "decrypt_failed"),
        ("b", 3, 1, True, None),
    ]


def test_several_batches(database: Database, keyring: Keyring) -> None:
    """None is left out and none given twice, and each batch is recorded before it is given."""
    hosts = [f"h{number:04}" for number in range(2 * BATCH + 1)]
    record(database, keyring, *(upsert(host, f"of {host}") for host in hosts))
    sizes: list[tuple[int, int]] = []

    async def all_of_it() -> None:
        async for batch in reveal(
            login_of(database.service_url, keyring), AUDIT, Scope(2 * BATCH + 1)
        ):
            assert [one.read for one in batch if one.content is None] == []
            sizes.append((len(batch), count(database) - len(hosts)))

    run(all_of_it())
    assert sizes == [(BATCH, BATCH), (BATCH, 2 * BATCH), (1, 2 * BATCH + 1)]
    assert [host for (host, *_) in database.fetch(READS)] == hosts
    check_leaves(database)
    check_nodes(database)


@pytest.mark.parametrize(
    "action",
    [
        "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5)",
        "RAISE EXCEPTION 'refused'",
    ],
)
def test_died_before_the_commit(database: Database, keyring: Keyring, action: str) -> None:
    """Nothing is recorded, and nothing was given out."""
    record(database, keyring, upsert("a", "a1"))
    at_commit(database, action)
    with pytest.raises(Interrupted) as caught:
        revealed(database, keyring, 1)
    assert caught.value.args == ([],)
    as_usual(database)
    assert count(database) == 1
    assert passwords(revealed(database, keyring, 1)) == [("a", "a1")]


def test_died_after_the_commit(database: Database, keyring: Keyring) -> None:
    """Committed, and that is not known here: on record as given out, and nothing was."""
    record(database, keyring, upsert("a", "a1"))
    at_commit(database, "RAISE WARNING 'the wait for a standby was cancelled'")
    with pytest.raises(Interrupted) as caught:
        revealed(database, keyring, 1)
    assert isinstance(caught.value.__cause__, OutcomeUnknownError)
    assert caught.value.args == ([],)
    assert [row[:4] for row in database.fetch(READS)] == [("a", 2, 1, True)]


def test_a_wrong_key(database: Database, keyring: Keyring) -> None:
    """Nothing is recorded and nothing given out."""
    record(database, keyring, upsert("a"))
    with pytest.raises(Interrupted) as caught:
        revealed(database, Keyring.from_kms_keys("another key"), 1)
    assert isinstance(caught.value.__cause__, WrongKeyError)
    assert count(database) == 1


def test_nothing_shows_a_password_by_accident(database: Database, keyring: Keyring) -> None:
    """A repr ends in logs and tracebacks."""
    record(database, keyring, upsert("a", "m4rker", secret_data={"k": "m4rker"}))
    assert "m4rker" not in repr(revealed(database, keyring, 1))
