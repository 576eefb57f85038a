"""docs/backup.md, followed to the letter on a cluster with passwords."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import SigningKey
from tests.deploy.asking import ask
from tests.deploy.conftest import as_production
from tests.deploy.production import DEPLOY, Production
from tests.pages.shell import blocks
from tests.ports import free_port
from tests.tools.postgres.helpers import nobody
from tests.waiting import until

STEPS = (
    "path",
    "archive",
    "see",
    "backup",
    "outside",
    "restore",
    "verify",
    "look",
    "place",
    "rename",
    "erase",
    "end",
)
OTHER = SigningKey("another.example", bytes(range(32)))
DEBIAN = Path("/usr/lib/postgresql")


# Until the archive has a piece of the first try's history, which the second must not follow.
_ARCHIVE_TIMELINE_2 = """
psql -d postgres -Atc 'SELECT pg_switch_wal()'
until ls "$ARCHIVE" | grep -qE '^00000002[0-9A-F]{16}$'; do sleep 0.1; done
"""


class Operator:
    """Follows the page, with the page's variables."""

    def __init__(self, production: Production) -> None:
        found = blocks("backup.md")
        assert len(found) == len(STEPS)
        self.steps = dict(zip(STEPS, found, strict=True))
        self.production = production
        self.outside = production.folder / "outside"
        self.outside.mkdir()
        if production.broker_account:
            account = production.broker_account
            os.chown(self.outside, account.uid, account.gid)
        self.restored = production.home / "restored"
        self.page = {
            "ARCHIVE": production.home / "archive",
            "BACKUPS": production.home / "backups",
            "OUTSIDE": self.outside,
            "RESTORED": self.restored,
        }

    def database(self, step: str, *, fails: bool = False, **more: object) -> str:
        """A step on the database's machine; in Debian behind that of the path."""
        script = self.steps[step]
        if self.production.config_apart and DEBIAN.exists():
            script = self.steps["path"] + script
        return self.production.as_postgres(script, fails=fails, **{**self.page, **more})

    def broker(self, step: str, *, fails: bool = False, **more: object) -> str:
        """A step on the broker's machine."""
        return self.production.on_broker(self.steps[step], fails=fails, **self.page, **more)

    def backup(self) -> Path:
        """What the backup's step made: one, and whole."""
        (made,) = (self.production.home / "backups").iterdir()
        assert "incomplete" not in made.name
        return made

    def clock(self) -> str:
        """The database's time, between two commits."""
        with psycopg.connect(self.production.secret("database_url")) as connection:
            ((when,),) = connection.execute("SELECT clock_timestamp()::text").fetchall()
            return str(when)

    def setting(self, name: str) -> str:
        """What the broker's .env says."""
        lines = (self.production.broker / ".env").read_text().splitlines()
        return next(line for line in lines if line.startswith(f"{name}=")).partition("=")[2]

    @contextmanager
    def service(self, until: int = 200) -> Iterator[str]:
        """The URL of a service on the broker's machine, whose /health/ready is that."""
        log = self.production.broker / "serve.log"
        port = free_port()
        command = [str(self.production.tools / "secrets-broker"), "serve", "--port", str(port)]
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, "--workers", "1"],
                cwd=self.production.broker,
                env={"PATH": "/usr/bin:/bin"},
                stdout=output,
                stderr=output,
                **self.production.as_broker(),
            )
        url = f"http://127.0.0.1:{port}"
        try:
            self._wait(url, until)
            yield url
        finally:
            process.terminate()
            process.wait(10)

    def _wait(self, url: str, until: int) -> None:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            with suppress(OSError):
                try:
                    status = urllib.request.urlopen(f"{url}/health/ready", timeout=5).status
                except urllib.error.HTTPError as error:
                    status = error.code
                if status == until:
                    return
            time.sleep(0.05)
        pytest.fail((self.production.broker / "serve.log").read_text())

    def published(self, url: str, size: int) -> None:
        """Wait for the checkpoint of that size."""
        headers = {"Authorization": f"Bearer {self.setting('AUDITOR_KEY')}"}
        request = urllib.request.Request(f"{url}/log/checkpoint", headers=headers)
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            with suppress(urllib.error.HTTPError), urllib.request.urlopen(request) as answer:
                if int(answer.read().split(b"\n")[1]) == size:
                    return
            time.sleep(0.05)
        pytest.fail(f"no checkpoint of size {size}")


@pytest.fixture(
    params=[
        "settings in the data folder",
        pytest.param("as Debian has it", marks=pytest.mark.long),
    ]
)
def operator(request: pytest.FixtureRequest, bin_dir: Path | None) -> Iterator[Operator]:
    """Whose checkpoint is kept by curl and by nothing else.

    In Debian PostgreSQL's programs are not on the PATH, and the broker is an ordinary user's.
    """
    apart = request.param == "as Debian has it"
    newest = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    with as_production(
        newest[-1].parent if apart and newest else bin_dir,
        broker_account=nobody() if apart and os.geteuid() == 0 else None,
        config_apart=apart,
    ) as production:
        yield Operator(production)


