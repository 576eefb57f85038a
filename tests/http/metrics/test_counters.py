"""The counters, over all workers and over the death of one."""

import os
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from secrets_broker.http.metrics import counters as metrics
from secrets_broker.http.metrics import gauges
from secrets_broker.ledger.access.judgement import RULES
from tests.http.client import LOOKUP, UPSERT, Service
from tests.http.conftest import folder, serving
from tests.http.granting import Keys, rule
from tests.http.metrics.counted import (
    DELETES,
    ERRORS,
    FAILURES,
    FORBIDDEN,
    LOOKUPS,
    PLAIN,
    REFUSED,
    REQUESTS,
    UPSERTS,
    Counted,
)
from tests.waiting import until

CREDENTIALS = {"lookup", "upsert", "delete", "lookup_batch", "upsert_batch", "credentials"}
OPEN = {"live", "ready", "metrics", "openapi"}
OPERATIONS = CREDENTIALS | OPEN | {"audit", "admin", "none"}
REFUSALS = "secrets_refusals_total"
NAME = {"host": "count.example", "purpose": "ssh"}


def counters(service: Service) -> dict[str, float]:
    """All that was counted, without what is only so at the moment, and what asking itself is."""
    ends = ("_total", "_bucket", "_sum", "_count")
    asking = tuple(f'operation="{operation}"' for operation in ("ready", "metrics"))
    found = service.metrics()
    return {
        sample: found[sample]
        for sample in found
        if sample.partition("{")[0].endswith(ends) and not any(part in sample for part in asking)
    }


@pytest.fixture(scope="module")
def fresh(service: Service) -> Iterator[dict[str, float]]:
    """The counters before anything else of this module was asked."""
    yield counters(service)


@pytest.fixture(autouse=True)
def _fresh_first(fresh: dict[str, float]) -> None:
    """Read the counters before the first test."""


def test_counters_stand_at_zero_from_the_start(fresh: dict[str, float]) -> None:
    """A rate over a counter is only right where its zero was seen, with every label it may have."""
    assert set(fresh.values()) == {0.0}
    assert fresh.keys() > PLAIN
    words = Counter(sample.partition("{")[0] for sample in fresh)
    assert words["secrets_watch_conditions_total"] == len(metrics.CONDITIONS)
    assert words["secrets_requests_unavailable_total"] == 6
    assert words[REFUSALS] == 2 * len([*RULES, "other"])
    assert words[REQUESTS] == len(metrics.OUTCOMES) * len(OPERATIONS - {"ready", "metrics"})


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


def test_requests_are_timed_by_operation_and_outcome(service: Service) -> None:
    """Each lands in one histogram, whose words are ours whatever was asked for."""
    name = {"host": "timed.example", "purpose": "ssh"}
    counted = Counted(service, [REQUESTS])
    service.upsert(**name, password="p")
    service.lookup(**name)
    service.lookup(host="nowhere.example", purpose="ssh")
    service.send("POST", LOOKUP, b"{")
    service.lookup(**name, password="p")
    service.send("POST", LOOKUP, name, key="wrong")
    service.audit("/internal/audit/events")
    service.audit("/log/checkpoint")
    service.send("GET", "/internal/access/keys")
    service.send("GET", "/internal/what-is-this", key="wrong")
    service.send("GET", "/what-is-this")
    service.get("/health/live")
    assert counted.grew() == {
        f'{REQUESTS}{{operation="{operation}",outcome="{outcome}"}}': count
        for operation, outcome, count in [
            ("upsert", "ok", 1),
            ("lookup", "ok", 1),
            ("lookup", "not_found", 1),
            ("lookup", "invalid", 2),
            ("lookup", "refused", 1),
            ("audit", "ok", 2),
            ("admin", "refused", 1),
            ("none", "not_found", 2),
            ("live", "ok", 1),
        ]
    }


def test_what_a_commit_took_is_measured(service: Service) -> None:
    """Every event is in some batch, and every batch took its time."""
    names = ["secrets_batch_events_sum", "secrets_batch_events_count"]
    times = ["secrets_commit_duration_seconds_count", "secrets_commit_duration_seconds_sum"]
    before = len(service.events("position"))
    counted = Counted(service, [*names, *times])
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: service.lookup(**NAME).status, range(50)))
    events, batches, commits, seconds = (counted.grew()[name] for name in (*names, *times))
    assert events == len(service.events("position")) - before == 50
    assert batches == commits <= 50
    assert 0 < seconds < 60


def test_refusals_are_counted_by_their_rule(service: Service) -> None:
    """By the one that the event names, whatever the answer says."""
    keys = Keys(service)
    key = keys.grant("metered", rule("read"), requests=[1, 3600])
    wants = keys.grant("reasons", rule("read", reason=True))
    elsewhere = keys.grant("elsewhere", rule("read", networks=["192.0.2.0/24"]))
    gone = keys.grant("gone", rule("read"))
    keys.revoke("gone")
    first = len(service.events("position"))
    counted = Counted(service, [REFUSALS])
    asked = replace(service, source="127.0.0.9")
    for sent, host, purpose in [
        (key, "web-1", "ssh"),
        (key, "web-1", "ssh"),
        (key, "db-1", "ssh"),
        (key, "web-1", "winrm"),
        (wants, "web-1", "ssh"),
    ]:
        asked.send("POST", LOOKUP, {"host": host, "purpose": purpose}, key=sent)
    other = replace(service, source="127.0.0.10")
    other.send("POST", UPSERT, {**NAME, "host": "web-1"}, key=key)
    other.send("POST", LOOKUP, {**NAME, "host": "web-1"}, key=elsewhere)
    other.send("POST", LOOKUP, NAME, key=gone)
    other.send("POST", LOOKUP, NAME, key=None)
    denied = service.events("details ->> 'rule'", f"type = 'access.denied' AND position >= {first}")
    recorded = Counter(rule for (rule,) in denied)
    assert recorded == Counter(
        ["requests", "host", "purpose", "reason", "operation", "network", "revoked", "no_key"]
    )
    assert counted.grew() == {
        f'{REFUSALS}{{record="event",rule="{rule}"}}': count for rule, count in recorded.items()
    }
    assert abs(service.metrics()["secrets_last_refusal_timestamp_seconds"] - time.time()) < 60


