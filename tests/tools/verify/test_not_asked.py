"""`secrets-broker verify` where the ledger could not be asked: exit 2 and why, and never NOT OK."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.tools.cli import main
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.shared import remote
from secrets_broker.tools.verify import run_checks as running
from tests.conftest import KMS_KEY, TEMPLATE, Database, fresh_database
from tests.tools.command_line import run as command
from tests.tools.static_broker import Handler, static_broker
from tests.tools.verify.changing import KEY, checkpoints, history
from tests.tools.verify.exported_folder import write


@pytest.fixture(scope="module")
def ledger(cluster: Cluster, keyring: Keyring) -> Iterator[Database]:
    """Six hundred events and their checkpoints."""
    with fresh_database(cluster, TEMPLATE) as made:
        history(made, keyring)
        checkpoints(made, (300, 600))
        yield made


@pytest.fixture(scope="module")
def exported(ledger: Database, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of it."""
    folder = tmp_path_factory.mktemp("exported")
    write(ledger, folder)
    return folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Try again at once; and no .env that is the developer's."""
    monkeypatch.setattr(remote, "PAUSES", (0.0,))
    monkeypatch.chdir(tmp_path)


def verify(*options: str, **env: str | None) -> tuple[int, str, str]:
    """In this process: exit status, standard output, standard error."""
    settings: dict[str, str | None] = {
        "AUDITOR_KEY": "an-auditors-key-of-tests",
        "LEDGER_VERIFIER_KEY": str(KEY.verifier),
        "DATABASE_URL": None,
        "SECRETS_KMS_KEY": None,
        **env,
    }
    done = CliRunner().invoke(main, ["verify", *options], env=settings)
    return done.exit_code, done.stdout, done.stderr


def not_asked(answer: tuple[int, str, str], reason: str) -> None:
    """What every one of them has in common."""
    status, out, error = answer
    assert (status, out) == (2, ""), error
    assert reason in error
    assert "Traceback" not in error
    assert "NOT OK" not in error


def refusing(status: int) -> Callable[[Handler, int], bool]:
    """A broker that answers everything with that status."""

    def answer(handler: Handler, _number: int) -> bool:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return answer


def rubbish(content: bytes) -> Callable[[Handler, int], bool]:
    """A server that sends these very bytes, and goes."""

    def answer(handler: Handler, _number: int) -> bool:
        handler.wfile.write(content)
        handler.close_connection = True
        return True

    return answer


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        (refusing(401), "does not take this AUDITOR_KEY"),
        (refusing(403), "does not take this AUDITOR_KEY"),
        (refusing(404), "lists no checkpoints: is it a broker?"),
        (refusing(500), "with 500"),
        (refusing(503), "with 503"),
        (refusing(302), "points elsewhere"),
        (rubbish(b""), "does not answer"),
        (rubbish(b"SSH-2.0-OpenSSH_9.6\r\n"), "does not answer"),
        (rubbish(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{}"), "does not answer"),
        (rubbish(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), "is it a broker?"),
    ],
)
def test_a_broker_that_does_not_tell(
    exported: Path, misbehave: Callable[[Handler, int], bool], reason: str, form: list[str]
) -> None:
    """Whatever it answers instead, nothing is said of its ledger."""
    with static_broker(exported, misbehave) as url:
        not_asked(verify("--url", url, *form), reason)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1", "https://127.0.0.1:1", "http://no-such-host.invalid", "http://.a..b"],
)
def test_nobody_answers(url: str) -> None:
    """Neither a closed port nor a name that nobody has is a ledger that was tampered with."""
    not_asked(verify("--url", url, "--json"), "does not answer")


def test_tls_that_fails(exported: Path) -> None:
    """Whoever is there speaks no TLS."""
    with static_broker(exported) as url:
        not_asked(verify("--url", url.replace("http:", "https:")), "does not answer")


@pytest.mark.parametrize("after", [1, 3, 6])
@pytest.mark.parametrize("answer", [refusing(503), rubbish(b"")])
def test_it_stops_in_the_middle(
    exported: Path, after: int, answer: Callable[[Handler, int], bool]
) -> None:
    """What was read until then was right, so nothing is wrong; but not all of it was asked."""
    with static_broker(exported, lambda h, n: n >= after and answer(h, n)) as url:
        not_asked(verify("--url", url, "--json"), url)


