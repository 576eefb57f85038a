"""Access keys over HTTP: what they open, whose name stands in the record, and when they end."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from secrets_broker.ledger.access.access_key import new_access_key
from secrets_broker.tools.postgres import Cluster
from tests.conftest import AUDITOR_KEY, INTERNAL_KEY, TEMPLATE, fresh_database
from tests.http.auth.refusals import FORBIDDEN, last
from tests.http.client import DELETE, LOOKUP, UPSERT, Answer, Service
from tests.http.conftest import folder, serving
from tests.http.granting import Keys, rule

NAME = {"host": "web-1", "purpose": "ssh"}


_sources = count(2)


@pytest.fixture
def keys(service: Service) -> Keys:
    """Grants for the module's service, which a test asks from an address of its own."""
    service.source = f"127.0.1.{next(_sources)}"
    return Keys(service)


def test_a_key_opens_what_its_rules_allow_and_nothing_else(service: Service, keys: Keys) -> None:
    """The refusal is an event with host, purpose and rule; the access log shows it."""
    key = keys.grant("opens", rule("read", "write"))
    stored = service.send("POST", UPSERT, {**NAME, "password": "pw-opens"}, key=key)
    assert stored.status == 200
    assert service.send("POST", LOOKUP, NAME, key=key).json["password"] == "pw-opens"
    for method, path, body, why in (
        ("POST", LOOKUP, {"host": "db-1", "purpose": "ssh"}, "host"),
        ("POST", LOOKUP, {"host": "web-1", "purpose": "rdp"}, "purpose"),
        ("DELETE", f"{DELETE}?host=web-1&purpose=ssh", None, "operation"),
        ("GET", "/internal/audit/events", None, "operation"),
    ):
        answer = service.send(method, path, body, key=key)
        assert (answer.status, answer.json["reason"]) == (403, "forbidden")
        position = int(answer.headers["X-Ledger-Position"])
        event = last(service)
        assert event["type"] == "access.denied"
        assert event["actor"] == "opens"
        assert str(event["authn"]).startswith("access_key:")
        assert (event["host"], event["purpose"]) == tuple(
            body[part] if body else None for part in ("host", "purpose")
        ) or method == "DELETE"
        query = "SELECT success, error_message FROM secrets.credential_access_log WHERE id = %s"
        assert service.database.fetch(query, position) == [(False, f"forbidden: {why}")]


def test_the_actor_is_the_keys_name_whatever_headers_say(service: Service, keys: Keys) -> None:
    """X-Service-Name is kept, as a claim."""
    key = keys.grant("named", rule("read"))
    bearer = {"Authorization": f"Bearer {key}", "X-Service-Name": "somebody-else"}
    assert service.send("POST", LOOKUP, NAME, bearer, key=None).status in (200, 404)
    event = last(service)
    assert (event["type"], event["actor"]) == ("credential.read", "named")
    assert event["details"] == {"claim": "somebody-else"}


def test_unknown_expired_revoked_and_malformed_keys_get_the_same_answer(
    service: Service, keys: Keys
) -> None:
    """To the byte, headers too; the record tells them apart, and names no caller."""
    revoked = keys.grant("revoked", rule("read"))
    keys.revoke("revoked")
    rotated = keys.grant("rotated", rule("read"))
    keys.rotate("rotated", "2026-01-02T00:00:00Z")
    shown = {
        "revoked": revoked,
        "expired": rotated,
        "unknown_key": new_access_key(),
        "unknown_key ": "malformed",
    }
    answers: list[Answer] = []
    for expected, key in shown.items():
        answer = service.send("POST", LOOKUP, NAME, {"X-Service-Name": "claimed"}, key=key)
        answers.append(answer)
        event = last(service)
        assert event["type"] == "access.denied"
        assert (event["actor"], event["authn"]) == (None, "none")
        details = event["details"]
        assert isinstance(details, dict)
        assert (details["rule"], details["claim"]) == (expected.strip(), "claimed")
        assert key not in str(service.events("*"))
    assert {answer.status for answer in answers} == {403}
    assert {answer.body for answer in answers} == {answers[0].body}
    assert answers[0].json == FORBIDDEN
    for key in ("", "k" * 9_000, "sbk_", "caf\xe9", f"{revoked} {rotated}"):
        answers.append(service.send("POST", LOOKUP, NAME, {"X-Internal-Key": key}, key=None))
    assert {repr((answer.status, answer.body, _told_in(answer))) for answer in answers} == {
        repr((403, answers[0].body, _told_in(answers[0])))
    }


