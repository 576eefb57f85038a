"""Every secret has a marker of its own, and is looked for wherever it must not be."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from secrets_broker.ledger.encryption.keyring import Kek, derive_key
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.postgres.binaries import find_binaries
from tests.conftest import AUDITOR_KEY, TEMPLATE, fresh_database
from tests.http.client import DELETE, LOOKUP, UPSERT, Answer, Service, log_lines
from tests.http.conftest import folder, serving
from tests.http.server.raw_requests import logged
from tests.waiting import until

KMS = "MarkerOfTheKmsKey-5f1c"
INTERNAL = "MarkerOfTheInternalKey-83aa"
PASSWORD = "MarkerOfThePassword-2d90"
SECRET_DATA = "MarkerOfTheSecretData-7be4"
MARKERS = (KMS, INTERNAL, PASSWORD, SECRET_DATA)
NAME = {"host": "leak.example", "purpose": "ssh"}
PATHS = (
    UPSERT,
    LOOKUP,
    "/log/checkpoint",
    "/internal/audit/events",
    "/internal/access/keys",
    "/no",
)
FIELDS = {**NAME, "password": PASSWORD, "secret_data": {SECRET_DATA: [SECRET_DATA]}}


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    """A service whose keys have markers too."""
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        log = place / "log"
        url = database.service_url
        with serving(url, log, kms_key=KMS, internal_key=INTERNAL) as running:
            running.database = database
            yield running


@pytest.fixture(scope="module")
def answers(service: Service) -> list[Answer]:
    """Everything that carries a secret, done once; the answers that must not hold one."""
    good = [service.send("POST", UPSERT, FIELDS), service.send("POST", UPSERT, FIELDS)]
    found = service.lookup(**NAME)
    assert (found.json["password"], found.json["secret_data"]) == (PASSWORD, FIELDS["secret_data"])
    whole = str(FIELDS).encode()
    bad = [
        service.send("POST", UPSERT, {**FIELDS, "purpose": PASSWORD * 3}),
        service.send("POST", UPSERT, {**FIELDS, PASSWORD: SECRET_DATA}),
        service.send("POST", UPSERT, {**FIELDS, "password": [PASSWORD]}),
        service.send("POST", UPSERT, {**FIELDS, "password": PASSWORD + "\0"}),
        service.send("POST", UPSERT, {**FIELDS, "secret_data": SECRET_DATA}),
        service.send("POST", UPSERT, whole),
        service.send("POST", UPSERT, whole + b"\xff"),
        service.send("POST", UPSERT, whole, media_type="text/plain"),
        service.send("POST", UPSERT, whole * 5_000),
        service.send("POST", LOOKUP, FIELDS),
        service.send("POST", UPSERT, FIELDS, key=f"{INTERNAL}x"),
        service.send("PUT", UPSERT, FIELDS),
        service.send("DELETE", f"{DELETE}?host={PASSWORD}&password={SECRET_DATA}"),
        service.send("GET", f"/{PASSWORD}"),
        service.send("POST", UPSERT, FIELDS, {"X-Service-Name": PASSWORD * 9}),
        service.send("POST", UPSERT, FIELDS, {"X-Internal-Key2": INTERNAL, "Expect": PASSWORD}),
    ]
    assert {answer.status for answer in bad} >= {400, 403, 404, 405, 413, 415, 417}
    service.raw(f"POST {UPSERT} HTTP/1.1\r\n{INTERNAL}\r\n\r\n{PASSWORD}".encode())
    service.raw(f"{PASSWORD} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    service.database.execute("UPDATE secrets.host_credentials SET domain = 'x'")
    bad.append(service.lookup(**NAME))
    assert bad[-1].status == 500
    return good + bad


def test_no_error_holds_a_secret(answers: list[Answer]) -> None:
    """No answer but a lookup's 200 holds anything secret."""
    for answer in answers:
        assert not [marker for marker in MARKERS if marker in answer.text]


