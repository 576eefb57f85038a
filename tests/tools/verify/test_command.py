"""`secrets-broker verify`, as an auditor types it."""

import json
from pathlib import Path

import pytest

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import keep_cosignature
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, SigningKey
from secrets_broker.ledger.transparency_log.stored_receipts import receipt
from tests.conftest import KMS_KEY, Database
from tests.ledger.helpers import lookup, record, run, upsert
from tests.tools.command_line import run as command
from tests.tools.verify.changing import KEY, checkpoints, erase_names, verified

WITNESS = SigningKey("witness.example", bytes(32), COSIGNATURE)


@pytest.fixture
def ledger(database: Database, keyring: Keyring) -> Database:
    """Five events, and checkpoints at three and five."""
    record(database, keyring, *(upsert(f"h{number}") for number in range(2)))
    record(database, keyring, lookup("h0"), lookup("h1"))
    checkpoints(database, (3, 5))
    return database


@pytest.fixture
def env(ledger: Database) -> dict[str, str]:
    """A login, and the verifier key."""
    return {"DATABASE_URL": ledger.service_url, "LEDGER_VERIFIER_KEY": str(KEY.verifier)}


def kept(database: Database, size: int) -> str:
    """The note of that size."""
    ((note,),) = database.fetch("SELECT note FROM ledger.checkpoints WHERE size = %s", size)
    return str(note)


def test_since_a_checkpoint_that_was_kept(
    ledger: Database, env: dict[str, str], tmp_path: Path
) -> None:
    """From a file, from standard input, and from LEDGER_CHECKPOINT_FILE."""
    file = tmp_path / "kept"
    file.write_text(kept(ledger, 3))
    done = command("verify", "--since", "kept", "--json", cwd=tmp_path, env=env)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["size"], found["first_bad"]) == (0, True, 5, None)
    assert found["checked"]["checkpoints"] == 3
    lost = str(SignedCheckpoint.sign(Checkpoint(KEY.name, 7, bytes(32)), KEY))
    done = command("verify", "--since", "-", "--json", cwd=tmp_path, env=env, answer=lost)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["first_bad"]) == (1, False, 5)
    assert found["problems"][0]["check"] == "since"
    file.write_text(lost)
    more = {**env, "LEDGER_CHECKPOINT_FILE": str(file)}
    done = command("verify", cwd=tmp_path, env=more)
    assert done.returncode == 1
    assert "the ledger has 5 events" in done.stdout
    assert done.stdout.splitlines()[-1] == "NOT OK: first wrong position 5"


