"""A witness as it ships, and servers that are none."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from secrets_broker.ledger.transparency_log.add_checkpoint import PATH, AddCheckpoint
from secrets_broker.ledger.transparency_log.note import VerifierKey
from tests.http.client import Answer
from tests.ports import free_port
from tests.repository import ROOT

START_SECONDS = 30


@dataclass(slots=True)
class Running:
    """A running witness."""

    port: int
    state: Path
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        """Its submission prefix."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> VerifierKey:
        """What it says its key is."""
        lines = self.log.read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("verifier key: ")]
        return VerifierKey.parse(line.removeprefix("verifier key: "))

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """One request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def add(self, request: AddCheckpoint) -> Answer:
        """Submit a request as it is."""
        return self.ask("POST", PATH, request.encode())

    def kill(self) -> None:
        """End it, workers and all, as a crash of the machine would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)


@contextmanager
def witnessing(
    state: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run `secrets-broker witness serve`, and wait until it answers."""
    port, log = free_port(), state.with_name(f"{state.name}.log")
    command = [sys.executable, "-m", "secrets_broker", "witness", "serve"]
    command += ["--port", str(port), "--state", str(state), *options]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=state.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(port, state, log, process)
    try:
        _wait(running)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _wait(running: Running) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and running.process.poll() is None:
        with suppress(OSError):
            if running.ask("GET", "/").status == 200:
                return
        time.sleep(0.05)
    pytest.fail(f"the witness did not start:\n{running.log.read_text()}")


@contextmanager
def answering(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server that answers every request the same; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # a client may read no further
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def dripping() -> Iterator[str]:
    """A server that sends a byte of a header every 50 ms, for ever; its URL."""
    stop = threading.Event()

    def serve(listener: socket.socket) -> None:
        taken, _ = listener.accept()
        with taken, suppress(OSError):
            taken.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stop.wait(0.05):
                taken.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


@contextmanager
def started(
    line: Sequence[str], cwd: Path, env: Mapping[str, str], *, sigint_ignored: bool = False
) -> "Iterator[subprocess.Popen[str]]":
    """A command that goes on until it is told to end; in the background SIGINT is ignored."""
    shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if sigint_ignored else []
    with subprocess.Popen(
        [*shell, sys.executable, "-m", "secrets_broker", *line],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
