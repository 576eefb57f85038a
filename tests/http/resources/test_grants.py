"""Grants are made, changed, rotated and revoked over HTTP by who has the right to."""

import re
from itertools import count

import pytest

from secrets_broker.ledger.access.access_key import digest
from tests.conftest import AUDITOR_KEY
from tests.http.client import LOOKUP, Answer, Service
from tests.http.granting import Keys, rule

ACCESS = "/internal/access"
COMMANDS = ("key-grant", "key-change", "key-rotate", "key-revoke")
NAME = {"host": "web-1", "purpose": "ssh"}
RULE = {"allow": ["read"], "hosts": ["web-*"], "purposes": ["ssh"]}

_sources = count(2)


@pytest.fixture
def admin(service: Service) -> str:
    """A key that may change grants, and give what these tests give."""
    number = next(_sources)
    service.source = f"127.0.3.{number}"
    own: dict[str, object] = {
        "allow": ["admin", "read"],
        "hosts": ["web-*", "db-*"],
        "purposes": ["ssh"],
    }
    return Keys(service).grant(f"admin-{number}", own)


def post(service: Service, key: str, command: str, **body: object) -> Answer:
    """Ask for a change."""
    return service.send("POST", f"{ACCESS}/{command}", body, key=key)


def look_up(service: Service, key: str) -> int:
    """The status of a lookup with that key."""
    return service.send("POST", LOOKUP, NAME, key=key).status


def test_a_grant_is_made_changed_rotated_and_revoked(service: Service, admin: str) -> None:
    """Each is an event of the admin's, with his reason, and in force with the answer."""
    made = post(service, admin, "key-grant", name="deploy", rules=[RULE], requests=[600, 60])
    assert made.status == 200
    assert made.json.keys() == {"id", "name", "key"}
    key = made.json["key"]
    assert look_up(service, key) == 404
    changed = {**RULE, "hosts": ["db-*"]}
    assert post(service, admin, "key-change", name="deploy", rules=[changed]).status == 200
    assert look_up(service, key) == 403
    assert post(service, admin, "key-change", name="deploy", rules=[RULE]).status == 200
    until = "2100-01-01T00:00:00+01:00"
    other = post(service, admin, "key-rotate", name="deploy", previous_until=until).json["key"]
    assert (look_up(service, key), look_up(service, other)) == (404, 404)
    sent = {"X-Access-Reason": "CHG-7", "X-Service-Name": "somebody"}
    path = f"{ACCESS}/key-revoke"
    ended = service.send("POST", path, {"name": "deploy"}, sent, key=admin)
    assert (ended.status, ended.json) == (200, {"success": True, "name": "deploy"})
    assert (look_up(service, key), look_up(service, other)) == (403, 403)
    told = service.events("position, type, actor, reason", "type LIKE 'access_key.%'")
    mine = [row for row in told if row[2].startswith("admin-")]
    kinds = ("granted", "changed", "changed", "rotated", "revoked")
    assert [row[1] for row in mine] == [f"access_key.{kind}" for kind in kinds]
    assert mine[-1][3] == "CHG-7"
    assert mine[-1][0] == int(ended.headers["X-Ledger-Position"])


def test_all_grants_are_listed_without_their_keys(service: Service, admin: str) -> None:
    """Who lists them learns neither a key nor the hash of one."""
    made = post(service, admin, "key-grant", name="listed", rules=[RULE]).json
    answer = service.send("GET", f"{ACCESS}/keys", key=admin)
    found = {item["name"]: item for item in answer.json["items"]}
    assert found["listed"]["id"] == made["id"]
    assert found["listed"]["rules"][0]["hosts"] == ["web-*"]
    assert made["key"] not in answer.text
    assert digest(made["key"]) not in answer.text


def test_a_certificates_grant_has_no_key(service: Service, admin: str) -> None:
    """There is nothing to show, and nothing to rotate."""
    name = "spiffe://example/job"
    made = post(service, admin, "key-grant", name=name, rules=[RULE], certificate=True)
    assert made.json.keys() == {"id", "name"}
    until = "2100-01-01T00:00:00Z"
    assert post(service, admin, "key-rotate", name=name, previous_until=until).status == 400


def test_only_the_right_to_it_opens_grants(service: Service, admin: str) -> None:
    """Neither the shared key, nor the auditor's, nor a key with every other right."""
    keys = Keys(service)
    every = keys.grant("every-other", rule("read", "write", "delete", "audit", host="*"))
    for number, key in enumerate((service.internal_key, AUDITOR_KEY, every)):
        service.source = f"127.0.4.{number + 1}"
        refused = [service.send("GET", f"{ACCESS}/keys", key=key)]
        refused += [post(service, key, command, name="mine", rules=[RULE]) for command in COMMANDS]
        assert {(answer.status, answer.json["reason"]) for answer in refused} == {
            (403, "forbidden")
        }
    assert not service.events("position", "details ->> 'name' = 'mine' AND ok")
    denied = service.events(
        "details", "type = 'access.denied' AND details ->> 'rule' = 'operation'"
    )
    assert {"operation": "admin", "rule": "operation"}.items() <= denied[-1][0].items()
    alone = keys.grant("admin-alone", {"allow": ["admin"]})
    assert service.send("POST", LOOKUP, NAME, key=alone).status == 403


