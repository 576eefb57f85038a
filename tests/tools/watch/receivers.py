"""Receivers of what `watch` tells: a webhook that can misbehave, and syslog's sockets."""

import base64
import hashlib
import hmac
import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.certificates import scheme
from tests.ledger.encryption.kms.helpers import serving

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
HANG, BREAK, CUT = "hang", "break", "cut"
Behaviour = int | str


def verified(secret: str, headers: "Message[str, str]", body: bytes) -> dict[str, Any]:
    """What a message says; as docs/watch.md has receivers verify it."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    right = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert any(hmac.compare_digest(right, one) for one in headers["webhook-signature"].split())
    message: dict[str, Any] = json.loads(body)
    assert headers["webhook-id"] == message["id"]
    return message


@dataclass(slots=True)
class Hook:
    """A webhook's server."""

    url: str = ""
    behaviours: list[Behaviour] = field(default_factory=list)
    """Of the next requests, in order; afterwards 200."""
    requests: "queue.Queue[tuple[str, Message[str, str], bytes]]" = field(
        default_factory=queue.Queue
    )
    paths: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def next(self, seconds: float = 20) -> dict[str, Any]:
        """The next message that came, verified."""
        path, headers, body = self.requests.get(timeout=seconds)
        self.paths.append(path)
        return verified(SECRET, headers, body)

    def all(self) -> list[dict[str, Any]]:
        """All that came and was not asked for yet."""
        return [self.next() for _ in range(self.requests.qsize())]


@contextmanager
def hooked(*behaviours: Behaviour, certificate: Path | None = None) -> Iterator[Hook]:
    """Serve one on loopback: a status, HANG, BREAK off within the answer's first line, or
    CUT it short behind its head.

    Over TLS where there is a certificate, and its key in the same file.
    """
    hook = Hook(behaviours=list(behaviours))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            behaviour = hook.behaviours.pop(0) if hook.behaviours else 200
            hook.requests.put((self.path, self.headers, body))
            if behaviour == HANG:
                hook.released.wait(30)
            elif behaviour == BREAK:
                self.wfile.write(b"HTTP/1.1 20")
            elif behaviour == CUT:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
            else:
                assert isinstance(behaviour, int)
                self.send_response(behaviour)
                if behaviour in (301, 302, 307, 308):
                    self.send_header("Location", f"{hook.url}elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serving(Handler) as server:
        hook.url = f"{scheme(server, certificate)}://127.0.0.1:{server.server_port}/"
        try:
            yield hook
        finally:
            hook.released.set()


@contextmanager
def datagrams(path: Path | None = None) -> Iterator[tuple[str, socket.socket]]:
    """A syslog over UDP, or at a path as the machine's own: its address, and what it listens on."""
    family = socket.AF_INET if path is None else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_DGRAM) as listening:
        listening.settimeout(20)
        listening.bind(("127.0.0.1", 0) if path is None else str(path))
        name = listening.getsockname()
        yield str(path) if path else f"udp://127.0.0.1:{name[1]}", listening


def octet_counted(stream: socket.socket) -> Iterator[bytes]:
    """The messages of a connection: RFC 6587, section 3.4.1."""
    stream.settimeout(20)
    with stream.makefile("rb") as reading:
        while True:
            count = b""
            with suppress(OSError):
                while (digit := reading.read(1)) not in (b" ", b""):
                    count += digit
            if not count:
                return
            yield reading.read(int(count))
