"""Batches: each item is an event and an answer of its own, and they are committed together."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secrets_broker.http.auth.throttle import FEW
from secrets_broker.http.resources.batch import MAX_ITEMS
from secrets_broker.http.routes import MAX_BATCH_BYTES
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, fresh_database
from tests.http.client import LOOKUP, UPSERT, Answer, Service
from tests.http.conftest import WORKERS, folder, serving
from tests.http.granting import Keys, rule
from tests.http.metrics.counted import FAILURES, Counted
from tests.http.metrics.counted import LOOKUPS as LOOKUPS_TOTAL
from tests.http.server.raw_requests import logged

LOOKUPS = f"{LOOKUP}-batch"
UPSERTS = f"{UPSERT}-batch"

_names = count()
_sources = count(2)


def lookups(service: Service, items: list[Any], key: str = "") -> Answer:
    """Ask for several."""
    return service.send("POST", LOOKUPS, {"items": items}, key=key)


def upserts(service: Service, items: list[Any], key: str = "") -> Answer:
    """Store several."""
    return service.send("POST", UPSERTS, {"items": items}, key=key)


def names(number: int) -> list[dict[str, str]]:
    """Names that no other test has."""
    return [{"host": f"batch-{next(_names)}", "purpose": "ssh"} for _ in range(number)]


@pytest.fixture
def keys(service: Service) -> Iterator[Keys]:
    """Grants for the module's service, which a test asks from an address of its own."""
    service.source = f"127.0.2.{next(_sources)}"
    yield Keys(service)
    service.source = "127.0.0.1"


def test_each_item_has_its_event_and_its_answer_in_the_same_place(service: Service) -> None:
    """Positions follow each other: one commit, in order."""
    wanted = names(3)
    stored = upserts(service, [{**name, "password": f"pw-{name['host']}"} for name in wanted])
    assert stored.status == 200
    first = stored.json["items"][0]["position"]
    assert stored.json["items"] == [
        {
            "status": 200,
            "position": first + number,
            "success": True,
            "credential_id": first + number + 1,
            **name,
            "version": 1,
        }
        for number, name in enumerate(wanted)
    ]
    found = lookups(service, [*wanted, *names(1)]).json["items"]
    assert [item.get("password") for item in found] == [
        *(f"pw-{name['host']}" for name in wanted),
        None,
    ]
    assert found[3] == {"status": 404, "reason": "not_found", "position": first + 6}
    types = service.events("type, host, ok", f"position >= {first}")
    assert types == [
        *(("credential.created", name["host"], True) for name in wanted),
        *(("credential.read", name["host"], True) for name in wanted),
        ("credential.read", types[6][1], False),
    ]
    ((transactions,),) = service.database.fetch(
        "SELECT count(DISTINCT xmin::text) FROM ledger.events WHERE position BETWEEN %s AND %s",
        first,
        first + 2,
    )
    assert transactions == 1


def test_an_item_is_answered_as_the_single_request_is(service: Service) -> None:
    """Its body is that of the single answer, with the status in it."""
    (name,) = names(1)
    full = {**name, "password": "p", "secret_data": {"token": "t"}, "rotate_after": 3}
    upserts(service, [full])
    single = service.lookup(**name)
    (item,) = lookups(service, [name]).json["items"]
    assert item.pop("status") == single.status
    assert item.pop("position") == int(single.headers["X-Ledger-Position"]) + 1
    assert item == single.json


def test_later_items_see_what_earlier_ones_did(service: Service) -> None:
    """The same name twice in a batch is two versions."""
    (name,) = names(1)
    stored = upserts(service, [{**name, "password": "a"}, {**name, "password": "b"}])
    assert [item["version"] for item in stored.json["items"]] == [1, 2]
    both = lookups(service, [name, name]).json["items"]
    assert [item["password"] for item in both] == ["b", "b"]


WRONG: list[Any] = [{}, None, 7, "x", [], {"host": "x"}, {"host": "", "purpose": "ssh"}]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.none(), st.sampled_from(WRONG)), min_size=1, max_size=12))
def test_a_wrong_item_does_not_disturb_the_others(service: Service, items: list[Any]) -> None:
    """It is 400 in its place, and no event; None stands for a right one."""
    (name,) = names(1)
    upserts(service, [{**name, "password": "right"}])
    before = len(service.events("position"))
    sent = [name if item is None else item for item in items]
    answer = lookups(service, sent)
    told = [item["status"] for item in answer.json["items"]]
    assert told == [200 if item is None else 400 for item in items]
    assert len(service.events("position")) - before == items.count(None)


