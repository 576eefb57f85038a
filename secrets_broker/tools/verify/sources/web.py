"""Another broker's ledger, over HTTP: its published log, and every checkpoint that it keeps."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import msgspec

from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import NoteError
from secrets_broker.tools.shared.remote import Remote, RemoteError
from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint
from secrets_broker.tools.verify.sources.checkpoint_shelf import Shelf
from secrets_broker.tools.verify.sources.source_protocol import DamagedError, Overview, SourceError
from secrets_broker.tools.verify.sources.tiles import TileReader

AT_ONCE: Final = 8
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class WebAddress:
    """A broker, and how much of it there is to read."""

    remote: Remote
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
        self._given = address.remote
        self._connections = address.remote.open()
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def fetch(self, paths: Sequence[str]) -> Mapping[str, bytes]:
        """Their content, as far as the log has them."""
        answers = self._pool.map(lambda path: self.get(f"/log/{path}"), paths)
        pairs = zip(paths, answers, strict=True)
        return {path: content for path, content in pairs if content is not None}

    def get(self, path: str) -> bytes | None:
        """An answer's body; None for 404. Raises SourceError."""
        try:
            return self._connections.get(path)
        except RemoteError as error:
            raise SourceError(str(error)) from None

    def close(self) -> None:
        """Close every connection."""
        self._pool.shutdown()
        self._connections.close()


class WebSource(WebReader):
    """Gives what a broker publishes."""

    def __init__(self, remote: Remote) -> None:
        super().__init__(WebAddress(remote))
        self._shelf = Shelf()

    @property
    def name(self) -> str:
        """See Source."""
        return self._given.url

    @property
    def address(self) -> WebAddress:
        """See Source."""
        return WebAddress(self._given, self._size)

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
        self._published = KeptCheckpoint(tree.origin, tree.size, str(signed))
        found = Overview(tree.size, (tree.origin, tree.size))
        found.beyond = self._shelf.beyond(tree.size)
        found.not_checked.append("bodies, data keys and host_credentials: not to be had over HTTP")
        return found

    def checkpoints(self, low: int, high: int) -> Sequence[KeptCheckpoint]:
        """See Source."""
        kept, one = list(self._shelf.between(low, high)), self._published
        return [*kept, one] if low < one.size <= high and one not in kept else kept

    def close(self) -> None:
        """Let go of everything."""
        super().close()
        self._shelf.close()

    def _kept(self) -> Iterator[KeptCheckpoint]:
        cursor = ""
        while True:
            raw = self.get(f"/internal/audit/checkpoints?limit={_PAGE}{cursor}")
            try:
                page = msgspec.json.decode(raw or b"", type=_Page)
            except msgspec.DecodeError:
                raise SourceError(
                    f"{self._given.url} lists no checkpoints: is it a broker?"
                ) from None
            yield from (KeptCheckpoint(one.origin, one.size, one.note) for one in page.items)
            if page.next is None:
                return
            if not page.items:
                raise SourceError(f"{self._given.url} lists checkpoints without an end")
            cursor = f"&cursor={quote(page.next, safe='')}"
