"""`secrets-broker witness`: a real witness, a real ledger, and what can go wrong between them."""

import json
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.publishing.cosigning import (
    WitnessDisagreesError,
    WitnessError,
    cosign,
    submittable,
)
from secrets_broker.ledger.publishing.witness_client import Witness
from secrets_broker.ledger.publishing.witness_client import submit as post
from secrets_broker.ledger.transparency_log.add_checkpoint import AddCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import Published, read_published
from secrets_broker.ledger.transparency_log.merkle import EMPTY_ROOT
from secrets_broker.ledger.transparency_log.note import (
    COSIGNATURE,
    Note,
    Signature,
    SigningKey,
    parse_signatures,
)
from secrets_broker.outbound.client import UnreachableError
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.http.conftest import serving
from tests.ledger.checkpoints import KEY as LOG
from tests.ledger.checkpoints import publish_checkpoint
from tests.ledger.helpers import lookup, record, run, upsert
from tests.ports import free_port
from tests.tools.command_line import run as command
from tests.tools.command_line import settings
from tests.tools.witness.witness_process import Running, answering, dripping, started, witnessing
from tests.waiting import until

KEY = SigningKey("witness.example/w1", bytes(32), COSIGNATURE)
FOREIGN = SigningKey("witness.example/w2", bytes(range(32)), COSIGNATURE)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Running]:
    """A witness that knows the tests' log."""
    with witnessing(tmp_path / "state", "--log", str(LOG.verifier)) as running:
        yield running


@pytest.fixture
def ledger(database: Database, keyring: Keyring) -> Database:
    """A ledger of five events."""
    record(database, keyring, upsert("a"), *[lookup("a")] * 3)
    return database


def other_ledger(cluster: Cluster, keyring: Keyring, events: int) -> Iterator[Database]:
    """Another ledger under the same name: a rewritten one, or one from an older backup."""
    with fresh_database(cluster, TEMPLATE) as made:
        record(made, keyring, *[upsert("another")] * (events - 1))
        publish_checkpoint(made)
        yield made


def submit(
    database: Database, running: Running, cwd: Path, *options: str
) -> tuple[int, dict[str, object]]:
    """`secrets-broker witness URL`: its exit status, and what it reports of that witness."""
    line = ("witness", running.url, "--verifier-key", str(running.key), "--json", *options)
    done = command(*line, cwd=cwd, env=settings(database))
    assert done.stdout, done.stderr
    (outcome,) = json.loads(done.stdout)
    return done.returncode, outcome


def kept(database: Database) -> list[tuple[object, ...]]:
    """What cosignatures there are."""
    return database.fetch("SELECT size, name FROM ledger.cosignatures ORDER BY size, name")


def published_note(database: Database) -> Note:
    """The published checkpoint, with its cosignatures."""

    async def read() -> Note:
        async with await connect(database.service_url) as connection:
            signed = (await read_published(connection)).checkpoint
            assert signed is not None
            return signed.note

    return run(read())


def test_a_checkpoint_is_cosigned_and_published_with_it(
    ledger: Database, keyring: Keyring, witness: Running, tmp_path: Path
) -> None:
    """The first one, the next one, and the same one again; each verifies with both keys."""
    for more, size in ((0, 5), (3, 8)):
        if more:
            record(ledger, keyring, *[lookup("a")] * more)
        publish_checkpoint(ledger)
        for _ in range(2):
            status, outcome = submit(ledger, witness, tmp_path)
            assert (status, outcome["cosigned"], outcome["size"]) == (0, True, size)
        keys = [LOG.verifier, witness.key]
        assert published_note(ledger).verified_by(keys) == keys
    assert kept(ledger) == [(5, witness.key.name), (8, witness.key.name)]
    assert f"{LOG.name} 8" in witness.ask("GET", "/").body.decode()


