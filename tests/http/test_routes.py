"""No target but a route's, byte for byte, reaches anything: over raw sockets, without a key."""

import re
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secrets_broker.http.routes import MAX_BATCH_BYTES, NONE, SERVICE, Route
from secrets_broker.http.server.protocol import MAX_PIPELINED
from tests.conftest import AUDITOR_KEY, INTERNAL_KEY
from tests.http.client import LOOKUP, Answer, Service
from tests.http.metrics.counted import REQUESTS, Counted
from tests.http.server.raw_requests import LAST_GET, logged, statuses

OPEN = {"/health/live", "/health/ready", "/metrics", "/openapi.yaml"}
NOWHERE = b'"reason":"no_such_path"'
PATHS = [route.prefix.encode() + (b"0/000" if route.grammar else b"") for route in SERVICE.all]
EVENTS = b"/internal/audit/events"


def ask(service: Service, target: bytes, method: bytes = b"GET", *headers: bytes) -> bytes:
    """All that comes back for a target."""
    head = [b"%s %s HTTP/1.1" % (method, target), b"Host: a", b"Connection: close", *headers]
    received, closed = service.raw(b"\r\n".join([*head, b"", b""]))
    assert closed
    return received


def status(received: bytes) -> int:
    """The one status that was answered."""
    (found,) = statuses(received)
    return found


def _percent(path: bytes, at: int) -> bytes:
    at %= len(path)
    return path[:at] + b"%%%02x" % path[at] + path[at + 1 :]


def _put(path: bytes, at: int, what: bytes) -> bytes:
    at %= len(path) + 1
    return path[:at] + what + path[at:]


Change = Callable[[bytes, int], bytes]
CHANGES: dict[str, Change] = {
    "slash more": lambda path, at: _put(path, at, b"/"),
    "slash before": lambda path, _: b"/" + path,
    "slash behind": lambda path, _: path + b"/",
    "slash twice": lambda path, _: path.replace(b"/", b"//"),
    "backslash": lambda path, _: path.replace(b"/", b"\\"),
    "encoded": _percent,
    "encoded twice": lambda path, at: _percent(_percent(path, at), at),
    "all encoded": lambda path, _: b"/" + quote(path[1:], safe="").encode(),
    "encoded slash": lambda path, _: b"/" + path[1:].replace(b"/", b"%2F"),
    "dot": lambda path, _: path.replace(b"/", b"/./", 1),
    "two dots": lambda path, _: b"/x/.." + path,
    "two dots within": lambda path, _: path.replace(b"/", b"/x/../"),
    "encoded dots": lambda path, _: b"/x/%2e%2e" + path,
    "dots behind": lambda path, _: path + b"/.",
    "upper": lambda path, _: path.upper(),
    "capital": lambda path, _: path.title(),
    "parameters": lambda path, _: path + b";a=b",
    "parameters within": lambda path, _: b"/;a" + path,
    "fragment": lambda path, _: path + b"#a",
    "fragment behind a query": lambda path, _: path + b"?a#b",
    "absolute": lambda path, _: b"http://a" + path,
    "absolute with a port": lambda path, _: b"https://a:443" + path,
    "another host": lambda path, _: b"//a" + path,
    "encoded query": lambda path, _: path + b"%3Fa",
    "encoded NUL": lambda path, _: path + b"%00",
    "suffix": lambda path, _: path + b".json",
    "shorter": lambda path, _: path[:-1],
    "piece": lambda path, at: _put(path, at, b"a"),
    "tab": lambda path, at: _put(path, at, b"%09"),
    "encoded line's end": lambda path, _: path + b"%0d%0aX:%20y",
    "no slash": lambda path, _: path[1:],
    "asterisk": lambda _path, _at: b"*",
    "authority": lambda _path, _at: b"a:80",
    "root": lambda _path, _at: b"/",
    "root with a query": lambda path, _: b"/?" + path,
    "only the prefix": lambda path, _: path.rpartition(b"/")[0] + b"/",
}


def _changed(path: bytes, names: list[str], at: int) -> bytes:
    for name in names:
        path = CHANGES[name](path, at)
    return path