def _told_in(answer: Answer) -> list[tuple[str, str]]:
    # But for the request's own id, and the time to the second.
    own = ("x-request-id", "date")
    return sorted((name, text) for name, text in answer.headers.items() if name.lower() not in own)


def test_old_and_new_key_are_valid_side_by_side_until_a_time(service: Service, keys: Keys) -> None:
    """And both have the same name."""
    old = keys.grant("rotating", rule("read"))
    new = keys.rotate("rotating", "2100-01-01T00:00:00Z")
    for key in (old, new):
        assert service.send("POST", LOOKUP, NAME, key=key).status != 403
        assert last(service)["actor"] == "rotating"
    keys.rotate("rotating", "2026-01-01T00:00:00Z")
    assert {service.send("POST", LOOKUP, NAME, key=key).status for key in (old, new)} == {403}


def test_a_change_is_in_force_on_every_process_at_once(service: Service, keys: Keys) -> None:
    """Whichever worker is asked, it is asked after the change."""
    key = keys.grant("changing", rule("read"))
    for _ in range(6):
        assert service.send("POST", LOOKUP, NAME, key=key).status != 403
    keys.change("changing", rule("read", host="db-*"))
    for _ in range(6):
        assert service.send("POST", LOOKUP, NAME, key=key).status == 403
        assert service.send("POST", LOOKUP, {**NAME, "host": "db-1"}, key=key).status != 403
    position = keys.revoke("changing")
    for _ in range(4):
        assert service.send("POST", LOOKUP, {**NAME, "host": "db-1"}, key=key).status == 403
    opened = f"actor = 'changing' AND type = 'credential.read' AND position > {position}"
    assert service.events("position", opened) == []


def test_an_auditors_right_opens_auditors_paths(service: Service, keys: Keys) -> None:
    """Without hosts; and ends with the grant, though nothing of it is an event."""
    key = keys.grant("auditing", {"allow": ["audit"]})
    assert service.send("GET", "/internal/audit/events", key=key).status == 200
    assert service.send("GET", "/log/checkpoint", key=key).status == 200
    assert service.send("POST", LOOKUP, NAME, key=key).status == 403
    keys.revoke("auditing")
    for _ in range(4):
        answer = service.send("GET", "/internal/audit/events", key=key)
        assert (answer.status, answer.json) == (403, FORBIDDEN)


def test_a_key_may_be_bound_to_networks(service: Service, keys: Keys) -> None:
    """From elsewhere it opens nothing."""
    near = keys.grant("near", rule("read", networks=["127.0.0.0/8"]))
    far = keys.grant("far", rule("read", networks=["192.0.2.0/24", "2001:db8::/32"]))
    assert service.send("POST", LOOKUP, NAME, key=near).status != 403
    assert service.send("POST", LOOKUP, NAME, key=far).status == 403
    details = last(service)["details"]
    assert isinstance(details, dict)
    assert details["rule"] == "network"


