"""A client's certificate: whose name it proves, and until when. Pure.

The handshake has proven that it comes from an authority that is trusted, and that the client
holds its key. The name is the certificate's one URI (as SPIFFE has it), or where it has none, its
subject's one common name. A URI has a colon and a common name that is taken has none, so that an
authority which lets people choose a common name cannot be made to prove somebody's URI.
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
"""Where a request's scope has it, in its state."""

_UNREADABLE: Final = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,  # where Python was told to raise what breaks RFC 5280
)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What of a certificate counts."""

    fingerprint: str
    """The SHA-256 of the certificate in DER, in hex (FIPS 180-4), as `openssl x509` prints it."""
    name: str | None = None
    """None where it names nobody, or more than one."""
    not_after: datetime | None = None


def read(der: bytes) -> ClientCertificate:
    """Take a certificate's name and end; what cannot be read names nobody."""
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
