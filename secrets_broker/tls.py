"""TLS: the context that the service is served with, made in the master and handed to its workers.

The files are read at the start and at a reload (SIGHUP), so that a worker which begins in between
does not depend on what lies there at that moment. Where they cannot be used at a reload, what was
served before is served on.
"""

import ssl
from pathlib import Path
from typing import Final

import structlog

from secrets_broker.settings import (
    TLS_CERT_FILE,
    TLS_CLIENT_CA_FILE,
    TLS_KEY_FILE,
    Settings,
    SettingsError,
    Tls,
)

_log = structlog.get_logger(__name__)

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


def server_context(tls: Tls) -> ssl.SSLContext:
    """Make a context from files; raises SettingsError, which names the setting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9325, section 3.1.1
    context.set_ciphers(CIPHERS)
    # No renegotiation and no compression (RFC 9325, sections 3.3 and 3.5). No tickets: who a
    # client is, and whether his certificate is good, is looked at in every handshake.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])  # RFC 9325, section 3.7
    _load_own(context, tls)
    if tls.client_ca_file is not None:
        _load_authorities(context, tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED if tls.client_required else ssl.CERT_OPTIONAL
    return context


def _load_own(context: ssl.SSLContext, tls: Tls) -> None:
    _check_readable(TLS_CERT_FILE, tls.cert_file)
    _check_readable(TLS_KEY_FILE, tls.key_file)
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_password)
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
    _check_readable(TLS_CLIENT_CA_FILE, path)
    # What the file holds is trusted, and nothing above it has to be: an authority between may
    # be named without its root, whose other clients are then none of ours.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise SettingsError(f"{TLS_CLIENT_CA_FILE} must hold certificates in PEM") from None
    if not context.cert_store_stats()["x509_ca"]:
        raise SettingsError(f"{TLS_CLIENT_CA_FILE} holds no certificate of an authority (CA:TRUE)")


def _check_readable(name: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read ({error.strerror})") from None


def _no_password() -> str:
    return ""  # else OpenSSL would ask a terminal, and wait
