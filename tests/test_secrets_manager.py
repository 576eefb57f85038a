"""SecretsManager, as its docstrings say."""

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from secrets_broker.ledger.content import FIELDS
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import (
    CredentialUndisclosableError,
    InvalidCommandError,
    LedgerUnavailableError,
    UnfitKeyError,
    WrongKeyError,
)
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.secrets_manager import SecretsManager
from tests.conftest import KMS_KEY, Database
from tests.ledger.helpers import record, upsert
from tests.ledger.rotating import rotated
from tests.waiting import until

FRESH = "Zx1/wq0Bq8ZrJ5mUkT3vYp9sL2dHfG7cNeA4iOoK6tE="


@pytest.fixture
def manager(database: Database) -> Iterator[SecretsManager]:
    """A manager of a fresh ledger."""
    with SecretsManager(KMS_KEY, database.service_url) as manager:
        yield manager


def test_a_credential_comes_back_as_it_went_in(manager: SecretsManager) -> None:
    """All fields that were stored are disclosed, with the version."""
    stored = manager.upsert_credential(
        "db1",
        "ssh",
        "root",
        "hunter2 ü",
        domain="corp",
        additional_data={"port": 22, "ratio": 0.5},
        created_by="deploy",
        secret_data={"pin": ["1", 2]},
    )
    credential_id = stored.pop("credential_id")
    assert isinstance(credential_id, int)
    assert stored == {"success": True, "host": "db1", "purpose": "ssh", "version": 1}
    assert manager.lookup_credential("db1", "ssh", "billing") == {
        "host": "db1",
        "purpose": "ssh",
        "username": "root",
        "password": "hunter2 ü",
        "domain": "corp",
        "additional_data": {"port": 22, "ratio": 0.5},
        "secret_data": {"pin": ["1", 2]},
        "version": 1,
    }
    again = manager.upsert_credential("db1", "ssh", password="new")
    assert (again["credential_id"], again["version"]) == (credential_id, 2)
    found = manager.lookup_credential("db1", "ssh")
    assert found is not None
    assert (found["password"], found["username"], found["additional_data"]) == ("new", None, {})


def test_a_credentials_fields_are_parameters() -> None:
    """Every field can be stored, by its name, and none has to be."""
    parameters = inspect.signature(SecretsManager.upsert_credential).parameters
    besides = {"self", "host", "purpose", "created_by", "reason"}
    assert parameters.keys() - besides == FIELDS.keys()
    assert all(parameters[name].default is None for name in FIELDS)


def test_a_credential_that_ends(
    manager: SecretsManager, database: Database, keyring: Keyring
) -> None:
    """Its limits come back where they are set; past its time a lookup is None, and recorded."""
    ends = datetime(2120, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    for given_time in (ends, "2120-01-02T03:04:05+01:00"):
        manager.upsert_credential(
            "db1", "ssh", password="p", expires_at=given_time, rotate_after=30
        )
        found = manager.lookup_credential("db1", "ssh")
        assert found is not None
        assert (found["expires_at"], found["rotate_after"]) == ("2120-01-02T02:04:05.000000Z", 30)
    record(database, keyring, upsert("db1", expires_at=datetime(2020, 1, 1, tzinfo=UTC)))
    assert manager.lookup_credential("db1", "ssh") is None
    query = "SELECT ok, error, version FROM ledger.events ORDER BY position DESC LIMIT 1"
    assert database.fetch(query) == [(False, "expired", 3)]


def test_nothing_there(manager: SecretsManager) -> None:
    """A lookup of nothing is None, a delete of nothing False; a delete of something True."""
    assert manager.lookup_credential("db1", "ssh") is None
    assert manager.delete_credential("db1", "ssh") is False
    manager.upsert_credential("db1", "ssh", password="p")
    assert manager.delete_credential("db1", "ssh") is True
    assert manager.lookup_credential("db1", "ssh") is None


def test_everything_is_recorded(manager: SecretsManager, database: Database) -> None:
    """Each call is an event that says who and why; the lookup of nothing is one too."""
    manager.upsert_credential("db1", "ssh", password="p", created_by="one", reason="CHG-1")
    manager.lookup_credential("db1", "ssh", "two", reason="CHG-2")
    manager.lookup_credential("db2", "ssh")
    manager.delete_credential("db1", "ssh", "three")
    query = "SELECT type, actor, authn, reason, ok FROM ledger.events OFFSET 1"
    assert database.fetch(query) == [
        ("credential.created", "one", "library", "CHG-1", True),
        ("credential.read", "two", "library", "CHG-2", True),
        ("credential.read", None, "library", None, False),
        ("credential.deleted", "three", "library", None, True),
    ]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"host": ""}, "host"),
        ({"host": "h" * 256}, "host"),
        ({"purpose": None}, "purpose"),
        ({"password": None}, "password"),
        ({"password": "p" * 8_193}, "password"),
        ({"password": "m4rker\x00"}, "password"),
        ({"additional_data": ["m4rker"]}, "additional_data"),
        ({"secret_data": {"m4rker": 2**60}}, "secret_data"),
        ({"expires_at": datetime(2120, 1, 2)}, "expires_at"),
        ({"expires_at": "m4rker"}, "expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at"),
        ({"host": "db1\u202e"}, "host"),
        ({"purpose": "ssh "}, "purpose"),
        ({"created_by": "a\u200bb"}, "actor"),
        ({"rotate_after": 0}, "rotate_after"),
        ({"created_by": "x" * 101}, "actor"),
        ({"created_by": "a\nb"}, "actor"),
        ({"reason": "x" * 501}, "reason"),
    ],
)
def test_bad_arguments(
    manager: SecretsManager, database: Database, arguments: dict[str, Any], field: str
) -> None:
    """An argument that breaks a rule is named, never repeated, and nothing is recorded."""
    good: dict[str, Any] = {"host": "db1", "purpose": "ssh", "password": "p"}
    with pytest.raises(InvalidCommandError) as caught:
        manager.upsert_credential(**{**good, **arguments})
    assert [error.field for error in caught.value.errors] == [field]
    assert "m4rker" not in str(caught.value)
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(1,)]


