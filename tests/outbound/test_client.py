"""The one HTTP client: what it sends, what it takes, and what it says where there is no answer."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from secrets_broker.outbound.address import Endpoint
from secrets_broker.outbound.client import (
    Client,
    HttpAnswer,
    HttpRequest,
    TooLongError,
    UnreachableError,
    ask_once,
)
from tests.outbound.answering import answering

OK = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=utf-8\r\nContent-Length: 2\r\n\r\nok"
SECRET = "a-secret-of-tests"
REQUEST = HttpRequest("GET", f"/path?token={SECRET}", {"Authorization": f"Bearer {SECRET}"})


def test_connections_are_used_again() -> None:
    """One after the other over one; from eight threads over eight at most."""
    with answering(OK) as server, Client(server.endpoint) as client:
        for _ in range(3):
            assert client.ask(REQUEST) == HttpAnswer(200, "text/plain", b"ok")
        assert len({one.port for one in server.asked}) == 1
        with ThreadPoolExecutor(8) as pool:
            assert {one.body for one in pool.map(client.ask, [REQUEST] * 80)} == {b"ok"}
    assert len(server.asked) == 83
    assert len({one.port for one in server.asked}) <= 8


def test_a_connection_that_the_server_ended_is_replaced() -> None:
    """What was kept is looked at before it is used, and nobody hears of it."""
    with answering(OK, hang_up=True) as server, Client(server.endpoint) as client:
        while len(server.asked) < 3:
            try:
                assert client.ask(REQUEST).status == 200
            except UnreachableError:
                continue  # it ended between the look and the request
    assert len({one.port for one in server.asked}) == 3


def test_only_the_named_server_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, no .netrc of the environment; a redirect is an answer as another."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    away = b"HTTP/1.1 307 Gone\r\nLocation: /other\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    with answering(away) as server, Client(server.endpoint) as client:
        plain = HttpRequest("GET", "/path")
        found = HttpAnswer(307, "", b"", "7")
        assert (client.ask(plain), ask_once(server.endpoint, plain)) == (found, found)
    assert [one.target for one in server.asked] == ["/path", "/path"]
    sent = [set(one.headers) for one in server.asked]
    assert sent == [{"Host", "User-Agent", "Accept-Encoding"}] * 2


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", r"no HTTP answer \(RemoteDisconnected\)"),
        (f"SSH-2.0-{SECRET}\r\n".encode(), r"no HTTP answer \(BadStatusLine\)"),
        (OK[:-1], "the answer ended early"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "the answer ended early"),
        (OK.replace(b": 2", b": 9") + b"1234567", "longer than 8 bytes"),
    ],
)
def test_what_is_not_an_answer(raw: bytes, words: str) -> None:
    """A short reason, that repeats nothing of what was sent or of what came."""
    with answering(raw, hang_up=True) as server, Client(server.endpoint) as client:
        request = replace(REQUEST, most=8)
        for ask in (client.ask, lambda one: ask_once(server.endpoint, one)):
            with pytest.raises(UnreachableError, match=words) as raised:
                ask(request)
            assert isinstance(raised.value, TooLongError) == ("longer" in words)
            assert SECRET not in f"{raised.value} {raised.value!r} {request}"


def test_the_head_alone() -> None:
    """Where no body is wanted, one that is long or broken off is none of our business."""
    with answering(OK[:-1], hang_up=True) as server:
        assert ask_once(server.endpoint, replace(REQUEST, most=None)).status == 200


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_name_that_none_can_have(host: str) -> None:
    """It is no answer, as a name that nobody has."""
    with pytest.raises(UnreachableError, match=r"no HTTP answer \(Unicode"):
        ask_once(Endpoint(False, host, 80), REQUEST)


def test_the_library_logs_nothing() -> None:
    """It would tell of URLs, and of headers that it cannot read, at any level."""
    odd = b"HTTP/1.1 200 OK\r\nX: y\r\n: odd\r\nnone\r\nContent-Length: 2\r\n\r\nok"
    script = """if True:
        import logging, sys
        from secrets_broker import logging_setup
        from secrets_broker.outbound.address import Endpoint
        from secrets_broker.outbound.client import Client, HttpRequest
        logging_setup.configure(level=logging.DEBUG)
        client = Client(Endpoint(False, "127.0.0.1", int(sys.argv[1])))
        print(client.ask(HttpRequest("GET", "/secret-path")).status)
    """
    with answering(odd, hang_up=True) as server:
        line = [sys.executable, "-c", script, str(server.endpoint.port)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("200\n", "")


def test_who_sends_nothing_does_not_load_it() -> None:
    """The command line starts, and the service, without the library."""
    script = (
        "import sys, secrets_broker.http.app\n"
        "from secrets_broker.tools.cli import COMMANDS, load\n"
        "[load(name) for name in COMMANDS]\n"
        "sys.exit('urllib3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