def derived(*keys: str) -> set[str]:
    """What a key could be guessed by, whoever sees it: its KEK's id, and its hashes."""
    keks = {Kek.from_bytes(derive_key(key)).id for key in keys}
    return keks | {sha256(key.encode()).hexdigest()[:16] for key in keys} | {k[:16] for k in keks}


def test_who_has_no_key_sees_nothing_that_follows_from_one(
    service: Service, answers: list[Answer]
) -> None:
    """On any page, in any answer, whatever the state of the service; labels of metrics too."""
    words = derived(KMS, INTERNAL, AUDITOR_KEY, "another-key-than-it-was")
    with folder() as place:
        wrong = {"kms_key": "another-key-than-it-was", "until": 503}
        settings = {"METRICS_SECONDS": "0.1"}
        url = service.database.service_url
        with serving(url, place / "log", **wrong, settings=settings) as other:  # type: ignore[arg-type]
            until(lambda: "secrets_keks_missing" in other.metrics(), "nothing was gathered")
            pages = [
                replace(asked, source="127.0.0.9").send(method, path, key=None)
                for asked in (service, other)
                for path in ("/metrics", "/health/ready", "/health/live", "/openapi.yaml", *PATHS)
                for method in ("GET", "POST", "DELETE")
            ]
            pages.append(other.lookup(**NAME))
    assert {page.status for page in pages} >= {200, 403, 405, 503}
    for page in (*pages, *answers):
        assert not [word for word in words if word in page.text]


def test_no_log_holds_a_secret(service: Service, answers: list[Answer]) -> None:
    """Nothing that passed through the service is in its log, nor a traceback."""
    until(lambda: len(list(log_lines(service.log.read_text()))) > len(answers) - 3)
    log = service.log.read_text()
    assert not [word for word in (*MARKERS, "Traceback") if word in log]


@pytest.mark.usefixtures("answers")
def test_no_counter_holds_a_secret(service: Service) -> None:
    """Counters have no labels that a caller could write to."""
    text = service.get("/metrics").body.decode()
    assert "secrets_credential_upserts_total 2.0" in text
    assert not [marker for marker in MARKERS if marker in text]


@pytest.mark.usefixtures("answers")
def test_no_dump_holds_a_secret(service: Service, bin_dir: Path | None) -> None:
    """A dump of the whole database has every event, and nothing secret in clear or in hex."""
    pg_dump = find_binaries(bin_dir) / "pg_dump"
    if not pg_dump.exists():
        pytest.skip("this PostgreSQL comes without pg_dump")
    command = [str(pg_dump), "--dbname", service.database.owner_url]
    dump = subprocess.run(command, check=True, capture_output=True).stdout
    assert b"leak.example" in dump
    for marker in MARKERS:
        assert marker.encode() not in dump
        assert marker.encode().hex().encode() not in dump


@pytest.mark.usefixtures("answers")
def test_each_request_has_one_line(service: Service) -> None:
    """Who asked for what, what came of it and how long it took: one line, found by its id."""
    headers = {"X-Request-Id": "one-line", "X-Service-Name": "backup"}
    answer = service.lookup(headers, host="line.example", purpose="ssh")
    lines = logged(service, "request_id", "one-line")
    assert len(lines) == 1
    line = lines[0]
    assert line["duration_ms"] > 0
    assert line["timestamp"].endswith("Z")
    expected = {"actor": "backup", "operation": "lookup", "outcome": "not_found", "status": 404}
    expected |= {"position": int(answer.headers["X-Ledger-Position"]), "ip": "127.0.0.1"}
    assert {name: line[name] for name in expected} == expected


def test_a_refused_request_has_its_line_too(service: Service) -> None:
    """Without the key no actor is claimed, but the refusal is on the log."""
    answer = service.send("POST", LOOKUP, NAME, {"X-Service-Name": "backup"}, key="wrong")
    made_up = answer.headers["X-Request-Id"]
    lines = logged(service, "request_id", made_up)
    assert [(line["actor"], line["outcome"], line["status"]) for line in lines] == [
        (None, "forbidden", 403)
    ]