def test_no_value_of_a_wrong_item_is_given_back(service: Service) -> None:
    """It may be a password."""
    item = {"host": "x", "purpose": "ssh", "password": ["pw-of-a-list"]}
    answer = upserts(service, [item, {"host": "x", "pw-as-a-field": 1}])
    assert [each["status"] for each in answer.json["items"]] == [400, 400]
    assert "pw-" not in answer.text
    assert "pw-" not in service.log.read_text()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": []},
        {"items": {}},
        {"items": [{}] * (MAX_ITEMS + 1)},
        {"items": [{}], "more": 1},
        b"[]",
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(service: Service, body: Any) -> None:
    """400, and no event."""
    before = service.events("count(*)", "true GROUP BY position")
    answer = service.send("POST", LOOKUPS, body)
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request")
    assert service.events("count(*)", "true GROUP BY position") == before


def test_the_largest_batch(service: Service) -> None:
    """500 items of 8 KiB fit; a byte more than the bound is 413, announced or in chunks."""
    items = [{**name, "password": "x" * 7_900} for name in names(MAX_ITEMS)]
    answer = upserts(service, items)
    assert {item["status"] for item in answer.json["items"]} == {200}
    over = b" " * (MAX_BATCH_BYTES + 1)
    assert service.send("POST", UPSERTS, over).status == 413
    chunks = iter([b" " * (MAX_BATCH_BYTES // 2)] * 3)
    assert service.send("POST", UPSERTS, chunks).status == 413


def test_items_are_judged_one_by_one(service: Service, keys: Keys) -> None:
    """What the rules do not allow is refused in its place, with its event; the rest is not."""
    key = keys.grant("batch", rule("read", "write", host="batch-*"))
    mine, other = names(1)[0], {"host": "db-1", "purpose": "ssh"}
    assert upserts(service, [{**mine, "password": "m"}], key).json["items"][0]["status"] == 200
    answer = lookups(service, [mine, other, mine], key)
    assert [item["status"] for item in answer.json["items"]] == [200, 403, 200]
    refused = answer.json["items"][1]
    assert (refused["reason"], "password" in refused) == ("forbidden", False)
    rows = service.events("type, actor, host, details ->> 'rule'")[-3:]
    assert rows[refused["position"] - answer.json["items"][0]["position"]] == (
        "access.denied",
        "batch",
        "db-1",
        "host",
    )


def test_a_key_without_the_right_gets_no_batch(service: Service, keys: Keys) -> None:
    """403 as a whole; the auditor's key too."""
    key = keys.grant("reads", rule("read"))
    assert upserts(service, [{"host": "web-1", "purpose": "ssh", "password": "x"}], key).status == (
        403
    )
    assert service.audit(LOOKUPS).status == 403


def test_limits_hold_within_a_batch(service: Service, keys: Keys) -> None:
    """The items past a limit are 429, and say when to try again."""
    key = keys.grant("limited", rule("read", host="*"), requests=[2, 3600])
    answer = lookups(service, names(4), key)
    assert [item["status"] for item in answer.json["items"]] == [404, 404, 429, 429]
    assert answer.json["items"][3]["retry_after"] > 3_000


def test_a_flood_of_refused_items_is_counted(cluster: Cluster) -> None:
    """The first few are events, the rest a number; both together are how many there were."""
    refused = [{"host": f"db-{number}", "purpose": "ssh"} for number in range(100)]
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        with serving(database.service_url, place / "gunicorn.log") as running:
            running.database = database
            key = Keys(running).grant("flooding", rule("read"))
            for _ in range(3):
                answer = lookups(running, [*refused, {"host": "web-1", "purpose": "ssh"}], key)
                statuses = [item["status"] for item in answer.json["items"]]
                assert statuses == [403] * len(refused) + [404]
        told = """SELECT count(*) FILTER (WHERE type = 'access.denied'),
                         sum((details ->> 'count')::int) FILTER (WHERE type = 'access.counted')
                  FROM ledger.events"""
        ((denied, counted),) = database.fetch(told)
    assert denied + counted == 3 * len(refused)
    # A process whose grants are of before learns of the key under the lock, with a whole batch.
    assert denied <= WORKERS * (len(refused) + FEW)


def test_each_item_counts_as_a_request(service: Service) -> None:
    """In the metrics; the log has one line, with how many came to what."""
    (name,) = names(1)
    upserts(service, [{**name, "password": "counted"}])
    counted = Counted(service)
    lookups(service, [name, name, *names(1)])
    assert counted.grew() == {LOOKUPS_TOTAL: 3, FAILURES: 1}
    lines = logged(service, "items", {"ok": 2, "not_found": 1})
    assert lines[-1]["operation"] == "lookup_batch"


def test_without_the_ledger_nothing_is_given_out() -> None:
    """503 as a whole where an item might be allowed; refused is refused all the same."""
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    with folder() as place, serving(nowhere, place / "gunicorn.log", until=503) as down:
        answer = lookups(down, names(2))
        assert (answer.status, answer.json["reason"]) == (503, "ledger_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert lookups(down, names(2), "unknown").status == 403
