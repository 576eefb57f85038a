"""Whatever headers come: nothing opens but the one right key, and nobody gets another's name."""

import http.client
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.conftest import INTERNAL_KEY
from tests.http.client import LOOKUP, Service
from tests.http.granting import Keys, rule

BODY = b'{"host":"web-fuzz","purpose":"ssh"}'
GRANTED, REVOKED = b"@granted@", b"@revoked@"  # stand for keys, which are made later
RIGHT = INTERNAL_KEY.encode()
OWN = b"X-Internal-Key"
RECORDED = (b"x-service-name", b"x-access-reason", b"x-request-id")
Line = tuple[bytes, bytes]

names = st.sampled_from(
    [
        *(OWN, b"x-internal-key", b"X-INTERNAL-KEY", b"X_Internal_Key", b"X-Internal-Key "),
        *(b"Authorization", b"authorization", b"Proxy-Authorization"),
        *(b"X-Service-Name", b"x_service_name", b"X-Access-Reason", b"X-Request-Id"),
        *(b"Content-Length", b"Transfer-Encoding", b"Transfer_Encoding", b"Content-Type", b"Host"),
        *(b"X-Forwarded-For", b"Forwarded", b"Connection", b"Cookie", b""),
    ]
) | st.binary(max_size=12)
keys = st.sampled_from([RIGHT, GRANTED, REVOKED, b"wrong", b""])
values = (
    keys
    | keys.map(lambda key: b"Bearer " + key)
    | keys.map(lambda key: b"bEARER  " + key + b"\t ")
    | keys.map(lambda key: b"Basic " + key)
    | keys.map(lambda key: key + b"," + key)
    | keys.map(lambda key: b"x\r\nX-Internal-Key: " + key)
    | keys.map(lambda key: b"x\r\n " + key)
    | keys.map(lambda key: b"x\n" + OWN + b": " + key)
    | st.sampled_from(
        [b"deploy", b"somebody", b"a\x00b", b"a\x1bb", b"\xc2\x85", b"chunked", b"35"]
    )
    | st.text(max_size=120).map(str.encode)
    | st.binary(max_size=40)
    | st.integers(90, 40_000).map(lambda length: b"a" * length)
)
lines = st.lists(st.tuples(names, values), max_size=4)


@dataclass(frozen=True, slots=True)
class Shop:
    """A service with a credential, a grant, and one that was revoked."""

    service: Service
    granted: bytes
    revoked: bytes

    def fill(self, text: bytes) -> bytes:
        """Put the keys where they are meant."""
        return text.replace(GRANTED, self.granted).replace(REVOKED, self.revoked)


@pytest.fixture(scope="module")
def shop(service: Service) -> Iterator[Shop]:
    """And when all is done, it never fell, and its log holds no key."""
    keys = Keys(service)
    granted = keys.grant("fuzzed", rule("read"))
    revoked = keys.grant("fuzzed-before", rule("read"))
    keys.revoke("fuzzed-before")
    assert service.upsert(host="web-fuzz", purpose="ssh", password="pw-fuzz").status == 200
    yield Shop(service, granted.encode(), revoked.encode())
    log = service.log.read_text()
    assert log.count("Booting worker") == 2
    assert "unexpected_error" not in log
    assert "Traceback" not in log
    for key in (granted, revoked, INTERNAL_KEY, "pw-fuzz"):
        assert key not in log


def presented(sent: Sequence[Line]) -> list[bytes]:
    """What of well-formed lines is a key; the plainest way to say it."""
    own = [value for name, value in sent if name == b"x-internal-key"]
    tokens = [value for name, value in sent if name == b"authorization"]
    if len(own) > 1 or len(tokens) > 1:
        return [*own, *tokens, b"too", b"many"]
    bearers = [token[7:].strip() for token in tokens if token[:7].lower() == b"bearer "]
    return [key for key in own + bearers if key]


