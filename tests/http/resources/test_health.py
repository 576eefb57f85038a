"""Health, and what becomes of requests while the database is gone."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from secrets_broker.http.resources.health import DETAILS
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.http.client import Answer, Service
from tests.http.conftest import folder, serving
from tests.http.server.raw_requests import logged
from tests.waiting import until

NAME = {"host": "health.example", "purpose": "ssh"}
BOUND_SECONDS = 10.0


@pytest.fixture(scope="module")
def service(own_cluster: Cluster) -> Iterator[Service]:
    """A service on that PostgreSQL."""
    with (
        fresh_database(own_cluster, TEMPLATE) as database,
        folder() as place,
        serving(database.service_url, place / "log") as running,
    ):
        running.database = database
        yield running


def eventually(ask: Callable[[], Answer], status: int) -> Answer:
    """Ask until the answer has that status, within a bound."""

    def answered() -> Answer | None:
        answer = ask()
        return answer if answer.status == status else None

    found = until(answered, f"never {status}", seconds=BOUND_SECONDS)
    assert found is not None
    return found


def causes(service: Service) -> list[str]:
    """Why the service was not ready, as its log has it."""
    return [line["why"] for line in logged(service, "event", "not_ready")]


def test_health_needs_no_key(service: Service) -> None:
    """A probe holds no secret."""
    assert service.get("/health/live").json == {"status": "live"}
    assert service.get("/health/ready").json == {"status": "ready"}


@pytest.mark.parametrize("end", [Cluster.stop, Cluster.kill], ids=["stopped", "killed"])
def test_without_its_database_the_service_says_so_and_recovers_by_itself(
    own_cluster: Cluster, service: Service, end: Callable[[Cluster], None]
) -> None:
    """503 in bounded time and nothing disclosed; then service as before, and nothing lost."""
    service.upsert(**NAME, password="kept")
    workers = service.workers()
    end(own_cluster)
    started = time.monotonic()
    answers = [service.lookup(**NAME) for _ in range(4)]
    assert time.monotonic() - started < BOUND_SECONDS
    for answer in answers:
        assert answer.status == 503
        assert answer.json["reason"] in ("ledger_unavailable", "outcome_unknown")
        assert int(answer.headers["Retry-After"]) >= 1
        assert "kept" not in answer.text
    not_ready = eventually(lambda: service.get("/health/ready"), 503)
    assert not_ready.json == {"status": "not_ready", "detail": DETAILS[0]}
    assert causes(service)
    assert service.get("/health/live").status == 200
    own_cluster.start()
    found = eventually(lambda: service.lookup(**NAME), 200)
    assert found.json["password"] == "kept"
    eventually(lambda: service.get("/health/ready"), 200)
    assert service.workers() == workers


def test_without_its_database_nobody_is_told_what_is_due(
    own_cluster: Cluster, service: Service
) -> None:
    """503 in bounded time, and an answer again once the database is back."""
    ask = partial(service.send, "GET", "/internal/audit/due")
    eventually(ask, 200)
    own_cluster.stop()
    try:
        started = time.monotonic()
        answer = ask()
        assert time.monotonic() - started < BOUND_SECONDS
        assert (answer.status, answer.json["reason"]) == (503, "ledger_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    finally:
        own_cluster.start()
    eventually(ask, 200)
    eventually(lambda: service.get("/health/ready"), 200)


def test_a_service_that_starts_before_its_database_waits_for_it(
    own_cluster: Cluster, service: Service
) -> None:
    """Starting in any order works: 503 until the database is there.

    Where that is, the log says, and not the answer that anybody may read.
    """
    service.upsert(**NAME, password="kept")
    own_cluster.stop()
    try:
        with (
            folder() as place,
            serving(service.database.service_url, place / "log", until=503) as early,
        ):
            assert early.lookup(**NAME).status == 503
            assert str(own_cluster.data_dir) in causes(early)[0]
            assert str(own_cluster.data_dir) not in early.get("/health/ready").text
            own_cluster.start()
            eventually(lambda: early.get("/health/ready"), 200)
            assert eventually(lambda: early.lookup(**NAME), 200).json["password"] == "kept"
    finally:
        own_cluster.start()


def test_a_wrong_key_is_said_at_the_start(own_cluster: Cluster, service: Service) -> None:
    """A KEK that this ledger does not know makes the service not ready, before any lookup."""
    service.upsert(**NAME, password="p")
    with folder() as place:
        log = place / "log"
        url = service.database.service_url
        with serving(url, log, kms_key="another-key-than-it-was", until=503) as other:
            answer = other.get("/health/ready")
            assert answer.status == 503
            detail = "SECRETS_KMS_KEY is not the key of this ledger; see the log."
            assert answer.json == {"status": "not_ready", "detail": detail}
            assert other.lookup(**NAME).status == 503
            assert "another-key-than-it-was" not in log.read_text() + answer.text
            assert "the database's active KEK is" in causes(other)[0]
