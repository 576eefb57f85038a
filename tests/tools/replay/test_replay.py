"""`secrets-broker replay`, as an auditor or an operator types it."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from tests.conftest import Database
from tests.ledger.helpers import delete, imported, record, upsert
from tests.ledger.interruptions import as_usual, at_commit, count
from tests.projections.keys import erased
from tests.repository import ROOT
from tests.tools.command_line import run, settings

PASSWORDS = ("p4ss-one", "p4ss-two", "p4ss-b")
SECRET = "s3cret-data"
REVEAL = ("--reveal", "--reason", "AUD-1")
READS = "SELECT count(*) FROM ledger.events WHERE type = 'credential.read'"
SEED = {
    *("id", "host", "purpose", "username", "password_encrypted", "domain", "additional_data"),
    *("created_at", "updated_at", "created_by", "updated_by"),
}


@pytest.fixture
def history(database: Database, keyring: Keyring) -> Database:
    """Positions 1 to 4: two versions of a, b, and b deleted."""
    extra: dict[str, Any] = {"secret_data": {"pin": SECRET}, "additional_data": {"port": 22}}
    record(
        database,
        keyring,
        upsert("a.example", PASSWORDS[0], username="first"),
        upsert("b.example", PASSWORDS[2]),
        upsert("a.example", PASSWORDS[1], username="second", domain="corp", **extra),
        delete("b.example"),
    )
    return database


def replay(
    database: Database, cwd: Path, *arguments: str, **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command with a service's settings."""
    env = settings(database) | {"MIGRATION_DATABASE_URL": ""} | more
    return run("replay", *arguments, cwd=cwd, env=env)


def as_list(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    """The one JSON list that it printed."""
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_json_is_a_list_with_the_tables_columns(history: Database, tmp_path: Path) -> None:
    """The state after that event, and what was not secret of it, without recording anything."""
    first, second = as_list(replay(history, tmp_path, "--at", "3", "--json"))
    assert first.keys() >= SEED
    assert (first["host"], first["username"], first["domain"]) == ("a.example", "second", "corp")
    assert (first["additional_data"], first["version"]) == ({"port": 22}, 2)
    assert (first["id"], first["position"], first["erased"]) == (2, 3, False)
    assert (second["host"], second["id"], second["created_by"]) == ("b.example", 3, "tester")
    query = "SELECT password_encrypted, updated_at FROM secrets.host_credentials"
    ((sealed, updated_at),) = history.fetch(query)
    assert first["password_encrypted"] == sealed
    assert first["updated_at"] == updated_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert "password" not in first
    (only,) = as_list(replay(history, tmp_path, "--at", "1", "--json"))
    assert (only["username"], only["version"]) == ("first", 1)
    assert count(history) == 4


def test_at_a_time(history: Database, tmp_path: Path) -> None:
    """RFC 3339 or how long ago; standard error says which position that was."""
    ((at,),) = history.fetch("SELECT at FROM ledger.events WHERE position = 4")
    done = replay(history, tmp_path, "--at", at.isoformat(), "--json")
    assert [one["host"] for one in as_list(done)] == ["a.example"]
    assert "after the event at position 4" in done.stderr
    assert [o["host"] for o in as_list(replay(history, tmp_path, "--at", "0m", "--json"))] == [
        "a.example"
    ]
    done = replay(history, tmp_path, "--at", "2001-01-01T00:00:00Z", "--json")
    assert as_list(done) == []
    assert "before the first event" in done.stderr


def test_patterns_choose(history: Database, tmp_path: Path) -> None:
    """Host and purpose both have to match."""
    done = replay(history, tmp_path, "--at", "3", "--json", "--host", "b*", "--purpose", "s*")
    assert [one["host"] for one in as_list(done)] == ["b.example"]
    assert as_list(replay(history, tmp_path, "--at", "3", "--json", "--purpose", "http")) == []


def test_a_table_and_csv(history: Database, tmp_path: Path) -> None:
    """For people, without ciphertexts; for spreadsheets, with every column."""
    table = replay(history, tmp_path, "--at", "3").stdout
    assert table.splitlines()[1].split()[:3] == ["host", "purpose", "version"]
    for word in ("a.example", "second", "corp", "b.example", "tester"):
        assert word in table
    assert "password" not in table
    rows = list(csv.DictReader(io.StringIO(replay(history, tmp_path, "--at", "3", "--csv").stdout)))
    assert rows[0].keys() >= SEED
    assert [row["host"] for row in rows] == ["a.example", "b.example"]
    assert json.loads(rows[0]["additional_data"]) == {"port": 22}
    assert replay(history, tmp_path, "--at", "3", "--host", "x").stdout == "no credentials\n"


def test_a_name_cannot_steer_a_terminal(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Control characters of others' texts are shown, not obeyed; also in passwords."""
    odd = imported("a\x1b[2J\u202e", password="p\x1b]0;x\x07", username="u\x9b")
    record(database, keyring, odd)
    for arguments in ([], [*REVEAL, "--yes"], ["--json"]):
        shown = replay(database, tmp_path, "--at", "1", *arguments).stdout
        assert "a\\" in shown
        assert not set("\x1b\x07\x9b\u202e") & set(shown)
    shown = replay(database, tmp_path, "--diff", "2001-01-01T00:00:00Z", "1").stdout
    assert "created" in shown
    assert not set("\x1b\u202e") & set(shown)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--at", "3"], ["--at", "3", "--json"], ["--at", "3", "--csv"]),
        *(["--diff", "1", "4"], ["--diff", "1", "3", "--json"], ["--at", "3", *REVEAL]),
    ],
    ids=" ".join,
)
def test_no_password_unless_it_is_asked_for(
    history: Database, tmp_path: Path, arguments: list[str]
) -> None:
    """Neither on standard output nor on standard error; and nothing is recorded."""
    done = replay(history, tmp_path, *arguments)
    for secret in (*PASSWORDS, SECRET):
        assert secret not in done.stdout + done.stderr
    assert count(history) == 4