@pytest.mark.parametrize(
    "wider",
    [
        {"allow": ["read", "write"]},
        {"allow": ["audit"]},
        {"hosts": ["*"]},
        {"purposes": ["*"]},
        {"networks": []},
        {"networks": ["0.0.0.0/0"]},
        {"reason": False},
    ],
    ids=str,
)
def test_nobody_gives_more_than_he_has(service: Service, wider: dict[str, object]) -> None:
    """Neither to a new grant, nor to one that is there, nor a key to one that has more."""
    number = next(_sources)
    service.source = f"127.0.5.{number}"
    keys, because = Keys(service), {"X-Access-Reason": "CHG-8"}
    own = {"networks": ["127.0.0.0/8"], "reason": True}
    key = keys.grant(f"bounded-{number}", {**RULE, "allow": ["admin", "read"], **own})
    keys.grant(f"wide-{number}", {**RULE, **own, **wider})
    keys.grant(f"narrow-{number}", {**RULE, **own})

    def ask(command: str, name: str, **body: object) -> Answer:
        sent = {"name": f"{name}-{number}", **body}
        return service.send("POST", f"{ACCESS}/{command}", sent, because, key=key)

    more = [{**RULE, **own, **wider}]
    until = "2100-01-01T00:00:00Z"
    refused = [
        ask("key-grant", "new", rules=more),
        ask("key-change", "narrow", rules=more),
        ask("key-change", "bounded", rules=more),
        ask("key-rotate", "wide", previous_until=until),
    ]
    for answer in refused:
        assert (answer.status, answer.json["reason"]) == (403, "forbidden")
        assert "nothing wider" in answer.json["detail"]
        position = int(answer.headers["X-Ledger-Position"])
        ((kind, actor, details),) = service.events("type, actor, details", f"position = {position}")
        assert (kind, actor) == ("access.denied", f"bounded-{number}")
        assert (details["rule"], details["operation"]) == ("wider_than_own", "admin")
    assert ask("key-grant", "new", rules=[{**RULE, **own}]).status == 200
    assert ask("key-rotate", "narrow", previous_until=until).status == 200
    assert ask("key-change", "wide", rules=[{**RULE, **own}]).status == 200
    assert ask("key-revoke", "wide").status == 200
    assert service.metrics()['secrets_refusals_total{record="event",rule="wider_than_own"}'] >= 4


def test_what_ends_or_is_limited_gives_nothing_that_is_not(service: Service) -> None:
    """The end of a grant, and its limits, hold for all that it gives."""
    service.source = f"127.0.5.{next(_sources)}"
    ends = "2100-01-01T00:00:00Z"
    rules: dict[str, object] = {**RULE, "allow": ["admin", "read"]}
    key = Keys(service).grant("limited", rules, expires_at=ends, requests=[900, 60], hosts=[9, 60])
    limits = {"expires_at": ends, "requests": [900, 60], "hosts": [9, 60]}
    for number, field in enumerate(limits):
        fewer = {name: value for name, value in limits.items() if name != field}
        answer = post(service, key, "key-grant", name=f"free-{number}", rules=[RULE], **fewer)
        assert answer.status == 403
    assert post(service, key, "key-grant", name="kept", rules=[RULE], **limits).status == 200


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("key-grant", {"name": "x"}),
        ("key-grant", {"name": "x", "rules": []}),
        ("key-grant", {"name": "x", "rules": [{**RULE, "allow": ["everything"]}]}),
        ("key-grant", {"name": "x", "rules": [{**RULE, "hosts": []}]}),
        ("key-grant", {"name": "x", "rules": [{**RULE, "networks": ["10.0.0.1/8"]}]}),
        ("key-grant", {"name": "a\nb", "rules": [RULE]}),
        ("key-grant", {"name": "x", "rules": [RULE], "expires_at": "2001-01-01T00:00:00Z"}),
        ("key-grant", {"name": "x", "rules": [RULE], "sha256": "0" * 64}),
        ("key-change", {"name": "nobody", "rules": [RULE]}),
        ("key-rotate", {"name": "nobody", "previous_until": "2100-01-01T00:00:00Z"}),
        ("key-rotate", {"name": "nobody", "previous_until": "2100-01-01T00:00:00"}),
        ("key-revoke", {"name": "nobody"}),
        ("key-revoke", {}),
    ],
)
def test_what_breaks_a_rule_changes_nothing(
    service: Service, admin: str, command: str, body: dict[str, object]
) -> None:
    """It is 400 with the field's name, and no value that was sent."""
    before = len(service.events("position", "type LIKE 'access_key.%'"))
    answer = post(service, admin, command, **body)
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request")
    assert not re.search(r"nobody|everything|10\.0\.0\.1", answer.text)
    assert len(service.events("position", "type LIKE 'access_key.%'")) == before


def test_no_key_is_in_the_log(service: Service, admin: str) -> None:
    """Neither the one that was made nor the one that asked."""
    made = post(service, admin, "key-grant", name="logged", rules=[RULE]).json["key"]
    service.says("access_key_grant")
    log = service.log.read_text()
    assert made not in log
    assert admin not in log
