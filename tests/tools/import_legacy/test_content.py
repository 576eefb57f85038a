"""What is imported, and that it is all there afterwards."""

import json
from base64 import b64decode, encodebytes
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest

from secrets_broker.ledger.commands import Lookup
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.migrations import runner
from secrets_broker.tools.import_legacy import ImportReport
from secrets_broker.tools.postgres import Cluster
from tests.conftest import KMS_KEY, Database, fresh_database
from tests.earlier import TABLES
from tests.tools.import_legacy.earlier import PREVIOUS_KEY, Earlier, sealed
from tests.tools.import_legacy.helpers import imported, password, submit

CREATED = datetime(2021, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
UPDATED = datetime(2022, 12, 31, 23, 59, 59, 100000, tzinfo=UTC)
ACCESSED = datetime(1999, 6, 1, tzinfo=UTC)
DATA = {"port": 22, "weight": 0.1, "größe": [1, None, True, {"a": "ß"}]}


@pytest.fixture(scope="module")
def keys() -> Keyring:
    """The present key, and one from before a rotation."""
    return Keyring.from_kms_keys(KMS_KEY, PREVIOUS_KEY)


@pytest.fixture(scope="module")
def database(cluster: Cluster, keys: Keyring) -> Iterator[Database]:
    """An earlier installation that was migrated and imported, as an operator does it."""
    with fresh_database(cluster, "template0") as made:
        made.execute(TABLES)
        _fill(Earlier(made, prefix=""))
        runner.apply(made.owner_url, lambda _: None)
        report = imported(made, keys)
        assert report.failures == ()
        assert (report.credentials.imported, report.access_lines.imported) == (10, 7)
        yield made


def _fill(earlier: Earlier) -> None:
    full = earlier.credential(
        "full",
        "pässwörd ✓",
        username="admin ",
        domain="CORP",
        additional_data=DATA,
        created_at=CREATED,
        updated_at=UPDATED,
        created_by="alice",
        updated_by="bob",
    )
    lines = encodebytes(b64decode(sealed("broken over lines" * 9))).decode()
    earlier.credential("lines", password_encrypted=lines, updated_at=None, created_at=CREATED)
    earlier.credential("older key", password_encrypted=sealed("older", PREVIOUS_KEY))
    earlier.credential("empty", "", created_by="carol", created_at=None, updated_at=None)
    earlier.credential("none", username="root")
    earlier.credential("spaces", password_encrypted=" \n")
    earlier.credential("json null", "1", additional_data=None)
    earlier.credential("list", "2", additional_data=[1, "two", 3.5])
    earlier.credential("word", "3", additional_data="only a word")
    _, sql_null = earlier.credential("sql null", "4"), "UPDATE secrets.host_credentials"
    earlier.database.execute(f"{sql_null} SET additional_data = NULL WHERE host = 'sql null'")
    log = {"credential_id": full, "accessed_at": ACCESSED, "accessed_by": "svc"}
    earlier.access("full", **log, ip_address="10.1.2.3", access_type="read")
    earlier.access("full", **log, success=False, error_message="décrypt failed", access_type="read")
    earlier.access("full", **log, success=None, ip_address="2001:DB8::1", access_type="update")
    earlier.access("full", **log, ip_address="::ffff:10.9.8.7", access_type="create")
    earlier.access("full", **log, ip_address="10.1.2.3/24", access_type="delete")
    earlier.access("gone", accessed_at=None, access_type="a kind of its own")
    earlier.access("long", **log, error_message="\"'\n€" * 20_000, success=False)


def _events(database: Database, host: str) -> list[dict[str, Any]]:
    rows = database.fetch(
        "SELECT to_jsonb(e) || jsonb_build_object('occurred_at', occurred_at::text)"
        " FROM ledger.events AS e WHERE host = %s AND type LIKE '%%imported' ORDER BY position",
        host,
    )
    return [row for (row,) in rows]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("full", "pässwörd ✓"),
        ("lines", "broken over lines" * 9),
        ("older key", "older"),
        ("empty", ""),
    ],
)
def test_passwords(database: Database, keys: Keyring, host: str, expected: str) -> None:
    """A lookup discloses the very password, whatever base64 and key the old row had."""
    assert password(database, keys, host) == expected


@pytest.mark.parametrize("host", ["none", "spaces"])
def test_what_never_had_a_password_has_none(database: Database, keys: Keyring, host: str) -> None:
    """It is imported as it was; a lookup succeeds, and says null, not an empty password."""
    (outcome,) = submit(database, keys, Lookup(host=host, purpose="ssh"))
    assert outcome.error is None
    assert outcome.content is not None
    assert outcome.content.password is None
    assert database.fetch(
        "SELECT count(*) FROM secrets.host_credentials WHERE host = %s", host
    ) == [(1,)]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("full", DATA),
        ("json null", {}),
        ("sql null", {}),
        ("list", [1, "two", 3.5]),
        ("word", "only a word"),
        ("empty", {}),
    ],
)
def test_additional_data(database: Database, keys: Keyring, host: str, expected: Any) -> None:
    """Any JSON is kept as it was; nothing, in either form, is the empty object."""
    (outcome,) = submit(database, keys, Lookup(host=host, purpose="ssh"))
    assert outcome.content is not None
    assert outcome.content.additional_data == expected


