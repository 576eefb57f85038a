"""One add-checkpoint request to a witness over HTTP: bounded in time and in what is read."""

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from threading import Event, Thread, Timer
from typing import Final
from urllib.parse import urlsplit

from secrets_broker.ledger.endpoint import Endpoint, UnreachableError
from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.note import COSIGNATURE, NoteError, VerifierKey
from secrets_broker.ledger.witness import PATH

REQUEST_SECONDS: Final = 10.0  # for all of a request, once the connection stands
MAX_ANSWER_BYTES: Final = 64 * 1024
_HEADERS: Final = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "secrets-broker"}
# What may stand in a request line; everything else would have to be escaped already.
_PREFIX: Final = re.compile(r"(?:/[\w.~!$&'()*+,;=:@%-]*)*", re.ASCII)


class WitnessUrlError(LedgerError, ValueError):
    """A witness's URL or key that cannot be read; the text does not repeat it."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness: its submission prefix, and the key that its cosignatures verify with."""

    endpoint: Endpoint
    prefix: str
    key: VerifierKey

    @classmethod
    def parse(cls, url: str, key: str) -> "Witness":
        """Read a submission prefix and a verifier key; raises WitnessUrlError."""
        try:
            verifier = VerifierKey.parse(key)
        except NoteError as error:
            raise WitnessUrlError(str(error)) from None
        if verifier.kind != COSIGNATURE:
            raise WitnessUrlError(
                f"the key of {verifier.name} is not a witness's: it has another signature type"
            )
        return cls(*_split(url), verifier)

    @property
    def url(self) -> str:
        """The submission prefix, without a slash at its end."""
        return self.endpoint.origin + self.prefix


def _split(url: str) -> tuple[Endpoint, str]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise WitnessUrlError("the URL of a witness is not a URL") from None
    tls = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WitnessUrlError("the URL of a witness begins with https:// or http:// and a host")
    if "@" in parts.netloc or parts.query or parts.fragment or not _PREFIX.fullmatch(parts.path):
        raise WitnessUrlError("the URL of a witness has host, port and path, and nothing else")
    return Endpoint(tls, parts.hostname, port or (443 if tls else 80)), parts.path.rstrip("/")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a witness answered, as it came."""

    status: int
    media_type: str
    body: bytes


async def submit(witness: Witness, body: bytes, seconds: float = REQUEST_SECONDS) -> Answer:
    """POST a request, and read at most 64 KiB of the answer; raises UnreachableError."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Answer] = loop.create_future()

    def work() -> None:
        try:
            outcome: Answer | UnreachableError = _post(witness, body, seconds)
        except UnreachableError as error:
            outcome = error
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(_settle, done, outcome)

    # Not a thread of the loop's pool: the end of the process would wait for it.
    Thread(target=work, name="witness", daemon=True).start()
    return await done


def _settle(done: "asyncio.Future[Answer]", outcome: Answer | UnreachableError) -> None:
    if done.done():
        return
    if isinstance(outcome, Answer):
        done.set_result(outcome)
    else:
        done.set_exception(outcome)


def _post(witness: Witness, body: bytes, seconds: float) -> Answer:
    try:
        with closing(witness.endpoint.connect()) as connection:
            connection.connect()
            with _cut_off(connection, seconds):
                return _ask(connection, witness.prefix + PATH, body)
    except TimeoutError:
        raise UnreachableError(f"no answer within {witness.endpoint.timeout:g} s") from None
    except (OSError, HTTPException, ValueError) as error:
        # Of the text only that of the operating system: the rest may quote what was answered.
        words = error.strerror if isinstance(error, OSError) else None
        raise UnreachableError(words or f"no HTTP answer ({type(error).__name__})") from None


def _ask(connection: HTTPConnection, path: str, body: bytes) -> Answer:
    connection.request("POST", path, body, _HEADERS)
    with connection.getresponse() as response:
        read = response.read(MAX_ANSWER_BYTES + 1)
        if len(read) > MAX_ANSWER_BYTES:
            raise UnreachableError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        if response.length:  # still to come, when the connection has ended
            raise UnreachableError("the answer ended early")
        return Answer(response.status, response.headers.get_content_type(), read)


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