def test_a_witness_that_is_further_says_so_and_is_followed(
    ledger: Database, witness: Running, tmp_path: Path
) -> None:
    """409 with a size that the ledger has: the proof is made from there."""
    first = publish_checkpoint(ledger, 2)
    assert witness.add(AddCheckpoint(0, (), first)).status == 200
    publish_checkpoint(ledger, 5)
    assert kept(ledger) == []
    assert submit(ledger, witness, tmp_path)[0] == 0
    assert kept(ledger) == [(5, witness.key.name)]


@pytest.mark.parametrize(("events", "words"), [(3, "behind"), (5, "another root"), (8, "proof")])
def test_a_ledger_that_went_back_or_was_rewritten_is_told(
    ledger: Database,
    keyring: Keyring,
    cluster: Cluster,
    witness: Running,
    tmp_path: Path,
    events: int,
    words: str,
) -> None:
    """The witness has cosigned 5 events; the ledger is now shorter, another, or has gone on."""
    publish_checkpoint(ledger)
    assert submit(ledger, witness, tmp_path)[0] == 0
    for other in other_ledger(cluster, keyring, events):
        status, outcome = submit(other, witness, tmp_path)
        assert (status, outcome["disagrees"], outcome["cosigned"]) == (3, True, False)
        assert words in str(outcome["problem"])
        assert kept(other) == []
    found = {path.name.partition("-")[0] for path in (witness.state / "evidence").iterdir()}
    assert found == {{3: "behind", 5: "contradiction", 8: "inconsistent"}[events]}
    (path,) = (witness.state / "evidence").glob("*.cosigned")
    assert Note.parse(path.read_text()).verified_by([LOG.verifier]) == [LOG.verifier]


def test_a_witness_that_does_not_know_the_log(ledger: Database, tmp_path: Path) -> None:
    """404 for another log's name, 403 for another key of the same name; both say what to do."""
    publish_checkpoint(ledger)
    for log, words in (
        (SigningKey("other.example", bytes(32)), "HTTP 404: it does not know the log"),
        (SigningKey(LOG.name, bytes(32)), "HTTP 403: it does not accept the log's signature"),
    ):
        with witnessing(tmp_path / words[5:8], "--log", str(log.verifier)) as running:
            status, outcome = submit(ledger, running, tmp_path)
        assert status == 1
        assert words in str(outcome["problem"])


def test_the_witness_answers_as_the_specification_says(ledger: Database, witness: Running) -> None:
    """Status, body and media type over HTTP, for what a client of ours never sends."""
    signed = publish_checkpoint(ledger)
    assert witness.ask("POST", "/add-checkpoint", b"old 1\n").status == 400
    assert witness.ask("POST", "/add-checkpoint", b"old 0\n\n" + b"x" * 300_000).status == 413
    assert witness.add(AddCheckpoint(6, (), signed)).status == 400
    refused = witness.add(AddCheckpoint(0, (bytes(32),), signed))
    assert refused.status == 422
    conflict = witness.add(AddCheckpoint(1, (), signed))
    assert (conflict.status, conflict.body) == (409, b"0\n")
    assert conflict.headers["Content-Type"] == "text/x.tlog.size"
    done = witness.add(AddCheckpoint(0, (), signed))
    (line,) = parse_signatures(done.body.decode())
    assert witness.key.verifies(signed.note.text, line.signature)
    assert witness.ask("GET", "/add-checkpoint").status == 405
    assert witness.ask("GET", "/nothing").status == 404


def test_its_state_outlives_a_crash(ledger: Database, tmp_path: Path) -> None:
    """kill -9, and the next start has the same key and goes back to nothing smaller."""
    log = ("--log", str(LOG.verifier))
    small, large = publish_checkpoint(ledger, 2), publish_checkpoint(ledger, 5)
    with witnessing(tmp_path / "state", *log) as before:
        key = before.key
        assert before.add(AddCheckpoint(0, (), large)).status == 200
        before.kill()
    with witnessing(tmp_path / "state", *log) as after:
        assert after.key == key
        conflict = after.add(AddCheckpoint(0, (), small))
        assert (conflict.status, conflict.body) == (409, b"5\n")
        assert submit(ledger, after, tmp_path)[0] == 0


