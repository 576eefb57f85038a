"""The client's connections, by urllib3; imported by the client alone, when something is sent."""

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

# More than any job of ours has threads; one that is over it would be closed after its request.
_KEPT: Final = 32


class ConnectionPool:
    """Connections to one server, kept open between requests."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Nothing is sent yet; raises UnreachableError for what TLS is spoken with."""
        self._endpoint = endpoint
        with _unreachable(endpoint):
            self._pool = _pool(endpoint)

    def ask(self, request: HttpRequest) -> HttpAnswer:
        """One try; raises UnreachableError."""
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
        """Close those that nobody uses; the others when they are given back."""
        self._pool.close()


def ask_alone(endpoint: Endpoint, request: HttpRequest, seconds: float) -> HttpAnswer:
    """One try, over a connection that is cut off so long after it stands; UnreachableError."""
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
    """Make an UnreachableError of whatever keeps an answer from coming."""
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
    with closing(response):  # one that was read to its end has given its connection back
        body = b"" if most is None else _body(response, most)
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return HttpAnswer(response.status, media_type, body, response.headers.get("Retry-After"))


def _body(response: BaseHTTPResponse, most: int) -> bytes:
    body = response.read(most + 1)
    if len(body) > most:
        raise TooLongError(most)
    if response.length_remaining:  # still to come, when the connection has ended
        raise IncompleteRead(b"", response.length_remaining)
    return body


def _beneath(error: Exception) -> Exception:
    """What urllib3 wrapped: as cause, or among the arguments."""
    inner = [error.__cause__, *error.args] if isinstance(error, HTTPError) else []
    found = next((one for one in inner if isinstance(one, Exception)), None)
    return error if found is None else _beneath(found)


def _words(cause: Exception, endpoint: Endpoint) -> str:
    if isinstance(cause, TimeoutError):
        return f"no answer within {endpoint.timeout:g} s"
    if isinstance(cause, IncompleteRead):
        return "the answer ended early"
    # Of the text only that of the operating system: the rest may quote what was answered.
    words = cause.strerror if isinstance(cause, OSError) else None
    return words or f"no HTTP answer ({type(cause).__name__})"


@contextmanager
def _cut_off(sock: socket.socket, seconds: float) -> Iterator[None]:
    """End the connection after that time: a server may send a byte now and then for ever."""
    late = Event()
    timer = Timer(seconds, _shut, [sock, late])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():  # whatever was made of what had come until then
            words = f"no whole answer within {seconds:g} s"
            raise UnreachableError(words, TimeoutError()) from None


def _shut(sock: socket.socket, late: Event) -> None:
    late.set()  # first: whoever reads wakes up as soon as the connection ends
    # The base class's: TLS is not to be ended in order with a server that lets us wait.
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself
