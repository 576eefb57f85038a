"""Credentials that end, as a caller sees them, and the list of what is due."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from secrets_broker.ledger.commands import Upsert
from secrets_broker.ledger.encryption.keyring import Keyring
from tests.conftest import KMS_KEY
from tests.http.client import UPSERT, Answer, Service
from tests.ledger.helpers import record, upsert

DUE = "/internal/audit/due"
PAST = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
FUTURE = "2120-01-02T04:04:05.0000061+01:00"


def ask(service: Service, **fields: Any) -> Answer:
    """GET the list."""
    return service.send("GET", f"{DUE}?{urlencode(fields)}" if fields else DUE)


def of_before(service: Service, command: Upsert) -> None:
    """Store what is not taken any more, as if time had gone on since it was."""
    record(service.database, Keyring.from_kms_keys(KMS_KEY), command)


def test_limits_are_served_where_they_are_set(service: Service) -> None:
    """In UTC to the microsecond, whatever offset they were given in; unset ones not at all."""
    name = {"host": "limits.example", "purpose": "ssh"}
    service.upsert(**name, password="p", expires_at=FUTURE, rotate_after=90)
    found = service.lookup(**name).json
    assert (found["expires_at"], found["rotate_after"]) == ("2120-01-02T03:04:05.000006Z", 90)
    service.upsert(**name, password="p", expires_at=None, rotate_after=None)
    assert not {"expires_at", "rotate_after"} & service.lookup(**name).json.keys()


def test_past_its_time_it_is_404_and_a_failure(service: Service) -> None:
    """Nothing of it is in the answer; the event says what it was, and the counters count it."""
    name = {"host": "past.example", "purpose": "ssh"}
    of_before(service, upsert("past.example", "p4ssword", username="u5er", expires_at=PAST))
    before = service.metrics()
    answer = service.lookup(**name)
    assert (answer.status, answer.body) == (404, b'{"reason":"expired"}')
    position = int(answer.headers["X-Ledger-Position"])
    assert service.events("type, ok, error, version", f"position = {position}") == [
        ("credential.read", False, "expired", 1)
    ]
    after = service.metrics()
    for counter in ("lookups", "lookup_failures"):
        full = f"secrets_credential_{counter}_total"
        assert after[full] == before[full] + 1
    assert service.delete("host=past.example&purpose=ssh").status == 200
    assert service.lookup(**name).body == b'{"reason":"not_found"}'


def test_a_time_in_the_past_is_refused_in_words(service: Service) -> None:
    """Alone and as an item of a batch, for a new name and one that is there; nothing is stored."""
    name = {"host": "over.example", "purpose": "ssh"}
    error = [{"field": "expires_at", "message": "must be in the future"}]
    for version in (1, 2):
        now = datetime.now(UTC).isoformat()
        answer = service.upsert(**name, password="p", expires_at=now)
        assert (answer.status, answer.json["errors"]) == (400, error)
        item = {**name, "password": "p"}
        batch = {"items": [item, {**item, "expires_at": now}]}
        found = service.send("POST", f"{UPSERT}-batch", batch).json["items"]
        assert [one["status"] for one in found] == [200, 400]
        assert (found[0]["version"], found[1]["errors"]) == (version, error)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2126-12-31T23:59:59.9999999Z", "2126-12-31T23:59:59.999999Z"),
        ("2126-12-31T23:59:59.999999999999999999999Z", "2126-12-31T23:59:59.999999Z"),
        ("2126-12-31T23:59:59.9999995+00:00", "2126-12-31T23:59:59.999999Z"),
        ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999999Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000000Z"),
        ("9999-12-31T23:59:59.999999+14:00", "9999-12-31T09:59:59.999999Z"),
        ("2126-01-01t00:00:00.1z", "2126-01-01T00:00:00.100000Z"),
    ],
)
def test_a_time_is_cut_and_never_rounded_up(service: Service, given: str, kept: str) -> None:
    """To the microsecond, at which it is kept; .NET sends seven digits, Go up to nine."""
    name = {"host": "cut.example", "purpose": "ssh"}
    assert service.upsert(**name, password="p", expires_at=given).status == 200
    assert service.lookup(**name).json["expires_at"] == kept
    (item,) = service.send(
        "POST", f"{UPSERT}-batch", {"items": [{**name, "password": "p", "expires_at": given}]}
    ).json["items"]
    assert item["status"] == 200
    assert service.lookup(**name).json["expires_at"] == kept


@pytest.mark.parametrize(
    "fields",
    [
        {"expires_at": "2020-01-02T03:04:05Z"},
        {"expires_at": "0001-01-01T00:00:00Z"},
        {"expires_at": "9999-12-31T23:59:59-00:01"},
        {"expires_at": "2031-05-06T07:08:09"},
        {"expires_at": "2031-05-06"},
        {"expires_at": 2031},
        {"expires_at": "0001-01-01T00:00:00+23:59"},
        {"rotate_after": 0},
        {"rotate_after": 36_501},
        {"rotate_after": "2031"},
        {"rotate_after": 2031.0},
        {"rotate_after": True},
    ],
    ids=str,
)
def test_a_limit_that_breaks_a_rule_is_400(service: Service, fields: dict[str, Any]) -> None:
    """The field and the rule are named, the value is not, and nothing is recorded."""
    answer = service.upsert(host="bad.example", purpose="ssh", password="p", **fields)
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request")
    (error,) = answer.json["errors"]
    assert error["field"] == next(iter(fields))
    assert "2031" not in answer.text
    assert service.lookup(host="bad.example", purpose="ssh").json == {"reason": "not_found"}


def stored(service: Service, prefix: str, number: int) -> list[str]:
    """Names of credentials that end one day after another."""
    hosts = [f"{prefix}{n}.example" for n in range(number)]
    for n, host in enumerate(hosts):
        ends = datetime.now(UTC) + timedelta(days=n, hours=-1)
        more = {"secret_data": {"k": "s3cret"}, "additional_data": {"k": "d4ta"}}
        of_before(service, upsert(host, "p4ssword", username="u5er", expires_at=ends, **more))
    return hosts


def test_what_is_due_is_listed_without_any_secret(service: Service) -> None:
    """Names, times and who; no content, sealed or not, and no event for having asked."""
    hosts = stored(service, "listed-", 2)
    size = len(service.events("position"))
    answer = ask(service, host="listed-*", within="2d")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert "X-Ledger-Position" not in answer.headers
    first, second = answer.json["items"]
    assert first.keys() == {"host", "purpose", "what", "at", "changed_at", "changed_by"}
    assert [first["host"], second["host"]] == hosts
    assert [first["what"], second["what"]] == ["expired", "expires"]
    assert (first["purpose"], first["changed_by"]) == ("ssh", "tester")
    assert answer.json["next"] is None
    for secret in ("p4ssword", "s3cret", "d4ta", "u5er"):
        assert secret not in answer.text
    assert len(service.events("position")) == size


def test_pages_follow_each_other(service: Service) -> None:
    """A page's `next` is where the next one begins, also when something new came between."""
    hosts = stored(service, "page-", 5)
    found, cursor = [], None
    while True:
        more: dict[str, str] = {"cursor": cursor} if cursor else {}
        answer = ask(service, host="page-*", limit=2, **more).json
        assert len(answer["items"]) <= 2
        found += [item["host"] for item in answer["items"]]
        cursor = answer["next"]
        if cursor is None:
            break
        past = datetime.now(UTC) - timedelta(days=9)  # before what was read: not in a later page
        of_before(service, upsert("page-new.example", "", expires_at=past))
    assert found == hosts


