"""`secrets-broker health`, as a container's health check runs it."""

import socket
import threading
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.http.conftest import serving
from tests.tools.command_line import run


def test_ready(database: Database, tmp_path: Path) -> None:
    """Exit status 0, and the service's own words; no setting is needed."""
    with serving(database.service_url, tmp_path / "log") as service:
        done = run("health", "--url", service.url, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "ready\n")
        live = run("health", "--url", service.url + "/", "--live", cwd=tmp_path)
        assert (live.returncode, live.stdout) == (0, "live\n")


def test_not_ready(database: Database, tmp_path: Path) -> None:
    """Without its database a service is live, and not ready: exit status 1, and why."""
    away = "postgresql://nobody@127.0.0.1:1/none"
    with serving(away, tmp_path / "log", until=503) as service:
        done = run("health", "--url", service.url, cwd=tmp_path)
        assert done.returncode == 1
        assert "/health/ready is 503" in done.stderr
        assert "The database does not answer" in done.stderr
        assert run("health", "--url", service.url, "--live", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n\r\n<h1>It works!</h1>",
        b'HTTP/1.1 200 OK\r\n\r\n{"status":"UP"}',
    ],
)
def test_something_else_answers(said: bytes, tmp_path: Path) -> None:
    """Whatever is not a whole answer is exit status 1 and one line."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = run("health", "--url", url, cwd=tmp_path)
        thread.join()
    assert done.returncode == 2
    assert "127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_http_is_asked(tmp_path: Path) -> None:
    """A URL of a file is a mistake, and would be answered."""
    assert run("health", "--url", "file:///etc/passwd", cwd=tmp_path).returncode == 2
