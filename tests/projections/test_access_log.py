"""The access log: the questions an auditor asks, and that no answer is ever taken away."""

from datetime import UTC, datetime

from secrets_broker.ledger.commands import ImportAccess
from secrets_broker.ledger.encryption.keyring import Keyring
from tests.conftest import Database
from tests.ledger.helpers import delete, lookup, record, upsert

RECENT = """
    SELECT host, purpose, accessed_by, access_type, success, accessed_at
    FROM secrets.credential_access_log ORDER BY accessed_at DESC, id DESC LIMIT 50
"""
FAILED = """
    SELECT host, purpose, accessed_by, access_type, error_message, accessed_at
    FROM secrets.credential_access_log WHERE success = FALSE ORDER BY id
"""
BY_SERVICE = """
    SELECT accessed_by, access_type, COUNT(*) FROM secrets.credential_access_log
    WHERE accessed_at > NOW() - INTERVAL '24 hours' GROUP BY accessed_by, access_type ORDER BY 2
"""
LONG_AGO = datetime(2020, 2, 29, 12, tzinfo=UTC)


def fill(database: Database, keyring: Keyring) -> None:
    """A credential's life, a lookup of nothing, and a line of an earlier installation."""
    imported = ImportAccess(
        host="old",
        purpose="ssh",
        ok=False,
        credential_id=None,
        occurred_at=LONG_AGO,
        details={"legacy_id": 1, "access_type": "read", "error_message": "no such thing"},
    )
    commands = upsert("a"), lookup("a"), upsert("a"), lookup("b"), imported, delete("a")
    record(database, keyring, *commands)


def test_recent_access(database: Database, keyring: Keyring) -> None:
    """Newest first, each operation by its name, whoever asked and however it ended."""
    fill(database, keyring)
    assert [row[:5] for row in database.fetch(RECENT)] == [
        ("a", "ssh", "tester", "delete", True),
        ("b", "ssh", "tester", "read", False),
        ("a", "ssh", "tester", "update", True),
        ("a", "ssh", "tester", "read", True),
        ("a", "ssh", "tester", "create", True),
        ("old", "ssh", "tester", "read", False),
    ]
    assert database.fetch(RECENT)[-1][5] == LONG_AGO


def test_failed_access(database: Database, keyring: Keyring) -> None:
    """Only what failed, with the reason; an imported line keeps its own."""
    fill(database, keyring)
    assert [(row[0], row[3], row[4]) for row in database.fetch(FAILED)] == [
        ("b", "read", "not_found"),
        ("old", "read", "no such thing"),
    ]


def test_access_by_service(database: Database, keyring: Keyring) -> None:
    """The last day's operations counted; a line of years ago is not among them."""
    fill(database, keyring)
    assert database.fetch(BY_SERVICE) == [
        ("tester", "create", 1),
        ("tester", "delete", 1),
        ("tester", "read", 2),
        ("tester", "update", 1),
    ]


def test_nothing_dies_with_a_credential(database: Database, keyring: Keyring) -> None:
    """A delete adds a line and takes none, whatever else is then stored under the name."""
    record(database, keyring, upsert("a"), lookup("a"))
    before = database.fetch(RECENT)
    record(database, keyring, delete("a"), upsert("a"), delete("a"))
    database.execute("DELETE FROM secrets.host_credentials")
    after = database.fetch(RECENT)
    assert len(after) == 5
    assert set(before) <= set(after)


def test_the_columns_say_from_where(database: Database, keyring: Keyring) -> None:
    """A line has the peer's address, the request, and the credential's id and version."""
    record(database, keyring, upsert("a"))
    query = """
        SELECT id, credential_id, version, host(ip_address), authn, request_id
        FROM secrets.credential_access_log
    """
    assert database.fetch(query) == [(1, 2, 1, "192.0.2.7", "internal_key", "r-1")]
