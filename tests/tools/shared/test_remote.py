"""Commands that ask a service over HTTP: with a key or a certificate, and by whom it is trusted."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.tools.postgres import Cluster
from tests.conftest import AUDITOR_KEY, TEMPLATE, VERIFIER_KEY, fresh_database
from tests.http.authority import SERVER, Authority
from tests.http.client import Service
from tests.http.conftest import folder, serving
from tests.http.granting import Keys, rule
from tests.http.server.tls_service import over_tls
from tests.projections.asking import auditor
from tests.tools.command_line import run

NAME = {"host": "web-1", "purpose": "ssh"}
QUESTIONS = (
    ("history", "web-1", "ssh"),
    ("exposure", "web-1", "ssh"),
    ("exposure", "web-1", "ssh", "--version", "1", "--since", "1d", "--until", "0m"),
    ("exposure", "web-1", "ssh", "--summary"),
    ("events",),
    ("events", "--host", "web-*", "--type", "credential.read", "--type", "*.created", "--ok"),
    ("events", "--newest-first", "--limit", "2", "--since", "7d"),
    ("unused", "--since", "2120-01-01T00:00:00Z"),
)


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """Who issues the certificates of the server and of its clients."""
    with folder() as place:
        yield Authority(place)


@pytest.fixture(scope="module")
def plain(cluster: Cluster) -> Iterator[Service]:
    """A service in the clear, with something to ask about."""
    with (
        fresh_database(cluster, TEMPLATE) as database,
        folder() as place,
        serving(database.service_url, place / "log") as running,
    ):
        running.database = database
        fill(running)
        yield running


@pytest.fixture(scope="module")
def mutual(cluster: Cluster, authority: Authority) -> Iterator[Service]:
    """A service that nobody comes to without a certificate."""
    first = authority.issue("filler")
    required = {"TLS_CLIENT_CERT": "required"}
    with over_tls(cluster, authority, required, shows=first) as running:
        Keys(running).grant_certificate("filler", rule("read", "write", "audit"))
        fill(running, key=None)
        yield running


def fill(service: Service, key: str | None = "") -> None:
    """Two versions, one read three times; and more events than a page has."""
    for _ in range(2):
        upserted = {**NAME, "password": "p4ssword"}
        path = "/internal/secrets/credential-upsert"
        assert service.send("POST", path, upserted, key=key).status == 200
        items = {"items": [NAME] * 3}
        batch = "/internal/secrets/credential-lookup-batch"
        assert service.send("POST", batch, items, key=key).status == 200


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
@pytest.mark.parametrize("form", ["--json", "--csv", None])
def test_a_service_answers_as_its_database_does(
    plain: Service, cluster: Cluster, tmp_path: Path, question: tuple[str, ...], form: str | None
) -> None:
    """To the letter, in each form, of when it is included."""
    options = [*question, *([form] if form else [])]
    url = auditor(cluster, plain.database)
    of_database = run(*options, cwd=tmp_path, env={"DATABASE_URL": url})
    key = {"AUDITOR_KEY": AUDITOR_KEY}
    of_service = run(*options, "--url", plain.url + "/", cwd=tmp_path, env=key)
    assert of_service.returncode == of_database.returncode == 0, of_service.stderr
    assert of_service.stdout == of_database.stdout != ""
    assert of_service.stderr == of_database.stderr
    assert "as of position 8 of 2" in of_service.stderr
    assert "p4ssword" not in of_service.stdout


def test_more_than_a_page_is_asked_for_page_by_page(plain: Service, tmp_path: Path) -> None:
    """Every line once, in order."""
    batch = "/internal/secrets/credential-lookup-batch"
    nobody = {"items": [{"host": "nobody", "purpose": "ssh"}] * 500}
    size = len(plain.events("position"))
    for _ in range(3):
        assert plain.send("POST", batch, nobody).status == 200
    env = {"AUDITOR_KEY": AUDITOR_KEY}
    options = ("--host", "nobody", "--url", plain.url, "--json")
    lines = run("events", *options, cwd=tmp_path, env=env).stdout.splitlines()
    assert [json.loads(line)["position"] for line in lines] == [*range(size, size + 1_500)]
    few = run("events", *options, "--limit", "1001", cwd=tmp_path, env=env).stdout.splitlines()
    assert few == lines[:1_001]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("history", "nobody", "ssh"), 1, "there never was a credential of this name"),
        (("exposure", "web-1", "ssh", "--version", "9"), 1, "or no such version of it"),
        (("exposure", "nobody", "ssh"), 1, "there never was a credential of this name"),
        (("events", "--type", "x" * 65), 2, "type: must have 1 to 64 characters"),
        (("events", "--key", "absent.pem"), 2, "absent.pem"),
        (("events", "--ca", __file__), 2, "go with a URL of https://"),
    ],
)
def test_what_is_not_there_is_said_as_the_database_says_it(
    plain: Service, tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    """With the same words and the same exit status."""
    env = {"AUDITOR_KEY": AUDITOR_KEY}
    done = run(*arguments, "--url", plain.url, cwd=tmp_path, env=env)
    assert done.returncode == status
    assert said in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_an_access_key_may_ask_too(plain: Service, tmp_path: Path) -> None:
    """With the right to audit; with another one it is told what is missing."""
    keys = Keys(plain)
    (tmp_path / "key").write_text(keys.grant("auditing", {"allow": ["audit"]}) + "\n")
    env = {"SECRETS_BROKER_KEY_FILE": str(tmp_path / "key")}
    done = run("history", "web-1", "ssh", "--url", plain.url, "--json", cwd=tmp_path, env=env)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    reading = {"SECRETS_BROKER_KEY": keys.grant("reading", rule("read"))}
    done = run("history", "web-1", "ssh", "--url", plain.url, cwd=tmp_path, env=reading)
    assert done.returncode != 0
    assert "does not take this" in done.stderr
    assert reading["SECRETS_BROKER_KEY"] not in done.stderr
    done = run("history", "web-1", "ssh", "--url", plain.url, cwd=tmp_path)
    assert done.returncode != 0
    assert "AUDITOR_KEY not set" in done.stderr


COMMANDS = (
    ("health",),
    ("health", "--live"),
    ("verify", "--verifier-key", VERIFIER_KEY),
    ("history", "web-1", "ssh"),
    ("exposure", "web-1", "ssh"),
    ("events",),
    ("unused", "--since", "2120-01-01T00:00:00Z"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_with_a_certificate_every_command_passes(
    mutual: Service, authority: Authority, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """--ca, --cert and --key are the same wherever they stand; no key goes beside them."""
    whole = authority.issue("filler")
    certificate, private = split(whole, tmp_path)
    env = {"AUDITOR_KEY": AUDITOR_KEY}
    trusting = (*command, "--url", mutual.url, "--ca", str(authority.file))
    for shown in (("--cert", str(whole)), ("--cert", str(certificate), "--key", str(private))):
        done = run(*trusting, *shown, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", [COMMANDS[0], COMMANDS[2], COMMANDS[3]], ids=" ".join)
def test_without_it_none_does(
    mutual: Service, authority: Authority, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Nor with that of somebody else, nor where the server's own is not trusted."""
    env = {"AUDITOR_KEY": AUDITOR_KEY}
    whole, other = authority.issue("filler"), Authority(tmp_path, "another")
    trusted = ("--ca", str(authority.file))
    for shown in (
        trusted,
        ("--cert", str(whole)),
        (*trusted, "--cert", str(other.issue("filler"))),
        ("--ca", str(other.file), "--cert", str(whole)),
    ):
        done = run(*command, "--url", mutual.url, *shown, cwd=tmp_path, env=env)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert "OK:" not in done.stdout.replace("NOT OK:", "")


