"""The one HTTP client: bounded in time and size, and never delaying the end of the process.

It uses no proxy and no .netrc of the environment, and follows no redirect: a request, with its key,
goes only to the named server. Nothing is sent a second time.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import TYPE_CHECKING, Final

from secrets_broker.outbound.address import Endpoint

if TYPE_CHECKING:
    from secrets_broker.outbound.wire import ConnectionPool

REQUEST_SECONDS: Final = 10.0  # for all of a request, once the connection stands
MAX_ANSWER_BYTES: Final = 64 * 1024

_OURS: Final = {"User-Agent": "secrets-broker", "Accept-Encoding": "identity"}


class UnreachableError(Exception):
    """No answer; the text is a short reason that quotes neither the request nor the answer.

    `cause` is the underlying error; its own text may quote the answer.
    """

    def __init__(self, words: str, cause: Exception) -> None:
        super().__init__(words)
        self.cause = cause


class TooLongError(UnreachableError):
    """The answer is longer than the limit."""

    def __init__(self, most: int) -> None:
        super().__init__(f"the answer is longer than {most} bytes", ValueError())


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request; the target is a path, with or without a query."""

    method: str
    target: str = field(repr=False)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    most: int | None = MAX_ANSWER_BYTES
    """The most bytes of the answer's body; None: the body is not read."""

    @property
    def headers(self) -> dict[str, str]:
        """The fields of this request, and those of every request."""
        return {**_OURS, **self.fields}


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer."""

    status: int
    media_type: str
    body: bytes = field(repr=False)
    retry_after: str | None = None


class Client:
    """Asks one server, from any number of threads, over reused connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connections: ConnectionPool | None = None
        self._making = Lock()

    def ask(self, request: HttpRequest) -> HttpAnswer:
        """Send one request, with the endpoint's time-out for each step; raises UnreachableError."""
        return self._opened().ask(request)

    def close(self) -> None:
        """Close every connection."""
        if self._connections is not None:
            self._connections.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> "ConnectionPool":
        # Slow to load, and most processes send nothing.
        from secrets_broker.outbound.wire import ConnectionPool  # noqa: PLC0415

        with self._making:
            if self._connections is None:
                self._connections = ConnectionPool(self._endpoint)
            return self._connections


def ask_once(
    endpoint: Endpoint, request: HttpRequest, seconds: float = REQUEST_SECONDS
) -> HttpAnswer:
    """Ask over a connection of its own; raises UnreachableError.

    The endpoint's time-out bounds the connect and each step. `seconds` bound all that follows the
    connect, since a server may send a byte now and then for ever.
    """
    from secrets_broker.outbound.wire import ask_unpooled  # noqa: PLC0415 - as in Client

    return ask_unpooled(endpoint, request, seconds)


async def ask_apart(
    endpoint: Endpoint, request: HttpRequest, seconds: float = REQUEST_SECONDS
) -> HttpAnswer:
    """The same in a thread of its own, for the event loop; raises UnreachableError."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[HttpAnswer] = loop.create_future()

    def work() -> None:
        try:
            outcome: HttpAnswer | Exception = ask_once(endpoint, request, seconds)
        except Exception as error:  # of any type: otherwise the caller would wait for ever
            outcome = error
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(_settle, done, outcome)

    # Not a thread of the loop's pool: the end of the process would wait for it.
    Thread(target=work, name="ask", daemon=True).start()
    return await done


def _settle(done: "asyncio.Future[HttpAnswer]", outcome: HttpAnswer | Exception) -> None:
    if done.done():
        return
    if isinstance(outcome, HttpAnswer):
        done.set_result(outcome)
    else:
        done.set_exception(outcome)
