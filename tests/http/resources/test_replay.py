"""The state as it was, and what changed, as an auditor asks over HTTP."""

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from secrets_broker.http.resources.replay import Replay, ReplayDiff, StateCursor, StateItem
from secrets_broker.projections.queries.replay import Credential
from secrets_broker.projections.queries.replay_diff import StateChange
from tests.conftest import AUDITOR_KEY
from tests.http.client import Answer, Service
from tests.http.operations import OPERATIONS

STATE, DIFF = "/internal/audit/replay", "/internal/audit/replay/diff"
SECRETS = ("p4ssword", "s3cret", "d4ta", "u5er")


def ask(service: Service, path: str, **fields: Any) -> Answer:
    """GET with the auditor's key; `from_` is `from`."""
    named = {name.rstrip("_"): value for name, value in fields.items()}
    return service.audit(f"{path}?{urlencode(named)}")


def last(service: Service) -> int:
    """The ledger's last position."""
    return len(service.events("position")) - 1


def stored(service: Service, *hosts: str) -> int:
    """Store these; the last position after it."""
    for host in hosts:
        answer = service.upsert(
            {"X-Service-Name": "setup", "X-Access-Reason": "CHG-9"},
            host=host,
            purpose="ssh",
            username="u5er",
            password="p4ssword",
            secret_data={"k": "s3cret"},
            additional_data={"k": "d4ta"},
        )
        assert answer.status == 200
    return last(service)


def test_the_state_of_then(service: Service) -> None:
    """Metadata as the command gives it: nothing of a content, and no event for having asked."""
    then = stored(service, "then-1", "then-2")
    stored(service, "then-1")
    service.delete("host=then-2&purpose=ssh")
    size = last(service)
    answer = ask(service, STATE, at=then, host="then-*")
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert "X-Ledger-Position" not in answer.headers
    assert (answer.json["at"], answer.json["next"]) == (then, None)
    first, second = answer.json["items"]
    assert (first["host"], first["version"], first["position"]) == ("then-1", 1, then - 1)
    assert (second["host"], second["created_by"], second["erased"]) == ("then-2", "setup", False)
    (now,) = ask(service, STATE, at="0m", host="then-*").json["items"]
    assert (now["host"], now["version"], now["id"]) == ("then-1", 2, first["id"])
    assert now["created_at"] == first["created_at"] < now["updated_at"]
    for secret in SECRETS:
        assert secret not in answer.text
    assert last(service) == size


def test_what_changed(service: Service) -> None:
    """By whom, when and why; what came and went in between is no difference."""
    before = stored(service, "diff-1", "diff-2")
    stored(service, "diff-1", "diff-3", "diff-4")
    service.delete("host=diff-2&purpose=ssh")
    service.delete("host=diff-4&purpose=ssh")
    answer = ask(service, DIFF, from_=before, to="0m", host="diff-*")
    assert (answer.json["from"], answer.json["to"]) == (before, last(service))
    told = [(one["host"], one["kind"]) for one in answer.json["items"]]
    assert told == [("diff-1", "changed"), ("diff-2", "deleted"), ("diff-3", "created")]
    changed = answer.json["items"][0]
    assert (changed["version_before"], changed["version_after"]) == (1, 2)
    assert (changed["actor"], changed["reason"]) == ("setup", "CHG-9")
    for secret in SECRETS:
        assert secret not in answer.text


def test_a_time_before_the_first_event(service: Service) -> None:
    """Nothing was there; from then on all is created."""
    stored(service, "early")
    early = "2001-01-01T00:00:00+01:00"
    answer = ask(service, STATE, at=early)
    assert answer.json == {"at": None, "items": [], "next": None}
    answer = ask(service, DIFF, from_=early, to="0m", host="early")
    assert (answer.json["from"], answer.json["items"][0]["kind"]) == (None, "created")
    assert ask(service, DIFF, from_=early, to=early).json["items"] == []


@pytest.mark.parametrize("path", [STATE, DIFF])
def test_pages_are_of_one_state(service: Service, path: str) -> None:
    """A cursor pins the positions: what is recorded between two pages is in none of them."""
    prefix = f"page-{path.count('/')}-"
    since = last(service)
    hosts = [f"{prefix}{number}" for number in range(5)]
    stored(service, *hosts)
    points: dict[str, Any] = {"at": "0m"} if path == STATE else {"from": since, "to": "0m"}
    found, ends, cursor = list[str](), set[int](), None
    while True:
        more: dict[str, str] = {"cursor": cursor} if cursor else {}
        answer = ask(service, path, **points, host=f"{prefix}*", limit=2, **more).json
        assert len(answer["items"]) <= 2
        found += [item["host"] for item in answer["items"]]
        ends.add(answer["at" if path == STATE else "to"])
        cursor = answer["next"]
        if cursor is None:
            break
        stored(service, f"{prefix}9")
        service.delete(f"host={prefix}4&purpose=ssh")
    assert found == hosts
    assert len(ends) == 1


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        (STATE, "", "at"),
        (STATE, "at=", "at"),
        (STATE, "at=m4rker", "at"),
        (STATE, "at=-1", "at"),
        (STATE, "at=1.5", "at"),
        (STATE, f"at={10**18}", "at"),
        (STATE, f"at={'9' * 5000}", "at"),
        (STATE, "at=9999-12-31T23:59:59Z", "at"),
        (STATE, "at=2026-01-02T03:04:05", "at"),
        (STATE, "at=2026-01-02T03:04:05+01:00", "at"),  # a "+" in a query is a space
        (STATE, "at=0&host=%00m4rker", "host"),
        (STATE, f"at=0&purpose={'m4rker' * 60}", "purpose"),
        (STATE, "at=0&limit=0", "limit"),
        (STATE, "at=0&limit=1001", "limit"),
        (STATE, "at=0&limit=m4rker", "limit"),
        (STATE, "at=0&cursor=m4rker", "cursor"),
        (STATE, "at=0&cursor=", "cursor"),
        (STATE, "at=0&m4rker=1", ""),
        (STATE, "at=0&at=0", ""),
        (STATE, "at=0&reveal=1", ""),
        (STATE, "at=%ff", ""),
        (DIFF, "from=0", "to"),
        (DIFF, "to=0", "from"),
        (DIFF, "from=m4rker&to=0", "from"),
        (DIFF, "from=0&to=m4rker", "to"),
        (DIFF, "from=1&to=0", "to"),
        (DIFF, "from=0m&to=30d", "to"),
        (DIFF, "at=0", ""),
    ],
)
def test_a_question_that_breaks_a_rule_is_400(
    service: Service, path: str, query: str, field: str
) -> None:
    """The parameter is named and its value not repeated; one that is not known is refused."""
    stored(service, "rule-1", "rule-2")
    answer = service.audit(f"{path}?{query}" if query else path)
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request")
    assert [error["field"] for error in answer.json["errors"]] == [field]
    assert "m4rker" not in answer.text
    assert "9" * 30 not in answer.text