def test_it_ends_in_order(tmp_path: Path) -> None:
    """On SIGTERM."""
    with witnessing(tmp_path / "state", "--log", str(LOG.verifier)) as running:
        running.process.terminate()
        assert running.process.wait(timeout=20) == 0


def test_the_key_is_made_once_for_its_owner_alone(witness: Running) -> None:
    """Mode 0600; it is in no line of the log."""
    path = witness.state / "witness.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().split("+")[-1].strip() not in witness.log.read_text()


def test_a_key_of_ones_own(tmp_path: Path) -> None:
    """From `witness keygen`; a log's key is refused, since it would sign what logs sign."""
    made = command("witness", "keygen", "w.example/1", cwd=tmp_path)
    private, public = (line.partition("=")[2] for line in made.stdout.splitlines())
    path = tmp_path / "key"
    path.write_text(private)
    path.chmod(0o600)
    log = ("--log", str(LOG.verifier), "--key-file", str(path))
    with witnessing(tmp_path / "state", *log) as running:
        assert str(running.key) == public
    path.write_text(LOG.private_text())
    done = command("witness", "serve", *log, cwd=tmp_path)
    assert (done.returncode, "a log's key" in done.stderr) == (2, True)


def test_a_witness_without_its_heads_does_not_start(tmp_path: Path) -> None:
    """With its key and without what it cosigned it could cosign another history."""
    log = ("--log", str(LOG.verifier))
    with witnessing(tmp_path / "state", *log):
        pass
    (tmp_path / "state/heads.sqlite").unlink()
    done = command("witness", "serve", "--state", "state", *log, cwd=tmp_path)
    assert done.returncode == 2
    assert "what was cosigned is not known any more" in done.stderr


def test_the_log_keys_are_checked_at_the_start(tmp_path: Path) -> None:
    """None, a mistyped one, and a witness's."""
    for value, words in (
        ("", "WITNESS_LOGS not set"),
        ("log+00000000+AAAA", "WITNESS_LOGS: "),
        (str(KEY.verifier), "is a witness's"),
    ):
        done = command("witness", "serve", cwd=tmp_path, env={"WITNESS_LOGS": value})
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def cosign_at(database: Database, url: str, key: SigningKey = KEY) -> None:
    """Submit the published checkpoint to that URL."""

    async def go() -> None:
        async with await connect(database.service_url) as connection:
            signed = (await read_published(connection)).checkpoint
            assert signed is not None
            await cosign(connection, Witness.parse(url, str(key.verifier)), signed)

    run(go())


SIZE = {"Content-Type": "text/x.tlog.size"}


@pytest.mark.parametrize(
    ("status", "body", "headers", "words"),
    [
        (200, b"", {}, "no signature lines"),
        (200, b"<html>\xff</html>", {}, "no signature lines"),
        (200, b"x" * 200_000, {}, "longer than"),
        (200, str(FOREIGN.cosign("log\n", 1)).encode(), {}, "no cosignature that verifies"),
        (200, str(KEY.cosign("another text\n", 1)).encode(), {}, "no cosignature that verifies"),
        (200, str(Signature(KEY.name, KEY.verifier.key_id, b"x")).encode(), {}, "no cosignature"),
        (200, b"short", {"Content-Length": "10"}, "ended early"),
        (302, b"", {"Location": "http://127.0.0.1:1/"}, "HTTP 302"),
        (500, b"", {}, "HTTP 500"),
        (409, b"3\n", SIZE, "HTTP 409, without another size"),
        (409, b"three\n", SIZE, "HTTP 409, without another size"),
        (409, b"3", SIZE, "HTTP 409, without another size"),
        (409, b"9\n", {"Content-Type": "text/plain"}, "HTTP 409, without another size"),
    ],
)
def test_what_a_witness_may_answer_instead(
    ledger: Database, status: int, body: bytes, headers: dict[str, str], words: str
) -> None:
    """Rubbish is a WitnessError that says what came; it is no finding, and nothing is kept."""
    publish_checkpoint(ledger)
    with answering(status, body, headers) as url, pytest.raises(WitnessError, match=words) as told:
        cosign_at(ledger, url)
    assert not isinstance(told.value, WitnessDisagreesError)
    assert kept(ledger) == []


