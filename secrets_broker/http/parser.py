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


class UpgradelessParser(httptools.HttpRequestParser):
    """Parses requests, and ignores their offers of another protocol."""

    def __init__(self, told: Callbacks) -> None:
        self._told = told
        # What need not be held back is called without a step between.
        held = _Held(self, told)
        super().__init__(held)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    @property
    def offers(self) -> bool:
        """Whether the head that is being parsed offers another protocol."""
        return self.should_upgrade() and self.get_method() != _CONNECT

    # A protocol of asyncio is given bytes and nothing else.
    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Parse on; raises httptools.HttpParserError, and HttpParserUpgrade behind a CONNECT."""
        while True:
            try:
                super().feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self.offers:
                    raise
                data = self._head() + data[upgrade.args[0] :]
            else:
                return

    def _head(self) -> bytes:
        """The same head without the offer; its parts were parsed, so none holds a line's end."""
        told = self._told
        line = b"%s %s HTTP/%s" % (self.get_method(), told.url, self.get_http_version().encode())
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
