"""The parser of requests: httptools, made to ignore `Upgrade`.

A client may offer another protocol with `Upgrade` (some offer h2c with every first request), and a
server may ignore that (RFC 9110, section 7.8). httptools cannot: it takes everything behind such a
head, the body too, for the other protocol. So such a head is parsed a second time without the
offer, and the callbacks are held back until then. A CONNECT is different: the bytes behind it are
meant for a tunnel, and are dropped.
"""

from typing import Final, Protocol

import httptools

_CONNECT: Final = b"CONNECT"
_OFFER: Final = frozenset({b"upgrade", b"http2-settings"})
"""Headers of an offer, which Connection also names (RFC 7540, section 3.2)."""


class Callbacks(Protocol):
    """The callbacks of the parser, and the parts of the head that it reads back."""

    url: bytes
    headers: list[tuple[bytes, bytes]]

    def on_message_begin(self) -> None:
        """A request begins."""

    def on_url(self, url: bytes) -> None:
        """A part of its target."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""

    def on_headers_complete(self) -> None:
        """The head is complete."""

    def on_body(self, body: bytes) -> None:
        """A part of the body."""

    def on_message_complete(self) -> None:
        """The request is complete."""


class UpgradelessParser:
    """Parses requests and ignores their offers; has the methods of httptools' parser."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self._parser = self._begun()

    def _begun(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(_Held(self, self._callbacks))
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return parser

    @property
    def offers(self) -> bool:
        """Whether the head that is being parsed offers another protocol."""
        return self._parser.should_upgrade() and self._parser.get_method() != _CONNECT

    def feed_data(self, data: bytes) -> None:
        """Parse more; raises httptools.HttpParserError, and HttpParserUpgrade behind a CONNECT."""
        rest = memoryview(data)  # so many offers in one piece do not copy it each time
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                if not self.offers:
                    raise
                head, rest = self._head(), rest[upgrade.args[0] :]
                self._parser = self._begun()  # the old one may have noted that the connection ends
                self._parser.feed_data(head)
            else:
                return

    def get_http_version(self) -> str:
        """Of the request that is being parsed."""
        return self._parser.get_http_version()

    def get_method(self) -> bytes:
        """Of the request that is being parsed."""
        return self._parser.get_method()

    def should_keep_alive(self) -> bool:
        """Whether another request may follow on the connection."""
        return self._parser.should_keep_alive()

    def should_upgrade(self) -> bool:
        """Whether the next bytes are no request, which is so only behind a CONNECT."""
        return self._parser.should_upgrade() and not self.offers

    def _head(self) -> bytes:
        """The same head without the offer; its parts were parsed, so none has a line break."""
        callbacks = self._callbacks
        version = self._parser.get_http_version().encode()
        line = b"%s %s HTTP/%s" % (self._parser.get_method(), callbacks.url, version)
        kept = [_line(name, value) for name, value in callbacks.headers if name not in _OFFER]
        return b"\r\n".join([line, *kept, b"", b""])


class _Held:
    """Holds back the callbacks for a complete head while it has to be parsed again."""

    def __init__(self, parser: UpgradelessParser, callbacks: Callbacks) -> None:
        self._parser = parser
        self._callbacks = callbacks
        self.on_message_begin = callbacks.on_message_begin
        self.on_url = callbacks.on_url
        self.on_header = callbacks.on_header
        self.on_body = callbacks.on_body

    def on_headers_complete(self) -> None:
        if not self._parser.offers:
            self._callbacks.on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._parser.offers:
            self._callbacks.on_message_complete()


def _line(name: bytes, value: bytes) -> bytes:
    if name == b"connection":
        options = [option.strip() for option in value.split(b",")]
        value = b", ".join(option for option in options if option.lower() not in _OFFER)
    return b"%s: %s" % (name, value)
