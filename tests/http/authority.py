"""Certificates for tests: an authority of its own, and what it issues."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
_numbers = count()


class Authority:
    """Issues certificates; each with its key is one file in PEM."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject([name])
        extension = x509.BasicConstraints(ca=True, path_length=0)
        builder = _builder(self._name, self._key, timedelta(hours=1)).issuer_name(self._name)
        self.certificate = builder.add_extension(extension, critical=True).sign(self._key, SHA256())
        self.file = self._folder / f"authority-{next(_numbers)}.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        *common_names: str,
        uris: Sequence[str] = (),
        lasts: timedelta = timedelta(hours=1),
        usage: x509.ObjectIdentifier = CLIENT,
        own: bool = False,
    ) -> Path:
        """A certificate; `own` has it signed by itself rather than by this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(common_names)
        builder = _builder(subject, key, lasts)
        builder = builder.issuer_name(subject if own else self._name)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        if usage == SERVER:
            names.append(x509.IPAddress(ip_address("127.0.0.1")))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(key if own else self._key, SHA256())
        file = self._folder / f"certificate-{next(_numbers)}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
        file.chmod(0o600)
        return file

    def client(self, shows: Path | None = None) -> ssl.SSLContext:
        """A client that trusts this authority, and shows a certificate if it has one."""
        context = ssl.create_default_context(cafile=self.file)
        if shows:
            context.load_cert_chain(shows)
        return context


def der(file: Path) -> bytes:
    """The certificate in a file."""
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    return certificate.public_bytes(Encoding.DER)


def _subject(names: Sequence[str]) -> x509.Name:
    # Attributes of one type have to be in names of their own.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, lasts: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
