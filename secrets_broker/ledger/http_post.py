"""One POST over HTTP: bounded in time and in what is read, and never in the way of the end.

No proxy of the environment is used and no redirect followed.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import Event, Thread, Timer
from typing import Final

from secrets_broker.ledger.endpoint import Endpoint, UnreachableError

REQUEST_SECONDS: Final = 10.0  # for all of a request, once the connection stands
MAX_ANSWER_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, as it came."""

    status: int
    media_type: str
    body: bytes
    retry_after: str | None = None


async def post(
    endpoint: Endpoint,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    seconds: float = REQUEST_SECONDS,
    *,
    read: bool = True,
) -> Answer:
    """POST, and read at most 64 KiB of the answer, or its head alone; raises UnreachableError."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Answer] = loop.create_future()

    def ask(connection: HTTPConnection) -> Answer:
        connection.request("POST", path, body, headers)
        return _answer(connection, read=read)

    def work() -> None:
        try:
            outcome: Answer | UnreachableError = _within(endpoint, seconds, ask)
        except UnreachableError as error:
            outcome = error
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(_settle, done, outcome)

    # Not a thread of the loop's pool: the end of the process would wait for it.
    Thread(target=work, name="post", daemon=True).start()
    return await done


def _settle(done: "asyncio.Future[Answer]", outcome: Answer | UnreachableError) -> None:
    if done.done():
        return
    if isinstance(outcome, Answer):
        done.set_result(outcome)
    else:
        done.set_exception(outcome)


def _within(endpoint: Endpoint, seconds: float, ask: Callable[[HTTPConnection], Answer]) -> Answer:
    try:
        with closing(endpoint.connect()) as connection:
            connection.connect()
            with _cut_off(connection, seconds):
                return ask(connection)
    except TimeoutError:
        raise UnreachableError(f"no answer within {endpoint.timeout:g} s") from None
    except (OSError, HTTPException, ValueError) as error:
        # Of the text only that of the operating system: the rest may quote what was answered.
        words = error.strerror if isinstance(error, OSError) else None
        raise UnreachableError(words or f"no HTTP answer ({type(error).__name__})") from None


def _answer(connection: HTTPConnection, *, read: bool) -> Answer:
    with connection.getresponse() as response:
        body = _body(response) if read else b""
        headers = response.headers
        return Answer(response.status, headers.get_content_type(), body, headers["Retry-After"])


def _body(response: HTTPResponse) -> bytes:
    body = response.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise UnreachableError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    if response.length:  # still to come, when the connection has ended
        raise UnreachableError("the answer ended early")
    return body


@contextmanager
def _cut_off(connection: HTTPConnection, seconds: float) -> Iterator[None]:
    """End the connection after that time: a server may send a byte now and then for ever."""
    late = Event()
    timer = Timer(seconds, _shut, [connection.sock, late])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():  # whatever was made of what had come until then
            raise UnreachableError(f"no whole answer within {seconds:g} s") from None


def _shut(sock: socket.socket, late: Event) -> None:
    late.set()  # first: whoever reads wakes up as soon as the connection ends
    # The base class's: TLS is not to be ended in order with a server that lets us wait.
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself
