"""`secrets-broker rotate-key`, as an operator types it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secrets_broker import SecretsManager
from secrets_broker.ledger.commands import Upsert
from secrets_broker.ledger.encryption.keyring import Kek, Keyring, derive_key
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from tests.conftest import KMS_KEY, Database
from tests.repository import ROOT
from tests.tools.command_line import run, settings
from tests.waiting import until

NEW_KEY = "the-key-that-comes-after"
NEW_KEK = Kek.from_bytes(derive_key(NEW_KEY)).id
OLD_KEK = Kek.from_bytes(derive_key(KMS_KEY)).id


def stored(database: Database, count: int = 3) -> None:
    """Some credentials, under the old key."""
    with SecretsManager(KMS_KEY, database.service_url) as manager:
        for number in range(count):
            manager.upsert_credential(f"h{number}", "ssh", password=f"p{number}")


def readable(database: Database, key: str, count: int = 3) -> bool:
    """Whether this key alone opens them all."""
    with SecretsManager(key, database.service_url) as manager:
        found = [manager.lookup_credential(f"h{number}", "ssh") for number in range(count)]
    return [one["password"] for one in found if one] == [f"p{n}" for n in range(count)]


def test_from_the_settings_of_the_services(database: Database, tmp_path: Path) -> None:
    """With both keys set as a service has them, no option is needed; a second run changes nothing.

    It says what each KEK wraps, what to set next, and changes no .env.
    """
    stored(database)
    env = {**settings(database), "SECRETS_KMS_KEY": NEW_KEY, "SECRETS_KMS_KEY_PREVIOUS": KMS_KEY}
    first = run("rotate-key", cwd=tmp_path, env=env)
    assert (first.returncode, first.stderr) == (0, "")
    assert "3 data keys re-wrapped" in first.stdout
    assert "SECRETS_KMS_KEY_PREVIOUS" in first.stdout
    assert [line.split()[:3] for line in first.stdout.splitlines()[1:3]] == [
        [OLD_KEK, "retired", "0"],
        [NEW_KEK, "active", "3"],
    ]
    again = run("rotate-key", "--json", cwd=tmp_path, env=env)
    assert again.returncode == 0
    assert json.loads(again.stdout)["rewrapped"] == 0
    assert list(tmp_path.iterdir()) == []
    assert readable(database, NEW_KEY)


def test_from_options_as_a_script_would(database: Database, tmp_path: Path) -> None:
    """--old-key and --new-key on the command line do, whatever the settings say."""
    stored(database)
    options = ("--old-key", KMS_KEY, "--new-key", NEW_KEY)
    assert run("rotate-key", *options, cwd=tmp_path, env=settings(database)).returncode == 0
    assert readable(database, NEW_KEY)


def test_from_files(database: Database, tmp_path: Path) -> None:
    """A key may come from a file or standard input; a newline at its end is not part of it."""
    stored(database)
    (tmp_path / "old").write_text(KMS_KEY + "\n")
    options = ("--old-key-file", "old", "--new-key-file", "-")
    done = run("rotate-key", *options, cwd=tmp_path, env=settings(database), answer=f"{NEW_KEY}\n")
    assert done.returncode == 0, done.stderr
    assert readable(database, NEW_KEY)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--old-key", "wrong", "--new-key", NEW_KEY), "not this ledger's"),
        (("--old-key", KMS_KEY, "--new-key", KMS_KEY), "the new key is the old one"),
        ((), "the new key is the one in use"),
        (("--new-key", ""), "--new-key is empty"),
        (("--new-key", "a", "--new-kms", "aws-kms:///k"), "one too many"),
        (("--new-kms", "gopher://k"), "begins with one of"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    database: Database, tmp_path: Path, options: tuple[str, ...], word: str
) -> None:
    """Refused before anything is touched, with a word that says why; no key is repeated."""
    stored(database)
    done = run("rotate-key", *options, cwd=tmp_path, env=settings(database))
    assert done.returncode != 0
    assert word in done.stderr
    assert KMS_KEY not in done.stderr + done.stdout
    assert database.fetch("SELECT id, state FROM ledger.keks") == [(OLD_KEK, "active")]
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(4,)]


def test_check_only_reports(database: Database, tmp_path: Path) -> None:
    """--check says what each KEK wraps; exit 1 where a rotation is not over."""
    stored(database)
    env = settings(database)
    found = run("rotate-key", "--check", "--json", cwd=tmp_path, env=env)
    assert found.returncode == 0
    assert json.loads(found.stdout) == [
        {
            "id": OLD_KEK,
            "provider": "environment",
            "state": "active",
            "data_keys": 3,
            "event_keys": 1,
        }
    ]
    _stop_half_way(database, tmp_path)
    halted = run("rotate-key", "--check", cwd=tmp_path, env=env)
    assert halted.returncode == 1
    assert {line.split()[1] for line in halted.stdout.splitlines()[1:]} == {"retiring", "active"}


def test_killed_in_the_middle(database: Database, tmp_path: Path) -> None:
    """kill -9 while it re-wraps: nothing is lost, and the same command ends what it began."""
    stored(database)
    _stop_half_way(database, tmp_path)
    env = {**settings(database), "SECRETS_KMS_KEY": NEW_KEY, "SECRETS_KMS_KEY_PREVIOUS": KMS_KEY}
    done = run("rotate-key", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert readable(database, NEW_KEY)
    query = "SELECT type FROM ledger.events WHERE type LIKE 'key.%' ORDER BY position"
    assert database.fetch(query) == [("key.rotation_started",), ("key.rotated",)]


def _stop_half_way(database: Database, folder: Path) -> None:
    """Start a rotation, and kill it where it waits for a row that somebody holds."""
    env = {**settings(database), "SECRETS_KMS_KEY": NEW_KEY, "SECRETS_KMS_KEY_PREVIOUS": KMS_KEY}
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with database.owner() as connection, connection.transaction():
        connection.execute("SELECT 1 FROM ledger.data_keys FOR UPDATE")
        process = subprocess.Popen(
            [sys.executable, "-m", "secrets_broker", "rotate-key"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: database.fetch(waits) != [(0,)] or process.poll() is not None)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'rotate-key%'"
    until(lambda: not database.fetch(left), "the session of the killed process stays")


def test_a_tampered_wrap_is_named(database: Database, tmp_path: Path) -> None:
    """A data key that does not open is named by host and purpose, and makes the exit status 1."""
    stored(database)
    database.execute("UPDATE ledger.data_keys SET wrapped = reverse(wrapped) WHERE credential_id=3")
    env = {**settings(database), "SECRETS_KMS_KEY": NEW_KEY, "SECRETS_KMS_KEY_PREVIOUS": KMS_KEY}
    done = run("rotate-key", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "not re-wrapped: 'h1' 'ssh'" in done.stdout
    assert "2 data keys re-wrapped" in done.stdout


def under(database: Database, key: str) -> None:
    """Make the ledger as an earlier version did, under whatever key it was given."""
    keyring = Keyring.from_kms_keys(key)

    async def store() -> None:
        writer = Writer(database.service_url, keyring, HostCredentials())
        await writer.start()
        await writer.submit(
            Upsert(host="h0", purpose="ssh", password="p0"), Context(actor="t", authn="library")
        )
        await writer.close()

    asyncio.run(store())


@pytest.mark.parametrize("old", ["winter2026", " a key with spaces ", "a,b", "kl\u00fc\n", "a\r"])
@pytest.mark.parametrize("way", ["previous", "option"])
def test_a_ledger_under_an_unfit_key_gets_another(
    database: Database, tmp_path: Path, old: str, way: str
) -> None:
    """Byte for byte, from SECRETS_KMS_KEY_PREVIOUS or --old-key; nothing is locked out."""
    under(database, old)
    env = {**settings(database), "SECRETS_KMS_KEY": old}
    refused = run("rotate-key", "--new-key", NEW_KEY, cwd=tmp_path, env=env)
    assert "SECRETS_KMS_KEY_PREVIOUS, byte for byte" in refused.stderr
    if way == "option":
        done = run("rotate-key", "--old-key", old, "--new-key", NEW_KEY, cwd=tmp_path, env=env)
    else:
        env |= {"SECRETS_KMS_KEY": NEW_KEY, "SECRETS_KMS_KEY_PREVIOUS": old}
        done = run("rotate-key", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    with SecretsManager(NEW_KEY, database.service_url) as manager:
        found = manager.lookup_credential("h0", "ssh")
    assert found is not None
    assert found["password"] == "p0"


@pytest.mark.parametrize("unfit", ["winter2026", f"{NEW_KEY} ", f"{NEW_KEY}\u00e9"])
def test_no_rotation_to_a_key_that_is_unfit(database: Database, tmp_path: Path, unfit: str) -> None:
    """Since nothing would start with it; nothing was touched."""
    stored(database)
    (tmp_path / "new").write_text(unfit)
    for options in (("--new-key", unfit), ("--new-key-file", "new")):
        given = ("rotate-key", "--old-key", KMS_KEY, *options)
        done = run(*given, cwd=tmp_path, env=settings(database))
        assert done.returncode != 0
        assert "SECRETS_KMS_KEY has " in done.stderr
    assert database.fetch("SELECT id, state FROM ledger.keks") == [(OLD_KEK, "active")]
