"""The settings of a process: the declared ones, and what several of them mean together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from secrets_broker.ledger.access.shared_key import fresh, key_warning
from secrets_broker.settings.declaration import SHARED_KEYS, Declared
from secrets_broker.settings.errors import SettingsError
from secrets_broker.settings.reading import named_data_dir, read

# If one of these is set, the service must not run without TLS, or without the others.
_TLS_NEEDS: Final = (
    (Declared.tls_cert_file.name, Declared.tls_key_file.name),
    (Declared.tls_key_file.name, Declared.tls_cert_file.name),
    (Declared.tls_client_ca_file.name, Declared.tls_cert_file.name),
    (Declared.tls_client_required.name, Declared.tls_client_ca_file.name),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """What TLS is served with: PEM files, and whether clients need a certificate."""

    cert_file: Path
    """The server's certificate, followed by the intermediate ones."""
    key_file: Path
    client_ca_file: Path | None = None
    """The issuer of clients' certificates; None if clients are not asked for one."""
    client_required: bool = True
    """Whether a client without a certificate is refused in the handshake."""


@dataclass(frozen=True, slots=True)
class Settings(Declared):
    """The settings from the environment; a repr never shows secrets."""

    values: Mapping[str, str] = field(repr=False)
    data_dir: Path | None = None

    @classmethod
    def load(cls, data_dir: Path | None = None) -> "Settings":
        """Read every source; raises SettingsError, or its UnreadableSettingsError."""
        data_dir = data_dir or named_data_dir()
        return cls(read(data_dir), data_dir)

    def get(self, name: str) -> str | None:
        """The value as given, or None if it is unset or empty."""
        return self.values.get(name)

    @property
    def kms_key_is_set(self) -> bool:
        """Whether there is a SECRETS_KMS_KEY, fit or not."""
        return self.get(Declared.kms_key.name) is not None

    @property
    def internal_key_if_on(self) -> str | None:
        """INTERNAL_KEY; None if INTERNAL_KEY_OFF switches it off, so that only grants count."""
        return None if self.internal_key_is_off else self.internal_key

    @property
    def key_warnings(self) -> tuple[str, ...]:
        """Warnings about fit keys, a sentence each; none holds a key."""
        off = {Declared.internal_key.name} if self.internal_key_is_off else set()
        given = ((name, self.get(name)) for name in SHARED_KEYS if name not in off)
        found = ((name, key_warning(key)) for name, key in given if key is not None)
        return tuple(
            f"{name} {warning}, and may be found by trying: {fresh(name)}"
            for name, warning in found
            if warning
        )

    @property
    def migration_database_url(self) -> str:
        """The URL of the schemas' owner; if unset, that of the service's login."""
        return self.owner_database_url or self.database_url

    @property
    def witness_key_file(self) -> Path:
        """The file of a witness's key; if unset, a file in its state folder."""
        return self.own_witness_key_file or self.witness_state / "witness.key"

    @property
    def tls(self) -> Tls | None:
        """What to serve TLS with; None for plain HTTP. Raises SettingsError."""
        for name, needed in _TLS_NEEDS:
            if self.get(name) and not self.get(needed):
                raise SettingsError(f"{name} is set, and {needed} is not: set both, or neither")
        certificate, key = self.tls_cert_file, self.tls_key_file
        if certificate is None or key is None:
            return None
        return Tls(certificate, key, self.tls_client_ca_file, self.tls_client_required)
