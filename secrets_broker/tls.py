"""TLS: the server's context, made in the master process and inherited by its workers.

The files are read at the start and at a reload (SIGHUP). So a worker that starts in between does
not depend on the files of that moment. Where a reload cannot use the files, the old context stays.
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

# Only AEAD with forward secrecy, for TLS 1.2 (RFC 9325, section 4.2; ChaCha20: RFC 7905).
# All suites of TLS 1.3 are so (RFC 8446, appendix B.4).
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Served:
    """The context that the workers serve with; None without TLS."""

    def __init__(self) -> None:
        self.context: ssl.SSLContext | None = None

    def load(self) -> None:
        """Read the files, if TLS is wanted; raises SettingsError."""
        tls = Settings.load().tls
        self.context = server_context(tls) if tls else None

    def reload(self) -> None:
        """Read the files again; where they cannot be used, log it and keep the old context.

        A reload never switches TLS on or off: clients would be cut off, or send secrets in the
        clear.
        """
        try:
            tls = Settings.load().tls
            if tls is None or self.context is None:
                raise SettingsError("TLS can only be switched on or off by a restart")
            self.context = server_context(tls)
        except SettingsError as error:
            _log.error("tls_not_reloaded", why=str(error))


SERVED: Final = Served()


class UnresumedContext(ssl.SSLContext):
    """Gives every connection a context of its own, so that there is no session to resume.

    OpenSSL caches TLS 1.2 sessions in the context by their ids, even without tickets, and Python
    cannot switch that off. A resumed session shows no certificate: the client's identity would stay
    that of the first handshake, for hours (RFC 5246, section F.1.4).
    """

    _held: "_Held"

    @classmethod
    def of(cls, held: "_Held") -> "UnresumedContext":
        """A context that makes others like it; raises SettingsError, which names the setting."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made._held = held
        _configure(made, held)
        return made

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a connection; the only method that asyncio and uvloop call on a context."""
        own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _configure(own, self._held)
        return own.wrap_bio(*args, **kwargs)


def server_context(tls: Tls) -> ssl.SSLContext:
    """Read the files and make a context; raises SettingsError, which names the setting.

    Sessions are never resumed, so a client shows its certificate in each connection.
    """
    return UnresumedContext.of(_Held.read(tls))


@dataclass(frozen=True, slots=True)
class _Held:
    """Copies of the files, so that later contexts do not depend on changed files."""

    cert: "_Copy"
    key: "_Copy"
    authorities: "_Copy | None"
    required: bool

    @classmethod
    def read(cls, tls: Tls) -> "_Held":
        """Read the files; raises SettingsError."""
        authorities = tls.client_ca_file
        return cls(
            _Copy(TLS_CERT_FILE, tls.cert_file),
            _Copy(TLS_KEY_FILE, tls.key_file),
            _Copy(TLS_CLIENT_CA_FILE, authorities) if authorities else None,
            tls.client_required,
        )


class _Copy:
    """A file's content in memory, at a path of its own: Python gives OpenSSL only paths."""

    def __init__(self, name: str, file: Path) -> None:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise SettingsError(f"{name}: {file} cannot be read ({error.strerror})") from None
        self.path = file
        if sys.platform == "linux":
            # Closed with this object; workers inherit it from the master.
            descriptor = os.memfd_create("secrets-broker-tls")
            weakref.finalize(self, os.close, descriptor)
            os.pwrite(descriptor, content, 0)
            self.path = Path(f"/proc/self/fd/{descriptor}")


def _configure(context: ssl.SSLContext, held: _Held) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9325, section 3.1.1
    context.set_ciphers(CIPHERS)
    # No renegotiation and no compression (RFC 9325, sections 3.3 and 3.5), and no tickets, which
    # would resume sessions.
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
    # Every certificate in the file is trusted by itself. So an intermediate authority can be named
    # without its root, and other clients of the root are not trusted.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise SettingsError(f"{TLS_CLIENT_CA_FILE} must hold certificates in PEM") from None
    if not context.cert_store_stats()["x509_ca"]:
        raise SettingsError(f"{TLS_CLIENT_CA_FILE} holds no certificate of an authority (CA:TRUE)")


def _no_password() -> str:
    return ""  # else OpenSSL would prompt on the terminal and wait