spellings = st.builds(
    _changed,
    st.sampled_from(PATHS),
    st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3),
    st.integers(0, 60),
)
targets = spellings | st.binary(min_size=1, max_size=30).map(lambda text: b"/" + text)


def expected(target: bytes, method: bytes) -> set[int]:
    """What a stranger may be told of a target: the plainest way to say it."""
    path = target.partition(b"?")[0]
    exact = b"#" not in target and path in PATHS
    if exact and path.decode() in OPEN:
        return {200} if method in (b"GET", b"HEAD") else {405}
    return {403} if exact else {400, 404}


@settings(max_examples=500)
@given(target=targets, method=st.sampled_from([b"GET", b"HEAD", b"POST", b"DELETE", b"OPTIONS"]))
@example(b"/" + EVENTS, b"GET")
@example(EVENTS + b"/", b"GET")
@example(b"/internal/access/%6beys", b"GET")
@example(b"http://a" + EVENTS, b"GET")
@example(b"*", b"OPTIONS")
@example(b"a:80", b"CONNECT")
@example(b"/log/tile/0/000/", b"GET")
@example(b"/log/tile/0/000?x", b"GET")
@example(EVENTS + b"?limit=1", b"GET")
def test_nothing_but_a_route_to_the_letter_is_answered(
    service: Service, target: bytes, method: bytes
) -> None:
    """404, or 400 for what is malformed, whatever the spelling; 403 for what needs a key."""
    # With white space in it, it is no target, and the line none of a request.
    broken = re.search(rb"[\x00-\x20\x7f]", target)
    allowed = {400, 404} if broken else expected(target, method)
    received = ask(service, target, method)
    assert status(received) in allowed
    if status(received) == 404 and method != b"HEAD":
        assert NOWHERE in received


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("key", [INTERNAL_KEY, AUDITOR_KEY])
def test_nor_with_a_key(service: Service, name: str, key: str) -> None:
    """A key does not make another spelling a path; nothing is recorded of such a try."""
    before = service.events("position")
    for path in (EVENTS, LOOKUP.encode(), b"/internal/access/keys", b"/log/tile/0/000"):
        line = b"X-Internal-Key: " + key.encode()
        received = ask(service, CHANGES[name](path, 3), b"GET", line)
        assert status(received) == 400 or NOWHERE in received
    assert service.events("position") == before


def test_what_needs_no_key_is_a_short_list() -> None:
    """All else is asked for one."""
    assert {route.path for route in SERVICE.all if route.right is None} == OPEN


@pytest.mark.parametrize("route", SERVICE.all, ids=lambda route: route.operation)
def test_each_route_is_there(service: Service, route: Route) -> None:
    """403 without a key for whatever method, 405 with Allow for another one with the right key."""
    target = route.prefix + ("0/000" if route.grammar else "")
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        found = service.send(method, target, key=None)
        if route.right is not None:
            assert found.status == 403
            if not route.keys:
                continue
            key = INTERNAL_KEY if "internal_key" in route.keys else AUDITOR_KEY
            found = service.send(method, target, key=key)
        if method in route.methods:
            assert found.status != 405
        else:
            assert (found.status, found.headers["Allow"]) == (405, ", ".join(route.methods))


@pytest.mark.parametrize(
    "target",
    [
        *("/health/live", "/health/ready", "/metrics", "/openapi.yaml"),
        *("/internal/audit/due", "/internal/audit/events?limit=1", "/log/checkpoint"),
        *("/log/tile/0/999", "/internal/audit/events?nonsense=1"),
    ],
)
def test_a_head_is_answered_as_the_get_without_its_body(service: Service, target: str) -> None:
    """RFC 9110, section 9.3.2: status and headers are the same, the length too."""
    service.upsert(host="head.example", purpose="ssh", password="p")
    logged(service, "operation", "upsert")
    for _ in range(50):
        got, headed = (service.send(way, target, key=AUDITOR_KEY) for way in ("GET", "HEAD"))
        if _told(got) == _told(headed) or target != "/metrics":
            break  # the numbers in metrics may have another length by now
    assert _told(got) == _told(headed)
    assert (headed.body, int(headed.headers["Content-Length"])) == (b"", len(got.body))


