"""The address of an HTTP server, and how its certificate is checked."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

# Seconds for each step of a request: to connect, and to wait for a piece of the answer.
_TIMEOUT: Final = 5.0


class HttpUrlError(ValueError):
    """A URL that names no HTTP server; the text does not repeat it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and how its certificate is checked."""

    tls: bool
    host: str
    port: int
    ca_file: Path | None = None
    cert_file: Path | None = None
    """Our client certificate, for a server that asks for one."""
    key_file: Path | None = None
    """The certificate's private key, where it is not in the same file."""
    timeout: float = _TIMEOUT

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def context(self) -> ssl.SSLContext:
        """The TLS context; raises OSError (also ssl.SSLError) for its files."""
        made = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        if self.cert_file is not None:
            # A key with a password is an error, not a prompt on the terminal.
            made.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
        return made


def parse_url(whose: str, url: str) -> tuple[Endpoint, SplitResult]:
    """The server that a URL names, and the URL's parts; raises HttpUrlError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise HttpUrlError(f"the URL of {whose} is not a URL") from None
    tls = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HttpUrlError(f"the URL of {whose} begins with https:// or http:// and a host")
    return Endpoint(tls, parts.hostname, port or (443 if tls else 80)), parts
