"""An export served over HTTP as a broker serves its log, by a server that can misbehave."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Handler = http.server.BaseHTTPRequestHandler
Misbehave = Callable[[Handler, int], bool]
"""Takes a request and its number; tells whether it has answered it, in whatever way."""


def well(_handler: Handler, _number: int) -> bool:
    """Leave every request to the export."""
    return False


@contextmanager
def static_broker(folder: Path, misbehave: Misbehave = well) -> Iterator[str]:
    """Serve an export; gives the URL for `verify --url`."""
    counting = threading.Lock()
    seen = [0]

    class Answers(Handler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802 - the library's name
            with counting:
                number, seen[0] = seen[0], seen[0] + 1
            if not misbehave(self, number):
                self._answer(_content(folder, self.path))

        def _answer(self, content: bytes | None) -> None:
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _content(folder: Path, path: str) -> bytes | None:
    if path.startswith("/internal/audit/checkpoints"):
        lines = (folder / "checkpoints.jsonl").read_text().splitlines()
        return json.dumps({"items": [json.loads(line) for line in lines], "next": None}).encode()
    file = folder / path.removeprefix("/log/")
    return file.read_bytes() if file.is_file() else None