def test_without_keys(history: Database, tmp_path: Path) -> None:
    """--no-keys, or none is set: what is encrypted is null, and a line says why."""
    for arguments, more in ((["--no-keys"], {}), ([], {"SECRETS_KMS_KEY": ""})):
        done = replay(history, tmp_path, "--at", "3", "--json", *arguments, **more)
        first = as_list(done)[0]
        assert (first["host"], first["version"], first["updated_by"]) == ("a.example", 2, "tester")
        for column in ("username", "domain", "additional_data", "password_encrypted"):
            assert first[column] is None
    assert "no SECRETS_KMS_KEY is set: username, domain" in done.stderr


def test_an_auditors_login(history: Database, tmp_path: Path) -> None:
    """It may read events and nothing encrypted: metadata, also where a key is set."""
    login = f"auditor_{history.name}"
    history.execute(f"CREATE ROLE {login} LOGIN IN ROLE secrets_broker_auditor")
    try:
        url = history.service_url.replace("service_login@", f"{login}@")
        done = replay(history, tmp_path, "--at", "3", "--json", DATABASE_URL=url)
        assert [one["username"] for one in as_list(done)] == [None, None]
        assert "this login may not read what is encrypted" in done.stderr
        done = replay(history, tmp_path, "--at", "3", *REVEAL, "--yes", DATABASE_URL=url)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--reveal needs the service's, in DATABASE_URL" in done.stderr
    finally:
        history.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")
    assert count(history) == 4


def test_a_wrong_key_is_an_error(history: Database, tmp_path: Path) -> None:
    """Not a state with everything left out."""
    done = replay(history, tmp_path, "--at", "3", SECRETS_KMS_KEY="m4rker-of-another-key")
    assert (done.returncode, done.stdout) == (2, "")
    assert "SECRETS_KMS_KEY is not the key of this ledger" in done.stderr
    assert "m4rker" not in done.stderr


def test_an_empty_ledger_stays_empty(database: Database, tmp_path: Path) -> None:
    """Nothing is there, and asking makes nothing: no event, and no KEK either."""
    assert as_list(replay(database, tmp_path, "--at", "0m", "--json")) == []
    assert as_list(replay(database, tmp_path, "--at", "0m", "--json", *REVEAL, "--yes")) == []
    assert replay(database, tmp_path, "--at", "0").returncode == 2
    assert database.fetch("SELECT count(*) FROM ledger.keks") == [(0,)]


