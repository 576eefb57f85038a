"""Under pressure: one caller who sends all he can leaves others without a 503."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from copy import copy

import pytest

from tests.http.client import LOOKUP, Service
from tests.http.granting import Keys, rule

GREEDY = 24  # a dozen for each of two workers
BATCH = {"items": [{"host": f"web-{number}", "purpose": "ssh"} for number in range(500)]}


def keep_sending(service: Service, key: str, over: threading.Event) -> Counter[int]:
    """Send batches one after the other until it is over; their statuses."""
    statuses: Counter[int] = Counter()
    while not over.is_set():
        statuses[service.send("POST", f"{LOOKUP}-batch", BATCH, key=key).status] += 1
    return statuses


@pytest.mark.parametrize("proven", ["by a grant", "by an address", "by a name of his own"])
def test_another_caller_gets_no_503(service: Service, proven: str) -> None:
    """Two dozen connections with batches of 500, and beside them lookups, batches and probes."""
    keys, another = Keys(service), copy(service)
    key, other, headers = "", "", dict[str, str]()
    if proven == "by a grant":
        key, other = keys.grant("greedy", rule("read")), keys.grant("modest", rule("read"))
    elif proven == "by an address":
        another.source = "127.0.6.1"
    else:
        headers = {"X-Service-Name": "modest"}
    over = threading.Event()
    small = {"host": "web-1", "purpose": "ssh"}
    for _ in range(12):  # both workers know the grants: a flood begins with callers who are known
        assert {service.send("POST", LOOKUP, small, key=each).status for each in (key, other)} == {
            404
        }
    with ThreadPoolExecutor(GREEDY) as pool:
        greedy = [pool.submit(keep_sending, service, key, over) for _ in range(GREEDY)]
        try:
            # A few at a time, each on a connection of its own.
            with ThreadPoolExecutor(7) as few:
                asked = [
                    few.submit(another.send, "POST", LOOKUP, small, headers, key=other)
                    for _ in range(35)
                ]
            singles = Counter(each.result().status for each in asked)
            several = {"items": [small] * 300}
            batch = another.send("POST", f"{LOOKUP}-batch", several, headers, key=other)
            ready = Counter(another.get("/health/ready").status for _ in range(3))
        finally:
            over.set()
        sent = sum((each.result() for each in greedy), Counter[int]())
    assert singles == {404: 35}
    assert batch.status == 200
    assert ready == {200: 3}
    assert sent[200] > 0
    assert set(sent) <= {200, 503}