@pytest.mark.parametrize(
    ("allow", "method", "path", "body"),
    [
        ("audit", "GET", "/internal/audit/events", None),
        ("audit", "GET", "/internal/audit/due", None),
        ("audit", "HEAD", "/internal/audit/unused?since=1d", None),
        ("audit", "GET", "/log/checkpoint", None),
        ("audit", "GET", "/log/tile/0/000", None),
        ("admin", "GET", "/internal/access/keys", None),
        ("admin", "POST", "/internal/access/key-revoke", {"name": "nobody"}),
        ("admin", "POST", "/internal/access/key-grant", {"name": "x", "rules": []}),
        ("read", "GET", "/internal/secrets/credentials", None),
        ("read", "POST", LOOKUP, NAME),
        ("read", "POST", f"{LOOKUP}-batch", {"items": [NAME]}),
        ("write", "POST", UPSERT, {**NAME, "password": "p"}),
        ("write", "POST", f"{UPSERT}-batch", {"items": [{**NAME, "password": "p"}]}),
        ("delete", "DELETE", f"{DELETE}?host=web-1&purpose=ssh", None),
    ],
)
def test_a_reason_is_demanded_whatever_is_asked_for(
    service: Service, keys: Keys, allow: str, method: str, path: str, body: object
) -> None:
    """403 reason_required, on record; with a reason it is not that which stands in the way."""
    name = f"wants a reason: {allow} {method} {path}"[:100]
    key = keys.grant(name, rule(allow, reason=True))
    answer = service.send(method, path, body, key=key)
    if path.endswith("-batch"):
        (item,) = answer.json["items"]
        assert (item["status"], item["reason"]) == (403, "reason_required")
    else:
        assert answer.status == 403
        assert method == "HEAD" or answer.json["reason"] == "reason_required"
    event = last(service)
    assert (event["type"], event["error"], event["actor"]) == (
        *("access.denied", "reason_required", name),
    )
    told = service.send(method, path, body, {"X-Access-Reason": "CHG-1"}, key=key)
    assert told.status in (200, 400, 404)


def test_a_rule_can_demand_a_reason(service: Service, keys: Keys) -> None:
    """403 reason_required without one; with one, it is in the event."""
    key = keys.grant("reasoned", rule("read", reason=True))
    answer = service.send("POST", LOOKUP, NAME, key=key)
    assert (answer.status, answer.json["reason"]) == (403, "reason_required")
    assert last(service)["error"] == "reason_required"
    given = {"X-Access-Reason": "CHG-4711"}
    assert service.send("POST", LOOKUP, NAME, given, key=key).status != 403
    assert last(service)["reason"] == "CHG-4711"


def test_two_keys_in_one_request_are_refused(service: Service, keys: Keys) -> None:
    """Even where each would do, and even where they are the same."""
    key = keys.grant("twice", rule("read"))
    for first, second in ((key, key), (INTERNAL_KEY, key), (key, INTERNAL_KEY)):
        both = {"Authorization": f"Bearer {second}"}
        answer = service.send("POST", LOOKUP, NAME, both, key=first)
        assert (answer.status, answer.json) == (403, FORBIDDEN)


@pytest.mark.usefixtures("keys")
def test_the_shared_keys_still_work_and_are_refused_by_name(service: Service) -> None:
    """What they do not open is an event that says which key it was."""
    assert service.lookup(**NAME).status != 403
    answer = service.send("POST", LOOKUP, NAME, key=AUDITOR_KEY)
    assert answer.json == FORBIDDEN
    event = last(service)
    assert (event["actor"], event["authn"]) == (None, "auditor_key")


def test_the_internal_key_can_be_switched_off(cluster: Cluster) -> None:
    """Then it opens nothing, and need not be set; grants go on working."""
    off = {"INTERNAL_KEY_OFF": "true"}
    with fresh_database(cluster, TEMPLATE) as database, folder() as place:
        with serving(database.service_url, place / "log", settings=off) as service:
            service.database = database
            assert service.lookup(**NAME).status == 403
            key = Keys(service).grant("alone", rule("read"))
            assert service.send("POST", LOOKUP, NAME, key=key).status == 404
        unset = {**off, "INTERNAL_KEY": ""}
        with serving(database.service_url, place / "log", settings=unset) as service:
            assert service.send("POST", LOOKUP, NAME, key="").status == 403
            assert service.send("POST", LOOKUP, NAME, key=key).status == 404


