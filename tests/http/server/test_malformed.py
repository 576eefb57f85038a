"""Requests that are not valid HTTP/1.1, over raw sockets."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from secrets_broker.http.server.protocol import CarefulProtocol
from tests.conftest import INTERNAL_KEY
from tests.http.client import Service
from tests.http.server.raw_requests import (
    BODY,
    CHUNKED,
    CHUNKS,
    LAST_GET,
    LENGTH,
    TARGET,
    logged,
    request,
    statuses,
)

GOOD = request(LENGTH)
V1_0 = b"POST " + TARGET + b" HTTP/1.0"
PLAIN_GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"


REFUSED = {
    "no Host": (request(LENGTH, host=b""), 400),
    "two Hosts": (request(LENGTH, b"Host: other"), 400),
    "two Hosts in HTTP/1.0": (request(LENGTH, b"Host: other", line=V1_0), 400),
    "Transfer-Encoding in HTTP/1.0": (request(CHUNKED, line=V1_0, body=CHUNKS), 400),
    "HTTP/3.7": (request(LENGTH, line=b"POST " + TARGET + b" HTTP/3.7"), 400),
    "HTTP/0.9": (b"GET /health/live\r\n\r\n", 400),
    "request line of two words": (request(LENGTH, line=b"POST " + TARGET), 400),
    "random bytes": (b"\x16\x03\x01\x02\x00\x01\xff\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "length and chunked": (request(LENGTH, CHUNKED, body=CHUNKS), 400),
    "two lengths": (request(LENGTH, b"Content-Length: 5"), 400),
    "negative length": (request(b"Content-Length: -1"), 400),
    "chunked, then identity": (request(b"Transfer-Encoding: chunked, identity", body=CHUNKS), 400),
    "two equal lengths": (request(LENGTH, LENGTH), 400),
    "a list of lengths": (request(b"Content-Length: 36, 36"), 400),
    "length with a sign": (request(b"Content-Length: +36"), 400),
    "length in hex": (request(b"Content-Length: 0x24"), 400),
    "no length": (request(b"Content-Length: "), 400),
    "unknown coding": (request(b"Transfer-Encoding: xchunked", body=CHUNKS), 400),
    "chunked twice": (request(b"Transfer-Encoding: chunked, chunked", body=CHUNKS), 400),
    "two codings": (request(CHUNKED, b"Transfer-Encoding: identity", body=CHUNKS), 400),
    "VT before a coding": (request(b"Transfer-Encoding: \x0bchunked", body=CHUNKS), 400),
    "folded coding": (request(b"Transfer-Encoding:\r\n chunked", body=CHUNKS), 400),
    "folded name": (request(LENGTH, b"X-Service-Name: a\r\n b"), 400),
    "folded key": (request(LENGTH, b"X-A: b\r\n\tX-Internal-Key: c"), 400),
    "ESC in a name": (request(LENGTH, b"X-Service-Name: a\x1bb"), 400),
    "DEL in a name": (request(LENGTH, b"X-Service-Name: a\x7fb"), 400),
    "CR in a name": (request(LENGTH, b"X-Service-Name: a\rb"), 400),
    "LF in a name": (request(LENGTH, b"X-Service-Name: a\nX-B: c"), 400),
    "a header without a name": (request(LENGTH, b": a"), 400),
    "a header without a colon": (request(LENGTH, b"X-A"), 400),
    "a header's name past ASCII": (request(LENGTH, b"X-\xc3\xb6: a"), 400),
    "space in a header's name": (request(LENGTH, b"X-Service Name: a"), 400),
    "tab before the colon": (request(LENGTH, b"X-Service-Name\t: a"), 400),
    "NUL in a header": (request(LENGTH, b"X-A: b\x00c"), 400),
    "space before the colon": (request(b"Content-Length : 36"), 400),
    "bad chunk size": (request(CHUNKED, body=b"zz\r\nab\r\n0\r\n\r\n"), 400),
    "another expectation": (request(LENGTH, b"Expect: magic"), 417),
    "1 MiB of headers": (
        request(LENGTH, *[b"X-%d: %s" % (i, b"b" * 1000) for i in range(1024)]),
        431,
    ),
    "100,000 headers": (request(LENGTH, *[b"X-%d: b" % i for i in range(100_000)]), 431),
    "101 headers": (request(LENGTH, *[b"X-%d: b" % i for i in range(97)]), 431),
    "one header of 1 MiB": (request(LENGTH, b"X-A: " + b"b" * 2**20), 431),
    "one header of 33 KiB": (request(LENGTH, b"X-A: " + b"b" * 33 * 1024), 431),
    "target of 1 MiB": (request(LENGTH, line=b"POST /" + b"a" * 2**20 + b" HTTP/1.1"), 431),
    "announced 10 GB": (request(b"Content-Length: 9999999999"), 413),
    "chunk size past 64 bits": (request(CHUNKED, body=b"1" + b"0" * 17 + b"\r\n" + BODY), 400),
}


@pytest.fixture(scope="module")
def outcomes(service: Service) -> dict[str, tuple[bytes, bool]]:
    """What became of each; sent side by side, since each connection lingers for a second."""
    sent = [bad + PLAIN_GET for bad, _ in REFUSED.values()]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(REFUSED, pool.map(service.raw, sent), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_malformed_is_refused_once_and_the_connection_ends(
    outcomes: dict[str, tuple[bytes, bool]], name: str
) -> None:
    """One 4xx answer, then the end: what follows on the connection is never taken for a request."""
    received, closed = outcomes[name]
    assert (statuses(received), closed) == ([REFUSED[name][1]], True)
    assert b'"reason"' in received


@pytest.mark.parametrize("bad", [b"\x16\x03\x01\r\n\r\n", request(LENGTH, host=b""), b" \0"])
def test_a_refusal_is_never_taken_for_an_earlier_request(service: Service, bad: bytes) -> None:
    """Answers have no names: where an earlier one is due, the connection ends without ours."""
    received, closed = service.raw(GOOD + GOOD + bad)
    assert (set(statuses(received)) <= {404}, closed) == (True, True)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (GOOD, [404]),
        (request(CHUNKED, body=CHUNKS), [404]),
        (GOOD * 20, [404] * 20),
        (request(LENGTH, b"Upgrade: websocket"), [404]),
        (request(LENGTH, *[b"X-%d: b" % i for i in range(96)]), [404]),
        (request(LENGTH, b"X-A: " + b"b" * 30 * 1024), [404]),
    ],
    ids=["length", "chunked", "pipelined", "unused upgrade", "100 headers", "30 KiB of headers"],
)
def test_what_is_odd_but_valid_is_served(
    service: Service, sent: bytes, expected: list[int]
) -> None:
    """Care does not cost a valid request its answer, nor the connection after it."""
    received, closed = service.raw(sent + LAST_GET)
    assert (statuses(received), closed) == ([*expected, 200], True)


def test_a_request_in_single_bytes_is_served(service: Service) -> None:
    """How a request is cut into segments means nothing."""
    received, closed = service.raw(*(bytes([b]) for b in GOOD), LAST_GET)
    assert (statuses(received), closed) == ([404, 200], True)


def test_an_expected_100_continue_is_sent(service: Service) -> None:
    """A client that asks before it sends its body is told to go on."""
    head = request(LENGTH, b"Expect: 100-continue", b"Connection: close", body=b"")
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as sock:
        sock.sendall(head)
        assert statuses(sock.recv(65_536)) == [100]
        sock.sendall(BODY)
        assert statuses(sock.recv(65_536)) == [404]


def test_a_refused_body_is_not_taken_for_a_request(service: Service) -> None:
    """What follows an answer that did not wait for the body is still that body."""
    length = b"Content-Length: %d" % len(PLAIN_GET)
    head = request(length, body=b"").replace(INTERNAL_KEY.encode(), b"no")
    received, closed = service.raw(head, PLAIN_GET + LAST_GET, pause=0.3)
    assert (statuses(received), closed) == ([403, 200], True)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_half_a_body_is_not_a_body(service: Service, framing: str) -> None:
    """A body cut off where it happens to be JSON does nothing: it may not be what was meant."""
    name, request_id = f"half-{framing}.example".encode(), f"half-{framing}"
    whole = b'{"host":"%s","purpose":"ssh","password":"p"}' % name
    line = b"POST /internal/secrets/credential-upsert HTTP/1.1"
    labelled = b"X-Request-Id: " + request_id.encode()
    if framing == "length":
        sent = request(labelled, b"Content-Length: 5000", line=line, body=whole)
    else:
        chunk = b"%x\r\n%s\r\n" % (len(whole), whole)
        sent = request(labelled, CHUNKED, line=line, body=chunk)
    service.raw(sent, seconds=0.3)  # then our end closes
    (line_of_it,) = logged(service, "request_id", request_id)
    assert line_of_it["status"] == 400
    assert service.lookup(host=name.decode(), purpose="ssh").status == 404


@pytest.mark.long
def test_a_slow_request_is_cut_off(service: Service) -> None:
    """Head, body or silence: a request has 15 seconds to arrive, however it drips in.

    All at once, so that it costs the suite that time only once.
    """
    drips = {"head": b"POST / HTTP/1.1\r\nX-A: ", "body": request(b"Content-Length: 50", body=b"")}
    drips |= {"line": b"POST /", "nothing": b"", "empty lines": b"\r\n"}
    socks = {name: socket.create_connection(("127.0.0.1", service.port)) for name in drips}
    ended: dict[str, float] = {}
    for name, sock in socks.items():
        sock.sendall(drips[name])
        sock.settimeout(0.01)
    started = time.monotonic()
    limit = CarefulProtocol.receive_seconds + CarefulProtocol.linger_seconds
    while len(ended) < len(socks) and time.monotonic() < started + limit + 15:
        for name, sock in socks.items():
            if name not in ended:
                try:
                    if name != "nothing":
                        sock.sendall(b"\r\n" if name == "empty lines" else b"a")
                    if not sock.recv(65_536):
                        ended[name] = time.monotonic() - started
                except TimeoutError:
                    pass
                except OSError:
                    ended[name] = time.monotonic() - started
        time.sleep(0.5)
    for sock in socks.values():
        sock.close()
    assert set(ended) == set(drips)
    assert min(ended.values()) > CarefulProtocol.receive_seconds - 1


@pytest.mark.parametrize(
    ("sent", "status", "answered"),
    [
        (b"mArKeR / HTTP/1.1\r\n\r\n", 400, True),
        (request(LENGTH, b"Expect: mArKeR"), 417, True),
        (request(LENGTH, b"X-A: " + b"mArKeR" * 6000), 431, True),
        (request(CHUNKED, body=b"ffffff\r\n" + b"mArKeR" * 400_000), 413, False),
        (GOOD + b"mArKeR mArKeR\r\n\r\n", 400, False),
    ],
    ids=["400", "417", "431", "413 and sent on", "after a request"],
)
def test_each_refusal_is_one_line(
    service: Service, sent: bytes, status: int, answered: bool
) -> None:
    """Status and peer are on the log, once, and nothing that was sent."""
    before = len(logged(service, "event", "request_refused", 0))
    service.raw(sent)
    lines = logged(service, "event", "request_refused", before + 1)[before:]
    assert [(line["status"], line["ip"], line["answered"]) for line in lines] == [
        (status, "127.0.0.1", answered)
    ]
    assert "mArKeR" not in service.log.read_text()


@pytest.mark.usefixtures("outcomes")
def test_nothing_of_this_is_a_failure_of_the_service(service: Service) -> None:
    """A bad request is the sender's error: no traceback, no dead worker, and only JSON lines."""
    service.raw(request(b"X-Request-Id: gone", LENGTH)[:-5], seconds=0.3)  # our end closes
    assert [line["status"] for line in logged(service, "request_id", "gone")] == [400]
    log = service.log.read_text()
    assert "Invalid HTTP request received." not in log
    assert [line for line in log.splitlines() if not line.startswith("{")] == []
    assert "Traceback" not in log
    assert "unexpected_error" not in log
    assert log.count("Booting worker") == 2
