"""Requests in bytes, what the server answers to them, and what it logs of them."""

import re
from typing import Any

from tests.conftest import INTERNAL_KEY
from tests.http.client import LOOKUP, Service, log_lines
from tests.waiting import until

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


LAST_GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def statuses(received: bytes) -> list[int]:
    """The statuses that were answered, in order."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)]


def logged(service: Service, name: str, value: object, count: int = 1) -> list[dict[str, Any]]:
    """The lines of the log with that value, once there are as many; they may be on their way."""

    def lines() -> list[dict[str, Any]]:
        return [line for line in log_lines(service.log.read_text()) if line.get(name) == value]

    until(lambda: len(lines()) >= count, f"the log never has {count} lines with {name}: {value}")
    return lines()
