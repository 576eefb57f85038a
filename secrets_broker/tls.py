"""TLS: the context that the service is served with, made in the master and handed to its workers.

The files are read at the start and at a reload (SIGHUP), so that a worker which begins in between
does not depend on what lies there at that moment. Where they cannot be used at a reload, what was
served before is served on.
"""

import os
import ssl
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from secrets_broker.settings import Settings, SettingsError, Tls

_log = structlog.get_logger(__name__)

TLS_CERT_FILE: Final = Settings.tls_cert_file.name
TLS_KEY_FILE: Final = Settings.tls_key_file.name
TLS_CLIENT_CA_FILE: Final = Settings.tls_client_ca_file.name

# With AEAD and forward secrecy alone, for TLS 1.2 (RFC 9325, section 4.2; ChaCha20: RFC 7905).
# All suites of TLS 1.3 are so (RFC 8446, appendix B.4).
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Served:
    """What the workers serve with."""

    def __init__(self) -> None:
        self.context: ssl.SSLContext | None = None

    def load(self) -> None:
        """Read the files, if TLS is wanted; raises SettingsError."""
        tls = Settings.load().tls
        self.context = server_context(tls) if tls else None

    def reload(self) -> None:
        """Read them again; what cannot be used changes nothing.

        Nor does a reload begin or end to serve TLS: clients would be cut off unawares, or what
        they send go over the wire in the clear.
        """
        try:
            tls = Settings.load().tls
            if tls is None or self.context is None:
                raise SettingsError("whether it is served over TLS is settled at a start")
            self.context = server_context(tls)
        except SettingsError as error:
            _log.error("tls_not_reloaded", why=str(error))


SERVED: Final = Served()


class UnresumedContext(ssl.SSLContext):
    """Gives every connection a context of its own, in which there is no session to resume.

    OpenSSL keeps the sessions of TLS 1.2 in the context, by ids, whether or not there are tickets,
    and Python has no name to switch that off. In a resumed session no certificate is shown: who
    the client is would be what it was at the first handshake, for hours (RFC 5246, section F.1.4).
    """

    _held: "_Held"

    @classmethod
    def of(cls, held: "_Held") -> "UnresumedContext":
        """A context like those that it gives; raises SettingsError, which names the setting."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made._held = held
        _configure(made, held)
        return made

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a connection; all that asyncio and uvloop ask of a context."""
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _configure(own, self._held)
        return own.wrap_bio(*args, **kwargs)


def server_context(tls: Tls) -> ssl.SSLContext:
    """Make a context from files, which are read now; raises SettingsError, which names the setting.

    No session of it is ever resumed: in each connection the client shows its certificate.
    """
    return UnresumedContext.of(_Held.read(tls))


@dataclass(frozen=True, slots=True)
class _Held:
    """The files as they were read: what makes a context must not depend on what lies there then."""

    cert: "_Copy"
    key: "_Copy"
    authorities: "_Copy | None"
    required: bool

    @classmethod
    def read(cls, tls: Tls) -> "_Held":
        """Read them; raises SettingsError."""
        authorities = tls.client_ca_file
        return cls(
            _Copy(TLS_CERT_FILE, tls.cert_file),
            _Copy(TLS_KEY_FILE, tls.key_file),
            _Copy(TLS_CLIENT_CA_FILE, authorities) if authorities else None,
            tls.client_required,
        )


class _Copy:
    """A file's content at a path of its own, in memory: OpenSSL takes paths alone from Python."""

    def __init__(self, name: str, file: Path) -> None:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise SettingsError(f"{name}: {file} cannot be read ({error.strerror})") from None
        self.path = file
        if sys.platform == "linux":
            # Gone with this object; workers have it from their master.
            descriptor = os.memfd_create("secrets-broker-tls")
            weakref.finalize(self, os.close, descriptor)
            os.pwrite(descriptor, content, 0)
            self.path = Path(f"/proc/self/fd/{descriptor}")


def _configure(context: ssl.SSLContext, held: _Held) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9325, section 3.1.1
    context.set_ciphers(CIPHERS)
    # No renegotiation and no compression (RFC 9325, sections 3.3 and 3.5), and no tickets, which a
    # context would have to know again.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])  # RFC 9325, section 3.7
    _load_own(context, held)
    if held.authorities is not None:
        _load_authorities(context, held.authorities.path)
        context.verify_mode = ssl.CERT_REQUIRED if held.required else ssl.CERT_OPTIONAL


def _load_own(context: ssl.SSLContext, held: _Held) -> None:
    try:
        context.load_cert_chain(held.cert.path, held.key.path, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"{TLS_KEY_FILE} is not the private key of the certificate in {TLS_CERT_FILE}"
        else:
            why = (
                f"{TLS_CERT_FILE} and {TLS_KEY_FILE} must be a certificate and its private key, "
                "in PEM, the key without a password"
            )
        raise SettingsError(why) from None


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    # What the file holds is trusted, and nothing above it has to be: an authority between may
    # be named without its root, whose other clients are then none of ours.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise SettingsError(f"{TLS_CLIENT_CA_FILE} must hold certificates in PEM") from None
    if not context.cert_store_stats()["x509_ca"]:
        raise SettingsError(f"{TLS_CLIENT_CA_FILE} holds no certificate of an authority (CA:TRUE)")


def _no_password() -> str:
    return ""  # else OpenSSL would ask a terminal, and wait
