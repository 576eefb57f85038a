"""A ledger that was restored goes on under a new name, and in no other way."""

import json
from pathlib import Path

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerMismatchError
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.halt import Halt
from secrets_broker.ledger.rollback_detection.kept_facts import AuthenticatedFrom, KeptFacts
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import VerifierKey
from secrets_broker.ledger.transparency_log.receipt import Receipt
from tests.conftest import SIGNING_KEY, VERIFIER_KEY, Database
from tests.ledger.helpers import lookup, record, upsert
from tests.ledger.publishing.checkpointers import continuing, make, tamper
from tests.tools.command_line import run, settings
from tests.tools.restored_ledger import NEW, OLD, Ledger, ledger

__all__ = ["ledger"]  # the fixture


def test_it_goes_on_under_a_new_origin(ledger: Ledger, keyring: Keyring) -> None:
    """Refused before; then the first event names what was lost, and the new log is signed."""
    with pytest.raises(LedgerMismatchError, match="the newest ones are gone"):
        continuing(ledger.database, keyring, ledger.file)
    code, out, err = ledger.command("restored", "--reason", "disk of db1 lost", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "origin": "log.example",
        "published": 300,
        "restored": 250,
        "lost": [250, 299],
        "new_origin": "PeterNeumann",
    }
    ((position, details, reason),) = ledger.database.fetch(
        "SELECT position, details, reason FROM ledger.events WHERE type = 'ledger.restored'"
    )
    assert (position, reason) == (250, "disk of db1 lost")
    assert (details["origin"], details["size"]) == ("log.example", 300)
    assert (details["new_origin"], set(details)) == (
        "PeterNeumann",
        {"origin", "size", "root", "new_origin", "event_key"},
    )
    assert ledger.database.fetch("SELECT origin, size FROM ledger.published") == [
        ("PeterNeumann", 251)
    ]
    kept = CheckpointFile(ledger.file).read()
    assert kept is not None
    assert kept.checkpoint.origin == "PeterNeumann"
    continuing(ledger.database, keyring, ledger.file)
    assert make(ledger.database, NEW).size == 252


@pytest.mark.parametrize(
    "words",
    [
        ("erase", "a", "ssh", "--reason", "r", "--yes"),
        ("erase", "--again", "erasures", "--reason", "r", "--yes"),
        ("rebuild",),
        ("rotate-key", "--data-keys"),
        ("rotate-key", "--new-key", "another-key-of-the-tests-0001"),
        ("access", "grant", "g", "--allow", "audit"),
        ("replay", "--at", "0", "--reveal", "--reason", "r", "--yes"),
    ],
    ids=" ".join,
)
def test_before_that_no_command_appends(ledger: Ledger, words: tuple[str, ...]) -> None:
    """A tool would write a second history over the first, as a service would."""
    (ledger.file.parent / "erasures").write_text("")
    code, _, err = ledger.command(*words)
    assert code == 1
    assert "the newest ones are gone" in err
    assert ledger.database.fetch("SELECT count(*) FROM ledger.events") == [(250,)]


def test_it_is_not_done_twice(ledger: Ledger) -> None:
    """Once the loss is recorded there is none: the second run says so and records nothing."""
    assert ledger.command("restored", "--reason", "r")[0] == 0
    code, _, err = ledger.command("restored", "--reason", "r")
    assert code == 1
    assert "extends every checkpoint that is known" in err
    assert ledger.database.fetch("SELECT count(*) FROM ledger.events") == [(251,)]


def test_the_old_name_is_not_taken_again(ledger: Ledger) -> None:
    """Two histories under one name is what a log must never have."""
    code, _, err = ledger.command("restored", "--reason", "r", key=OLD)
    assert code == 2
    assert "the log that has ended" in err
    assert ledger.database.fetch("SELECT count(*) FROM ledger.events") == [(250,)]


