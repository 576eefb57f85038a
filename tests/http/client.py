"""A plain client of the service, on the standard library: what is sent is what a test says."""

import http.client
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

from tests.conftest import AUDITOR_KEY, Database
from tests.waiting import until

UPSERT = "/internal/secrets/credential-upsert"
LOOKUP = "/internal/secrets/credential-lookup"
DELETE = "/internal/secrets/credential-delete"
JSON = "application/json"

Headers = Mapping[str, str | bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        assert self.headers["Content-Type"] == JSON
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """Everything of the answer that a value could be echoed in."""
        return repr((self.headers.items(), self.body))


@dataclass(slots=True)
class Service:
    """A running service."""

    port: int
    log: Path
    internal_key: str
    pid: int
    database: Database = field(init=False)
    source: str = "127.0.0.1"
    """Where requests come from; all of 127.0.0.0/8 is this machine."""
    tls: ssl.SSLContext | None = None
    """What a client speaks TLS with; None in the clear."""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def connection(self) -> http.client.HTTPConnection:
        """A connection that is still to be made."""
        where, source = ("127.0.0.1", self.port), (self.source, 0)
        if self.tls is None:
            return http.client.HTTPConnection(*where, timeout=30, source_address=source)
        return http.client.HTTPSConnection(
            *where, timeout=30, source_address=source, context=self.tls
        )

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Headers | None = None,
        *,
        key: str | None = "",
        media_type: str | None = JSON,
    ) -> Answer:
        """Send one request on a connection of its own; key "" is the right one, None none.

        Headers in bytes go out as they are; so does a body in bytes or from an iterator.
        """
        sent: dict[str, str | bytes] = {}
        if key is not None:
            sent["X-Internal-Key"] = key or self.internal_key
        if body is not None and media_type is not None:
            sent["Content-Type"] = media_type
        sent |= headers or {}
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        with closing(self.connection()) as connection:
            connection.putrequest(method, path, skip_accept_encoding=True)
            _send_rest(connection, sent, body)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path: str) -> Answer:
        """GET without a key."""
        return self.send("GET", path, key=None)

    def audit(self, path: str, headers: Headers | None = None) -> Answer:
        """GET with the auditor's key."""
        return self.send("GET", path, headers=headers, key=AUDITOR_KEY)

    def upsert(self, headers: Headers | None = None, /, **fields: Any) -> Answer:
        """Store a credential."""
        return self.send("POST", UPSERT, fields, headers)

    def lookup(self, headers: Headers | None = None, /, **fields: Any) -> Answer:
        """Ask for a credential."""
        return self.send("POST", LOOKUP, fields, headers)

    def delete(self, query: str, headers: Headers | None = None) -> Answer:
        """Take a credential out; the query is sent as it is."""
        return self.send("DELETE", f"{DELETE}?{query}", None, headers)

    def raw(self, *pieces: bytes, pause: float = 0.0, seconds: float = 5.0) -> tuple[bytes, bool]:
        """Send bytes; what came back, and whether the server closed within that time."""
        received = bytearray()
        where, source = ("127.0.0.1", self.port), (self.source, 0)
        sock = socket.create_connection(where, timeout=seconds, source_address=source)
        if self.tls is not None:
            sock = self.tls.wrap_socket(sock, server_hostname="127.0.0.1")
        with sock:
            for piece in pieces:
                try:
                    sock.sendall(piece)
                except OSError:
                    break  # it was cut off while we sent
                time.sleep(pause)
            try:
                while data := sock.recv(65_536):
                    received += data
            except TimeoutError:
                return bytes(received), False
            except OSError:
                pass
        return bytes(received), True

    def events(self, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
        """Columns of the ledger's events, in order."""
        query = f"SELECT {columns} FROM ledger.events WHERE {where} ORDER BY position"  # noqa: S608
        return self.database.fetch(query)

    def metrics(self) -> dict[str, float]:
        """The counters."""
        lines = self.get("/metrics").body.decode().splitlines()
        pairs = (line.split() for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def says(self, text: str) -> None:
        """Wait until its log has that: a line may come after the answer that it is about."""
        until(lambda: text in self.log.read_text(), f"the log never has {text!r}")

    def workers(self) -> list[int]:
        """The workers' process ids."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(child) for child in children.split()]

    def kill_worker(self) -> int:
        """End one worker as a crash would."""
        victim = self.workers()[0]
        os.kill(victim, signal.SIGKILL)
        return victim

    def replace_worker(self) -> None:
        """End one worker as a crash would, and wait until there is another."""
        count, victim = len(self.workers()), self.kill_worker()

        def is_replaced() -> bool:
            workers = self.workers()
            return victim not in workers and len(workers) >= count

        until(is_replaced, "no other worker was started")


def _send_rest(connection: http.client.HTTPConnection, headers: Headers, body: Any) -> None:
    for name, value in headers.items():
        connection.putheader(name, value)
    chunked = isinstance(body, Iterator)
    if isinstance(body, bytes):
        connection.putheader("Content-Length", str(len(body)))
    elif chunked:
        connection.putheader("Transfer-Encoding", "chunked")
    # Reset while sending: answered before all was sent, and the answer waits to be read.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.endheaders(body, encode_chunked=chunked)


def log_lines(log: str) -> Iterator[dict[str, Any]]:
    """The lines of a log that are JSON objects."""
    for line in log.splitlines():
        if line.startswith("{"):
            yield json.loads(line)
