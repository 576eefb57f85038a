"""Another service over HTTP: how a command is told of it, and asks it.

With --cert the certificate proves who asks, so no key is sent beside it.
"""

import functools
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import click
import msgspec

from secrets_broker.ledger.errors import LedgerError
from secrets_broker.outbound.address import Endpoint, HttpUrlError, parse_url
from secrets_broker.outbound.client import Client, HttpRequest, TooLongError, UnreachableError
from secrets_broker.settings import MissingSettingError, Settings

F = TypeVar("F", bound=Callable[..., Any])

TIMEOUT_SECONDS: Final = 30.0
PAUSES: Final = (0.2, 1.0, 3.0)
MAX_ANSWER: Final = 32 << 20  # 256 of the longest entries take 17 MB
ACCESS_KEY: Final = "SECRETS_BROKER_KEY"

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class RemoteError(LedgerError):
    """A service could not be asked, or did not answer so that it is of use; says why."""


class RemoteUrlError(click.UsageError):
    """The URL, or the key, is none that a service can have; neither is repeated."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What --ca, --cert and --key name: whom to trust, and what to prove oneself with."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def trusted_by(self, endpoint: Endpoint) -> Endpoint:
        """The same endpoint, spoken to with these; raises click.UsageError."""
        if self.key is not None and self.cert is None:
            raise click.UsageError("--key is the private key of --cert: give both")
        if not endpoint.tls:
            if self != ClientTls():
                raise click.UsageError("--ca, --cert and --key go with a URL of https://")
            return endpoint
        found = replace(endpoint, ca_file=self.ca, cert_file=self.cert, key_file=self.key)
        try:
            found.context()
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "reason", None) or error.strerror
            raise click.UsageError(f"--ca, --cert or --key cannot be used: {why}") from None
        return found


NO_TLS: Final = ClientTls()


def tls_options(command: F) -> F:
    """Add --ca, --cert and --key; the command gets `tls`, a ClientTls."""

    @functools.wraps(command)
    def packed(
        *args: Any, ca: Path | None, cert: Path | None, key: Path | None, **more: Any
    ) -> Any:
        return command(*args, tls=ClientTls(ca, cert, key), **more)

    options = (
        click.option("--ca", type=_FILE, help="PEM: whom to trust instead of the system's CAs."),
        click.option("--cert", type=_FILE, help="PEM: a client certificate, instead of a key."),
        click.option("--key", type=_FILE, help="PEM: its private key, where --cert has none."),
    )
    for option in reversed(options):
        packed = option(packed)
    return packed  # type: ignore[return-value]  # of the same keywords but these


def url_options(command: F) -> F:
    """Add --url, --ca, --cert and --key; the command gets `url` and `tls`."""
    return click.option("--url", help="Ask this service over HTTP, instead of the database.")(
        tls_options(command)
    )


@dataclass(frozen=True, slots=True)
class Remote:
    """A service, and what opens its auditors' paths."""

    url: str
    endpoint: Endpoint
    prefix: str
    key: str | None = field(repr=False)

    @classmethod
    def parse(
        cls,
        url: str,
        key: str | None,
        tls: ClientTls = NO_TLS,
        timeout: float = TIMEOUT_SECONDS,
    ) -> "Remote":
        """Read a URL; raises RemoteUrlError, or click.UsageError for `tls`."""
        try:
            endpoint, parts = parse_url("a service", url)
        except HttpUrlError:
            endpoint, parts = None, None
        if endpoint is None or parts is None or parts.query or parts.fragment:
            raise RemoteUrlError("--url is an address such as https://broker.example:3003")
        if parts.username is not None or parts.password is not None:
            raise RemoteUrlError("--url has a name or a password in it: the key is AUDITOR_KEY")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise RemoteUrlError("the key has characters that no HTTP header can hold")
        endpoint = replace(tls.trusted_by(endpoint), timeout=timeout)
        return cls(url, endpoint, quote(parts.path.rstrip("/"), safe="/%"), key)

    @classmethod
    def of(cls, settings: Settings, url: str, tls: ClientTls) -> "Remote":
        """The same with the key of the settings, AUDITOR_KEY or SECRETS_BROKER_KEY.

        Raises MissingSettingError where there is neither, and no certificate.
        """
        if tls.cert is not None:
            return cls.parse(url, None, tls)
        key = settings.auditor_key or settings.get(ACCESS_KEY)
        if key is None:
            raise MissingSettingError("AUDITOR_KEY")
        return cls.parse(url, key, tls)

    def open(self) -> "Connections":
        """Connections to it, made when they are needed."""
        return Connections(self)


class Connections:
    """Asks a service, from any number of threads, over connections that are kept."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._client = Client(remote.endpoint)

    def get(self, path: str) -> bytes | None:
        """An answer's body; None for 404. Raises RemoteError."""
        for pause in (*PAUSES, None):
            try:
                status, body = self.once(path)
            except UnreachableError as error:
                status, body = 0, why(error).encode()
                cause = error.cause
                if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
                    break  # neither certificate will be another one
            if status == 200:
                return body
            if status == 404:
                return None
            if pause is None or not (status == 0 or status in (429, 502, 503, 504)):
                break
            time.sleep(pause)
        raise RemoteError(self._refusal(path, status, body))

    def once(self, path: str, most: int = MAX_ANSWER) -> tuple[int, bytes]:
        """Ask one time: the status, and the body.

        Raises UnreachableError, and RemoteError where it is longer than so many bytes.
        """
        key = self._remote.key
        fields = {} if key is None else {"Authorization": f"Bearer {key}"}
        request = HttpRequest("GET", self._remote.prefix + path, fields, most=most)
        try:
            answer = self._client.ask(request)
        except TooLongError:
            raise RemoteError(f"{path.partition('?')[0]}: the answer is too long") from None
        return answer.status, answer.body

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def __enter__(self) -> "Connections":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refusal(self, path: str, status: int, body: bytes) -> str:
        url, asked = self._remote.url, path.partition("?")[0]
        if status == 0:
            return f"{url} does not answer ({body.decode()})"
        if status in (401, 403):
            which = "certificate" if self._remote.key is None else "AUDITOR_KEY"
            return f"{url} does not take this {which} for {asked}{_detail(body)}"
        if 300 <= status < 400:
            return f"{url} points elsewhere: give the address that it points to"
        return f"{url} answers {asked} with {status}{_detail(body)}"


def why(error: UnreachableError) -> str:
    """Why there is no answer, in words that hold nothing of what was sent or answered."""
    cause = error.cause
    if isinstance(cause, ssl.SSLError):  # no name of ours and nothing that was answered is in it
        return f"TLS: {getattr(cause, 'verify_message', None) or cause.reason or 'it failed'}"
    return type(cause).__name__


class _Problem(msgspec.Struct):
    detail: str = ""
    errors: list["_Field"] = []


class _Field(msgspec.Struct):
    field: str
    message: str


def _detail(body: bytes) -> str:
    """What a service of ours says of it; its words, shown as another's text."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        return ""
    words = "; ".join(f"{one.field}: {one.message}" for one in problem.errors) or problem.detail
    return f": {words[:300]!a}" if words else ""
