"""Requests that no client should send, and how careful each answer is.

A case is careful where the server does what RFC 9112 (HTTP/1.1) or RFC 9110 asks of a server
that distrusts its callers; `careful` holds the outcomes that count as that.
"""

from collections.abc import Callable
from typing import Final

from bench.stack import INTERNAL_KEY
from bench.wire import Case, Outcome

NOT_IMPLEMENTED: Final = 501  # RFC 9112, section 6.1, for a transfer coding that is not known


def refused(outcome: Outcome) -> bool:
    """No success and no failure of the server's own, and the connection is given up."""
    return outcome.closed and no_success(outcome)


def no_success(outcome: Outcome) -> bool:
    """Not taken as a good request, nor by a handler that fails; staying connected is fine."""
    return all(400 <= status < 500 or status == NOT_IMPLEMENTED for status in outcome.statuses)


def only(*statuses: int) -> Callable[[Outcome], bool]:
    """Exactly these statuses."""
    return lambda outcome: outcome.statuses == statuses


def given_up(outcome: Outcome) -> bool:
    """Closed before the sender was done, whatever was answered."""
    return outcome.closed


BODY: Final = b'{"host":"host-0000000.example.com","purpose":"ssh"}'
PATH: Final = b"/internal/secrets/credential-lookup"