def _told(answer: Answer) -> tuple[int, dict[str, str]]:
    changing = ("x-request-id", "date")
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return answer.status, {name: headers[name] for name in headers if name not in changing}


def test_a_head_needs_the_key_of_its_get_and_leaves_the_connection_whole(service: Service) -> None:
    """403 without; and what follows on the connection is answered."""
    assert service.send("HEAD", EVENTS.decode(), key=None).status == 403
    head = b"HEAD /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    received, _ = service.raw(head * 3 + LAST_GET)
    assert statuses(received) == [200] * 4


def test_each_try_is_counted_and_logged_without_what_was_sent(fresh: Service) -> None:
    """By the operation `none`; no part of a target becomes a label or a line."""
    counted = Counted(fresh, {REQUESTS})
    for number in range(20):
        assert fresh.get(f"/mArKeR/{number}").json["reason"] == "no_such_path"
    assert ask(fresh, b"mArKeR.example:80", b"CONNECT").count(NOWHERE) == 1
    grew = counted.grew()
    assert grew[f'{REQUESTS}{{operation="{NONE}",outcome="not_found"}}'] == 21
    lines = logged(fresh, "operation", NONE, 21)
    assert len(lines) == 21
    assert {(line["status"], line["outcome"], line["ip"]) for line in lines} == {
        (404, "no_such_path", "127.0.0.1")
    }
    assert "mArKeR" not in fresh.log.read_text() + fresh.get("/metrics").body.decode()
    for operation in ("live", "ready", "metrics", "openapi"):
        (path,) = [route.path for route in SERVICE.all if route.operation == operation]
        sample = f'{REQUESTS}{{operation="{operation}",outcome="ok"}}'
        before = fresh.metrics()[sample]
        assert fresh.get(path).status == 200
        assert fresh.metrics()[sample] > before
        assert logged(fresh, "operation", operation)[0]["actor"] is None


def test_a_flood_of_them_does_not_fill_the_log(fresh: Service) -> None:
    """Past some, each is counted, and only counted."""
    counted = Counted(fresh, {REQUESTS})
    line = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
    last = line.replace(b"a\r\n", b"a\r\nConnection: close\r\n")
    rounds = 100
    for _ in range(rounds):
        received, _ = fresh.raw(line * (MAX_PIPELINED - 1) + last)
        assert statuses(received) == [404] * MAX_PIPELINED
    sent = rounds * MAX_PIPELINED
    assert counted.grew()[f'{REQUESTS}{{operation="{NONE}",outcome="not_found"}}'] == sent
    assert 0 < len(logged(fresh, "operation", NONE)) < sent / 2


@pytest.mark.parametrize(
    ("target", "status_", "key"),
    [("/nowhere", 404, INTERNAL_KEY), (LOOKUP, 403, "wrong"), (f"/{LOOKUP}", 404, INTERNAL_KEY)],
)
def test_who_may_not_is_told_so_before_his_body_is_there(
    service: Service, target: str, status_: int, key: str
) -> None:
    """No body is waited for, and nobody is told to go on and send it."""
    head = f"POST {target} HTTP/1.1\r\nHost: a\r\nX-Internal-Key: {key}\r\nExpect: 100-continue\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as sock:
        sock.sendall(head.encode() + b"Content-Length: 40\r\n\r\n")
        assert statuses(sock.recv(65_536)) == [status_]


@pytest.mark.parametrize("path", ["/internal/secrets/x-batch", "/nowhere-batch"])
def test_how_a_path_ends_does_not_say_how_long_a_body_may_be(service: Service, path: str) -> None:
    """The bound is that of the table, and a path that is none has the small one."""
    length = b"Content-Length: %d" % MAX_BATCH_BYTES
    assert NOWHERE in ask(service, path.encode(), b"POST", length)


def test_the_service_never_fell(service: Service) -> None:
    """Not over any of these."""
    log = Path(service.log).read_text()
    assert log.count("Booting worker") == 2
    assert "Traceback" not in log
    assert "unexpected_error" not in log
