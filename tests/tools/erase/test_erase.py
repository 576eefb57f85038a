"""`secrets-broker erase`, as an operator types it."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from tests.conftest import KMS_KEY, Database
from tests.ledger.guards import back_in_force
from tests.ledger.helpers import delete, imported, lookup, record, upsert
from tests.ledger.interruptions import count
from tests.projections.keys import readable
from tests.repository import ROOT
from tests.tools.command_line import run, settings

REASON = ("--reason", "GDPR-1")


def erase(
    database: Database, cwd: Path, *arguments: str, **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command with a deployment's settings."""
    return run("erase", *arguments, cwd=cwd, env=settings(database) | more)


def test_erase_and_what_it_says(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """It counts what it destroyed; its last line names every KEK, and what is still to do."""
    record(database, keyring, upsert("a", "a1"), delete("a"), upsert("a", "a2"), upsert("b", "b1"))
    database.execute("INSERT INTO ledger.keks VALUES ('older-kek', 'x', 'retired', '')")
    done = erase(database, tmp_path, "a", "ssh", *REASON, "--yes")
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first == "erased: 1 names, 2 data keys, 2 bodies"
    assert "WAL" in last
    assert "rotate-key" in last
    for (kek,) in database.fetch("SELECT id FROM ledger.keks"):
        assert kek in last
    assert readable(database, keyring) == {("b", "b1")}
    query = "SELECT authn, reason, type FROM ledger.events ORDER BY position DESC LIMIT 1"
    assert database.fetch(query) == [("cli", "GDPR-1", "credential.erased")]


def test_erase_as_json(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """Each name with its positions and its keys; nothing but JSON is on standard output."""
    record(database, keyring, upsert("a"), upsert("a2"))
    keys = dict(database.fetch("SELECT host, data_key FROM secrets.host_credentials"))
    done = erase(database, tmp_path, "a*", "*", *REASON, "--yes", "--json")
    said = json.loads(done.stdout)
    assert [one["host"] for one in said["erased"]] == ["a", "a2"]
    assert [one["positions"] for one in said["erased"]] == [[3], [4]]
    assert [one["data_keys"] for one in said["erased"]] == [[keys["a"]], [keys["a2"]]]
    assert said["erased_meanwhile"] == 0
    assert said["keks"] == [keyring.first.id]


def test_a_dry_run_shows_and_does_nothing(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Names as Python would write them, so that none steers a terminal; no reason is needed."""
    odd = "a\x1b[2J"
    record(database, keyring, imported(odd, password="a1"), upsert(odd, "a2"), upsert("b"))
    done = erase(database, tmp_path, "*", "*", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "'a\\x1b[2J' 'ssh': 2 versions, 1 data keys, 2 bodies",
        "'b' 'ssh': 1 versions, 1 data keys, 1 bodies",
        "would be erased: 2 names, 3 versions, 2 data keys, 3 bodies",
    ]
    said = json.loads(erase(database, tmp_path, "b", "*", "--dry-run", "--json").stdout)
    assert said["would_erase"][0]["host"] == "b"
    assert count(database) == 3


def test_without_a_terminal_it_asks_for_yes(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """A script that did not say --yes destroys nothing, and is told what to do."""
    record(database, keyring, upsert("a"))
    done = erase(database, tmp_path, "a", "ssh", *REASON)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert count(database) == 1


@pytest.mark.parametrize(("answer", "left"), [("n", 1), ("y", 0)])
def test_at_a_terminal_it_asks(
    database: Database, keyring: Keyring, tmp_path: Path, answer: str, left: int
) -> None:
    """It lists what would go, and goes on only with a yes."""
    record(database, keyring, upsert("a"))
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "secrets_broker", "erase", "a", "ssh", *REASON],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings(database)},
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert "'a' 'ssh': 1 versions, 1 data keys, 1 bodies" in done.stderr
    assert done.returncode == left
    assert len(readable(database, keyring)) == left


def test_nothing_matches(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """It says so; a name that was only ever asked for has nothing to erase either."""
    record(database, keyring, upsert("a"), lookup("asked"))
    for name in ("asked", "A", "%"):
        done = erase(database, tmp_path, name, "*", *REASON, "--yes")
        assert (done.returncode, "nothing to erase" in done.stderr) == (1, True)
    assert count(database) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a",),
        ("a", "ssh"),
        ("a", "ssh", "--reason", " "),
        ("a", "ssh", "--reason", "x" * 501),
        ("a", "ssh", "--reason", "a\tb"),
        ("a", "ssh", "--list"),
        ("--list", "--again", "x"),
    ],
)
def test_a_wrong_use_is_refused(
    database: Database, keyring: Keyring, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """A missing or unfit reason among them: it is held to what X-Access-Reason is held to."""
    record(database, keyring, upsert("a"))
    done = erase(database, tmp_path, *arguments, "--yes")
    assert done.returncode == 2
    assert count(database) == 1


def test_a_pattern_taken_exactly(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """With --exact a name that holds a star can be named."""
    record(database, keyring, upsert("*", "star"), upsert("a", "a1"))
    assert erase(database, tmp_path, "*", "ssh", *REASON, "--yes", "--exact").returncode == 0
    assert readable(database, keyring) == {("a", "a1")}


def test_an_earlier_installations_table_is_mentioned(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """What was imported from it is still in it."""
    record(database, keyring, upsert("a"))
    database.execute("CREATE TABLE secrets.legacy_host_credentials ()")
    done = erase(database, tmp_path, "a", "ssh", *REASON, "--yes")
    assert "secrets.legacy_host_credentials" in done.stderr


class Restorable:
    """A database, and what of it a backup would bring back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[str, list[tuple[Any, ...]]] = {}

    def back_up(self) -> None:
        """Keep keys, bodies and rows."""
        for table in ("ledger.data_keys", "ledger.bodies", "secrets.host_credentials"):
            rows = self._database.fetch(f"SELECT row::text FROM {table} AS row")  # noqa: S608
            self._kept[table] = rows
        ((self._size,),) = self._database.fetch("SELECT count(*) FROM ledger.events")

    def restore(self) -> None:
        """Cut the events back, and put keys, bodies and rows there as they were."""
        with self._database.owner() as connection, connection.transaction():
            for table in ("ledger.events", "ledger.bodies", "ledger.data_keys", "ledger.nodes"):
                connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
            connection.execute("DELETE FROM ledger.events WHERE position >= %s", (self._size,))
            for table, rows in self._kept.items():
                connection.execute(f"DELETE FROM {table}".encode())  # noqa: S608
                for (row,) in rows:
                    insert = f"INSERT INTO {table} SELECT (%s::{table}).*"
                    connection.execute(insert.encode(), (row,))
        back_in_force(self._database)


@pytest.fixture
def restored(database: Database, keyring: Keyring, tmp_path: Path) -> Path:
    """A database in which an erasure of "a" was undone by a restore; the list of it."""
    record(database, keyring, upsert("a", "a1"), upsert("b", "b1"))
    backup = Restorable(database)
    backup.back_up()
    path = tmp_path / "erasures"
    path.touch()
    done = erase(database, tmp_path, "a", "ssh", *REASON, "--yes", SECRETS_ERASURES=str(path))
    assert done.returncode == 0, done.stderr
    assert len(path.read_text().splitlines()) == 1
    backup.restore()
    assert readable(database, keyring) == {("a", "a1"), ("b", "b1")}
    return path


def test_the_list(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """JSON lines, without a secret: key, position, name, time."""
    record(database, keyring, upsert("a"))
    ((key,),) = database.fetch("SELECT id FROM ledger.data_keys")
    erase(database, tmp_path, "a", "ssh", *REASON, "--yes")
    (line,) = erase(database, tmp_path, "--list").stdout.splitlines()
    said = json.loads(line)
    assert said.pop("at").endswith("Z")
    assert said == {"data_key": key, "position": 2, "host": "a", "purpose": "ssh"}


def test_again_after_a_restore(
    database: Database, keyring: Keyring, restored: Path, tmp_path: Path
) -> None:
    """What the list names goes again, once; everything else stays."""
    shown = erase(database, tmp_path, "--again", str(restored), "--dry-run")
    assert shown.stdout == "would be erased: 1 data keys of the 1 that are named\n"
    done = erase(database, tmp_path, "--again", str(restored))
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        "erased: 1 names, 1 data keys, 1 bodies",
    )
    assert readable(database, keyring) == {("b", "b1")}
    done = erase(database, tmp_path, "--again", str(restored))
    assert (done.returncode, done.stdout) == (
        0,
        "nothing that the list names is in this database\n",
    )
    assert count(database) == 3


def serve(database: Database, cwd: Path, path: Path, **more: str) -> Any:
    """Start serving; it is refused in each of these tests."""
    env = settings(database) | {"SECRETS_ERASURES": str(path)} | more
    return run("serve", cwd=cwd, env=env)


def test_serve_is_refused_while_erased_keys_are_there(
    database: Database, keyring: Keyring, restored: Path, tmp_path: Path
) -> None:
    """Without the owner's URL the start says which command to run."""
    done = serve(database, tmp_path, restored, MIGRATION_DATABASE_URL="")
    assert done.returncode == 2
    assert f"secrets-broker erase --again {restored}" in done.stderr
    assert count(database) == 2


def test_serve_erases_again_before_it_serves(
    database: Database, keyring: Keyring, restored: Path, tmp_path: Path
) -> None:
    """With the owner's URL it destroys them itself; the list is as it was."""
    lines = restored.read_bytes()
    assert "erased again" in check_before_serving(database, restored, tmp_path)
    assert readable(database, keyring) == {("b", "b1")}
    assert restored.read_bytes() == lines
    assert "erased again" not in check_before_serving(database, restored, tmp_path)


def check_before_serving(database: Database, path: Path, cwd: Path) -> str:
    """What serve and dev call before they start gunicorn, which would not end."""
    script = (
        "from secrets_broker.settings import Settings;"
        "from secrets_broker.tools.erase.apply_again import check_erasures;"
        "check_erasures(Settings.load())"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings(database)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env=env | {"SECRETS_ERASURES": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


def test_serve_is_refused_with_a_bad_list(database: Database, tmp_path: Path) -> None:
    """A list that is not there, or is none, is named; a line of it by its number."""
    path = tmp_path / "erasures"
    done = serve(database, tmp_path, path)
    assert (done.returncode, "no such list of erasures" in done.stderr) == (2, True)
    path.write_text('{"data_key": "x"}\n')
    done = serve(database, tmp_path, path)
    assert (done.returncode, "line 1: " in done.stderr) == (2, True)


def test_serve_is_refused_where_it_cannot_be_known(
    database: Database, restored: Path, tmp_path: Path
) -> None:
    """A database that does not answer may be one that was restored."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    done = serve(database, tmp_path, restored, DATABASE_URL=url)
    assert done.returncode == 2
    assert "SECRETS_ERASURES" in done.stderr


def test_the_next_run_makes_the_list_whole(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Died between the commit and the line, or in the middle of the line."""
    record(database, keyring, upsert("a"), upsert("b"), upsert("c"))
    path = tmp_path / "erasures"
    path.touch()
    with_list = {"SECRETS_ERASURES": str(path)}
    erase(database, tmp_path, "a", "ssh", *REASON, "--yes", **with_list)
    whole = path.read_bytes()
    path.write_bytes(b"")
    erase(database, tmp_path, "b", "ssh", *REASON, "--yes", **with_list)
    assert [json.loads(line)["host"] for line in path.read_bytes().splitlines()] == ["a", "b"]
    both = path.read_bytes()
    assert both.startswith(whole)
    path.write_bytes(both[:-20])
    assert "line 2" in serve(database, tmp_path, path).stderr
    listed = erase(database, tmp_path, "--list", **with_list)
    assert path.read_bytes() == both
    assert listed.stdout.encode() == both
    path.write_bytes(both[:-20])
    done = erase(database, tmp_path, "none", "ssh", *REASON, "--yes", **with_list)
    assert done.returncode == 1
    assert path.read_bytes() == both


def test_the_list_written_over_itself(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """`erase --list > FILE`, with FILE the list of the settings, gives a whole list too."""
    record(database, keyring, upsert("a"))
    path = tmp_path / "erasures"
    path.touch()
    erase(database, tmp_path, "a", "ssh", *REASON, "--yes", SECRETS_ERASURES=str(path))
    whole = path.read_bytes()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings(database)}
    with path.open("wb") as output:
        subprocess.run(
            [sys.executable, "-m", "secrets_broker", "erase", "--list"],
            cwd=tmp_path,
            env=env | {"SECRETS_ERASURES": str(path)},
            stdout=output,
            timeout=60,
            check=True,
        )
    assert path.read_bytes() == whole


def test_erase_needs_the_list_that_was_asked_for(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """A list that is not there is told before anything is destroyed."""
    record(database, keyring, upsert("a"))
    missing = str(tmp_path / "missing")
    done = erase(database, tmp_path, "a", "ssh", *REASON, "--yes", SECRETS_ERASURES=missing)
    assert done.returncode == 2
    assert f"secrets-broker erase --list > {missing}" in done.stderr
    assert count(database) == 1


def test_a_wrong_key_destroys_nothing(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """The ledger is written only by who holds its key."""
    record(database, keyring, upsert("a"))
    wrong = KMS_KEY + "?"
    done = erase(database, tmp_path, "a", "ssh", *REASON, "--yes", SECRETS_KMS_KEY=wrong)
    assert done.returncode == 2
    assert count(database) == 1