def test_an_edited_row_is_not_disclosed(manager: SecretsManager, database: Database) -> None:
    """What does not follow from the ledger is an error, not a None and not a password."""
    manager.upsert_credential("db1", "ssh", "root", "p")
    database.execute("UPDATE secrets.host_credentials SET username = 'other'")
    with pytest.raises(CredentialUndisclosableError):
        manager.lookup_credential("db1", "ssh")


def test_threads_share_it(manager: SecretsManager, database: Database) -> None:
    """Threads call at once; each gets its own answer, and every call is recorded."""
    together = threading.Barrier(8)

    def use(number: int) -> list[str]:
        together.wait()
        found = []
        for turn in range(10):
            manager.upsert_credential(f"host{number}", "ssh", password=f"{number}-{turn}")
            answer = manager.lookup_credential(f"host{number}", "ssh")
            found.append(answer["password"] if answer else "")
        return found

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(use, range(8)))
    assert results == [[f"{number}-{turn}" for turn in range(10)] for number in range(8)]
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(161,)]


def test_through_a_rotation(database: Database) -> None:
    """A manager with both keys serves before and after a rotation from one to the other."""
    new, old = Keyring.from_kms_keys("another-key-of-the-tests"), Keyring.from_kms_keys(KMS_KEY)
    with SecretsManager(KMS_KEY, database.service_url) as earlier:
        earlier.upsert_credential("h", "ssh", password="p")
    both = {"previous_kms_keys": [KMS_KEY]}
    with SecretsManager("another-key-of-the-tests", database.service_url, **both) as manager:
        before = manager.lookup_credential("h", "ssh")
        asyncio.run(rotated(database, old, new.first))
        assert before == manager.lookup_credential("h", "ssh")
    assert before is not None
    assert before["password"] == "p"


def test_a_closed_manager_leaves_nothing(database: Database) -> None:
    """After the with block its thread and its connection are gone; closing again is nothing."""
    with SecretsManager(KMS_KEY, database.service_url) as manager:
        assert "secrets-manager" in {thread.name for thread in threading.enumerate()}
    manager.close()
    assert "secrets-manager" not in {thread.name for thread in threading.enumerate()}
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'secrets-broker'"
    query += " AND datname = current_database()"
    # The server takes a moment to see that we left.
    until(lambda: not database.fetch(query), "a session of ours stays")


def test_a_wrong_key(database: Database) -> None:
    """Another key is told when the manager is made, and no thread stays behind."""
    with SecretsManager(KMS_KEY, database.service_url):
        pass
    with pytest.raises(WrongKeyError):
        SecretsManager("another key of the tests", database.service_url)
    assert "secrets-manager" not in {thread.name for thread in threading.enumerate()}


def test_no_database() -> None:
    """A database that does not answer is told when the manager is made."""
    with pytest.raises(LedgerUnavailableError):
        SecretsManager(KMS_KEY, "postgresql://nobody@/none?host=/nonexistent")


@pytest.mark.parametrize("missing", [None, ""])
def test_settings_that_are_missing(missing: str | None) -> None:
    """Without a key or a database there is no manager, and the error names the setting."""
    with pytest.raises(ValueError, match="SECRETS_KMS_KEY"):
        SecretsManager(missing, "postgresql://x/y")
    with pytest.raises(ValueError, match="DATABASE_URL"):
        SecretsManager(KMS_KEY, missing)


@pytest.mark.parametrize("unfit", ["winter2026", f"{KMS_KEY} ", f"{KMS_KEY}\n", f"\ufeff{KMS_KEY}"])
def test_a_key_that_is_unfit_is_refused_as_the_service_refuses_it(
    database: Database, unfit: str
) -> None:
    """Before anything is connected to, and without repeating it; nothing begins under it."""
    with pytest.raises(UnfitKeyError, match=r"^SECRETS_KMS_KEY has .*: print") as found:
        SecretsManager(unfit, database.service_url)
    assert isinstance(found.value, ValueError)
    assert unfit not in str(found.value)
    assert database.fetch("SELECT count(*) FROM ledger.keks") == [(0,)]


def test_a_ledger_under_an_unfit_key_is_opened_by_it_as_a_previous_one(database: Database) -> None:
    """So that nobody is locked out: the other key is for what comes."""
    old = " a,b\n"
    keyring = Keyring.from_kms_keys(old)
    asyncio.run(begin(database, keyring))
    with SecretsManager(KMS_KEY, database.service_url, previous_kms_keys=[old]) as manager:
        assert manager.lookup_credential("a", "ssh") is None


async def begin(database: Database, keyring: Keyring) -> None:
    """Begin a ledger, as an earlier version did under whatever key it was given."""
    writer = Writer(database.service_url, keyring, HostCredentials())
    await writer.start()
    await writer.close()


@pytest.mark.parametrize(("key", "warned"), [(KMS_KEY, True), (FRESH, False)])
def test_a_key_that_looks_guessable_is_warned_of(
    database: Database, caplog: pytest.LogCaptureFixture, key: str, warned: bool
) -> None:
    """Once, on the log, without the key."""
    SecretsManager(key, database.service_url).close()
    found = [text for text in caplog.messages if "SECRETS_KMS_KEY" in text]
    assert len(found) == warned
    assert key not in str(found)
