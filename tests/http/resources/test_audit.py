"""The questions of auditors over HTTP: pages, what is refused, and who may ask."""

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.http.client import Answer, Service
from tests.http.server.raw_requests import logged

AUDIT = "/internal/audit/"
NAME = {"purpose": "ssh"}
LONG = "m4rker" * 60


def ask(service: Service, question: str, **fields: Any) -> Answer:
    """GET a page as an auditor."""
    return service.audit(f"{AUDIT}{question}?{urlencode(fields)}")


def every(service: Service, question: str, **fields: Any) -> list[list[dict[str, Any]]]:
    """Every page."""
    found, cursor = [], None
    while True:
        more: dict[str, str] = {"cursor": cursor} if cursor else {}
        answer = ask(service, question, **fields, **more)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
        assert "X-Ledger-Position" not in answer.headers
        found.append(answer.json["items"])
        cursor = answer.json["next"]
        if cursor is None:
            return found


def lived(service: Service, host: str) -> int:
    """Two versions, read twice and once, deleted and stored again; the first one's position."""
    name = {"host": host, "purpose": "ssh"}
    stored = service.upsert(**name, password="p4ssword", username="u5er")
    service.lookup({"X-Service-Name": "deploy", "X-Access-Reason": "CHG-1"}, **name)
    service.lookup(**name)
    service.upsert(**name, password="p4ssword", additional_data={"k": "d4ta"})
    service.lookup(**name)
    service.delete(f"host={host}&purpose=ssh")
    service.lookup(**name)
    service.upsert(**name, password="p4ssword", secret_data={"k": "s3cret"})
    return int(stored.headers["X-Ledger-Position"])