def test_the_database_away_keys_are_judged_and_requests_get_503(fresh: Service) -> None:
    """A key that is allowed or may be gets 503, one that is refused its 403; then all is told."""
    keys = Keys(fresh)
    key = keys.grant("away", rule("read"))
    with ThreadPoolExecutor(16) as pool:  # so many at once that each worker comes to know the key
        statuses = pool.map(lambda _: fresh.send("POST", LOOKUP, NAME, key=key).status, range(160))
        assert set(statuses) == {404}
    with fresh.database.owner() as connection:
        connection.execute("ALTER ROLE service_login CONNECTION LIMIT 0")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'service_login'"
        )
        try:
            assert fresh.send("POST", LOOKUP, NAME, key=key).status == 503
            made_up = [fresh.send("POST", LOOKUP, NAME, key=new_access_key()) for _ in range(9)]
            refused = [fresh.send("POST", LOOKUP, NAME, key="wrong").status for _ in range(9)]
            assert fresh.send("POST", LOOKUP, {**NAME, "host": "db"}, key=key).status == 403
        finally:
            connection.execute("ALTER ROLE service_login CONNECTION LIMIT -1")
    assert [answer.status for answer in made_up] == [503] * 9
    assert refused == [403] * 9
    assert _told(fresh, 10) == 10


def _told(service: Service, expected: int) -> int:
    """How many refusals the record tells of, once it tells of so many."""
    give_up = time.monotonic() + 40
    query = """
        SELECT count(*) FILTER (WHERE type = 'access.denied')
               + coalesce(sum((details ->> 'count')::bigint)
                          FILTER (WHERE type = 'access.counted'), 0) FROM ledger.events"""
    told = 0
    while told < expected and time.monotonic() < give_up:
        ((told,),) = service.database.fetch(query)
        time.sleep(0.2)
    return int(told)


def test_of_a_flood_the_first_few_are_events_and_the_rest_is_counted(fresh: Service) -> None:
    """Exactly, over all processes, once they have ended; and the log stays as short."""
    for _ in range(200):
        assert fresh.send("POST", LOOKUP, NAME, key="wrong").status == 403
    os.kill(fresh.pid, signal.SIGTERM)
    assert _told(fresh, 200) == 200
    assert len(fresh.events("position", "type = 'access.denied'")) <= 10
    counting = fresh.events("position", "type = 'access.counting'")
    assert len(counting) == len(fresh.events("position", "type = 'access.counted'")) <= 2
    lines = [line for line in fresh.log.read_text().splitlines() if "forbidden" in line]
    assert len(lines) <= 10


def test_a_key_that_was_just_granted_is_let_in_during_a_flood(fresh: Service) -> None:
    """At once, from the very source of the flood, on processes that have not read of it."""
    for _ in range(60):
        assert fresh.send("POST", LOOKUP, NAME, key="wrong").status == 403
    key = Keys(fresh).grant("late", rule("read"))
    with ThreadPoolExecutor(16) as pool:
        statuses = pool.map(lambda _: fresh.send("POST", LOOKUP, NAME, key=key).status, range(160))
        assert set(statuses) == {404}


def test_a_count_that_died_with_its_process_shows_as_unknown(fresh: Service) -> None:
    """That counting began is durable before anything is only counted."""
    for _ in range(60):
        assert fresh.send("POST", LOOKUP, NAME, key="wrong").status == 403
    began = fresh.events("position, details", "type = 'access.counting'")
    assert {row[1]["source"] for row in began} == {"127.0.0.1"}
    os.kill(fresh.pid, signal.SIGSTOP)  # so that no worker is made anew
    for worker in fresh.workers():
        os.kill(worker, signal.SIGKILL)
    os.kill(fresh.pid, signal.SIGCONT)
    counted = fresh.events("details", "type = 'access.counted'")
    told = {row[0]["counting"] for row in counted}
    assert {row[0] for row in began} - told