@dataclass(frozen=True, slots=True)
class Mishap:
    """When it was, and what was right until then."""

    too_early: str
    when: str
    key: str


def live(production: Production) -> dict[str, int]:
    """The version of each credential that is there."""
    rows = json.loads(production.broker_run("replay", "--at", "0m", "--json"))
    return {row["host"]: row["version"] for row in rows}


def until_a_mishap(operator: Operator) -> Mishap:
    """A base backup with writes before and after; then a delete, an update and an erasure."""
    operator.database("archive")
    operator.database("see")
    with operator.service() as url:
        key = operator.setting("INTERNAL_KEY")
        for host in ("kept", "erased", "changed"):
            ask(url, key, "upsert", host=host, purpose="ssh", password=f"first-of-{host}")
        operator.database("backup")
        ask(url, key, "upsert", host="after", purpose="ssh", password="after-the-backup")
        too_early = operator.clock()
        ask(url, key, "upsert", host="changed", purpose="ssh", password="second-of-changed")
        operator.published(url, 6)
        operator.broker("outside", URL=url)
        (operator.outside / "checkpoint").rename(operator.outside / "before")
        when = operator.clock()
        ask(url, key, "delete", host="kept", purpose="ssh")
        ask(url, key, "upsert", host="changed", purpose="ssh", password="a-mistake")
        operator.production.broker_run("erase", "erased", "ssh", "--reason", "GDPR-1", "--yes")
        operator.published(url, 9)
        operator.broker("outside", URL=url)
    return Mishap(too_early, when, key)


def restore(operator: Operator, mishap: Mishap) -> None:
    """At the second try: the first one's moment was the wrong one."""
    first = operator.production.home / "first-try"
    operator.database("restore", BACKUP=operator.backup(), WHEN=mishap.too_early, RESTORED=first)
    assert live(operator.production) == {"kept": 1, "erased": 1, "changed": 1, "after": 1}
    operator.production.as_postgres(_ARCHIVE_TIMELINE_2, ARCHIVE=operator.page["ARCHIVE"])
    operator.production.stop(first)
    operator.database("restore", BACKUP=operator.backup(), WHEN=mishap.when)
    assert live(operator.production) == {"kept": 1, "erased": 1, "changed": 2, "after": 1}


def check_mistakes_before_the_restore(operator: Operator, mishap: Mishap) -> None:
    """Each stops where it is made, and nothing was touched by then."""
    backup = operator.backup()
    here = {"BACKUP": backup, "WHEN": mishap.when}
    with operator.service():  # nobody stopped it
        said = operator.database("restore", fails=True, **here)
        assert "stop every service" in said
    wrong = {**here, "BACKUP": backup.parent}
    assert "is no base backup" in operator.database("restore", fails=True, **wrong)
    tampered = operator.production.home / "tampered"
    operator.production.as_postgres(
        'cp -a "$FROM" "$TO"; printf x >>"$TO/global/pg_control"', FROM=backup, TO=tampered
    )
    said = operator.database("restore", fails=True, **{**here, "BACKUP": tampered})
    assert "damaged or changed: take another base backup" in said
    shutil.rmtree(tampered)
    for when in ("2020-01-01 00:00:00+00", "yesterday, or so"):
        said = operator.database("restore", fails=True, **{**here, "WHEN": when})
        assert "has to be later: take an older base backup" in said
    with psycopg.connect(operator.production.secret("database_url")):
        pass  # it runs as before
    assert not operator.restored.exists()


def check_that_nothing_goes_on_silently(operator: Operator) -> None:
    """Who kept a checkpoint from after the moment is told; so are the service and the commands."""
    production = operator.production
    checkpoint = operator.outside / "checkpoint"
    before = ("verify", "--json", "--since", str(operator.outside / "before"))
    found = json.loads(production.broker_run(*before))
    assert (found["ok"], found["size"]) == (True, 6)
    newest = checkpoint.read_bytes()
    checkpoint.write_bytes(b"another.example\n" + newest.partition(b"\n")[2])
    assert "is not one of" in operator.broker("verify", fails=True)
    assert "LEDGER_CHECKPOINT_FILE" not in (production.broker / ".env").read_text()
    checkpoint.write_bytes(newest)
    said = operator.broker("verify", fails=True)
    assert "since" in said
    assert "3 of the newest are missing" in said
    assert json.loads(production.broker_run(*before, fails=True))["first_bad"] == 6
    assert live(production) == {"kept": 1, "erased": 1, "changed": 2, "after": 1}