def _request(
    *headers: bytes, line: bytes = b"POST " + PATH + b" HTTP/1.1", body: bytes = BODY
) -> bytes:
    head = [line, b"Host: 127.0.0.1", b"X-Internal-Key: " + INTERNAL_KEY.encode()]
    head += [b"Content-Type: application/json", *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def _length(length: bytes = b"%d" % len(BODY)) -> bytes:
    return b"Content-Length: " + length


_CHUNKED: Final = b"Transfer-Encoding: chunked"
_GOOD: Final = _request(_length())
_CHUNKS: Final = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
_SMUGGLED: Final = b"0\r\n\r\n" + _GOOD


GOOD_AND_LAST: Final = Case(
    "a good request, the last of its connection",
    (_request(_length(), b"Connection: close"),),
    lambda outcome: outcome.statuses == (200,) and outcome.closed,
)


def cases() -> list[Case]:
    """Quick ones: a pause of SILENCE_SECONDS decides."""
    return [
        Case("a good request", (_GOOD,), only(200)),
        Case("random bytes as request line", (b"\x16\x03\x01\x02\x00\x01\xff\r\n\r\n",), refused),
        Case("request line of two words", (_request(_length(), line=b"POST " + PATH),), refused),
        Case("HTTP/3.7", (_request(_length(), line=b"POST " + PATH + b" HTTP/3.7"),), refused),
        Case("no Host", (_GOOD.replace(b"Host: 127.0.0.1\r\n", b""),), refused),
        Case("two Host headers", (_request(_length(), b"Host: other"),), refused),
        Case("two Content-Length, different", (_request(_length(), _length(b"5")),), refused),
        Case(
            "Content-Length and chunked (CL.TE)",
            (_request(_length(b"%d" % len(_SMUGGLED)), _CHUNKED, body=_SMUGGLED),),
            refused,
        ),
        Case("chunked, then identity", (_te(b"chunked, identity"),), refused),
        Case("Transfer-Encoding: xchunked", (_te(b"xchunked"),), refused),
        Case("Transfer-Encoding twice", (_te(b"chunked\r\nTransfer-Encoding: chunked"),), refused),
        Case("Transfer-Encoding in HTTP/1.0", (_te_in_http_1_0(),), refused),
        Case("Content-Length: -1", (_request(_length(b"-1")),), refused),
        Case("Content-Length: +51", (_request(_length(b"+%d" % len(BODY))),), refused),
        Case("Content-Length: 0x33", (_request(_length(b"0x33")),), refused),
        Case("Content-Length of 30 digits", (_request(_length(b"9" * 30)),), refused),
        Case("Content-Length of 10 GB, short body", (_request(_length(b"9999999999")),), refused),
        Case("header without colon", (_request(_length(), b"X-Nothing"),), refused),
        Case("space before the colon", (_request(b"Content-Length : 51"),), refused),
        Case("space in a header's name", (_request(_length(), b"X Y: z"),), refused),
        Case("folded header (obs-fold)", (_request(_length(), b"X-A: b\r\n c"),), no_success),
        Case("NUL in a header's value", (_request(_length(), b"X-A: b\x00c"),), refused),
        Case("bare CR in a header's value", (_request(_length(), b"X-A: b\rX-B: c"),), refused),
        Case("bare LF for line ends", (_GOOD.replace(b"\r\n", b"\n"),), refused),
        Case("control character in a value", (_request(_length(), b"X-A: b\x07c"),), refused),
        Case("1 MiB of headers", (_many_headers(1024, 1000),), refused),
        Case("100,000 headers", (_many_headers(100_000, 2),), refused),
        Case("one header of 1 MiB", (_request(_length(), b"X-A: " + b"b" * 2**20),), refused),
        Case("request target of 1 MiB", (_long_target(),), refused),
        Case("bad chunk size", (_request(_CHUNKED, body=b"zz\r\nab\r\n0\r\n\r\n"),), refused),
        Case("negative chunk size", (_request(_CHUNKED, body=b"-5\r\nab\r\n0\r\n\r\n"),), refused),
        Case(
            "chunk size past 64 bits",
            (_request(_CHUNKED, body=b"1" + b"0" * 16 + b"33\r\n" + BODY),),
            refused,
        ),
        Case("chunk longer than its size", (_request(_CHUNKED, body=_overlong()),), refused),
        Case("a good chunked body", (_request(_CHUNKED, body=_CHUNKS),), only(200)),
        Case(
            "body shorter than its length, then end",
            (_request(_length(b"5000")),),
            refused,
            half_close=True,
        ),
        Case("HTTP/1.0", (_request(_length(), line=b"POST " + PATH + b" HTTP/1.0"),), _done(200)),
        Case("HTTP/0.9", (b"GET /health/live\r\n",), refused),
        Case("two requests at once (pipelined)", (_GOOD + _GOOD,), only(200, 200)),
        Case("50 requests at once", (_GOOD * 50,), only(*[200] * 50)),
        Case(
            "Expect: 100-continue",
            (_request(_length(), b"Expect: 100-continue", body=b""), BODY),
            only(100, 200),
            pause=1.0,
        ),
        Case("Expect: something", (_request(_length(), b"Expect: magic"),), only(417)),
        Case("target in absolute form", (_request(_length(), line=_absolute()),), only(200)),
        Case("upgrade to websocket", (_websocket(),), no_success),
        Case("upgrade to h2c", (_request(_length(), *_H2C),), only(200)),
        Case("HTTP/2 preface", (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",), refused),
        Case(
            "X-Internal-Key twice, right then wrong",
            (_request(_length(), b"X-Internal-Key: wrong"),),
            no_success,
        ),
        Case("X-Internal-Key twice, wrong then right", (_wrong_first(),), no_success),
        Case(
            "key as X_Internal_Key only", (_GOOD.replace(b"X-Internal", b"X_Internal"),), only(403)
        ),
    ]


def slow_cases() -> list[Case]:
    """What takes its time; each sends for a minute unless it is cut off."""
    head = b"POST " + PATH + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    trickle = tuple(b"X-%d: a\r\n" % i for i in range(30))
    slow_body = _request(_length(b"5000"), body=b"")
    return [
        Case("headers, one every 2 s for 60 s", (head, *trickle), given_up, pause=2.0),
        Case("body, a byte every 2 s for 60 s", (slow_body, *[b" "] * 30), given_up, pause=2.0),
        Case("half a request line, then silence for 60 s", (b"POST /", b""), given_up, pause=60),
        Case("connected, silent for 60 s", (b"", b""), given_up, pause=60.0),
    ]


_H2C: Final = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")


def _te(value: bytes) -> bytes:
    return _request(b"Transfer-Encoding: " + value, body=_CHUNKS)


def _te_in_http_1_0() -> bytes:
    return _request(_CHUNKED, line=b"POST " + PATH + b" HTTP/1.0", body=_CHUNKS)


def _many_headers(count: int, size: int) -> bytes:
    return _request(_length(), *(b"X-%d: %s" % (i, b"b" * size) for i in range(count)))


def _long_target() -> bytes:
    return _request(_length(), line=b"POST " + PATH + b"?" + b"a" * 2**20 + b" HTTP/1.1")


def _overlong() -> bytes:
    return b"5\r\n" + BODY + b"\r\n0\r\n\r\n"


def _absolute() -> bytes:
    return b"POST http://127.0.0.1" + PATH + b" HTTP/1.1"


def _websocket() -> bytes:
    headers = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"]
    headers.append(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    return _request(*headers, line=b"GET " + PATH + b" HTTP/1.1", body=b"")


def _wrong_first() -> bytes:
    return _GOOD.replace(b"X-Internal-Key", b"X-Internal-Key: wrong\r\nX-Internal-Key")


def _done(status: int) -> Callable[[Outcome], bool]:
    return lambda outcome: outcome.statuses == (status,) and outcome.closed
