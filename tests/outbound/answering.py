"""A real server for the client: it answers as it is told to, and keeps what it was asked."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from secrets_broker.outbound.address import Endpoint


@dataclass
class Asked:
    """What came, from which port of the client's: one for each connection."""

    port: int
    target: str
    headers: Mapping[str, str]


@dataclass
class Server:
    """Where it is, and what it was asked."""

    endpoint: Endpoint
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def answering(raw: bytes, *, hang_up: bool = False) -> Iterator[Server]:
    """Answer each request with these bytes; `hang_up` ends the connection after each."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.asked.append(Asked(self.client_address[1], self.path, dict(self.headers)))
            with suppress(OSError):  # a client may read no further
                self.wfile.write(raw)
            self.close_connection = hang_up

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server = Server(Endpoint(False, "127.0.0.1", listening.server_port))
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