@pytest.mark.parametrize("text", ["", "no checkpoint", "a\n1\nAAAA\n\n— a AAAA\n", "\x00", "\n\n"])
def test_a_malformed_checkpoint_is_refused(env: dict[str, str], tmp_path: Path, text: str) -> None:
    """One clear line, and exit 2: nothing was checked."""
    (tmp_path / "kept").write_text(text)
    done = command("verify", "--since", "kept", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--since: kept is no checkpoint to go by" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_checkpoint_of_another_key_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    """What no given key signed says nothing."""
    stranger = SigningKey(KEY.name, bytes(32))
    note = str(SignedCheckpoint.sign(Checkpoint(KEY.name, 3, bytes(32)), stranger))
    (tmp_path / "kept").write_text(note)
    done = command("verify", "--since", "kept", cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "no key that was given signed this checkpoint" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--since", "nowhere"], "nowhere cannot be read"),
        (["--verifier-key", "x"], "a verifier key looks like"),
        (["--verifier-key", "@nowhere"], "nowhere cannot be read"),
        (["--url", "broker.example"], "--url is an address such as"),
        (["--url", "ftp://broker.example"], "--url is an address such as"),
        (["--url", "https://me:secret@broker.example"], "the key is AUDITOR_KEY"),
        (["--url", "http://127.0.0.1:99999"], "--url is an address such as"),
        (["--url", "http://h", "--receipt", "x"], "one of --export, --url and --receipt"),
        (["--partial"], "--partial goes with --export"),
    ],
)
def test_what_makes_no_sense_is_refused(
    env: dict[str, str], tmp_path: Path, options: list[str], said: str
) -> None:
    """Exit 2, and what to do; nothing that was in the URL is repeated."""
    done = command(
        "verify", *options, cwd=tmp_path, env={**env, "AUDITOR_KEY": "a-key-of-an-auditor"}
    )
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "secret@" not in done.stderr


def test_settings_that_are_unfit_are_no_finding(env: dict[str, str], tmp_path: Path) -> None:
    """A key that is refused says nothing about the ledger."""
    done = command("verify", "--json", cwd=tmp_path, env={**env, "SECRETS_KMS_KEY": "winter2026"})
    assert done.returncode == 2
    assert "SECRETS_KMS_KEY has 10 bytes" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("key", ["an-auditors\nkey", "schl\u00fcssel", "\u20ac"])
def test_a_key_that_no_header_holds_is_not_repeated(tmp_path: Path, key: str) -> None:
    """The library's own error would print it."""
    done = command("verify", "--url", "http://127.0.0.1:1", cwd=tmp_path, env={"AUDITOR_KEY": key})
    assert done.returncode != 0
    assert "AUDITOR_KEY has a c" in done.stderr
    assert "header" in done.stderr
    assert key not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_receipt(ledger: Database, env: dict[str, str], tmp_path: Path) -> None:
    """Checked with nothing but the key: what it says, who signed, and which witness."""

    async def make() -> str:
        async with await connect(ledger.owner_url) as connection:
            signed = SignedCheckpoint.parse(kept(ledger, 5))
            line = WITNESS.cosign(signed.note.text, 1_700_000_000)
            await keep_cosignature(connection, signed.checkpoint, line)
            return str(await receipt(connection, 3))

    text = run(make())
    (tmp_path / "receipt").write_text(text)
    keys = ["--verifier-key", str(KEY.verifier), "--verifier-key", str(WITNESS.verifier)]
    options = ["verify", "--receipt", "receipt", *keys]
    found = json.loads(command(*options, "--json", cwd=tmp_path).stdout)
    assert (found["ok"], found["position"]) == (True, 3)
    assert (found["entry"]["type"], found["entry"]["host"]) == ("credential.read", "h0")
    assert found["signed_by"] == [KEY.name]
    assert found["cosigned_by"] == [{"name": WITNESS.name, "at": 1_700_000_000}]
    done = command(*options, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "OK: the event is in the log at this position"
    (tmp_path / "receipt").write_text(text.replace("index 3", "index 2"))
    done = command(*options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("NOT OK: the inclusion proof")
    assert command("verify", "--receipt", "receipt", cwd=tmp_path).returncode == 2


def test_an_older_backup_brings_a_key_back(
    ledger: Database, keyring: Keyring, env: dict[str, str], tmp_path: Path
) -> None:
    """A list of erasures knows what a restored ledger does not; what to do is told."""
    keys = ledger.fetch("SELECT * FROM ledger.data_keys")
    (erased,) = erase_names(ledger, keyring, ("h1", "ssh"))
    line = {
        "data_key": erased.erasures[0].data_key,
        "position": 5,
        "host": "h1",
        "purpose": "ssh",
        "at": erased.erasures[0].at,
    }
    other = {**line, "data_key": "0" * 32}
    listed = tmp_path / "erasures"
    listed.write_text(json.dumps(line) + "\n" + json.dumps(other) + "\n")
    report = verified(ledger, erasures=listed)
    assert (report.ok, report.checked["listed erasures"]) == (True, 2)
    assert "1 erasures of" in report.remarks[1]
    # The backup: no erasure, and the key is back.
    ledger.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
    ledger.execute("DELETE FROM ledger.events WHERE position = 5")
    with ledger.owner() as connection:
        for row in keys:
            connection.execute(
                "INSERT INTO ledger.data_keys VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", row
            )
    more = {**env, "SECRETS_ERASURES": str(listed), "SECRETS_KMS_KEY": KMS_KEY}
    done = command("verify", cwd=tmp_path, env=more)
    assert done.returncode == 1
    assert f"erase --again {listed}" in done.stdout
