"""GET /internal/secrets/credentials: what the caller may look up, and no secret."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.access.rights import READ, Request, Rule
from secrets_broker.ledger.commands import parse
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.projections.queries.credential_list import (
    CredentialFilter,
    CredentialLine,
    allowed,
    page,
)
from tests.conftest import AUDITOR_KEY, Database
from tests.http.client import Answer, Service
from tests.http.granting import Keys, rule
from tests.ledger.helpers import run

LIST = "/internal/secrets/credentials"
STORED = [
    *((f"web-{number}", "ssh") for number in range(5)),
    ("web-1", "winrm"),
    ("db-1", "ssh"),
    ("100%_sure", "ssh"),
]

_sources = count(2)


@pytest.fixture(scope="module", autouse=True)
def _stored(service: Service) -> None:
    """A few credentials, and one that was deleted."""
    for host, purpose in STORED:
        answer = service.upsert(
            host=host,
            purpose=purpose,
            username=f"user of {host}",
            password=f"pw-of-{host}",
            additional_data={"note": "additional-note"},
            secret_data={"token": "secret-token"},
        )
        assert answer.status == 200
    service.upsert(host="gone", purpose="ssh", password="gone")
    service.delete("host=gone&purpose=ssh")


@pytest.fixture
def keys(service: Service) -> Iterator[Keys]:
    """Grants for the module's service, which a test asks from an address of its own."""
    service.source = f"127.0.3.{next(_sources)}"
    yield Keys(service)
    service.source = "127.0.0.1"


def listed(service: Service, query: str = "", key: str = "") -> Answer:
    """Ask for a page."""
    return service.send("GET", f"{LIST}?{query}" if query else LIST, key=key)


def names(answer: Answer) -> list[tuple[str, str]]:
    """The names on a page."""
    assert answer.status == 200
    return [(item["host"], item["purpose"]) for item in answer.json["items"]]


def test_all_live_credentials_by_name_and_no_secret(service: Service) -> None:
    """Neither in clear nor encrypted; and asking is no event."""
    before = len(service.events("position"))
    answer = listed(service)
    assert sorted(names(answer)) == sorted(STORED)
    assert answer.json["next"] is None
    for secret in "pw-of-", "secret-token", "additional-note", "encrypted":
        assert secret not in answer.text
    assert answer.json["items"][0]["username"].startswith("user of ")
    assert len(service.events("position")) == before


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("host=web-*", {name for name in STORED if name[0].startswith("web-")}),
        ("host=web-*&purpose=winrm", {("web-1", "winrm")}),
        ("host=100%25_*", {("100%_sure", "ssh")}),
        ("host=WEB-*", set()),
        ("host=gone", set()),
    ],
)
def test_names_are_searched_by_patterns(
    service: Service, query: str, found: set[tuple[str, str]]
) -> None:
    """`*` is any run of characters, everything else is itself."""
    assert set(names(listed(service, query))) == found


def test_pages_follow_each_other_without_gap_or_repetition(service: Service) -> None:
    """Whatever their size; what is deleted meanwhile disturbs none."""
    for limit in 1, 3, len(STORED):
        found: list[tuple[str, str]] = []
        query = f"limit={limit}"
        while True:
            answer = listed(service, query)
            found += names(answer)
            if answer.json["next"] is None:
                break
            query = f"limit={limit}&cursor={answer.json['next']}"
        assert found == names(listed(service))


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "cursor=x", "host=a&host=b", "username=x", "host=%00"],
)
def test_a_malformed_question_is_400(service: Service, query: str) -> None:
    """It names the parameter."""
    answer = listed(service, query)
    assert (answer.status, answer.json["reason"]) == (400, "invalid_request")


def test_a_caller_sees_what_his_rules_let_him_read(service: Service, keys: Keys) -> None:
    """Nor does a page say how much else there is."""
    key = keys.grant("sees", rule("read"), rule("write", host="db-*"))
    answer = listed(service, "limit=5", key)
    assert names(answer) == [(f"web-{number}", "ssh") for number in range(5)]
    assert answer.json["next"] is None
    away = rule("read", host="db-*", networks=["10.0.0.0/8"])
    elsewhere = keys.grant("elsewhere", away, rule("read", host="web-1"))
    assert names(listed(service, key=elsewhere)) == [("web-1", "ssh")]


def test_a_reason_is_for_the_list_too(service: Service, keys: Keys) -> None:
    """403 where all that it could show wants one; else what wants none is shown, and no more."""
    key = keys.grant("reasons", rule("read", reason=True))
    answer = listed(service, key=key)
    assert (answer.status, answer.json["reason"]) == (403, "reason_required")
    why = {"X-Access-Reason": "CHG-1"}
    assert len(names(service.send("GET", LIST, headers=why, key=key))) == 5
    mixed = keys.grant("mixed", rule("read", host="web-1", reason=True), rule("read"))
    without = names(listed(service, key=mixed))
    assert len(without) == 4
    assert "web-1" not in str(without)
    assert len(names(service.send("GET", LIST, headers=why, key=mixed))) == 5


def test_who_may_not_read_may_not_list(service: Service, keys: Keys) -> None:
    """403, and the refusal is an event; after a revocation too."""
    for key in keys.grant("writes", rule("write")), AUDITOR_KEY, "unknown":
        assert listed(service, key=key).status == 403
    assert service.events("type, details ->> 'operation'")[-1] == ("access.denied", "read")
    key = keys.grant("revoked-lister", rule("read"))
    assert listed(service, key=key).status == 200
    keys.revoke("revoked-lister")
    assert listed(service, key=key).status == 403


_NAMES = st.sampled_from(["a", "b", "*", "a*", "*b", "%", "_", "\\", "a%*", "ab", "\\*"])
_RULES = st.lists(
    st.builds(
        lambda hosts, purposes: parse(
            Rule, {"allow": ["read"], "hosts": hosts, "purposes": purposes}
        ),
        st.lists(_NAMES, min_size=1, max_size=3),
        st.lists(_NAMES, min_size=1, max_size=2),
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def rows(service: Service) -> Database:
    """Rows of names that mean something to LIKE."""
    values = [f"('{host}', '{purpose}')" for host in ODD for purpose in ODD]
    service.database.execute(
        "INSERT INTO secrets.host_credentials (id, host, purpose, created_at, updated_at, version,"  # noqa: S608
        " position, data_key) SELECT row_number() OVER () + 1000, h, p, now(), now(), 1, 0, ''"
        f" FROM (VALUES {', '.join(values)}) AS name (h, p)"
    )
    return service.database


ODD = ["a", "b", "ab", "%", "_", "\\", "a%x", "%b"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(_RULES)
def test_the_database_finds_what_the_rules_allow(rows: Database, rules: list[Rule]) -> None:
    """Of two that tell what a rule fits, neither knows more than the other."""

    async def ask(narrowed: list[Rule] | None) -> list[CredentialLine]:
        async with await connect(rows.service_url) as connection:
            return (await page(connection, CredentialFilter(), narrowed, 1_000))[0]

    everything: list[CredentialLine] = run(ask(None))
    request = Request(READ, at=None)  # type: ignore[arg-type]  # no rule looks at the time
    found: Any = run(ask(rules))
    assert found == allowed(everything, tuple(rules), request)