def flat(pages: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The items of all pages."""
    return [item for items in pages for item in items]


def test_history_tells_every_version(service: Service) -> None:
    """Through pages of one, with who, and what ended each."""
    first = lived(service, "history.example")
    pages = every(service, "history", host="history.example", **NAME, limit=1)
    assert [len(items) for items in pages] == [1, 1, 1]
    items = flat(pages)
    assert [(i["credential_id"], i["version"], i["ended_by"], i["live"]) for i in items] == [
        (first + 1, 1, "credential.updated", False),
        (first + 1, 2, "credential.deleted", False),
        (first + 8, 1, None, True),
    ]
    assert {item["actor"] for item in items} == {"internal"}
    assert {item["ip"] for item in items} == {"127.0.0.1"}
    assert every(service, "history", host="nobody.example", **NAME) == [[]]


def test_exposure_tells_who_received_a_version(service: Service) -> None:
    """By default the newest credential's; any other by its id and number."""
    first = lived(service, "exposed.example")
    name = {"host": "exposed.example", **NAME}
    answer = ask(service, "exposure", **name).json
    assert (answer["items"], answer["next"]) == ([], None)
    assert answer["exposed"]["credential_id"] == first + 8
    assert answer["exposed"]["live"] is True
    pages = every(service, "exposure", **name, credential_id=first + 1, version=1, limit=1)
    assert [len(items) for items in pages] == [1, 1]
    assert [(item["actor"], item["reason"], item["position"]) for item in flat(pages)] == [
        ("deploy", "CHG-1", first + 1),
        ("internal", None, first + 2),
    ]
    old = ask(service, "exposure", **name, credential_id=first + 1).json
    assert (old["exposed"]["version"], old["exposed"]["ended_by"]) == (2, "credential.deleted")
    for which in {"version": 2}, {"credential_id": first}:
        found = ask(service, "exposure", **name, **which).json
        assert found.pop("as_of")["position"] >= first
        assert found == {"exposed": None, "items": [], "next": None}


def test_exposure_within_a_time(service: Service) -> None:
    """From one time on, and before another; through pages."""
    first = lived(service, "when.example")
    name = {"host": "when.example", **NAME, "credential_id": first + 1, "version": 1}
    times = [at for (at,) in service.events("at", f"position IN ({first + 1}, {first + 2})")]

    def positions(**span: Any) -> list[int]:
        sent = {field: at.isoformat() for field, at in span.items()}
        found = flat(every(service, "exposure", **name, **sent, limit=1))
        return [item["position"] - first for item in found]

    assert positions() == [1, 2]
    assert positions(since=times[1]) == [2]
    assert positions(until=times[1]) == [1]
    assert positions(since=times[0], until=times[0]) == []
    answer = ask(service, "exposure", **name, since="1d", until="0m").json
    assert len(answer["items"]) == 2
    assert answer["exposed"]["version"] == 1


@pytest.mark.parametrize(
    ("question", "fields"),
    [
        ("due", {}),
        ("history", {"host": "a", "purpose": "b"}),
        ("exposure", {"host": "a", "purpose": "b"}),
        ("events", {}),
        ("unused", {"since": "1d"}),
    ],
)
def test_every_answer_says_of_when_it_is(
    service: Service, question: str, fields: dict[str, Any]
) -> None:
    """The last event that was there, and that the database is no standby."""
    service.lookup(host="as-of", purpose="ssh")
    ((position, at),) = service.events("position, at")[-1:]
    found = ask(service, question, **fields).json["as_of"]
    assert (found["position"], found["standby"], found["replayed_at"]) == (position, False, None)
    assert datetime.fromisoformat(found["at"]) == at


def test_a_cursor_stays_with_its_version(service: Service) -> None:
    """And with its name; another version's or name's parameters beside it are refused."""
    first = lived(service, "pinned.example")
    lived(service, "other.example")
    name = {"host": "pinned.example", **NAME}
    cursor = ask(service, "exposure", **name, credential_id=first + 1, version=1, limit=1).json[
        "next"
    ]
    (item,) = ask(service, "exposure", **name, cursor=cursor).json["items"]
    assert item["position"] == first + 2
    for fields in (
        {**name, "version": 2},
        {**name, "credential_id": first + 8},
        {**NAME, "host": "other.example"},
    ):
        answer = ask(service, "exposure", **fields, cursor=cursor)
        assert (answer.status, answer.json["errors"][0]["field"]) == (400, "cursor")


def test_events_are_filtered(service: Service) -> None:
    """Several types, outcomes, and either order; nothing of a content is in any column."""
    first = lived(service, "filtered.example")
    name = {"host": "filtered.example"}

    def positions(**fields: Any) -> list[int]:
        found = flat(every(service, "events", **name, **fields, limit=3))
        return [item["position"] - first for item in found]

    assert positions() == [*range(8)]
    assert positions(order="newest") == [*range(7, -1, -1)]
    assert positions(type="credential.created,credential.de*") == [0, 5, 7]
    assert positions(outcome="failed", error="not_found") == [6]
    assert positions(actor="dep*") == positions(reason="CHG*") == [1]
    assert positions(after=first + 5, until="0m") == [6, 7]
    assert positions(since="0m") == []
    answer = ask(service, "events", **name)
    assert [item["position"] for item in answer.json["items"]] == [*range(first, first + 8)]
    for secret in ("p4ssword", "u5er", "d4ta", "s3cret"):
        assert secret not in answer.text


def test_unused_tells_what_nobody_reads(service: Service) -> None:
    """Until somebody does; asking is no event."""
    lived(service, "unused.example")
    size = len(service.events("position"))
    assert flat(every(service, "unused", since="1d", limit=2)) == []
    items = flat(every(service, "unused", since="2120-01-01T00:00:00Z", limit=2))
    (item,) = [item for item in items if item["host"] == "unused.example"]
    assert (item["last_read_at"], item["version"]) == (None, 1)
    assert len(service.events("position")) == size
    service.lookup(host="unused.example", purpose="ssh")
    hosts = [item["host"] for item in flat(every(service, "unused", since="1d"))]
    assert "unused.example" not in hosts
    assert "unused.example" in [
        item["host"] for item in flat(every(service, "unused", since="2120-01-01T00:00:00Z"))
    ]


REFUSED = [
    ("history", "purpose=ssh", "host"),
    ("history", "host=h", "purpose"),
    ("history", f"host={LONG}&purpose=ssh", "host"),
    ("history", "host=%00m4rker&purpose=ssh", "host"),
    ("history", "host=h&purpose=ssh&version=1", ""),
    ("exposure", "host=h&purpose=ssh&version=0", "version"),
    ("exposure", "host=h&purpose=ssh&version=m4rker", "version"),
    ("exposure", "host=h&purpose=ssh&version=2147483648", "version"),
    ("exposure", "host=h&purpose=ssh&credential_id=-1", "credential_id"),
    ("exposure", "host=h&purpose=ssh&credential_id=" + "9" * 19, "credential_id"),
    ("exposure", "purpose=ssh", "host"),
    ("events", "host=m4rker&host=m4rker", ""),
    ("events", f"host={LONG}", "host"),
    ("events", f"purpose={LONG}", "purpose"),
    ("events", f"actor={LONG}", "actor"),
    ("events", "reason=%00m4rker", "reason"),
    ("events", f"type={LONG}", "type"),
    ("events", "type=credential.read,", "type"),
    ("events", "outcome=m4rker", "outcome"),
    ("events", f"error={LONG}", "error"),
    ("events", "error=", "error"),
    ("events", "since=m4rker", "since"),
    ("events", "since=2026-01-01T00:00:00+01:00", "since"),  # a space, once it is decoded
    ("events", "until=2026-01-01", "until"),
    ("events", "after=m4rker", "after"),
    ("events", "after=%2B1", "after"),
    ("events", "order=m4rker", "order"),
    ("events", "position=1", ""),
    ("events", "m4rker", ""),
    ("unused", "", "since"),
    ("unused", "since=m4rker", "since"),
    ("unused", "since=1d&host=m4rker", ""),
]
NEEDED = {
    "history": "host=h&purpose=ssh&",
    "exposure": "host=h&purpose=ssh&",
    "events": "",
    "unused": "since=1d&",
}


@pytest.mark.parametrize(
    ("question", "query", "field"),
    [
        *REFUSED,
        *((q, f"{needed}limit={n}", "limit") for q, needed in NEEDED.items() for n in (0, 1001)),
        *((q, f"{needed}limit=m4rker", "limit") for q, needed in NEEDED.items()),
        *((q, f"{needed}cursor=m4rker", "cursor") for q, needed in NEEDED.items()),
        *((q, f"{needed}cursor=", "cursor") for q, needed in NEEDED.items()),
        *((q, f"{needed}cursor=%C3%BC", "cursor") for q, needed in NEEDED.items()),
    ],
)
def test_a_parameter_that_breaks_a_rule_is_400(
    service: Service, question: str, query: str, field: str
) -> None:
    """The parameter is named, and what it was is not repeated."""
    answer = service.audit(f"{AUDIT}{question}?{query}")
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request")
    assert [error["field"] for error in answer.json["errors"]] == [field]
    assert "m4rker" not in answer.text
    assert "m4rker" not in service.log.read_text()


def test_a_cursor_is_of_one_question_and_whole(service: Service) -> None:
    """Another question's is refused, and so is one with any character changed, cut or added."""
    lived(service, "another.example")
    first = lived(service, "cursors.example")
    name = {"host": "cursors.example", **NAME}
    asked: dict[str, dict[str, Any]] = {
        "due": {"unchanged_for": "0m"},
        "history": name,
        "exposure": {**name, "credential_id": first + 1, "version": 1},
        "events": {},
        "unused": {"since": "2120-01-01T00:00:00Z"},
    }
    cursors = {
        question: ask(service, question, **fields, limit=1).json["next"]
        for question, fields in asked.items()
    }
    assert all(isinstance(cursor, str) for cursor in cursors.values())
    for question, fields in asked.items():
        mine = cursors[question]
        assert ask(service, question, **fields, limit=1, cursor=mine).status == 200
        others = [cursor for other, cursor in cursors.items() if other != question]
        changed = [
            mine[:at] + ("A" if mine[at] != "A" else "B") + mine[at + 1 :]
            for at in range(0, len(mine), 5)
        ]
        for wrong in (*others, *changed, mine[:-1], mine + "=", mine + "A", f"{mine}!", mine[1:]):
            answer = ask(service, question, **fields, cursor=wrong)
            assert (answer.status, answer.json["errors"][0]["field"]) == (400, "cursor"), wrong


@pytest.mark.parametrize("question", list(NEEDED))
def test_only_auditors_may_ask(service: Service, question: str) -> None:
    """The key that services share opens none of it; no key neither."""
    path = f"{AUDIT}{question}?{NEEDED[question]}limit=1"
    assert service.audit(path).status == 200
    for answer in service.send("GET", path), service.send("GET", path, key=None):
        assert (answer.status, answer.json["reason"]) == (403, "forbidden")
    assert service.send("POST", path, {}, key=service.internal_key).status == 403


def test_each_question_is_counted_by_its_name(service: Service) -> None:
    """One line of the log each, without what was asked for."""
    service.audit(f"{AUDIT}events?actor=m4rker-asked")
    logged(service, "operation", "events")
    assert "m4rker-asked" not in service.log.read_text()