def test_a_limit_of_requests_is_exact_over_all_processes(fresh: Service) -> None:
    """So many succeed, whichever worker is asked; then 429 with Retry-After, and it is recorded."""
    key = Keys(fresh).grant("limited", rule("read"), requests=[10, 3600])
    answers = [fresh.send("POST", LOOKUP, NAME, key=key) for _ in range(16)]
    statuses = [answer.status for answer in answers]
    assert statuses == [statuses[0]] * 10 + [429] * 6
    assert answers[-1].json["reason"] == "rate_limited"
    assert 3500 < int(answers[-1].headers["Retry-After"]) <= 3600
    denied = fresh.events("details, error", "actor = 'limited' AND type = 'access.denied'")
    assert {(row[0]["rule"], row[1]) for row in denied} == {("requests", "rate_limited")}
    assert 1 <= len(denied) <= 6
    assert fresh.lookup(**NAME).status == statuses[0]


def test_a_limit_holds_across_a_crash(fresh: Service) -> None:
    """It is counted from the ledger, by whoever comes next; both keys of a grant share it."""
    service, keys = fresh, Keys(fresh)
    key = keys.grant("crashing", rule("read"), requests=[3, 3600])
    for _ in range(2):
        assert service.send("POST", LOOKUP, NAME, key=key).status != 429
    for _ in range(2):
        service.replace_worker()
    other = keys.rotate("crashing", "2100-01-01T00:00:00Z")
    assert service.send("POST", LOOKUP, NAME, key=other).status != 429
    assert service.send("POST", LOOKUP, NAME, key=key).status == 429
    assert service.send("POST", LOOKUP, NAME, key=other).status == 429


def test_a_limit_of_hosts_stops_a_bulk_read(fresh: Service) -> None:
    """Distinct ones; those that were read already can be read on."""
    service, keys = fresh, Keys(fresh)
    key = keys.grant("bulk", rule("read", "write"), hosts=[3, 3600])
    statuses = [
        service.send("POST", LOOKUP, {**NAME, "host": f"web-{number}"}, key=key).status
        for number in (1, 2, 1, 3, 4, 5, 2, 3)
    ]
    assert [status == 429 for status in statuses] == [False] * 4 + [True] * 2 + [False] * 2
    stored = service.send("POST", UPSERT, {**NAME, "host": "web-9", "password": "pw"}, key=key)
    assert stored.status == 200
    denied = service.events("host, details", "actor = 'bulk' AND type = 'access.denied'")
    assert [(host, details["rule"]) for host, details in denied] == [
        ("web-4", "hosts"),
        ("web-5", "hosts"),
    ]


def test_a_limit_opens_again_with_time_and_with_a_change(fresh: Service) -> None:
    """After Retry-After, or when the rights are changed."""
    service, keys = fresh, Keys(fresh)
    key = keys.grant("waiting", rule("read"), requests=[2, 1])
    answers = [service.send("POST", LOOKUP, NAME, key=key) for _ in range(2)]
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        answers.append(service.send("POST", LOOKUP, NAME, key=key))
        if len(answers) > 3 and answers[-1].status != 429 and answers[-2].status == 429:
            break
        time.sleep(0.02)
    assert {answer.status for answer in answers[:2]} == {answers[0].status}
    assert answers[-1].status == answers[0].status
    service.source = "127.0.2.1"  # where refusals are not only counted yet
    hard = keys.grant("changed-limit", rule("read"), requests=[1, 86_400])
    assert service.send("POST", LOOKUP, NAME, key=hard).status != 429
    assert service.send("POST", LOOKUP, NAME, key=hard).status == 429
    keys.change("changed-limit", rule("read"))
    assert service.send("POST", LOOKUP, NAME, key=hard).status != 429