def test_row(database: Database) -> None:
    """Names, times and who made and changed a credential stay exactly as they were."""
    query = """
        SELECT host, purpose, username, domain, created_at, updated_at, created_by, updated_by
        FROM secrets.{} WHERE host NOT IN ('lines', 'empty') ORDER BY host
    """
    rows = database.fetch(query.format("host_credentials"))
    assert rows == database.fetch(query.format("legacy_host_credentials"))
    assert rows[0] == ("full", "ssh", "admin ", "CORP", CREATED, UPDATED, "alice", "bob")


def test_event(database: Database) -> None:
    """An imported credential says when it was last changed there, by whom, and its old id."""
    event = _events(database, "full")[0]
    assert event["type"] == "credential.imported"
    assert event["occurred_at"] == "2022-12-31 23:59:59.1+00"
    assert (event["actor"], event["authn"], event["version"]) == ("bob", "none", 1)
    assert event["details"] == {
        "legacy_id": 1,
        "created_at": "2021-02-03T04:05:06.789012Z",
        "created_by": "alice",
        "updated_at": "2022-12-31T23:59:59.100000Z",
        "updated_by": "bob",
    }


def test_event_of_a_row_with_gaps(database: Database) -> None:
    """Who and when fall back to the creation's; what is not known is null."""
    assert _events(database, "lines")[0]["occurred_at"] == "2021-02-03 04:05:06.789012+00"
    event = _events(database, "empty")[0]
    assert (event["occurred_at"], event["actor"]) == (None, "carol")
    assert event["details"]["created_at"] is event["details"]["updated_at"] is None


def test_view(database: Database) -> None:
    """The access log shows the old lines as they were: kind, outcome, message, time."""
    query = """
        SELECT host, purpose, accessed_by, access_type, coalesce(success, true), error_message,
               accessed_at
        FROM secrets.{} WHERE host = 'full' AND accessed_at = %s ORDER BY id
    """
    lines = database.fetch(query.format("credential_access_log"), ACCESSED)
    assert lines == database.fetch(query.format("legacy_credential_access_log"), ACCESSED)
    assert len(lines) == 5


def test_access_points_at_the_new_credential(database: Database) -> None:
    """A line's credential is the imported one; its old id stands in the details."""
    (new_id,) = database.fetch("SELECT id FROM secrets.host_credentials WHERE host = 'full'")[0]
    credential, *lines = _events(database, "full")
    assert credential["credential_id"] == new_id
    assert {line["credential_id"] for line in lines} == {new_id}
    assert {line["details"]["legacy_credential_id"] for line in lines} == {1}
    assert [line["details"]["legacy_id"] for line in lines] == [1, 2, 3, 4, 5]


def test_unknown_is_said(database: Database) -> None:
    """What a line did not say is null in the details; an event must say something of its own."""
    (gone,) = _events(database, "gone")
    assert (gone["credential_id"], gone["occurred_at"], gone["actor"]) == (None, None, None)
    assert gone["details"] == {
        "legacy_id": 6,
        "legacy_credential_id": None,
        "access_type": "a kind of its own",
        "error_message": None,
        "accessed_at": None,
    }
    unsaid = _events(database, "full")[3]
    assert (unsaid["ok"], unsaid["details"]["success"]) == (True, None)


def test_addresses(database: Database) -> None:
    """Addresses take the form in which the service records its peers; a netmask is kept."""
    lines = _events(database, "full")[1:]
    assert [line["ip"] for line in lines] == [
        "10.1.2.3",
        None,
        "2001:db8::1",
        "10.9.8.7",
        "10.1.2.3",
    ]
    assert lines[4]["details"]["ip_network"] == "10.1.2.3/24"
    shown = "SELECT ip_address FROM secrets.credential_access_log WHERE access_type = 'update'"
    assert database.fetch(shown) == [(ip_address("2001:db8::1"),)]


def test_long_error_message(database: Database) -> None:
    """A message that an event has no room for is cut where the room ends, and says so."""
    (line,) = _events(database, "long")
    message = line["details"]["error_message"]
    assert line["details"]["error_message_cut"] is True
    assert ("\"'\n€" * 20_000).startswith(message)
    stored = json.dumps(line["details"], ensure_ascii=False, separators=(",", ":")).encode()
    assert 16_384 - 3 < len(stored) <= 16_384


def test_nothing_is_left_in_clear(database: Database) -> None:
    """No password stands in the ledger, its bodies or the projection in clear."""
    everything = database.fetch(
        "SELECT string_agg(e::text, '') || (SELECT string_agg(c::text, '') FROM"
        " secrets.host_credentials AS c) FROM ledger.events AS e"
    )[0][0]
    bodies = b"".join(row[0] for row in database.fetch("SELECT ciphertext FROM ledger.bodies"))
    assert bodies
    for plain in ("pässwörd", "broken over lines"):
        assert plain not in everything
        assert plain.encode() not in bodies


def test_again(database: Database, keys: Keyring) -> None:
    """A second import finds everything there, and appends nothing."""
    before = database.fetch("SELECT count(*) FROM ledger.events")
    report: ImportReport = imported(database, keys)
    assert (report.credentials.imported, report.credentials.already_imported) == (0, 10)
    assert (report.access_lines.imported, report.access_lines.already_imported) == (0, 7)
    assert report.failures == ()
    assert database.fetch("SELECT count(*) FROM ledger.events") == before