def test_only_the_configured_keys_cosignature_is_kept(ledger: Database) -> None:
    """Beside it there may be others, which nobody asked for."""
    text = publish_checkpoint(ledger).note.text
    good = KEY.cosign(text, 1_700_000_000)
    misnamed = replace(good, name="witness.example/another")
    lines = f"{misnamed}{FOREIGN.cosign(text, 1_700_000_000)}{good}"
    with answering(200, lines.encode()) as url:
        cosign_at(ledger, url)
    assert kept(ledger) == [(5, KEY.name)]


def test_a_witness_that_is_down_or_never_ends_is_given_up(ledger: Database) -> None:
    """Its time is bounded as a whole, however often a byte comes."""
    publish_checkpoint(ledger)
    with pytest.raises(WitnessError, match="Connection refused"):
        cosign_at(ledger, f"http://127.0.0.1:{free_port()}")
    with dripping() as url, pytest.raises(UnreachableError, match="no whole answer"):
        run(post(Witness.parse(url, str(KEY.verifier)), b"", seconds=0.3))


def test_one_witness_that_is_down_does_not_keep_the_others(
    ledger: Database, witness: Running, tmp_path: Path
) -> None:
    """All of LEDGER_WITNESSES are asked; exit status 1 says that one did not cosign."""
    publish_checkpoint(ledger)
    down = f"http://127.0.0.1:{free_port()}/w {KEY.verifier}"
    env = settings(ledger) | {"LEDGER_WITNESSES": f"{down}\n{witness.url}/ {witness.key}"}
    done = command("witness", "--json", cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert [one["cosigned"] for one in json.loads(done.stdout)] == [False, True]
    one = command("witness", witness.url, cwd=tmp_path, env=env)  # its key is in the setting
    assert (one.returncode, one.stdout) == (
        0,
        f"{witness.key.name} cosigned size 5 of {LOG.name}\n",
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("https://w.example/", "LEDGER_WITNESSES: each witness is a URL and a verifier key"),
        (f"ftp://w.example {KEY.verifier}", "LEDGER_WITNESSES: the URL of a witness begins"),
        (f"http://mArKeR@w {KEY.verifier}", "LEDGER_WITNESSES: the URL of a witness has"),
        (f"http://w?mArKeR {KEY.verifier}", "LEDGER_WITNESSES: the URL of a witness has"),
        (f"http://w {LOG.verifier}", "is not a witness's"),
        ("http://w mArKeR", "LEDGER_WITNESSES: a verifier key looks like"),
        (f"http://w {KEY.verifier} http://v {KEY.verifier}", "two witnesses have the same key"),
    ],
)
def test_the_setting_is_checked(ledger: Database, tmp_path: Path, value: str, words: str) -> None:
    """By the command and at the service's start, without an echo of what may be a secret."""
    for line in ("witness", "serve"):
        done = command(line, cwd=tmp_path, env=settings(ledger) | {"LEDGER_WITNESSES": value})
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
        assert "mArKeR" not in done.stderr


def test_a_key_for_each_url(ledger: Database, tmp_path: Path) -> None:
    """A URL that nobody gave a key for is an error; so is no witness at all."""
    for line, words in (
        (
            ("http://w", "http://v", "--verifier-key", str(KEY.verifier)),
            "one --verifier-key for each URL",
        ),
        (("http://w",), "LEDGER_WITNESSES has no such URL"),
        ((), "LEDGER_WITNESSES not set"),
    ):
        done = command("witness", *line, cwd=tmp_path, env=settings(ledger))
        assert (done.returncode != 0, words in done.stderr) == (True, True), done.stderr