def test_it_answers_too_slowly(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that keeps the line open and says nothing."""
    parse = remote.Remote.parse.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(parse, "__defaults__", (remote.NO_TLS, 0.2))

    def wait(handler: Handler, _number: int) -> bool:
        handler.connection.recv(1)  # until the other side has had enough
        handler.close_connection = True
        return True

    with static_broker(exported, wait) as url:
        not_asked(verify("--url", url), "TimeoutError")


def test_what_was_found_before_it_stopped_is_told(exported: Path, tmp_path: Path) -> None:
    """Tampering is exit 1, also where the rest could not be asked any more."""
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    (folder / "checkpoint").write_text(
        (folder / "checkpoint").read_text().replace("\n600\n", "\n599\n")
    )
    with static_broker(folder, lambda h, n: n >= 2 and refusing(503)(h, n)) as url:
        status, _, error = verify("--url", url, "--json")
    assert status in (1, 2), error
    status, out, _ = verify("--export", str(folder), "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)


def test_a_broker_that_answers(exported: Path) -> None:
    """The other side: the same server, well behaved, is verified."""
    with static_broker(exported) as url:
        status, out, error = verify("--url", url, "--json")
    assert (status, error) == (0, "")
    assert json.loads(out)["size"] == 600


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "127.0.0.1"),
        ("postgresql://nobody@/none?host=/nowhere", "/nowhere"),
        ("no url", "postgresql"),
    ],
)
def test_no_database(url: str, reason: str) -> None:
    """It is not there, or its address is none."""
    status, out, error = verify("--json", DATABASE_URL=url)
    assert (status, out) == (2, "")
    assert reason in error


def test_a_login_without_rights(cluster: Cluster, ledger: Database) -> None:
    """Who joined none of our roles may read nothing; the catalogue alone is no ledger."""
    cluster.ensure_login("nobodys_login")
    url = cluster.url("nobodys_login", ledger.name)
    not_asked(verify("--json", DATABASE_URL=url), "may not use this ledger")


def test_the_database_ends_in_the_middle(ledger: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session is ended while ranges are read."""
    check = running.check

    def cut(source: object, *more: object) -> object:
        with psycopg.connect(ledger.owner_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = %s AND pid <> pg_backend_pid()",
                (ledger.name,),
            )
        return check(source, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("secrets_broker.tools.verify.verification.check", cut)
    not_asked(verify("--json", DATABASE_URL=ledger.service_url), "could not be read")


def test_a_kms_that_does_not_answer(ledger: Database) -> None:
    """The events are right, and whether the data keys open could not be asked."""
    kms = "hashivault:http://127.0.0.1:1/transit/keys/none?token=x"
    status, out, error = verify("--json", DATABASE_URL=ledger.service_url, SECRETS_KMS=kms)
    assert (status, out) == (2, ""), error


def test_a_key_of_another_ledger(ledger: Database) -> None:
    """It was asked, and it does not fit: that is an answer."""
    url = ledger.service_url
    assert verify("--json", DATABASE_URL=url, SECRETS_KMS_KEY=KMS_KEY)[0] == 0
    status, out, _ = verify("--json", DATABASE_URL=url, SECRETS_KMS_KEY="another key, not this one")
    assert (status, json.loads(out)["problems"][0]["check"]) == (1, "key")


def test_no_export(exported: Path, tmp_path: Path) -> None:
    """A folder without a checkpoint is none; one that is not there is a mistake in the command."""
    not_asked(verify("--export", str(tmp_path), "--json"), "secrets-broker export made")
    not_asked(verify("--export", str(tmp_path / "none")), "does not exist")
    (tmp_path / "checkpoint").mkdir()
    not_asked(verify("--export", str(tmp_path)), "no file named checkpoint")


def test_by_processes_too(ledger: Database, tmp_path: Path) -> None:
    """The command as it is typed: one clear line, and the exit status."""
    done = command("verify", "--json", "--url", "http://127.0.0.1:1", cwd=tmp_path,
                   env={"AUDITOR_KEY": "a-key-of-an-auditor"})  # fmt: skip
    not_asked((done.returncode, done.stdout, done.stderr), "ConnectionRefusedError")
    assert "a-key-of-an-auditor" not in done.stderr
