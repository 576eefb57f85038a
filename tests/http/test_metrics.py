"""The counters, over all workers and over the death of one."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.http.client import LOOKUP, UPSERT, Service
from tests.http.conftest import folder, serving

LOOKUPS = "secrets_credential_lookups_total"
FAILURES = "secrets_credential_lookup_failures_total"
UPSERTS = "secrets_credential_upserts_total"
DELETES = "secrets_credential_deletes_total"
FORBIDDEN = "secrets_requests_forbidden_total"
ERRORS = "secrets_encryption_errors_total"
REFUSED = "secrets_requests_refused_total"
NAME = {"host": "count.example", "purpose": "ssh"}


class Counted:
    """How much the counters grew since this was made."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._before = service.metrics()

    def grew(self) -> dict[str, float]:
        """Those that changed, and by how much."""
        now = self._service.metrics()
        return {name: now[name] - old for name, old in self._before.items() if now[name] != old}


@pytest.fixture(scope="module")
def fresh(service: Service) -> Iterator[dict[str, float]]:
    """The counters before anything else of this module was asked."""
    yield service.metrics()


@pytest.fixture(autouse=True)
def _fresh_first(fresh: dict[str, float]) -> None:
    """Read the counters before the first test."""


def test_counters_stand_at_zero_from_the_start(fresh: dict[str, float]) -> None:
    """A rate over a counter is only right where its zero was seen."""
    names = [LOOKUPS, FAILURES, UPSERTS, DELETES, FORBIDDEN, ERRORS, REFUSED]
    assert fresh == dict.fromkeys(names, 0.0)


def test_metrics_are_in_the_text_format_of_prometheus(service: Service) -> None:
    """No key is needed, and each counter says what it is."""
    answer = service.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert f"# TYPE {LOOKUPS} counter" in answer.body.decode()


def test_each_operation_counts_once(service: Service) -> None:
    """What was done is counted; what came to nothing is not."""
    counted = Counted(service)
    service.upsert(**NAME, password="p")
    service.upsert(**NAME)
    service.lookup(**NAME)
    service.delete("host=count.example&purpose=ssh")
    service.delete("host=count.example&purpose=ssh")
    assert counted.grew() == {UPSERTS: 1, LOOKUPS: 1, DELETES: 1}


def test_every_lookup_that_is_not_200_is_a_failure(service: Service) -> None:
    """Refused, malformed, not found or too large: for whoever asks it is no secret either way."""
    counted = Counted(service)
    answers = [
        service.send("POST", LOOKUP, NAME, key="wrong"),
        service.send("POST", LOOKUP, b"{"),
        service.lookup(host="nowhere.example", purpose="ssh"),
        service.send("POST", LOOKUP, b" " * 2**20),
        service.send("POST", LOOKUP, b"{}", media_type="text/plain"),
        service.send("GET", LOOKUP),
        service.lookup({"X-Service-Name": "x" * 101}, **NAME),
    ]
    assert [answer.status for answer in answers] == [403, 400, 404, 413, 415, 405, 400]
    assert counted.grew() == {LOOKUPS: 7, FAILURES: 7, FORBIDDEN: 1}


def test_refusals_for_the_key_are_counted(service: Service) -> None:
    """Somebody who tries keys shows."""
    counted = Counted(service)
    service.send("POST", UPSERT, {}, key=None)
    service.send("DELETE", "/internal/secrets/credential-delete", key="wrong")
    assert counted.grew() == {FORBIDDEN: 2}


def test_what_is_no_request_is_counted_apart(service: Service) -> None:
    """What never became a request is no lookup, and shows all the same."""
    counted = Counted(service)
    service.raw(f"POST {LOOKUP} HTTP/1.1\r\n\r\n".encode())
    service.send("POST", LOOKUP, NAME, {"Expect": "magic"})
    assert counted.grew() == {REFUSED: 2}


def test_counts_are_right_over_all_workers(service: Service) -> None:
    """Whichever worker counted, and whichever is asked, the sum is the same."""
    counted = Counted(service)
    with ThreadPoolExecutor(16) as pool:
        statuses = pool.map(lambda _: service.lookup(**NAME).status, range(200))
        assert set(statuses) == {404}
    assert counted.grew() == {LOOKUPS: 200, FAILURES: 200}
    assert len({tuple(service.metrics().items()) for _ in range(20)}) == 1
    assert len(service.workers()) == 2


def test_counts_survive_the_death_of_a_worker(service: Service) -> None:
    """What a killed worker counted stays, another takes its place, and requests go on."""
    counted = Counted(service)
    for _ in range(20):  # so that both workers have counted something
        service.lookup(**NAME)
    victim = service.kill_worker()
    give_up = time.monotonic() + 20
    while victim in (workers := service.workers()) or len(workers) < 2:
        assert time.monotonic() < give_up, "no other worker was started"
        time.sleep(0.05)
    for _ in range(20):
        assert service.lookup(**NAME).status == 404
    assert counted.grew() == {LOOKUPS: 40, FAILURES: 40}


def test_a_restart_begins_at_zero(service: Service) -> None:
    """Counters of an earlier run are not counted again."""
    with folder() as place, serving(service.database.service_url, place / "log") as second:
        assert set(second.metrics().values()) == {0.0}


def test_a_credential_that_was_tampered_with_counts_as_an_error(service: Service) -> None:
    """What does not follow from the ledger is refused with 500 decrypt_failed, and shows."""
    name = {"host": "tampered.example", "purpose": "ssh"}
    service.upsert(**name, password="p")
    service.database.execute(
        "UPDATE secrets.host_credentials SET username = 'somebody else' WHERE host = %s",
        name["host"],
    )
    counted = Counted(service)
    answer = service.lookup(**name)
    assert (answer.status, answer.json["reason"]) == (500, "decrypt_failed")
    assert "somebody else" not in answer.text
    assert counted.grew() == {LOOKUPS: 1, FAILURES: 1, ERRORS: 1}
