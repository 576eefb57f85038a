"""HTTP as clients speak it: real ones, and what they are known to send, over raw sockets."""

import gzip
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.encoding import name_problem
from tests.conftest import INTERNAL_KEY
from tests.http.client import LOOKUP, UPSERT, Service
from tests.http.server.raw_requests import (
    BODY,
    CHUNKED,
    CHUNKS,
    LAST_GET,
    LENGTH,
    request,
    statuses,
)

NAME = {"host": "h.example", "purpose": "ssh"}
H2C = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
JAVA = """
import java.net.URI;
import java.net.http.*;
public class Ask {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
                .header("X-Internal-Key", given[1]).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(given[2])).build();
            HttpResponse<String> answer =
                client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.version() + " " + answer.statusCode() + " " + answer.body());
        }
    }
}
"""


@pytest.fixture(scope="module", autouse=True)
def stored(service: Service) -> None:
    """There is something to look up."""
    assert service.upsert(**NAME, password="pw-clients").status == 200


def ran(command: Sequence[str]) -> str:
    """What a client prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("java") is None, reason="needs java")
def test_javas_own_client_is_served(service: Service, tmp_path: Path) -> None:
    """It offers HTTP/2 with its first request, which has a body, and goes on in HTTP/1.1."""
    source = tmp_path / "Ask.java"
    source.write_text(JAVA)
    lines = ran(["java", str(source), service.url + LOOKUP, INTERNAL_KEY, BODY.decode()])
    for line in lines.splitlines():
        version, status, body = line.split(" ", 2)
        assert (version, status) == ("HTTP_1_1", "200")
        assert json.loads(body)["password"] == "pw-clients"
    assert len(lines.splitlines()) == 3


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("options", [["--http2"], ["--http2", "-H", "Expect: 100-continue"], []])
def test_curl_is_served(service: Service, options: list[str]) -> None:
    """With its offer of HTTP/2 and without, twice on a connection."""
    headers = ["-H", f"X-Internal-Key: {INTERNAL_KEY}", "-H", "Content-Type: application/json"]
    one = ["-sS", *options, *headers, "-d", BODY.decode(), service.url + LOOKUP]
    out = ran(["curl", *one, "-w", "\\n", "--next", *one])
    assert [json.loads(line)["password"] for line in out.splitlines()] == ["pw-clients"] * 2


OFFERS = [
    H2C,
    (b"Connection: upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"),
    (b"connection: keep-alive, UPGRADE", b"UPGRADE: TLS/1.0"),
    (b"Upgrade: h2c", b"Connection: Upgrade"),
    (b"Connection: Upgrade", b"Connection: HTTP2-Settings", b"Upgrade: h2c, foo/2"),
]


@pytest.mark.parametrize("offer", OFFERS, ids=range(len(OFFERS)))
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_an_offer_of_another_protocol_is_ignored(
    service: Service, offer: tuple[bytes, ...], framing: str, cut: int
) -> None:
    """The body is whole, and so is the connection, however it is cut into segments."""
    coding, body = (LENGTH, BODY) if framing == "length" else (CHUNKED, CHUNKS)
    asked = request(coding, *offer, body=body)
    plain = b"GET /health/live HTTP/1.1\r\nHost: a\r\n" + b"\r\n".join(offer) + b"\r\n\r\n"
    sent = asked + plain + asked + LAST_GET
    pieces = [sent[at : at + cut] for at in range(0, len(sent), cut)] if cut else [sent]
    received, closed = service.raw(*pieces)
    assert (statuses(received), closed) == ([200, 200, 200, 200], True)
    assert received.count(b"pw-clients") == 2


@pytest.mark.parametrize("end", [b"Connection: close, Upgrade", b"Connection: Upgrade, close"])
def test_an_offer_does_not_hide_that_the_connection_ends(service: Service, end: bytes) -> None:
    """It is closed behind the answer."""
    received, closed = service.raw(request(LENGTH, end, b"Upgrade: h2c"))
    assert (statuses(received), closed) == ([200], True)
    assert b"connection: close" in received.lower()


def test_an_offer_in_http_1_0_is_ignored_too(service: Service) -> None:
    """RFC 9110, section 7.8."""
    line = b"POST %s HTTP/1.0" % LOOKUP.encode()
    received, closed = service.raw(request(LENGTH, *H2C, line=line))
    assert (statuses(received), closed) == ([200], True)


def test_what_is_malformed_is_so_with_an_offer(service: Service) -> None:
    """The head is held to the same rules."""
    for sent in (request(LENGTH, *H2C, host=b""), request(LENGTH, b"Content-Length: 3", *H2C)):
        received, closed = service.raw(sent)
        assert (statuses(received), closed) == ([400], True)


def test_what_follows_a_connect_is_for_nobody(service: Service) -> None:
    """404, the end, and no request of what was meant for a tunnel."""
    tunnel = b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"
    received, closed = service.raw(tunnel + request(LENGTH))
    assert (statuses(received), closed) == ([404], True)
    assert b"pw-clients" not in received


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_byte_order_mark_is_passed_over(service: Service, mark: bytes) -> None:
    """RFC 8259, section 8.1; one, and before the text alone."""
    answer = service.send("POST", LOOKUP, mark + BODY)
    assert (answer.status, answer.json["password"]) == (200, "pw-clients")
    assert service.send("POST", LOOKUP, b"\xef\xbb\xbf\xef\xbb\xbf" + BODY).status == 400
    assert service.send("POST", LOOKUP, BODY[:1] + b"\xef\xbb\xbf" + BODY[1:]).status == 400
    assert service.send("POST", LOOKUP, BODY.decode().encode("utf-16")).status == 400


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "br", "zstd", "gzip, identity", "x"])
@pytest.mark.parametrize("path", [LOOKUP, f"{LOOKUP}-batch", UPSERT])
def test_a_compressed_body_is_415(service: Service, coding: str, path: str) -> None:
    """It says so, and what would be taken (RFC 9110, section 15.5.16); nothing is unpacked."""
    answer = service.send("POST", path, gzip.compress(BODY), {"Content-Encoding": coding})
    assert (answer.status, answer.json["reason"]) == (415, "unsupported_media_type")
    assert answer.headers["Accept-Encoding"] == "identity"
    assert "Content-Encoding" in answer.json["detail"]


def test_a_body_that_is_said_to_be_plain_is_taken(service: Service) -> None:
    """`identity` is no coding."""
    assert service.send("POST", LOOKUP, BODY, {"Content-Encoding": "Identity"}).status == 200


def _recorded(service: Service, headers: Sequence[bytes]) -> tuple[int, dict[str, Any], bytes]:
    """A lookup with headers: its status, its event, and what came back."""
    received, _ = service.raw(request(LENGTH, b"Connection: close", *headers))
    (status,) = statuses(received)
    ((event,),) = service.events(
        "row_to_json(events)", "position = (SELECT max(position) FROM ledger.events)"
    )
    return status, event, received


@pytest.mark.parametrize(
    "lines",
    [
        [b"x" * 101],
        [b"x" * 128],
        [b"one", b"two"],
        [b"one", b"one"],
        [b"one", b""],
        ["a\u0085b".encode()],
        ["a\u202eb".encode()],
        ["a\u200bb".encode()],
        ["\u00a0a".encode()],
        [b"\xff\xfe"],
    ],
    ids=range(10),
)
def test_an_id_that_is_not_fit_is_replaced(service: Service, lines: list[bytes]) -> None:
    """The lookup is answered all the same, under an id of ours, in answer, log and ledger."""
    status, event, received = _recorded(service, [b"X-Request-Id: " + line for line in lines])
    ours = event["request_id"]
    assert (status, len(ours), set(ours) <= set("0123456789abcdef")) == (200, 16, True)
    assert f"x-request-id: {ours}".encode() in received
    assert all(line not in received for line in lines if line)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("prüfung".encode(), "prüfung"),
        ("prüfung".encode("latin-1"), "prüfung"),
        (b"caf\xe9 \xa3 5", "café £ 5"),
        ("проверка".encode(), "проверка"),
        (b"plain", "plain"),
        (b"", None),
    ],
)
def test_a_reason_is_read_as_it_was_meant(
    service: Service, sent: bytes, reason: str | None
) -> None:
    """UTF-8 where it is that, else ISO 8859-1."""
    status, event, _ = _recorded(service, [b"X-Access-Reason: " + sent])
    assert (status, event["reason"]) == (200, reason)


@pytest.mark.parametrize("sent", [b"a\x85b", b"a\x9b31m\xe9", b"\xe9" * 501])
def test_a_reason_in_latin_1_is_held_to_the_same_rules(service: Service, sent: bytes) -> None:
    """No control characters, and its length."""
    received, _ = service.raw(request(LENGTH, b"Connection: close", b"X-Access-Reason: " + sent))
    assert statuses(received) == [400]


@settings(max_examples=60)
@given(name=st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=12))
def test_a_service_that_people_could_mistake_is_refused(service: Service, name: str) -> None:
    """What is not seen, or turns a line, is in no actor's name; all else is taken as it is."""
    sent = name.strip(" \t")
    received, _ = service.raw(
        request(LENGTH, b"Connection: close", b"X-Service-Name: " + name.encode())
    )
    assert statuses(received) == [400 if sent and name_problem(sent) else 200]
    if sent and not name_problem(sent):
        query = "position = (SELECT max(position) FROM ledger.events)"
        assert service.events("actor", query) == [(sent,)]


@pytest.mark.parametrize("mark", ["\u202e", "\u200b", "\u2066", "\ufeff", "\u00ad", "\u3164"])
def test_each_kind_of_unseen_character_is_refused(service: Service, mark: str) -> None:
    """Bidirectional, zero-width, or without a look; at an end and within."""
    for name in (f"a{mark}b", f"{mark}a", f"a{mark}"):
        answer = service.lookup({"X-Service-Name": name.encode()}, **NAME)
        assert (answer.status, answer.json["errors"][0]["field"]) == (400, "X-Service-Name")
