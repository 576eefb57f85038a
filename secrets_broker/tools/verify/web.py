"""Another broker's ledger, over HTTP: its published log, and every checkpoint that it keeps.

The auditor's key goes to the address that was given and to no other: a redirect is not followed.
"""

import http.client
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from secrets_broker.ledger.audit.heads import Kept
from secrets_broker.ledger.checkpoint import SignedCheckpoint
from secrets_broker.ledger.note import NoteError
from secrets_broker.tools.verify.shelf import Shelf
from secrets_broker.tools.verify.sources import DamagedError, Overview, SourceError
from secrets_broker.tools.verify.tiles import TileReader

AT_ONCE: Final = 8
TIMEOUT_SECONDS: Final = 30.0
PAUSES: Final = (0.2, 1.0, 3.0)
MAX_ANSWER: Final = 32 << 20  # 256 of the longest entries take 17 MB
_PAGE: Final = 1_000


class UrlError(SourceError, ValueError):
    """The URL is none that a broker can have."""


@dataclass(frozen=True, slots=True)
class WebAddress:
    """A broker, by its URL, and the key that opens its auditors' paths."""

    url: str
    key: str = field(repr=False)
    size: int = 0

    def open(self) -> "WebReader":
        """Connections of its own."""
        return WebReader(self)


class _Page(msgspec.Struct, frozen=True):
    items: list["_Item"]
    next: str | None


class _Item(msgspec.Struct, frozen=True):
    origin: str
    size: int
    note: str


class WebReader(TileReader):
    """Fetches tiles, several at a time, over connections that are kept."""

    def __init__(self, address: WebAddress) -> None:
        super().__init__(address.size)
        self._given = address
        parts = urlsplit(address.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise UrlError("--url is an address such as https://broker.example:3003")
        if parts.username is not None or parts.password is not None:
            raise UrlError("--url has a name or a password in it: the key is AUDITOR_KEY")
        if not (address.key.isascii() and address.key.isprintable()):
            raise UrlError("AUDITOR_KEY has characters that no HTTP header can hold")
        try:
            self._place = parts.scheme, parts.hostname, parts.port
        except ValueError:
            raise UrlError("--url has no such port") from None
        self._prefix = quote(parts.path.rstrip("/"), safe="/%")
        self._own = threading.local()
        self._opened: list[http.client.HTTPConnection] = []
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def fetch(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Their content, as far as the log has them."""
        answers = self._pool.map(lambda path: self.get(f"/log/{path}"), paths)
        pairs = zip(paths, answers, strict=True)
        return {path: content for path, content in pairs if content is not None}

    def get(self, path: str) -> bytes | None:
        """An answer's body; None for 404. Raises SourceError."""
        for pause in (*PAUSES, None):
            try:
                status, body = self._once(path)
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                # UnicodeError: a name that IDNA has no form for.
                self._forget()
                status, body = 0, _reason(error).encode()
            if status == 200:
                return body
            if status == 404:
                return None
            if pause is None or not (status == 0 or status in (429, 502, 503, 504)):
                break
            time.sleep(pause)
        raise SourceError(self._refusal(path, status, body))

    def close(self) -> None:
        """Close every connection."""
        self._pool.shutdown()
        for connection in self._opened:
            connection.close()

    def _once(self, path: str) -> tuple[int, bytes]:
        connection = self._connection()
        headers = {"Authorization": f"Bearer {self._given.key}", "Accept-Encoding": "identity"}
        connection.request("GET", self._prefix + path, headers=headers)
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER + 1)
        if len(body) > MAX_ANSWER:
            raise SourceError(f"{path}: the answer is too long")
        if answer.length:  # asked for a number of bytes, http.client is content with fewer
            raise http.client.IncompleteRead(body, answer.length)
        return answer.status, body

    def _connection(self) -> http.client.HTTPConnection:
        known: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if known is not None:
            return known
        scheme, host, port = self._place
        if scheme == "https":
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context()
            )
        else:
            made = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        self._own.connection = made
        self._opened.append(made)
        return made

    def _forget(self) -> None:
        known = getattr(self._own, "connection", None)
        if known is not None:
            known.close()
            self._own.connection = None

    def _refusal(self, path: str, status: int, body: bytes) -> str:
        if status == 0:
            return f"{self._given.url} does not answer ({body.decode()})"
        if status in (401, 403):
            return f"{self._given.url} does not take this AUDITOR_KEY"
        if 300 <= status < 400:
            return f"{self._given.url} points elsewhere: give the address that it points to"
        return f"{self._given.url} answers {path} with {status}"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class WebSource(WebReader):
    """Gives what a broker publishes."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(WebAddress(url, key))
        self._shelf = Shelf()

    @property
    def name(self) -> str:
        """See Source."""
        return self._given.url

    @property
    def address(self) -> WebAddress:
        """See Source."""
        return WebAddress(self._given.url, self._given.key, self._size)

    def overview(self) -> Overview:
        """The size of the published checkpoint; see Source."""
        # All that are kept first: so the published one, asked after them, is no smaller.
        self._shelf.fill(self._kept())
        note = self.get("/log/checkpoint")
        if note is None:
            raise SourceError(f"{self._given.url} has no checkpoint yet, or is no broker")
        try:
            signed = SignedCheckpoint.parse(note.decode())
        except (NoteError, UnicodeDecodeError) as error:
            # What does not even look like a signed note is some other page.
            kind = DamagedError if b"\n\n\xe2\x80\x94 " in note else SourceError
            raise kind(f"{self._given.url}: the checkpoint is none: {error}") from None
        tree = signed.checkpoint
        self._size = tree.size
        self._published = Kept(tree.origin, tree.size, str(signed))
        found = Overview(tree.size, (tree.origin, tree.size))
        found.beyond = self._shelf.beyond(tree.size)
        found.not_checked.append("bodies, data keys and host_credentials: not to be had over HTTP")
        return found

    def checkpoints(self, low: int, high: int) -> Sequence[Kept]:
        """See Source."""
        kept, one = list(self._shelf.between(low, high)), self._published
        return [*kept, one] if low < one.size <= high and one not in kept else kept

    def close(self) -> None:
        """Let go of everything."""
        super().close()
        self._shelf.close()

    def _kept(self) -> Iterator[Kept]:
        cursor = ""
        while True:
            raw = self.get(f"/internal/audit/checkpoints?limit={_PAGE}{cursor}")
            try:
                page = msgspec.json.decode(raw or b"", type=_Page)
            except msgspec.DecodeError:
                raise SourceError(
                    f"{self._given.url} lists no checkpoints: is it a broker?"
                ) from None
            yield from (Kept(one.origin, one.size, one.note) for one in page.items)
            if page.next is None:
                return
            if not page.items:
                raise SourceError(f"{self._given.url} lists checkpoints without an end")
            cursor = f"&cursor={quote(page.next, safe='')}"
