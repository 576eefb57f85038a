"""`disown` and `authenticate` as an operator runs them, and what `verify` says before and after."""

import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import UnauthenticEventError
from tests.conftest import Database
from tests.ledger.event_macs.planted_events import POISON, append, plant
from tests.ledger.forging import forge
from tests.ledger.helpers import lookup, password_of, record, upsert
from tests.ledger.unauthenticated import unauthenticate
from tests.tools.command_line import run, settings


def command(database: Database, folder: Path, *words: str, status: int = 0) -> str:
    """Run it; it has to exit with this status. What it wrote on standard output."""
    done = run(*words, cwd=folder, env=settings(database))
    assert done.returncode == status, f"{done.stdout}{done.stderr}"
    return done.stdout if status == 0 or "--json" in words else done.stdout + done.stderr


def verified(database: Database, folder: Path, status: int = 0) -> dict[str, Any]:
    """What `verify --json` says."""
    found: dict[str, Any] = json.loads(command(database, folder, "verify", "--json", status=status))
    return found


def test_what_was_forged_is_named_then_left_out(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """verify names each position; disown takes the ranges; then verify is content and says so."""
    record(database, keyring, upsert("a"))
    columns: dict[str, Any] = {"host": "a", "purpose": "ssh", "credential_id": 2, "version": 7}
    for kind in ("credential.read", "credential.deleted"):
        forge(database.service_url, kind, **columns)
    forge(database.service_url, "credential.read", ahead=timedelta(minutes=4), **columns)

    found = verified(database, tmp_path, status=1)
    assert found["first_bad"] == 2
    (problem,) = [p for p in found["problems"] if p["check"] == "mac"]
    assert "disown 2-4" in problem["detail"]
    refused = command(database, tmp_path, "disown", "2-3", "--reason", "x", status=1)
    assert "position 4" in refused

    done = json.loads(command(database, tmp_path, "disown", "2-4", "--reason", "CVE", "--json"))
    assert done == {"position": 5, "ranges": [[2, 4]]}
    found = verified(database, tmp_path)
    assert found["ok"]
    assert "disowned: 2-4" in found["remarks"]
    listed = command(database, tmp_path, "events", "--json").splitlines()
    assert [json.loads(line)["disowned"] for line in listed] == [False] * 2 + [True] * 3 + [False]
    assert password_of(record(database, keyring, lookup("a"))[0]) == "hunter2"
    assert verified(database, tmp_path)["ok"]


@pytest.mark.parametrize("ranges", [[5], [[1]], [[1, 2, 3]], []])
def test_what_claims_to_disown_and_names_no_range(
    database: Database, keyring: Keyring, tmp_path: Path, ranges: list[Any]
) -> None:
    """Whoever may append chooses its details: it is one more forged event, and stops nobody."""
    record(database, keyring, upsert("a"))
    position = forge(database.service_url, "ledger.disowned", details={"ranges": ranges})
    found = verified(database, tmp_path, status=1)
    assert (position, "mac") in [(p["position"], p["check"]) for p in found["problems"]]
    command(database, tmp_path, "disown", f"{position}", "--reason", "x", "--json")
    assert verified(database, tmp_path)["ok"]
    assert password_of(record(database, keyring, lookup("a"))[0]) == "hunter2"


def test_the_first_mac_is_another(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """The event key that opens says from where MACs are demanded; a later key does not move it."""
    record(database, keyring, upsert("a"))
    command(database, tmp_path, "rotate-key", "--data-keys", "--json")
    with database.owner() as owner:
        owner.execute("ALTER TABLE ledger.events DISABLE TRIGGER USER")
        owner.execute("UPDATE ledger.events SET mac = sha256(mac) WHERE position = 0")
    found = verified(database, tmp_path, status=1)
    assert "disown 0-1" in "".join(p["detail"] for p in found["problems"])
    with pytest.raises(UnauthenticEventError):
        record(database, keyring, lookup("a"))


@pytest.mark.parametrize("words", [["7-3"], ["x"], ["-1"], ["1-"], ["1", "2-x"], []])
def test_positions_that_are_none(database: Database, tmp_path: Path, words: list[str]) -> None:
    """A usage error, before anything is asked."""
    command(database, tmp_path, "disown", "--reason", "x", "--", *words, status=2)


def test_a_ledger_from_before(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """It is verified, shown and accepted; from then on MACs are demanded, and only then."""
    record(database, keyring, upsert("a"))
    unauthenticate(database)
    assert any("authenticate" in text for text in verified_loosely(database, tmp_path))
    assert password_of(record(database, keyring, lookup("a"))[0]) == "hunter2"

    # Nobody accepted: no input is no yes.
    command(database, tmp_path, "authenticate", status=2)
    assert database.fetch("SELECT count(*) FROM ledger.event_keys") == [(0,)]
    done = json.loads(command(database, tmp_path, "authenticate", "--yes", "--json"))
    assert done == {"authenticated_since": 3}
    again = json.loads(command(database, tmp_path, "authenticate", "--json"))
    assert again == done  # what was asked is so already

    record(database, keyring, lookup("a"))
    rows = database.fetch("SELECT position, mac IS NULL FROM ledger.events ORDER BY position")
    assert rows == [(0, True), (1, True), (2, True), (3, False), (4, False)]
    position = forge(database.service_url, "credential.read", host="a")
    assert "mac" in {p["check"] for p in verified(database, tmp_path, status=1)["problems"]}
    refused = command(database, tmp_path, "disown", "1", str(position), "--reason", "x", status=2)
    assert "before the ledger was authenticated" in refused
    command(database, tmp_path, "disown", str(position), "--reason", "x")


def verified_loosely(database: Database, folder: Path) -> list[str]:
    """What verify did not check; the leaf of the first event is not its row's, as it was edited."""
    done = run("verify", "--json", cwd=folder, env=settings(database))
    found: list[str] = json.loads(done.stdout)["not_checked"]
    return found


def test_a_tampered_ledger_is_not_authenticated(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """What does not verify is not accepted, whatever the answer."""
    record(database, keyring, upsert("a"))
    unauthenticate(database)
    with database.owner() as owner:
        owner.execute("ALTER TABLE ledger.events DISABLE TRIGGER append_only")
        owner.execute("UPDATE ledger.events SET actor = 'somebody else' WHERE position = 1")
        owner.execute("ALTER TABLE ledger.events ENABLE ALWAYS TRIGGER append_only")
    command(database, tmp_path, "authenticate", "--yes", status=1)
    assert database.fetch("SELECT count(*) FROM ledger.event_keys") == [(0,)]


def test_verify_is_content_once_all_is_disowned(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Whatever the forgeries say, and with an event key that one of them brought."""
    record(database, keyring, upsert("a"))
    first = plant(database)
    for kind, details in POISON:
        with suppress(psycopg.errors.DataError):
            append(database, kind, details)
    last = append(database, "access_key.granted", None)
    found = verified(database, tmp_path, status=1)
    assert {"mac", "key"} <= {p["check"] for p in found["problems"]}
    assert found["first_bad"] == first
    command(database, tmp_path, "access", "list")
    command(database, tmp_path, "events")

    command(database, tmp_path, "disown", f"{first}-{last}", "--reason", "x")
    assert verified(database, tmp_path)["ok"]
    command(database, tmp_path, "rebuild")
    command(database, tmp_path, "watch", "--once")