def test_what_was_erased(history: Database, keyring: Keyring, tmp_path: Path) -> None:
    """It is listed with its metadata, and its content is gone; a reveal records nothing of it."""
    erased(history, keyring, "a.example")
    for arguments in ([], [*REVEAL, "--yes"]):
        done = replay(history, tmp_path, "--at", "1", "--json", *arguments)
        (one,) = as_list(done)
        assert (one["erased"], one["username"], one["version"]) == (True, None, 1)
        assert one.get("password") is None
    assert history.fetch(READS) == [(0,)]


def test_a_body_that_does_not_open(history: Database, tmp_path: Path) -> None:
    """Named on standard error, exit 1; the others are shown."""
    with history.owner() as connection:
        connection.execute("ALTER TABLE ledger.bodies DISABLE TRIGGER USER")
        connection.execute("UPDATE ledger.bodies SET ciphertext = 'x' WHERE position = 2")
    for arguments in ([], [*REVEAL, "--yes"]):
        done = replay(history, tmp_path, "--at", "3", "--json", *arguments)
        assert done.returncode == 1
        assert "unreadable: 'b.example' 'ssh' (event 2)" in done.stderr
        assert [one["username"] for one in json.loads(done.stdout)] == ["second", None]
    query = "SELECT host, error FROM ledger.events WHERE type = 'credential.read' ORDER BY position"
    assert history.fetch(query) == [("a.example", None), ("b.example", "decrypt_failed")]


def test_reveal_shows_and_records(history: Database, tmp_path: Path) -> None:
    """Each password with the position of the event that says so, in all three forms."""
    arguments = ["--at", "3", *REVEAL, "--yes"]
    first, second = as_list(replay(history, tmp_path, *arguments, "--json"))
    assert (first["password"], first["secret_data"]) == (PASSWORDS[1], {"pin": SECRET})
    assert (second["password"], second["secret_data"]) == (PASSWORDS[2], None)
    assert [first["read"], second["read"]] == [5, 6]
    query = "SELECT authn, reason, credential_id, version, details FROM ledger.events OFFSET 5"
    assert history.fetch(query) == [
        ("cli", "AUD-1", 2, 2, {"replay": {"at": 3}}),
        ("cli", "AUD-1", 3, 1, {"replay": {"at": 3}}),
    ]
    table = replay(history, tmp_path, *arguments, "--host", "a*").stdout
    assert PASSWORDS[1] in table
    assert SECRET in table
    (row,) = csv.DictReader(
        io.StringIO(replay(history, tmp_path, *arguments, "--host", "b*", "--csv").stdout)
    )
    assert row["password"] == PASSWORDS[2]
    assert history.fetch(READS) == [(4,)]


@pytest.mark.parametrize(
    ("action", "recorded"),
    [("RAISE EXCEPTION 'refused'", 0), ("RAISE WARNING 'not certain'", 2)],
    ids=["before", "after"],
)
def test_died_at_the_commit(history: Database, tmp_path: Path, action: str, recorded: int) -> None:
    """Without a certain commit no secret is shown; the record may say more, never less."""
    at_commit(history, action)
    for form in ("--json", "--csv"):
        done = replay(history, tmp_path, "--at", "3", *REVEAL, "--yes", form)
        assert done.returncode == 2
        for secret in (*PASSWORDS, SECRET):
            assert secret not in done.stdout + done.stderr
    as_usual(history)
    assert history.fetch(READS) == [(2 * recorded,)]


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_an_output_that_cannot_be_written(history: Database, tmp_path: Path, form: str) -> None:
    """One line and exit 1, with nothing of what was to be shown; it is on record all the same."""
    command = [sys.executable, "-m", "secrets_broker", "replay", "--at", "3", *REVEAL, "--yes"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings(history)}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*command, form],
            cwd=tmp_path,
            env=env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert "Error: the output could not be written: No space left on device" in done.stderr
    for word in ("Traceback", *PASSWORDS, SECRET):
        assert word not in done.stderr
    # CSV fails at its first line, the names of the columns, before there is anything to record.
    assert history.fetch(READS) == [(2 if form == "--json" else 0,)]


