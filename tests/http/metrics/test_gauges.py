"""Gauges: what one worker reads from the database, and who does when it dies."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secrets_broker.http.metrics.leader_lock import LeaderLock
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.http.client import Service
from tests.http.conftest import folder, serving
from tests.ledger.helpers import record, upsert
from tests.waiting import until

SETTINGS = {"METRICS_SECONDS": "0.1"}
NAME = {"host": "gauge.example", "purpose": "ssh"}
GATHERED = "secrets_gathered_timestamp_seconds"


@pytest.fixture(scope="module")
def service(own_cluster: Cluster) -> Iterator[Service]:
    """A service that gathers all the time."""
    with (
        fresh_database(own_cluster, TEMPLATE) as database,
        folder() as place,
        serving(database.service_url, place / "log", settings=SETTINGS) as running,
    ):
        running.database = database
        yield running


def gauges_when(service: Service, holds: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The gauges, once that holds of them."""

    def found() -> dict[str, float] | None:
        gauges = service.metrics()
        return gauges if holds(gauges) else None

    return until(found, "the gauges do not come to that") or {}


def test_gauges_follow_the_ledger(service: Service, keyring: Keyring) -> None:
    """Events, checkpoint, what expires, and the KEK in use; all within moments."""
    service.upsert(**NAME, password="p")
    over = upsert("old.example", expires_at=datetime(2001, 1, 1, tzinfo=UTC))
    record(service.database, keyring, over)  # as if it were of before
    service.lookup(**NAME)
    size = len(service.events("position"))
    found = gauges_when(service, lambda now: now.get("secrets_checkpoint_events") == size)
    expected = {
        "secrets_ledger_up": 1.0,
        "secrets_ledger_writable": 1.0,
        "secrets_ledger_events": float(size),
        "secrets_checkpoint_age_seconds": 0.0,
        "secrets_credentials_expired": 1.0,
        'secrets_credentials_expiring{within="30d"}': 0.0,
        "secrets_keks_missing": 0.0,
        "secrets_projection_differences": 0.0,
        "secrets_queue_commands": 0.0,
        'secrets_keks{provider="environment",state="active"}': 1.0,
        'secrets_keks{provider="environment",state="retiring"}': 0.0,
        'secrets_keks{provider="other",state="active"}': 0.0,
    }
    assert {sample: found[sample] for sample in expected} == expected
    assert found["secrets_ledger_bytes"] > 100_000


def test_a_dead_worker_leaves_no_gauge_and_another_gathers(service: Service) -> None:
    """Whichever of the two gathers, after both were killed it is somebody else."""
    for _ in range(2):
        service.replace_worker()
    now = time.time()
    found = gauges_when(service, lambda gauges: gauges.get(GATHERED, 0.0) > now)
    assert found["secrets_ledger_up"] == 1.0
    multiproc = multiproc_folder(service)
    for mode in ("livemostrecent", "livesum"):
        dead = {file.name for file in multiproc.glob(f"gauge_{mode}_*.db")}
        alive = {f"gauge_{mode}_{pid}.db" for pid in (service.pid, *service.workers())}
        assert dead <= alive


def multiproc_folder(service: Service) -> Path:
    """Where the service's workers count, as the environment of one says."""
    environment = Path(f"/proc/{service.workers()[0]}/maps").read_text()
    line = next(line for line in environment.splitlines() if "secrets-broker-metrics-" in line)
    return Path(line.split()[-1]).parent


def test_without_its_database_the_gauges_say_so(own_cluster: Cluster, service: Service) -> None:
    """They keep what was known, and the time of when it was; requests get 503, by their cause."""
    before = gauges_when(service, lambda now: now.get("secrets_ledger_up") == 1.0)
    own_cluster.stop()
    try:
        assert service.lookup(**NAME).status == 503
        away = gauges_when(service, lambda now: now["secrets_ledger_up"] == 0.0)
        time.sleep(0.3)  # some more rounds
        later = service.metrics()
        assert later["secrets_ledger_writable"] == 0.0
        assert later["secrets_ledger_events"] == before["secrets_ledger_events"]
        assert later[GATHERED] == away[GATHERED]
        causes = {s: v for s, v in later.items() if s.startswith("secrets_requests_unavailable")}
        assert sum(causes.values()) >= 1
        assert later[
            'secrets_request_duration_seconds_count{operation="lookup",outcome="unavailable"}'
        ]
    finally:
        own_cluster.start()
    gauges_when(
        service, lambda now: now["secrets_ledger_up"] == 1.0 and now[GATHERED] > away[GATHERED]
    )


def test_a_missing_kek_and_a_row_that_was_edited_show(service: Service) -> None:
    """To a service that starts now, before anybody asked it for a secret."""
    gauges_when(service, lambda now: now["secrets_ledger_writable"] == 1.0)
    service.upsert(**NAME, password="p")
    service.database.execute("UPDATE secrets.host_credentials SET version = version + 1")
    with (
        folder() as place,
        serving(
            service.database.service_url,
            place / "log",
            kms_key="another-key-than-it-was",
            until=503,
            settings=SETTINGS,
        ) as other,
    ):
        found = gauges_when(other, lambda now: "secrets_projection_differences" in now)
        assert (found["secrets_ledger_up"], found["secrets_ledger_writable"]) == (1.0, 0.0)
        assert found["secrets_keks_missing"] == 1.0
        rows = service.database.fetch("SELECT count(*) FROM secrets.host_credentials")
        assert found["secrets_projection_differences"] == rows[0][0] > 0
        other.lookup(**NAME)
        assert other.metrics()['secrets_requests_unavailable_total{cause="wrong_key"}'] == 1.0


def test_it_is_the_turn_of_one_at_a_time(tmp_path: Path) -> None:
    """Until it gives it up, or ends: the system lets go of a lock of a process that is dead."""
    first, second = (LeaderLock(str(tmp_path), "a") for _ in range(2))
    assert first.taken()
    assert first.taken()
    assert not second.taken()
    first.give_up()
    assert second.taken()
    assert not first.taken()
    second.give_up()
    assert LeaderLock(None, "a").taken()


def test_who_comes_next_knows_what_was_left(tmp_path: Path) -> None:
    """The last number, whatever its length; nothing where there was nobody before."""
    first, second = (LeaderLock(str(tmp_path), "a") for _ in range(2))
    assert (first.taken(), first.left()) == (True, None)
    for number in 123_456, 7:
        first.leave(number)
    first.give_up()
    assert (second.left(), second.taken(), second.left()) == (None, True, 7)
    second.give_up()
