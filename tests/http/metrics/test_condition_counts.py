"""What the service finds in its own events: each condition is counted once, by one worker."""

from secrets_broker.http.metrics import counters
from secrets_broker.projections.conditions import Thresholds
from tests.http.client import LOOKUP, UPSERT, Service
from tests.http.granting import Keys, rule
from tests.waiting import until

HOSTS = Thresholds().bulk_hosts + 1
BEHIND = "secrets_watch_behind_events"


def counted(service: Service, word: str) -> float:
    """How often a condition was found."""
    return service.metrics()[f'secrets_watch_conditions_total{{condition="{word}"}}']


def caught_up(service: Service) -> bool:
    """Whether the watching has begun, and nothing is left to look at."""
    return service.metrics().get(BEHIND) == 0


def read(service: Service, key: str, hosts: int = 1) -> None:
    """Read the credentials of so many hosts."""
    items = [{"host": f"web-{number}", "purpose": "ssh"} for number in range(hosts)]
    answer = service.send("POST", f"{LOOKUP}-batch", {"items": items}, key=key)
    assert {item["status"] for item in answer.json["items"]} == {200}


def test_conditions_are_counted_and_what_was_before_is_not(fresh: Service) -> None:
    """A grant, a bulk read and a new source; also by the worker that goes on for a dead one."""
    until(lambda: caught_up(fresh))
    assert all(counted(fresh, word) == 0 for word in counters.CONDITIONS)
    key = Keys(fresh).grant("reader", rule("read"))
    until(lambda: counted(fresh, "grant_changed") == 1)
    items = [
        {"host": f"web-{number}", "purpose": "ssh", "password": "x"} for number in range(HOSTS)
    ]
    fresh.send("POST", f"{UPSERT}-batch", {"items": items})
    read(fresh, key, HOSTS - 1)
    assert counted(fresh, "bulk_reads") == 0
    read(fresh, key, HOSTS)
    until(lambda: counted(fresh, "bulk_reads") == 1)
    for _ in range(2):  # one of them is the worker that follows the ledger
        fresh.kill_worker()
        until(lambda: fresh.get("/health/ready").status == 200)
    until(lambda: caught_up(fresh))
    assert counted(fresh, "grant_changed") == 1
    # Told by who has learned from the events that 127.0.0.1 is where this caller comes from.
    fresh.source = "127.0.9.9"
    read(fresh, key)
    until(lambda: counted(fresh, "new_source") == 1)


def test_refusals_without_a_key_are_counted(fresh: Service) -> None:
    """Once for a source; each of them is in secrets_refusals_total."""
    until(lambda: caught_up(fresh))
    for _ in range(3):
        assert fresh.send("POST", LOOKUP, {}, key="unknown").status == 403
    until(lambda: counted(fresh, "unauthorized") == 1)


def test_a_restored_ledger_is_watched_from_where_it_is(fresh: Service) -> None:
    """It is said that it is not the one that was read, and what comes then is counted."""
    keys = Keys(fresh)
    keys.grant("before", rule("read"))
    until(lambda: counted(fresh, "grant_changed") == 1)
    with fresh.database.owner() as connection, connection.transaction():
        connection.execute("ALTER TABLE ledger.events DISABLE TRIGGER append_only")
        connection.execute("DELETE FROM ledger.events")
        connection.execute("ALTER TABLE ledger.events ENABLE ALWAYS TRIGGER append_only")
    fresh.says("fewer events than were read before")
    until(lambda: caught_up(fresh))