def check_that_no_step_can_be_left_out(operator: Operator) -> None:
    """The step of the new name left out: whatever comes next says what to run."""
    production = operator.production
    with operator.service(until=503):
        log = production.broker / "serve.log"
        until(lambda: "ledger_mismatch" in log.read_text(), "the log does not say why")
    assert "secrets-broker restored" in operator.broker("erase", fails=True, REASON="too soon")
    assert "3 of the newest are missing" in operator.broker("end", fails=True)
    with psycopg.connect(production.secret("migration_database_url")) as connection:
        assert connection.execute("SELECT count(*) FROM ledger.events").fetchall() == [(6,)]


def check_mistakes_of_the_new_name(operator: Operator, reason: str) -> None:
    """The old name again; and a checkpoint that is of another log."""
    origin = operator.setting("LEDGER_ORIGIN")
    before = (operator.production.broker / ".env").read_text()
    said = operator.broker("rename", fails=True, NAME=origin, REASON=reason)
    assert f"this ledger is {origin} already" in said
    assert (operator.production.broker / ".env").read_text() == before
    wrong = operator.outside / "wrong"
    wrong.write_text(str(SignedCheckpoint.sign(Checkpoint("another.example", 9, bytes(32)), OTHER)))
    words = ("restored", "--reason", reason, "--since", str(wrong))
    assert "is of another log" in operator.production.broker_run(*words, fails=True)
    words = ("restored", "--reason", reason, "--since", str(operator.outside / "nowhere"))
    assert "nowhere does not exist" in operator.production.broker_run(*words, fails=True)


def test_yesterdays_backup(operator: Operator) -> None:
    """Back to before a mishap: what was lost is known, nothing goes on silently, then all does.

    And each mistake on the way stops where it is made.
    """
    mishap = until_a_mishap(operator)
    check_mistakes_before_the_restore(operator, mishap)
    restore(operator, mishap)
    check_that_nothing_goes_on_silently(operator)
    assert "kept" in operator.broker("look")
    operator.database("place")
    check_that_no_step_can_be_left_out(operator)
    earlier = operator.setting("LEDGER_VERIFIER_KEY")
    check_mistakes_of_the_new_name(operator, "mishap of noon")
    said = operator.broker("rename", NAME="log.example/2", REASON="mishap of noon")
    assert "Lost are the positions 6 to 8." in said
    assert operator.setting("LEDGER_VERIFIER_KEY").endswith(f" {earlier}")
    operator.broker("erase", REASON="mishap of noon")
    assert "OK" in operator.broker("end")
    assert live(operator.production) == {"kept": 1, "changed": 2, "after": 1}
    with operator.service() as url:
        for host, password in (("kept", "first-of-kept"), ("changed", "second-of-changed")):
            found = ask(url, mishap.key, "lookup", host=host, purpose="ssh")
            assert found["password"] == password
        log = operator.production.broker / "serve.log"
        until(lambda: "events_were_lost" in log.read_text(), "the log does not tell of the loss")
        lines = log.read_text().splitlines()
        (said,) = [json.loads(line) for line in lines if "events_were_lost" in line]
        assert (said["first"], said["last"]) == (6, 8)


def test_nothing_is_lost_with_the_disk_of_the_log(operator: Operator) -> None:
    """To the end of the archive and of the old pg_wal: every acknowledged event is there again."""
    production = operator.production
    operator.database("archive")
    with operator.service() as url:
        key = operator.setting("INTERNAL_KEY")
        operator.database("backup")
        for number in range(20):
            ask(url, key, "upsert", host=f"h{number}", purpose="ssh", password="p")
        operator.published(url, 21)
        operator.broker("outside", URL=url)
    production.stop()  # at once, as a crash would end it
    operator.database("restore", BACKUP=operator.backup())
    assert "OK" in operator.broker("verify")
    operator.database("place")
    assert "nothing that the list names" in operator.broker("erase", REASON="r")
    assert "OK" in operator.broker("end")
    with operator.service() as url:
        assert ask(url, key, "lookup", host="h19", purpose="ssh")["password"] == "p"


def test_an_archive_keeps_what_it_has(tmp_path: Path) -> None:
    """The same segment again is fine, as after a crash; another one of its name is refused."""
    segment, archive = tmp_path / "segment", tmp_path / "archive"
    archive.mkdir()
    segment.write_bytes(b"one")
    command = [DEPLOY / "archive-wal", segment, archive / "0001"]
    (archive / "0001.incomplete").write_bytes(b"died while it was copied")
    for _ in range(2):
        subprocess.run(command, check=True)
    assert {path.name: path.read_bytes() for path in archive.iterdir()} == {"0001": b"one"}
    segment.write_bytes(b"two")
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, "is another one" in done.stderr) == (1, True)
    assert (archive / "0001").read_bytes() == b"one"
