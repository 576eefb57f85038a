"""The client's connections, by urllib3; only `client` imports this, and only to send."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException, IncompleteRead
from threading import Event, Timer
from typing import Final

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from secrets_broker.outbound.address import Endpoint
from secrets_broker.outbound.client import HttpAnswer, HttpRequest, TooLongError, UnreachableError

# More than any job of ours has threads; further connections are closed after their request.
_KEPT: Final = 32


class ConnectionPool:
    """Connections to one server, kept open between requests."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Send nothing yet; raises UnreachableError for the files of TLS."""
        self._endpoint = endpoint
        with _unreachable(endpoint):
            self._pool = _pool(endpoint)

    def ask(self, request: HttpRequest) -> HttpAnswer:
        """Send once; raises UnreachableError."""
        with _unreachable(self._endpoint):
            response = self._pool.urlopen(
                request.method,
                request.target,
                request.body,
                request.headers,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            return _answer(response, request.most)

    def close(self) -> None:
        """Close idle connections now, and the others after their request."""
        self._pool.close()


def ask_unpooled(endpoint: Endpoint, request: HttpRequest, seconds: float) -> HttpAnswer:
    """Send once over a new connection with a time limit after connect; UnreachableError."""
    with _unreachable(endpoint), closing(_connection(endpoint)) as connection:
        connection.connect()
        with _cut_off(connection.sock, seconds):
            connection.request(
                request.method,
                request.target,
                request.body,
                request.headers,
                preload_content=False,
                decode_content=False,
            )
            return _answer(connection.getresponse(), request.most)


@contextmanager
def _unreachable(endpoint: Endpoint) -> Iterator[None]:
    """Turn every error of a request into an UnreachableError."""
    try:
        yield
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        cause = _beneath(error)
        raise UnreachableError(_words(cause, endpoint), cause) from None


def _host(endpoint: Endpoint) -> str:
    # urllib3 would need another package for a name that is not of ASCII.
    return endpoint.host.encode("idna").decode()


def _pool(endpoint: Endpoint) -> HTTPConnectionPool:
    host, port, timeout = _host(endpoint), endpoint.port, endpoint.timeout
    if endpoint.tls:
        context = endpoint.context()
        return HTTPSConnectionPool(host, port, timeout, _KEPT, ssl_context=context)
    return HTTPConnectionPool(host, port, timeout, _KEPT)


def _connection(endpoint: Endpoint) -> HTTPConnection:
    host, port, timeout = _host(endpoint), endpoint.port, endpoint.timeout
    if endpoint.tls:
        return HTTPSConnection(host, port, timeout=timeout, ssl_context=endpoint.context())
    return HTTPConnection(host, port, timeout=timeout)


def _answer(response: BaseHTTPResponse, most: int | None) -> HttpAnswer:
    with closing(response):  # an answer that was read to its end has returned its connection
        body = b"" if most is None else _body(response, most)
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return HttpAnswer(response.status, media_type, body, response.headers.get("Retry-After"))


def _body(response: BaseHTTPResponse, most: int) -> bytes:
    body = response.read(most + 1)
    if len(body) > most:
        raise TooLongError(most)
    if response.length_remaining:  # the connection ended before the end of the body
        raise IncompleteRead(b"", response.length_remaining)
    return body


def _beneath(error: Exception) -> Exception:
    """The error that urllib3 wrapped, as its cause or among its arguments."""
    inner = [error.__cause__, *error.args] if isinstance(error, HTTPError) else []
    found = next((one for one in inner if isinstance(one, Exception)), None)
    return error if found is None else _beneath(found)


def _words(cause: Exception, endpoint: Endpoint) -> str:
    if isinstance(cause, TimeoutError):
        return f"no answer within {endpoint.timeout:g} s"
    if isinstance(cause, IncompleteRead):
        return "the answer ended early"
    # Only the operating system's text: others may quote the answer.
    words = cause.strerror if isinstance(cause, OSError) else None
    return words or f"no HTTP answer ({type(cause).__name__})"


@contextmanager
def _cut_off(sock: socket.socket, seconds: float) -> Iterator[None]:
    """End the connection after that time, since a server may send a byte now and then for ever."""
    late = Event()
    timer = Timer(seconds, _shut, [sock, late])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():  # even if an answer was made of the bytes so far
            words = f"no whole answer within {seconds:g} s"
            raise UnreachableError(words, TimeoutError()) from None


def _shut(sock: socket.socket, late: Event) -> None:
    late.set()  # first: the reader wakes up as soon as the connection ends
    # The base class's method: an orderly end of TLS would wait for the server.
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return  # it has already ended