def cursor(question: str, *values: Any) -> str:
    """A cursor that somebody made up, with a checksum that is right."""
    fields = msgspec.json.encode(values)
    check = sha256(question.encode() + b"\0" + fields).digest()[:6]
    return urlsafe_b64encode(check + fields).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("at", "made_up"),
    [
        ("0m", cursor("replay", [10**15], "a", "ssh")),
        ("0m", cursor("replay", [2**64], "a", "ssh")),
        ("0m", cursor("replay", [-2], "a", "ssh")),
        ("0m", cursor("replay", [], "a", "ssh")),
        ("0m", cursor("replay", [0, 0], "a", "ssh")),
        ("0", cursor("replay", [1], "a", "ssh")),
        ("0m", cursor("replay", [0], "a\0", "ssh")),
        ("0m", cursor("replay", [0], 5, "ssh")),
        ("0m", cursor("replay/diff", [0], "a", "ssh")),
        ("0m", cursor("due", [0], "a", "ssh")),
    ],
)
def test_a_made_up_cursor_is_refused(service: Service, at: str, made_up: str) -> None:
    """Past the end, of another question or position, or of what no name can have."""
    stored(service, "cursor-1", "cursor-2")
    answer = ask(service, STATE, at=at, cursor=made_up)
    assert answer.status == 400
    assert [error["field"] for error in answer.json["errors"]] == ["cursor"]


def test_a_right_cursor_is_taken(service: Service) -> None:
    """So that the ones above are refused for what is wrong with them."""
    stored(service, "cursor-3")
    assert ask(service, STATE, at=0, cursor=cursor("replay", [0], "a", "ssh")).status == 200


@pytest.mark.parametrize("path", [f"{STATE}?at=0", f"{DIFF}?from=0&to=0"])
def test_only_the_auditors_key_opens_it(service: Service, path: str) -> None:
    """Not the services' one, and not without any."""
    stored(service, "key")
    assert service.audit(path).status == 200
    assert service.send("GET", path).status == 403
    assert service.send("GET", path, key=None).status == 403


def test_items_hold_nothing_that_a_key_was_needed_for() -> None:
    """Every field is metadata; the rest of a row comes out of a body."""
    in_bodies = {
        *("username", "domain", "additional_data", "password_encrypted"),
        *("secret_data_encrypted", "expires_at", "rotate_after"),
    }
    assert set(StateItem.__struct_fields__) == (
        set(Credential.__struct_fields__) - in_bodies - {"data_key"}
    )
    assert "columns" not in StateChange.__struct_fields__


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", [STATE, DIFF])
def test_it_answers_as_described(service: Service, path: str, mode: GenerationMode) -> None:
    """Whatever an auditor sends: status, headers and body of the answer are described."""
    stored(service, "described")
    cases = OPERATIONS[f"GET {path}"].as_strategy(generation_mode=mode)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def answers(case: Any) -> None:
        headers = {"X-Internal-Key": AUDITOR_KEY}
        # A schema cannot say which texts are a point in the ledger.
        excluded = [positive_data_acceptance]
        case.call_and_validate(base_url=service.url, headers=headers, excluded_checks=excluded)

    answers()
    for query in ("at=0", "at=0m", "at=2001-01-01T00:00:00Z"):
        case = OPERATIONS[f"GET {STATE}"].Case(query=dict([query.split("=")]))
        case.call_and_validate(base_url=service.url, headers={"X-Internal-Key": AUDITOR_KEY})


def test_a_lost_letter_of_a_cursor_is_noticed(service: Service) -> None:
    """A cursor that was cut off is refused, not taken for another one."""
    stored(service, *(f"cut-{number}" for number in range(3)))
    whole = ask(service, STATE, at="0m", host="cut-*", limit=1).json["next"]
    for cut in (whole[:-1], whole[1:], whole + "A"):
        assert service.audit(f"{STATE}?at=0m&cursor={quote(cut)}").status == 400


def test_the_cursors_are_two_questions() -> None:
    """One of a state is none of a difference."""
    mine = Replay.cursor([3], "a", "ssh").encode()
    assert isinstance(Replay.cursor.decode(mine), StateCursor)
    assert Replay.cursor.question != ReplayDiff.cursor.question
