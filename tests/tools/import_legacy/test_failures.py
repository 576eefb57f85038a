"""Rows that cannot be imported: each is named, none stops another, none is half there."""

from datetime import datetime
from typing import Any

import pytest

from secrets_broker.ledger.commands import Delete, Upsert
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.tools.import_legacy import ImportRefusedError, import_legacy
from secrets_broker.tools.import_legacy.legacy_tables import LOCK_KEY
from tests.conftest import Database
from tests.tools.import_legacy.earlier import LOST_KEY, Earlier, sealed
from tests.tools.import_legacy.helpers import imported, password, run, submit

SECRET = "s3cret-that-nobody-may-see"
BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "wrong key": ({"password_encrypted": sealed(SECRET, LOST_KEY)}, "password: does not open"),
    "no base64": ({"password_encrypted": SECRET + "é"}, "password: is not base64"),
    "cut off": ({"password_encrypted": sealed(SECRET)[:24]}, "password: does not open"),
    "not UTF-8": ({"password_encrypted": sealed(b"\xff" + SECRET.encode())}, "is not UTF-8"),
    "NUL": ({"password": SECRET + "\x00"}, "password: must not contain U+0000"),
    "too long": ({"password": SECRET * 400}, "password: must be at most 8 KiB"),
    "": ({"password": SECRET}, "host: expected `str` of length >= 1"),
    "infinity": ({"password": SECRET, "updated_at": "infinity"}, "updated_at: must be a time"),
    "BC": ({"password": SECRET, "created_at": "0044-03-15 BC"}, "created_at: must be a time"),
    "10000": ({"password": SECRET, "updated_at": "10000-01-01Z"}, "updated_at: must be a time"),
    "big data": ({"password": SECRET, "additional_data": {"a": "b" * 32_768}}, "32 KiB"),
    "big number": ({"password": SECRET, "additional_data": {"a": 2**53}}, "beyond ±(2^53-1)"),
}
BAD_NUMBERS = ("0.1234567890123456789", "1e400", "1e-400", "-1e5000", "3.14159265358979323846")


def _set_data(earlier: Earlier, host: str, json: str) -> None:
    earlier.database.execute(
        "UPDATE secrets.legacy_host_credentials SET additional_data = %s WHERE host = %s",
        json,
        host,
    )


def test_bad_rows(earlier: Earlier, keyring: Keyring) -> None:
    """A row that breaks a rule is reported by host, purpose and rule; the others are imported."""
    earlier.credential("before", "first")
    for host, (columns, _) in BAD_ROWS.items():
        earlier.credential(host, **columns)
    earlier.credential("after", "last")
    report = imported(earlier.database, keyring)
    whys = {failure.host: failure.why for failure in report.failures}
    assert whys.keys() == BAD_ROWS.keys()
    assert {host: BAD_ROWS[host][1] in why for host, why in whys.items()} == dict.fromkeys(
        whys, True
    )
    assert {failure.purpose for failure in report.failures} == {"ssh"}
    assert report.credentials.imported == 2
    assert password(earlier.database, keyring, "before") == "first"
    assert password(earlier.database, keyring, "after") == "last"
    assert SECRET not in repr(report)


def test_numbers_that_would_change(earlier: Earlier, keyring: Keyring) -> None:
    """A number that would come back as another one is refused, not rounded."""
    for number in BAD_NUMBERS:
        earlier.credential(number, SECRET)
        _set_data(earlier, number, f'{{"deep": [{number}]}}')
    earlier.credential("good", SECRET)
    _set_data(earlier, "good", '{"a": [1.50, 1e15, 0.30000000000000004, -0.0, 5e-324]}')
    report = imported(earlier.database, keyring)
    assert {failure.host for failure in report.failures} == set(BAD_NUMBERS)
    query = "SELECT additional_data FROM secrets.{} WHERE host = 'good'"
    kept = earlier.database.fetch(query.format("host_credentials"))
    assert kept == earlier.database.fetch(query.format("legacy_host_credentials"))
    assert password(earlier.database, keyring, "good") == SECRET


def test_deep_nesting(earlier: Earlier, keyring: Keyring) -> None:
    """Data nested deeper than any reader's stack is refused, and nothing crashes on it."""
    for depth in (70, 2_000):
        earlier.credential(f"{depth}", SECRET)
        _set_data(earlier, f"{depth}", "[" * depth + "]" * depth)
    report = imported(earlier.database, keyring)
    assert ["nested" in failure.why for failure in report.failures] == [True, True]


def test_bad_lines(earlier: Earlier, keyring: Keyring) -> None:
    """A line of the log that was at no time that RFC 3339 can write is reported."""
    for time in ("infinity", "-infinity", "4713-01-01 BC"):
        earlier.access(time, accessed_at=time)
    earlier.access("good", accessed_at=datetime(2020, 1, 1).astimezone())
    report = imported(earlier.database, keyring)
    assert [failure.table for failure in report.failures] == ["legacy_credential_access_log"] * 3
    assert {failure.host for failure in report.failures} == {
        "infinity",
        "-infinity",
        "4713-01-01 BC",
    }
    assert report.access_lines.imported == 1