def test_killed_while_it_waits_for_the_lock(history: Database, tmp_path: Path) -> None:
    """Nothing was shown and nothing recorded: the record comes first."""
    command = [sys.executable, "-m", "secrets_broker", "replay", "--at", "3", *REVEAL, "--yes"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings(history)}
    with psycopg.connect(history.owner_url) as other:
        other.execute("SELECT 1 FROM ledger.lock FOR UPDATE")
        waits = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        with subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            while not history.fetch(waits, history.name):
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            shown, said = process.communicate()
    assert shown == b""
    for secret in PASSWORDS:
        assert secret.encode() not in said
    assert count(history) == 4


@pytest.mark.parametrize(("answer", "status"), [("n", 1), ("y", 0)])
def test_at_a_terminal_it_asks(history: Database, tmp_path: Path, answer: str, status: int) -> None:
    """It says of how many, and goes on only with a yes."""
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "secrets_broker", "replay", "--at", "3", *REVEAL],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings(history)},
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert (
        "the passwords of 2 credentials as they were after the event at position 3" in done.stderr
    )
    assert done.returncode == status
    assert (PASSWORDS[1] in done.stdout) == (status == 0)
    assert history.fetch(READS) == [(0 if status else 2,)]


def test_differences(history: Database, tmp_path: Path) -> None:
    """What became of each name, by whom and when; which columns, and no value of any."""
    first, second = as_list(replay(history, tmp_path, "--diff", "2", "4", "--json"))
    assert (first["host"], first["kind"], first["actor"]) == ("a.example", "changed", "tester")
    assert (first["version_before"], first["version_after"], first["position"]) == (1, 2, 3)
    assert first["columns"] == [
        *("password", "username", "domain", "additional_data", "secret_data")
    ]
    assert (second["host"], second["kind"], second["type"]) == (
        *("b.example", "deleted", "credential.deleted"),
    )
    done = replay(history, tmp_path, "--diff", "2", "0m", "--json", "--no-keys", "--host", "a*")
    assert as_list(done) == [first | {"columns": None}]
    assert "from the state after the event at position 2 to that after" in done.stderr
    table = replay(history, tmp_path, "--diff", "2001-01-01T00:00:00Z", "4").stdout
    assert [word in table for word in ("a.example", "created", "b.example")] == [True, True, False]
    assert replay(history, tmp_path, "--diff", "4", "4").stdout == "no differences\n"
    assert count(history) == 4


@pytest.mark.parametrize(
    ("arguments", "status", "rule"),
    [
        ("", 2, "give either --at or --diff"),
        ("--at 1 --diff 1 2", 2, "give either --at or --diff"),
        ("--at m4rker", 2, "--at: must be a position"),
        ("--at 2026-01-02T03:04:05", 2, "--at: must be a position"),
        ("--at -1", 2, "--at: must be a position"),
        ("--diff 1 m4rker", 2, "--diff B: must be a position"),
        ("--at 1 --host " + "h" * 256, 2, "host: must have at most 255 characters"),
        ("--at 5", 2, "--at: is past the ledger's end: its last position is 4"),
        ("--at 9999-12-31T23:59:59Z", 2, "--at: is in the future"),
        ("--diff 2 1", 2, "A must not be behind B"),
        ("--diff 1 3 --reveal --reason r", 2, "--reveal goes with --at"),
        ("--at 1 --reveal", 2, "give a --reason"),
        ("--at 1 --reveal --no-keys --reason r", 2, "--reveal needs the keys"),
        ("--at 1 --reason r", 2, "--reason and --yes go with --reveal"),
        ("--at 1 --reveal --reason r", 2, "there is no terminal to ask on: say --yes"),
        ("--at 1 --reveal --yes --reason " + "r" * 501, 2, "--reason must have at most 500"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    history: Database, tmp_path: Path, arguments: str, status: int, rule: str
) -> None:
    """The option and the rule, and not what was given; 2 for what can never be right."""
    done = replay(history, tmp_path, *arguments.split())
    assert (done.returncode, done.stdout) == (status, "")
    assert rule in " ".join(done.stderr.split())
    assert "m4rker" not in done.stderr
    assert "Traceback" not in done.stderr
    assert count(history) == 4


def test_a_schema_that_is_behind_is_said(empty_database: str, tmp_path: Path) -> None:
    """No traceback, and the command that helps."""
    done = run("replay", "--at", "1", cwd=tmp_path, env={"DATABASE_URL": empty_database})
    assert done.returncode == 2
    assert "secrets-broker migrate" in done.stderr
    assert "Traceback" not in done.stderr