def ask(service: Service, head: bytes) -> http.client.HTTPResponse | None:
    """Send it, and take the one answer; None where the connection ends without."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as sock:
        sock.sendall(head + b"\r\n\r\n" + BODY)
        response = http.client.HTTPResponse(sock)
        try:
            response.begin()
            response.read()
        except (http.client.HTTPException, ConnectionError):
            return None
        return response


@given(lines)
@example([(OWN, RIGHT)])
@example([(OWN, GRANTED), (b"X-Service-Name", b"somebody")])
@example([(b"Authorization", b"Bearer " + GRANTED)])
@example([(OWN, RIGHT), (OWN, RIGHT)])
@example([(OWN, RIGHT), (OWN, b"")])
@example([(OWN, GRANTED), (b"Authorization", b"Bearer " + RIGHT)])
@example([(b"Authorization", b"Bearer " + RIGHT), (b"Authorization", b"Basic x")])
@example([(OWN, RIGHT), (b"X-Service-Name", b"a"), (b"X-Service-Name", b"b")])
@example([(b"X_Internal_Key", RIGHT)])
@example([(b"X-Service-Name", b"x\r\nX-Internal-Key: " + RIGHT)])
@settings(max_examples=400)
def test_only_the_one_right_key_opens_and_the_actor_is_its_own(
    shop: Shop, sent: list[Line]
) -> None:
    """4xx or no answer, unless one right key is there once; then the record names who it is."""
    head = [b"POST %s HTTP/1.1" % LOOKUP.encode(), b"Host: a", b"Content-Length: %d" % len(BODY)]
    head += [b"Content-Type: application/json", *(name + b": " + value for name, value in sent)]
    text = shop.fill(b"\r\n".join(head))
    assume(b"\r\n\r\n" not in text + b"\r\n" and not text.endswith(b"\r"))
    pairs = [line.partition(b":") for line in text.split(b"\r\n")[1:]]
    seen = [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]
    # Who calls itself by a key has the key recorded: that is its own word, and not our log's.
    told = [value for name, value in seen if name in RECORDED]
    assume(not any(key in value for value in told for key in (RIGHT, shop.granted, shop.revoked)))
    response = ask(shop.service, text)
    if response is None or response.status != 200:
        assert response is None or 400 <= response.status < 500
        return
    (key,) = presented(seen)
    assert key in (shop.granted, RIGHT)
    asserted = [value.decode() for name, value in seen if name == b"x-service-name"]
    assert len(asserted) <= 1
    actor = "fuzzed" if key == shop.granted else (*filter(None, asserted), "internal")[0]
    position = int(response.headers["X-Ledger-Position"])
    found = shop.service.events("type, actor, ok", f"position = {position}")
    assert found == [("credential.read", actor, True)]


def test_the_honest_are_served_all_the_same(shop: Shop) -> None:
    """What the fuzz allows does happen: else it would prove nothing."""
    base = (
        b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    )
    for line in (b"X-Internal-Key: " + RIGHT, b"aUTHORIZATION: bearer " + shop.granted + b" \t"):
        response = ask(shop.service, base % (LOOKUP.encode(), len(BODY)) + line)
        assert response is not None
        assert response.status == 200


@pytest.mark.parametrize("name", ["X-Service-Name", "X-Access-Reason"])
@pytest.mark.parametrize("second", ["one", "other", ""])
def test_a_header_of_the_record_may_be_there_once(shop: Shop, name: str, second: str) -> None:
    """400 that names it, and nothing is recorded; what has an underscore is another header."""
    before = shop.service.events("1")
    line = f"{name}: {{}}\r\n"
    head = f"POST {LOOKUP} HTTP/1.1\r\nHost: a\r\nX-Internal-Key: {INTERNAL_KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n"
    twice = head + line.format("one") + line.format(second)
    received, _ = shop.service.raw(twice.encode() + b"\r\n" + BODY, seconds=0.3)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b'"errors":[{"field":"%s","message":"must be given once"}]' % name.encode() in received
    assert shop.service.events("1") == before
    other = head + line.format("one") + line.format(second).replace("-", "_")
    received, _ = shop.service.raw(other.encode() + b"\r\n" + BODY, seconds=0.3)
    assert received.startswith(b"HTTP/1.1 200 ")