def test_unchanged_is_listed_only_where_asked_for(service: Service) -> None:
    """Without unchanged_for, a credential without limits is nobody's business."""
    service.upsert(host="plain.example", purpose="ssh", password="p")
    assert ask(service, host="plain.example").json["items"] == []
    (item,) = ask(service, host="plain.example", unchanged_for="0m").json["items"]
    assert (item["what"], item["at"]) == ("unchanged", item["changed_at"])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("within=m4rker", "within"),
        ("within=", "within"),
        ("unchanged_for=1y", "unchanged_for"),
        ("host=%00m4rker", "host"),
        (f"purpose={'m4rker' * 60}", "purpose"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=m4rker", "limit"),
        ("limit=%2B5", "limit"),
        ("cursor=m4rker", "cursor"),
        ("cursor=", "cursor"),
        ("m4rker=1", ""),
        ("limit=1&limit=2", ""),
        ("host=%ff", ""),
    ],
)
def test_a_question_that_breaks_a_rule_is_400(service: Service, query: str, field: str) -> None:
    """The parameter is named and its value not repeated; one that is not known is refused."""
    answer = service.send("GET", f"{DUE}?{query}")
    assert answer.status == 400
    assert [error["field"] for error in answer.json["errors"]] == [field]
    assert "m4rker" not in answer.text


def test_the_list_needs_the_key(service: Service) -> None:
    """Names of hosts are not for everybody."""
    assert service.send("GET", DUE, key=None).status == 403
    assert service.send("GET", DUE, key="wrong").status == 403


def test_a_question_waits_for_nobody_for_long(service: Service) -> None:
    """Where the table is held by somebody else: 503 in bounded time, and lookups are not held up
    by the question."""
    with service.database.owner() as connection, connection.transaction():
        connection.execute("LOCK TABLE secrets.host_credentials IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        answer = ask(service)
        assert time.monotonic() - started < 10
        assert (answer.status, answer.json["reason"]) == (503, "ledger_unavailable")
    assert ask(service).status == 200
