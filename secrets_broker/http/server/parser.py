"""The parser of requests: httptools', to which no request asks for another protocol.

A client may offer to go on in another protocol with `Upgrade` (h2c, as some do with every first
request), and a server may ignore that (RFC 9110, section 7.8). httptools cannot: it takes what
follows such a head, the body too, for that other protocol. So such a head is parsed anew without
the offer, and nobody is told of it before. A tunnel (CONNECT) is none of that: what follows it is
for nobody here.
"""

from typing import Final, Protocol

import httptools

_CONNECT: Final = b"CONNECT"
_OFFER: Final = frozenset({b"upgrade", b"http2-settings"})
"""Headers that make an offer; Connection names them (RFC 7540, section 3.2)."""


class Callbacks(Protocol):
    """What the parser tells of a request, and what it keeps of the head meanwhile."""

    url: bytes
    headers: list[tuple[bytes, bytes]]

    def on_message_begin(self) -> None:
        """A request begins."""

    def on_url(self, url: bytes) -> None:
        """A part of its target."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""

    def on_headers_complete(self) -> None:
        """The head is there."""

    def on_body(self, body: bytes) -> None:
        """A part of the body."""

    def on_message_complete(self) -> None:
        """The request is there."""


class UpgradelessParser:
    """Parses requests, and ignores their offers of another protocol; as uvicorn uses httptools."""

    def __init__(self, told: Callbacks) -> None:
        self._told = told
        self._parser = self._begun()

    def _begun(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(_Held(self, self._told))
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        return parser

    @property
    def offers(self) -> bool:
        """Whether the head that is being parsed offers another protocol."""
        return self._parser.should_upgrade() and self._parser.get_method() != _CONNECT

    def feed_data(self, data: bytes) -> None:
        """Parse on; raises httptools.HttpParserError, and HttpParserUpgrade behind a CONNECT."""
        rest = memoryview(data)  # many offers in one piece are not copied again and again
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                if not self.offers:
                    raise
                head, rest = self._head(), rest[upgrade.args[0] :]
                self._parser = self._begun()  # the other may hold that the connection ends
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
        """Whether what follows is no request: behind a CONNECT alone."""
        return self._parser.should_upgrade() and not self.offers

    def _head(self) -> bytes:
        """The same head without the offer; its parts were parsed, so none holds a line's end."""
        told = self._told
        version = self._parser.get_http_version().encode()
        line = b"%s %s HTTP/%s" % (self._parser.get_method(), told.url, version)
        kept = [_line(name, value) for name, value in told.headers if name not in _OFFER]
        return b"\r\n".join([line, *kept, b"", b""])


class _Held:
    """Holds back that a request is there, while it is to be parsed anew."""

    def __init__(self, parser: UpgradelessParser, told: Callbacks) -> None:
        self._parser = parser
        self._told = told
        self.on_message_begin = told.on_message_begin
        self.on_url = told.on_url
        self.on_header = told.on_header
        self.on_body = told.on_body

    def on_headers_complete(self) -> None:
        if not self._parser.offers:
            self._told.on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._parser.offers:
            self._told.on_message_complete()


def _line(name: bytes, value: bytes) -> bytes:
    if name == b"connection":
        options = [option.strip() for option in value.split(b",")]
        value = b", ".join(option for option in options if option.lower() not in _OFFER)
    return b"%s: %s" % (name, value)
