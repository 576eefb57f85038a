"""Requests that are not valid HTTP/1.1, over raw sockets."""

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from secrets_broker.http.protocol import CarefulProtocol
from tests.conftest import INTERNAL_KEY
from tests.http.client import LOOKUP, Service

BODY = b'{"host":"h.example","purpose":"ssh"}'
TARGET = LOOKUP.encode()
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
HOST = b"Host: 127.0.0.1"


def request(
    *headers: bytes,
    line: bytes = b"POST " + TARGET + b" HTTP/1.1",
    body: bytes = BODY,
    host: bytes = HOST,
) -> bytes:
    """A lookup's bytes."""
    head = [line, host, b"X-Internal-Key: " + INTERNAL_KEY.encode()]
    head += [b"Content-Type: application/json", *headers]
    return b"\r\n".join(filter(None, head)) + b"\r\n\r\n" + body


GOOD = request(LENGTH)
V1_0 = b"POST " + TARGET + b" HTTP/1.0"
PLAIN_GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"


def statuses(received: bytes) -> list[int]:
    """The statuses that were answered, in order."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)]


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
    received, _ = service.raw(sent + PLAIN_GET, seconds=1.0)
    assert statuses(received) == [*expected, 200]


def test_a_request_in_single_bytes_is_served(service: Service) -> None:
    """How a request is cut into segments means nothing."""
    received, closed = service.raw(*(bytes([b]) for b in GOOD), PLAIN_GET, seconds=1.0)
    assert (statuses(received), closed) == ([404, 200], False)


def test_an_expected_100_continue_is_sent(service: Service) -> None:
    """A client that asks before it sends its body is told to go on."""
    head = request(LENGTH, b"Expect: 100-continue", body=b"")
    received, _ = service.raw(head, BODY, pause=0.3, seconds=1.0)
    assert statuses(received) == [100, 404]


def test_a_refused_body_is_not_taken_for_a_request(service: Service) -> None:
    """What follows an answer that did not wait for the body is still that body."""
    length = b"Content-Length: %d" % len(PLAIN_GET)
    head = request(length, body=b"").replace(INTERNAL_KEY.encode(), b"no")
    received, closed = service.raw(head, PLAIN_GET, pause=0.3, seconds=1.0)
    assert (statuses(received), closed) == ([403], False)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_half_a_body_is_not_a_body(service: Service, framing: str) -> None:
    """A body cut off where it happens to be JSON does nothing: it may not be what was meant."""
    name = f"half-{framing}.example".encode()
    whole = b'{"host":"%s","purpose":"ssh","password":"p"}' % name
    line = b"POST /internal/secrets/credential-upsert HTTP/1.1"
    if framing == "length":
        sent = request(b"Content-Length: 5000", line=line, body=whole)
    else:
        sent = request(CHUNKED, line=line, body=b"%x\r\n%s\r\n" % (len(whole), whole))
    service.raw(sent, seconds=0.3)  # then our end closes
    later = service.lookup(host=name.decode(), purpose="ssh")
    assert later.status == 404


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
    while len(ended) < len(socks) and time.monotonic() < started + limit + 3:
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


@pytest.mark.usefixtures("outcomes")
def test_nothing_of_this_is_a_failure_of_the_service(service: Service) -> None:
    """A bad request is the sender's error: it leaves no traceback, and kills no worker."""
    service.raw(GOOD[:-5])  # gone in the middle of its body
    log = service.log.read_text()
    assert "Invalid HTTP request received." in log
    assert "Traceback" not in log
    assert "unexpected_error" not in log
    assert log.count("Booting worker") == 2