@pytest.mark.parametrize("command", COMMANDS[:4], ids=" ".join)
def test_what_cannot_be_meant_is_refused(
    authority: Authority, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Before anything is sent: exit 2, and no question for a password."""
    whole = authority.issue("filler")
    certificate, private = split(whole, tmp_path)
    another = split(authority.issue("filler"), tmp_path, "another")[1]
    for shown, said in (
        (("--key", str(private)), "--key is the private key of --cert"),
        (("--cert", str(certificate)), "cannot be used"),
        (("--cert", str(certificate), "--key", str(another)), "cannot be used"),
        (("--ca", str(private)), "cannot be used"),
        (("--ca", "nowhere.pem"), "does not exist"),
    ):
        env = {"AUDITOR_KEY": AUDITOR_KEY}
        done = run(*command, "--url", "https://127.0.0.1:1", *shown, cwd=tmp_path, env=env)
        assert done.returncode == 2
        assert said in " ".join(done.stderr.split())


def split(whole: Path, place: Path, name: str = "own") -> tuple[Path, Path]:
    """A certificate and its private key, in two files."""
    begins = b"-----BEGIN PRIVATE KEY-----"
    certificate, private = whole.read_bytes().split(begins)
    files = place / f"{name}.crt", place / f"{name}.key"
    files[0].write_bytes(certificate)
    files[1].write_bytes(begins + private)
    return files


def test_a_service_over_tls_is_asked_with_a_key(
    cluster: Cluster, authority: Authority, tmp_path: Path
) -> None:
    """Where no certificate is asked for, --ca is enough."""
    own = str(authority.issue("127.0.0.1", usage=SERVER))
    settings = {"TLS_CERT_FILE": own, "TLS_KEY_FILE": own}
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        tls = authority.client()
        with serving(database.service_url, place / "log", settings=settings, tls=tls) as service:
            env = {"AUDITOR_KEY": AUDITOR_KEY}
            options = ("events", "--url", service.url)
            done = run(*options, "--ca", str(authority.file), cwd=tmp_path, env=env)
            assert (done.returncode, done.stdout.count("ledger.authenticated")) == (0, 1)
            assert "as of position 0 of 2" in done.stderr
            done = run(*options, cwd=tmp_path, env=env)
            assert done.returncode != 0
            assert "does not answer (TLS: " in done.stderr


def test_who_could_read_this_is_asked_of_a_service(plain: Service, tmp_path: Path) -> None:
    """Page by page over HTTP, with an auditor's key or the right to audit, and by nobody else."""
    keys = Keys(plain)
    for number in range(3):
        keys.grant(f"who-{number}", rule("read"), rule("delete", networks=["10.0.0.0/8"]))
    path = "/internal/audit/who?host=web-1&purpose=ssh"
    whole = plain.audit(path).json
    assert whole["internal_key"] is True
    mine = [line for line in whole["items"] if line["name"].startswith("who-")]
    assert [(line["name"], line["rule"], line["allow"]) for line in mine] == [
        (f"who-{number}", *rest) for number in range(3) for rest in ((1, ["read"]), (2, ["delete"]))
    ]
    found: list[object] = []
    cursor: str | None = ""
    while cursor is not None:
        after = f"&cursor={cursor}" if cursor else ""
        page = plain.audit(f"{path}&limit=1{after}").json
        assert page["internal_key"] is True
        found += page["items"]
        cursor = page["next"]
    assert found == whole["items"]
    plain.source = "127.0.6.1"
    assert plain.send("GET", path).status == 403
    assert plain.send("GET", path, key=keys.grant("who-reads", rule("read"))).status == 403
    auditing = keys.grant("who-audits", {"allow": ["audit"]})
    assert plain.send("GET", path, key=auditing).status == 200
    assert plain.audit("/internal/audit/who?host=web-1").status == 400
    env = {"AUDITOR_KEY": AUDITOR_KEY}
    ask = ("access", "who", "web-1", "ssh", "--url", plain.url)
    told = run(*ask, "--json", cwd=tmp_path, env=env)
    names = [line["name"] for line in json.loads(told.stdout)["items"]]
    assert [name for name in names if name.startswith("who-")][:2] == ["who-0", "who-0"]
    table = run(*ask, cwd=tmp_path, env=env)
    assert "INTERNAL_KEY is on" in table.stdout
    assert "as of position" in table.stderr