def test_a_ledger_that_lost_nothing_keeps_its_name(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Nothing is recorded, and the exit status says that nothing was done."""
    record(database, keyring, upsert("a"))
    make(database, OLD)
    env = {**settings(database), "LEDGER_SIGNING_KEY": SIGNING_KEY}
    done = run("restored", "--reason", "r", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "nothing was recorded" in done.stderr
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(2,)]


def test_died_before_the_event_was_committed(ledger: Ledger, keyring: Keyring) -> None:
    """The ledger is refused as before; the next run does it."""
    ledger.database.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;"
        "CREATE TRIGGER die BEFORE INSERT ON ledger.events EXECUTE FUNCTION die()"
    )
    code, _, err = ledger.command("restored", "--reason", "r")
    assert code == 2
    assert "Traceback" not in err
    ledger.database.execute("DROP TRIGGER die ON ledger.events")
    with pytest.raises(LedgerMismatchError):
        continuing(ledger.database, keyring, ledger.file)
    assert ledger.command("restored", "--reason", "r")[0] == 0


def test_died_after_the_event_was_committed(ledger: Ledger, keyring: Keyring) -> None:
    """The event excuses the loss; a service appends, and its checkpointer signs the new log."""
    ledger.database.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;"
        "CREATE TRIGGER die BEFORE UPDATE ON ledger.published EXECUTE FUNCTION die()"
    )
    code, _, err = ledger.command("restored", "--reason", "r")
    assert code == 2
    assert "Traceback" not in err
    ledger.database.execute("DROP TRIGGER die ON ledger.published")
    continuing(ledger.database, keyring, ledger.file)
    assert make(ledger.database, NEW).size == 252


@pytest.fixture
def elsewhere(ledger: Ledger) -> Path:
    """The checkpoint of 300, kept by curl and by nobody else; the ledger knows of 250."""
    kept = ledger.file.with_name("kept-by-curl")
    ledger.file.rename(kept)
    return kept


def test_a_checkpoint_that_was_kept_elsewhere_counts(
    ledger: Ledger, elsewhere: Path, keyring: Keyring
) -> None:
    """What curl kept is as good as what a service keeps: the loss is found, and recorded."""
    verifiers = f"{VERIFIER_KEY} {OLD.verifier}"
    words = ("restored", "--reason", "r", "--since", str(elsewhere))
    code, out, _ = ledger.command(*words, LEDGER_VERIFIER_KEY=verifiers)
    assert code == 0
    assert "Lost are the positions 250 to 299." in out
    assert "Recorded as ledger.restored at position 250" in out
    continuing(ledger.database, keyring, ledger.file)
    elsewhere.rename(ledger.file)  # the old one is excused for good
    continuing(ledger.database, keyring, ledger.file)


@pytest.mark.parametrize(
    ("content", "keys", "said"),
    [
        (None, f"{VERIFIER_KEY} {OLD.verifier}", "does not exist"),
        ("", f"{VERIFIER_KEY} {OLD.verifier}", "holds no checkpoint"),
        ("<html>404</html>", f"{VERIFIER_KEY} {OLD.verifier}", "holds no checkpoint"),
        ("as it is", VERIFIER_KEY, "keep the earlier ones behind the new one"),
        ("another root", f"{VERIFIER_KEY} {OLD.verifier}", "is not of this text"),
    ],
)
def test_a_file_that_vouches_for_nothing_is_refused(
    ledger: Ledger, elsewhere: Path, content: str | None, keys: str, said: str
) -> None:
    """And nothing is recorded: the wrong file is no reason to end a log."""
    whole = elsewhere.read_text()
    match content:
        case None:
            elsewhere.unlink()
        case "another root":
            elsewhere.write_text(whole.replace("\n300\n", "\n301\n"))
        case "as it is":
            pass
        case _:
            elsewhere.write_text(content)
    words = ("restored", "--reason", "r", "--since", str(elsewhere))
    code, _, err = ledger.command(*words, LEDGER_VERIFIER_KEY=keys)
    assert code != 0
    assert said in err
    assert "Traceback" not in err
    assert ledger.database.fetch("SELECT count(*) FROM ledger.events") == [(250,)]


def test_a_second_history_is_not_excused(ledger: Ledger, elsewhere: Path, keyring: Keyring) -> None:
    """Who wrote on first, and only then looked, has two histories: that is said, not recorded."""
    tamper(
        ledger.database,
        "DELETE FROM ledger.checkpoints WHERE size = 300",
        "UPDATE ledger.published SET size = 250",
    )
    record(ledger.database, keyring, *[lookup("a")] * 60)
    words = ("restored", "--reason", "r", "--since", str(elsewhere))
    code, _, err = ledger.command(*words, LEDGER_VERIFIER_KEY=f"{VERIFIER_KEY} {OLD.verifier}")
    assert code == 1
    assert "Restore a backup again" in err
    assert ledger.database.fetch("SELECT count(*) FROM ledger.events") == [(310,)]


def test_while_a_service_runs_nothing_is_recorded(ledger: Ledger) -> None:
    """The step before was left out: it would write into the log that ends."""
    mine = CheckpointFile(ledger.file).facts.new_mark()
    code, _, err = ledger.command("restored", "--reason", "r")
    assert code != 0
    assert "stop every service first" in err
    mine.close()
    assert ledger.command("restored", "--reason", "r")[0] == 0


def stop(ledger: Ledger) -> None:
    """As a service does that notices."""
    Halt(CheckpointFile(ledger.file)).stop(LedgerMismatchError("the newest ones are gone"))


def test_it_ends_the_stop_and_nothing_else_does(ledger: Ledger, keyring: Keyring) -> None:
    """Not a start, nor that the ledger fits again; what else is kept there stays."""
    facts = CheckpointFile(ledger.file).facts
    facts.change(lambda _: KeptFacts(authenticated_from=AuthenticatedFrom(7, "id")))
    stop(ledger)
    for _ in range(2):
        with pytest.raises(LedgerMismatchError, match="stopped since"):
            continuing(ledger.database, keyring, ledger.file)
    assert ledger.command("erase", "a", "ssh", "--reason", "r", "--yes")[0] != 0
    assert ledger.command("restored", "--reason", "r")[0] == 0
    assert facts.read() == KeptFacts(authenticated_from=AuthenticatedFrom(7, "id"))
    continuing(ledger.database, keyring, ledger.file)


def test_where_nothing_is_missing_it_ends_the_stop_and_records_nothing(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """The events were brought back from somewhere: a person says so by running it."""
    record(database, keyring, upsert("a"))
    ledger = Ledger(database, tmp_path / "checkpoint")
    CheckpointFile(ledger.file).replace(None, SignedCheckpoint.sign(make(database, NEW), NEW))
    stop(ledger)
    with pytest.raises(LedgerMismatchError, match="stopped since"):
        continuing(database, keyring, ledger.file)
    code, out, _ = ledger.command("restored", "--reason", "r")
    assert code == 0
    assert "nothing was recorded. The stop beside LEDGER_CHECKPOINT_FILE is ended." in out
    continuing(database, keyring, ledger.file)
    assert ledger.command("restored", "--reason", "r")[0] == 1


def test_an_earlier_checkpoint_of_the_old_name_still_has_to_fit(
    ledger: Ledger, keyring: Keyring
) -> None:
    """What lies before the restore was not lost: an event is no leave to rewrite it."""
    assert ledger.command("restored", "--reason", "r")[0] == 0
    other = SignedCheckpoint.sign(Checkpoint("log.example", 200, bytes(32)), OLD)
    ledger.file.write_text(str(other))
    with pytest.raises(LedgerMismatchError, match="is of other events"):
        continuing(ledger.database, keyring, ledger.file)


def test_proof_prints_a_receipt(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """Of a published position, and says what is missing for another one."""
    record(database, keyring, upsert("a"))
    env = settings(database)
    unsigned = run("proof", "1", cwd=tmp_path, env=env)
    assert unsigned.returncode == 1
    assert "LEDGER_SIGNING_KEY" in unsigned.stderr
    make(database, NEW)
    done = run("proof", "1", cwd=tmp_path, env=env)
    receipt = Receipt.parse(done.stdout)
    receipt.verify([VerifierKey.parse(VERIFIER_KEY)])
    assert (receipt.position, done.returncode) == (1, 0)
    beyond = run("proof", "2", cwd=tmp_path, env=env)
    assert (beyond.returncode, beyond.stdout) == (1, "")
    assert "below 2" in beyond.stderr
    assert run("proof", "-1", cwd=tmp_path, env=env).returncode == 2
    assert run("proof", str(2**63), cwd=tmp_path, env=env).returncode == 2