def test_what_the_database_refuses(earlier: Earlier, keyring: Keyring) -> None:
    """A row that only the ledger's own constraints refuse does not take its batch along."""
    table = "secrets.legacy_credential_access_log"
    earlier.database.execute(f"ALTER TABLE {table} ALTER accessed_by TYPE text")
    for host, actor in (("a", "x"), ("b", "x" * 101), ("c", "x")):
        earlier.access(host, accessed_by=actor)
    report = imported(earlier.database, keyring)
    assert [failure.host for failure in report.failures] == ["b"]
    assert report.access_lines.imported == 2


def test_repaired_row(earlier: Earlier, keyring: Keyring) -> None:
    """What failed is tried again by the next import, and only that."""
    earlier.credential("good", "1")
    earlier.credential("bad", password_encrypted="no ciphertext")
    assert len(imported(earlier.database, keyring).failures) == 1
    earlier.database.execute(
        "UPDATE secrets.legacy_host_credentials SET password_encrypted = %s WHERE host = 'bad'",
        sealed("repaired"),
    )
    report = imported(earlier.database, keyring)
    assert (report.credentials.imported, report.credentials.already_imported) == (1, 1)
    assert password(earlier.database, keyring, "bad") == "repaired"


def test_name_stored_here_first(earlier: Earlier, keyring: Keyring) -> None:
    """What was stored here is newer than any old row: it stays, and stays deleted."""
    earlier.credential("live", "old")
    earlier.credential("gone", "old")
    stored = [Upsert(host=host, purpose="ssh", password="new") for host in ("live", "gone")]
    submit(earlier.database, keyring, *stored, Delete(host="gone", purpose="ssh"))
    report = imported(earlier.database, keyring)
    assert [failure.host for failure in report.failures] == ["live", "gone"]
    assert password(earlier.database, keyring, "live") == "new"
    assert password(earlier.database, keyring, "gone") is None


def test_same_name_twice(earlier: Earlier, keyring: Keyring) -> None:
    """Where two old rows have one name, the first is imported and the second reported."""
    earlier.database.execute(
        "ALTER TABLE secrets.legacy_host_credentials"
        " DROP CONSTRAINT legacy_host_credentials_host_purpose_key"
    )
    earlier.credential("twice", "first")
    earlier.credential("twice", "second")
    for _ in range(2):
        assert [failure.legacy_id for failure in imported(earlier.database, keyring).failures] == [
            2
        ]
    assert password(earlier.database, keyring, "twice") == "first"


@pytest.mark.parametrize("table", ["host_credentials", "credential_access_log"])
def test_one_table_only(earlier: Earlier, keyring: Keyring, table: str) -> None:
    """Where only one of the tables is there, it is imported."""
    earlier.credential("a", "1")
    earlier.access("a")
    earlier.database.execute(f"DROP TABLE secrets.legacy_{table} CASCADE")
    report = imported(earlier.database, keyring)
    assert report.failures == ()
    assert report.credentials.there is (table == "credential_access_log")
    assert report.credentials.imported + report.access_lines.imported == 1


def test_nothing_there(database: Database, keyring: Keyring) -> None:
    """Without tables of an earlier installation there is nothing to do, and that is said."""
    said: list[str] = []
    urls = database.owner_url, database.service_url
    report = run(import_legacy(*urls, keyring, say=said.append))
    assert (report.credentials.there, report.access_lines.there) == (False, False)
    assert "nothing to import" in said[0]
    assert database.fetch("SELECT count(*) FROM ledger.keks") == [(0,)]


def test_not_migrated(empty_database: str, keyring: Keyring) -> None:
    """Without a ledger the import says what is to be run first."""
    with pytest.raises(ImportRefusedError, match="migrate"):
        run(import_legacy(empty_database, empty_database, keyring))


def test_two_databases(earlier: Earlier, database: Database, keyring: Keyring) -> None:
    """Settings that point at two databases are refused: each run would import all anew."""
    with pytest.raises(ImportRefusedError, match="different databases"):
        run(import_legacy(earlier.database.owner_url, database.service_url, keyring))


def test_wrong_key(earlier: Earlier, keyring: Keyring) -> None:
    """A key that is not this ledger's is refused before anything is read with it."""
    earlier.credential("a", "1")
    imported(earlier.database, keyring)
    with pytest.raises(ImportRefusedError, match="not the key of this ledger"):
        imported(earlier.database, Keyring.from_kms_keys(LOST_KEY))


def test_another_import_at_work(earlier: Earlier, keyring: Keyring) -> None:
    """While an import is at work, a second one waits for a moment and is then refused."""
    urls = earlier.database.owner_url, earlier.database.service_url
    with earlier.database.owner() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        with pytest.raises(ImportRefusedError, match="another import"):
            run(import_legacy(*urls, keyring, wait_seconds=0.2))