def test_each_item_of_a_batch_that_is_refused_counts(service: Service) -> None:
    """The batch as a request of its own, its items among lookups and refusals."""
    key = Keys(service).grant("batches", rule("read"))
    counted = Counted(service, [REFUSALS, REQUESTS, LOOKUPS, FAILURES])
    items = [{"host": host, "purpose": "ssh"} for host in ("web-1", "db-1", "db-2")]
    asked = replace(service, source="127.0.0.12")
    answer = asked.send("POST", f"{LOOKUP}-batch", {"items": items}, key=key)
    assert [item["status"] for item in answer.json["items"]] == [404, 403, 403]
    assert counted.grew() == {
        f'{REFUSALS}{{record="event",rule="host"}}': 2,
        f'{REQUESTS}{{operation="lookup_batch",outcome="ok"}}': 1,
        LOOKUPS: 3,
        FAILURES: 3,
    }


def test_no_refusal_of_a_flood_is_missing(service: Service) -> None:
    """Those that became events and those that were only counted are all that there were."""
    counted = Counted(service, [REFUSALS])
    flood = replace(service, source="127.0.0.11")
    for _ in range(40):
        assert flood.send("POST", LOOKUP, NAME, key="wrong").status == 403
    grew = counted.grew()
    samples = {f'{REFUSALS}{{record="{how}",rule="unknown_key"}}' for how in ("event", "counted")}
    assert grew.keys() == samples
    assert sum(grew.values()) == 40
    assert min(grew.values()) > 0


def test_no_label_is_what_somebody_sent(service: Service) -> None:
    """Names of labels and their values are from closed sets, whatever was asked for."""
    sent = {"host": "l4bel-host.example", "purpose": "l4bel-purpose"}
    headers = {"X-Service-Name": "l4bel-actor", "X-Access-Reason": "l4bel-reason"}
    key = Keys(service).grant("l4bel-grant", rule("read", host="l4bel-*"))
    service.upsert(headers, **sent, username="l4bel-user", password="l4bel-password")
    for used in ("", key, "l4bel-key", None):
        service.send("POST", LOOKUP, sent, headers, key=used)
        service.send("GET", "/internal/l4bel-path", headers=headers, key=used)
    eventually_gathered(service)
    text = service.get("/metrics").body.decode()
    assert "l4bel" not in text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found: dict[str, set[str]] = {}
    for name, value in (label for sample in samples for label in sample.labels.items()):
        found.setdefault(name, set()).add(value)
    assert all(float(bound) > 0 for bound in found.pop("le"))
    assert found == {
        "operation": OPERATIONS,
        "outcome": set(metrics.OUTCOMES),
        "record": {"event", "counted"},
        "rule": {*RULES, "other"},
        "cause": {"queue_full", "wrong_key", "kms", "mismatch", "outcome_unknown", "other"},
        "condition": set(metrics.CONDITIONS),
        "cap": set(metrics.CAPS),
        "within": {"7d", "30d"},
        "provider": {*gauges.PROVIDERS, "other"},
        "state": set(gauges.STATES),
    }


def eventually_gathered(service: Service) -> None:
    """Wait until the gauges are there."""
    gathered = "secrets_gathered_timestamp_seconds"
    until(lambda: gathered in service.metrics(), "nothing was gathered")


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
    # Not those of commits: a flood of before may still have to be told of.
    found = [counters(service) for _ in range(20)]
    assert len({tuple(each[name] for name in sorted(PLAIN)) for each in found}) == 1
    assert len(service.workers()) == 2


def test_counts_survive_the_death_of_a_worker(service: Service) -> None:
    """What a killed worker counted stays, another takes its place, and requests go on."""
    counted = Counted(service)
    for _ in range(20):  # so that both workers have counted something
        service.lookup(**NAME)
    service.replace_worker()
    for _ in range(20):
        assert service.lookup(**NAME).status == 404
    assert counted.grew() == {LOOKUPS: 40, FAILURES: 40}


def test_a_restart_begins_at_zero(service: Service) -> None:
    """Counters of an earlier run are not counted again."""
    with folder() as place, serving(service.database.service_url, place / "log") as second:
        assert set(counters(second).values()) == {0.0}


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


def test_a_file_that_a_worker_is_just_making_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever scrapes at that moment gets the metrics; what stays broken is an error."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    made = tmp_path / "counter_1.db"
    made.touch()
    with pytest.raises(struct.error):
        metrics.render()
    timer = threading.Timer(0.07, lambda: os.truncate(made, 2**20))
    timer.start()
    assert metrics.render() == b""
    timer.join()
