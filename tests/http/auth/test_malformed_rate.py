"""What is malformed counts against the rate of a grant, and is no event."""

from collections import Counter
from typing import Any

import pytest

from tests.http.client import LOOKUP, Answer, Service
from tests.http.conftest import WORKERS
from tests.http.granting import Keys, rule

MOST = 5
MALFORMED: dict[str, dict[str, Any]] = {
    "not JSON": {"body": b"{"},
    "a rule": {"body": {"host": "", "purpose": "ssh"}},
    "media type": {"body": b"{}", "media_type": "text/plain"},
    "too large": {"body": b"[" + b" " * 300_000 + b"]"},
    "method": {"method": "PUT"},
    "a header": {
        "body": {"host": "web-1", "purpose": "ssh"},
        "headers": {"X-Access-Reason": "a\tb"},
    },
    "a batch": {"path": f"{LOOKUP}-batch", "body": {"items": []}},
}


def send(
    service: Service, key: str, path: str = LOOKUP, method: str = "POST", **more: Any
) -> Answer:
    """Send it with a key."""
    return service.send(method, path, key=key, **more)


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_requests_count_against_the_rate(fresh: Service, kind: str) -> None:
    """As many as the rate allows are told what is wrong; then it is used up, for good ones too.

    None is an event of its own. That the rate was exceeded is told of as a flood is.
    """
    key = Keys(fresh).grant("noisy", rule("read"), requests=[MOST, 3_600])
    before = len(fresh.events("position"))
    answers = [send(fresh, key, **MALFORMED[kind]) for _ in range(MOST * WORKERS + 10)]
    statuses = Counter(answer.status for answer in answers)
    assert statuses[429] >= 10
    assert MOST <= len(answers) - statuses[429] <= MOST * WORKERS
    late = next(answer for answer in answers if answer.status == 429)
    assert late.json["reason"] == "rate_limited"
    assert 1 <= int(late.headers["Retry-After"]) <= 3_600
    types = [type_ for (type_,) in fresh.events("type")][before:]
    assert set(types) == {"access.counting"}
    assert len(types) <= WORKERS
    body = {"host": "web-1", "purpose": "ssh"}
    good = Counter(send(fresh, key, body=body).status for _ in range(40))
    assert good[429] >= 40 - MOST  # a worker that has seen less of it may let some in


def test_malformed_items_of_a_batch_count_each(fresh: Service) -> None:
    """Five hundred in one request are five hundred."""
    key = Keys(fresh).grant("noisy", rule("read"), requests=[MOST, 3_600])
    batch = {"items": [{"host": "", "purpose": "ssh"}] * 500}
    for _ in range(20):
        assert send(fresh, key, f"{LOOKUP}-batch", body=batch).status == 200
    statuses = {send(fresh, key, body=b"{").status for _ in range(20)}
    assert statuses == {429}


def test_who_has_no_rate_is_told_what_is_wrong(fresh: Service) -> None:
    """Neither a grant without one nor the shared key is refused for it, and nothing is recorded."""
    key = Keys(fresh).grant("steady", rule("read"))
    before = len(fresh.events("position"))
    for each in (key, ""):
        assert {send(fresh, each, body=b"{").status for _ in range(20)} == {400}
    assert len(fresh.events("position")) == before