def test_without_a_checkpoint_there_is_nothing_to_cosign(ledger: Database, tmp_path: Path) -> None:
    """It says what makes one."""
    line = ("witness", "http://127.0.0.1:1", "--verifier-key", str(KEY.verifier))
    done = command(*line, cwd=tmp_path, env=settings(ledger))
    assert (done.returncode, "LEDGER_SIGNING_KEY" in done.stderr) == (2, True)


def test_the_service_submits_each_checkpoint(
    ledger: Database, witness: Running, tmp_path: Path
) -> None:
    """By itself, to every witness; one that is down is told in the log and holds nobody up."""
    down = f"http://127.0.0.1:{free_port()} {KEY.verifier}"
    setting = {"LEDGER_WITNESSES": f"{down} {witness.url} {witness.key}"}
    log = tmp_path / "service.log"
    with serving(ledger.service_url, log, settings=setting) as service:
        for size in (2, 5):
            publish_checkpoint(ledger, size)
            _until(ledger, (size, witness.key.name))
        assert service.lookup(host="nobody", purpose="ssh").status == 404
    assert "witness_failed" in log.read_text()
    assert kept(ledger) == [(2, witness.key.name), (5, witness.key.name)]


def test_one_process_submits_and_another_takes_over(
    ledger: Database, witness: Running, tmp_path: Path
) -> None:
    """Of two workers one holds the lock; when it is killed, somebody else goes on."""
    setting = {"LEDGER_WITNESSES": f"{witness.url} {witness.key}"}
    holders = """
        SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND granted AND datname = current_database()
    """
    with serving(ledger.service_url, tmp_path / "service.log", settings=setting) as service:
        publish_checkpoint(ledger, 2)
        _until(ledger, (2, witness.key.name))
        ((name,),) = ledger.fetch(holders)
        holder = int(name.rpartition(" ")[2])
        assert holder in service.workers()
        os.kill(holder, signal.SIGKILL)
        publish_checkpoint(ledger, 5)
        _until(ledger, (5, witness.key.name))


def test_a_standby_submits_nothing() -> None:
    """It may be behind, which a witness would take for a ledger that was set back."""
    signed = SignedCheckpoint.sign(Checkpoint(LOG.name, 0, EMPTY_ROOT), LOG)
    assert submittable(Published(in_recovery=True, size=0, checkpoint=signed)) is None
    assert submittable(Published(in_recovery=False, size=0, checkpoint=signed)) is signed


def test_the_service_tells_of_a_witness_that_disagrees(
    ledger: Database, keyring: Keyring, cluster: Cluster, witness: Running, tmp_path: Path
) -> None:
    """As an error in its log, without an end."""
    assert witness.add(AddCheckpoint(0, (), publish_checkpoint(ledger))).status == 200
    log = tmp_path / "service.log"
    for other in other_ledger(cluster, keyring, 3):
        setting = {"LEDGER_WITNESSES": f"{witness.url} {witness.key}"}
        with serving(other.service_url, log, settings=setting):
            until(lambda: "witness_disagrees" in log.read_text())


def _until(database: Database, row: tuple[object, ...]) -> None:
    until(lambda: row in kept(database))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("ignored", [False, True], ids=["", "background"])
def test_watch_goes_on_until_it_is_interrupted(
    ledger: Database, witness: Running, tmp_path: Path, number: signal.Signals, ignored: bool
) -> None:
    """Each new checkpoint, as a line; then the end, with 0 where all was cosigned.

    Also where a shell put it into the background, which has SIGINT ignored.
    """
    line = ["witness", "--watch", "--json", witness.url, "--verifier-key", str(witness.key)]
    publish_checkpoint(ledger, 2)
    with started(line, tmp_path, settings(ledger), sigint_ignored=ignored) as process:
        _until(ledger, (2, witness.key.name))
        publish_checkpoint(ledger, 5)
        _until(ledger, (5, witness.key.name))
        assert process.stdout is not None
        told = process.stdout.readline() + process.stdout.readline()
        os.kill(process.pid, number)
        process.wait(timeout=60)
    assert [json.loads(text)["size"] for text in told.splitlines()] == [2, 5]
    assert process.returncode == 0
