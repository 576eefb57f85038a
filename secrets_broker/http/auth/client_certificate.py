"""A client's certificate: which name it proves, and until when. Pure.

The handshake has proven that a trusted authority issued it and that the client holds its key. The
name is the certificate's one URI (as in SPIFFE), or without a URI, its subject's one common name.
A URI must have a colon, and a common name must not: so nobody who may choose a common name can
pass for a URI.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from secrets_broker.ledger.access.grant_commands import grantee_problem

STATE: Final = "secrets_broker.certificate"
"""The key in the state of a request's scope that holds the certificate."""

_UNREADABLE: Final = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,  # where Python was told to raise what breaks RFC 5280
)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The parts of a certificate that are used."""

    fingerprint: str
    """The SHA-256 of the certificate in DER, in hex (FIPS 180-4), as `openssl x509` prints it."""
    name: str | None = None
    """None where it has no name, or more than one."""
    not_after: datetime | None = None


def read(der: bytes) -> ClientCertificate:
    """Take a certificate's name and end; one that cannot be read has no name."""
    fingerprint = sha256(der).hexdigest()
    try:
        certificate = x509.load_der_x509_certificate(der)
        return ClientCertificate(fingerprint, _name(certificate), certificate.not_valid_after_utc)
    except _UNREADABLE:
        return ClientCertificate(fingerprint)


def _name(certificate: x509.Certificate) -> str | None:
    uris = _uris(certificate)
    names = uris or _common_names(certificate)
    if len(names) != 1:
        return None
    (name,) = names
    if (":" in name) is not bool(uris) or grantee_problem(name):
        return None
    return name


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def _common_names(certificate: x509.Certificate) -> list[str]:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [str(attribute.value) for attribute in found]
