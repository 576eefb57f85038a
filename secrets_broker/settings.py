"""Settings: the one place that reads the environment.

A value is looked for in this order, and the first that is not empty wins:

1. ``<data dir>/.env``, where ``--data-dir`` or ``SECRETS_BROKER_DATA_DIR`` points at what
   ``secrets-broker dev`` made,
2. the process's environment,
3. ``.env`` in the working folder.

In each of them NAME_FILE may stand for NAME, where that is a secret (SECRETS): the value is then
what the file holds, less one line's end. That is how containers and service managers hand over
secrets, and keeps them out of the environment.

A key is the same whichever of these ways it comes: what one of them would cut off and another one
keep (ledger/shared_key.py) is refused where the key is asked for, in each of them.

Nothing is required until it is asked for, so that a command only needs what it uses.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from dotenv.parser import parse_stream

from secrets_broker.ledger.shared_key import fresh, key_warning, require_fit

DATA_DIR = "SECRETS_BROKER_DATA_DIR"
ENVIRONMENT_KMS = "environment:"
DEFAULT_CHECKPOINT_SECONDS = 1
DEFAULT_METRICS_SECONDS = 15
DEFAULT_CONNECTIONS = 1_024
DEFAULT_CONNECTIONS_PER_SOURCE = 256
MAX_NUMBER = 1_000_000
MIN_SECONDS = 0.05
MAX_SECONDS = 3_600

SECRETS = frozenset(
    {
        "SECRETS_KMS_KEY",
        "SECRETS_KMS_KEY_PREVIOUS",
        "SECRETS_KMS_PIN",
        "VAULT_TOKEN",
        "INTERNAL_KEY",
        "AUDITOR_KEY",
        "DATABASE_URL",
        "MIGRATION_DATABASE_URL",
        "LEDGER_SIGNING_KEY",
        "WATCH_WEBHOOK_KEY",
        "SECRETS_BROKER_KEY",
    }
)
"""What a file may hold. Not every name: LEDGER_CHECKPOINT_FILE, say, is a setting itself."""

PREVIOUS = "SECRETS_KMS_KEY_PREVIOUS"
SHARED_KEYS = ("SECRETS_KMS_KEY", "INTERNAL_KEY", "AUDITOR_KEY")
"""What ledger/shared_key.py has rules for."""

_FILE = "_FILE"
# As python-dotenv takes a comment away from a value without quotes.
_COMMENT = re.compile(r"\s+#.*")
TLS_CERT_FILE = "TLS_CERT_FILE"
TLS_KEY_FILE = "TLS_KEY_FILE"
TLS_CLIENT_CA_FILE = "TLS_CLIENT_CA_FILE"
TLS_CLIENT_CERT = "TLS_CLIENT_CERT"
# Whoever asks for one of these may not be served in the clear, or without the others.
_TLS_NEEDS = {
    TLS_CERT_FILE: TLS_KEY_FILE,
    TLS_KEY_FILE: TLS_CERT_FILE,
    TLS_CLIENT_CA_FILE: TLS_CERT_FILE,
    TLS_CLIENT_CERT: TLS_CLIENT_CA_FILE,
}
_CLIENT_CERTIFICATES = {"required": True, "optional": False}

_SWITCHES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class SettingsError(Exception):
    """The settings are not such that the command can work; says what to do."""


class UnreadableSettingsError(SettingsError):
    """A file of settings is there, and cannot be read."""

    def __init__(self, what: object, error: OSError | UnicodeDecodeError) -> None:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        super().__init__(f"{what} cannot be read ({why}): correct that, or remove it")


class MissingSettingError(SettingsError):
    """A setting that this command needs is not there."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} not set: put it into the environment or a .env file, "
            "or print fresh settings with: secrets-broker keygen"
        )
        self.name = name


def colours_are_welcome() -> bool:
    """Whether a terminal may be written to in colours (NO_COLOR, see no-color.org; TERM=dumb)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@dataclass(frozen=True, slots=True)
class Tls:
    """What the service is served with over TLS: PEM files, and whom it asks for a certificate."""

    cert_file: Path
    """The server's certificate, and those between it and its authority behind it."""
    key_file: Path
    client_ca_file: Path | None = None
    """Who issues the certificates of clients; None where clients are not asked for one."""
    client_required: bool = True
    """Whether a client without a certificate is refused in the handshake."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says; secrets in it never show in a repr."""

    values: Mapping[str, str] = field(repr=False)
    data_dir: Path | None = None

    @classmethod
    def load(cls, data_dir: Path | None = None) -> "Settings":
        """Read the sources of this module's docstring, in their order.

        Raises SettingsError where one of them says NAME and NAME_FILE both, and
        UnreadableSettingsError where a file cannot be read.
        """
        if data_dir is None and os.environ.get(DATA_DIR):
            data_dir = Path(os.environ[DATA_DIR])
        merged: dict[str, _Stated] = {}
        for source in _weakest_first(data_dir):
            merged |= _stated(source)
        values = {name: said.read(name) for name, said in merged.items()}
        return cls({name: value for name, value in values.items() if value}, data_dir)

    def get(self, name: str) -> str | None:
        """The value, or None where it is unset or empty."""
        return self.values.get(name)

    def require(self, name: str) -> str:
        """The value; raises MissingSettingError, which names it."""
        value = self.values.get(name)
        if value is None:
            raise MissingSettingError(name)
        return value

    @property
    def kms_key(self) -> str:
        """What the environment's KEK is derived from; raises UnfitKeyError where it is unfit."""
        return require_fit("SECRETS_KMS_KEY", self.require("SECRETS_KMS_KEY"))

    @property
    def previous_kms_keys(self) -> tuple[str, ...]:
        """Keys that may still wrap data keys while a rotation goes on; each may be any text.

        One key, byte for byte, or several between commas or on lines. Which of these is meant no
        text can tell from the other: so each reading is a key, and one that is nobody's opens
        nothing.
        """
        whole = self.get(PREVIOUS) or ""
        lines = whole.split("\n")
        parts = [part for line in lines for part in line.split(",")]
        readings = (whole, *lines, *parts, *(part.strip() for part in parts))
        return tuple(dict.fromkeys(key for key in readings if key))

    @property
    def kms_url(self) -> str | None:
        """The service that wraps the KEK (SECRETS_KMS); None where kms_key is the KEK's source."""
        url = self.get("SECRETS_KMS")
        return None if url == ENVIRONMENT_KMS else url

    @property
    def previous_kms_urls(self) -> tuple[str, ...]:
        """Services that may still wrap a KEK (SECRETS_KMS_PREVIOUS), between white space.

        Not between commas, as keys are: a URL may hold one.
        """
        urls = (self.get("SECRETS_KMS_PREVIOUS") or "").split()
        return tuple(url for url in urls if url != ENVIRONMENT_KMS)

    @property
    def kms_pin(self) -> str | None:
        """The PIN of a PKCS#11 token whose URL has no pin-source."""
        return self.get("SECRETS_KMS_PIN")

    @property
    def vault_token(self) -> str | None:
        """What the service proves itself to Vault or OpenBao with, under the name they use."""
        return self.get("VAULT_TOKEN")

    @property
    def internal_key(self) -> str:
        """What callers prove themselves with; raises UnfitKeyError where it is unfit."""
        return require_fit("INTERNAL_KEY", self.require("INTERNAL_KEY"))

    @property
    def internal_key_if_on(self) -> str | None:
        """The same; None where it is switched off (INTERNAL_KEY_OFF), and only grants count."""
        return None if self.internal_key_is_off else self.internal_key

    @property
    def internal_key_is_off(self) -> bool:
        """Whether it is switched off, whatever it is."""
        return self._switch("INTERNAL_KEY_OFF")

    @property
    def auditor_key(self) -> str | None:
        """What auditors prove themselves with; without it their paths are shut.

        Raises SettingsError, or UnfitKeyError.
        """
        key = self.get("AUDITOR_KEY")
        if key is not None and key == self.get("INTERNAL_KEY"):
            raise SettingsError(
                "AUDITOR_KEY is the same as INTERNAL_KEY, so it would open secrets: "
                "print another one with: secrets-broker keygen"
            )
        return None if key is None else require_fit("AUDITOR_KEY", key)

    @property
    def key_warnings(self) -> tuple[str, ...]:
        """What speaks against keys that are fit, a sentence each, in which no key is."""
        off = {"INTERNAL_KEY"} if self.internal_key_is_off else set()
        given = ((name, self.get(name)) for name in SHARED_KEYS if name not in off)
        found = ((name, key_warning(key)) for name, key in given if key is not None)
        return tuple(
            f"{name} {warning}, and may be found by trying: {fresh(name)}"
            for name, warning in found
            if warning
        )

    @property
    def database_url(self) -> str:
        """The service's own login, as a postgresql:// URL."""
        return self.require("DATABASE_URL")

    @property
    def migration_database_url(self) -> str:
        """The owner of the schemas; where there is no such login, the service's."""
        return self.get("MIGRATION_DATABASE_URL") or self.database_url

    @property
    def signing_key(self) -> str | None:
        """What checkpoints are signed with (LEDGER_SIGNING_KEY, as keygen prints it)."""
        return self.get("LEDGER_SIGNING_KEY")

    @property
    def verifier_keys(self) -> tuple[str, ...]:
        """The public halves (LEDGER_VERIFIER_KEY): this one and earlier ones, or none."""
        return tuple((self.get("LEDGER_VERIFIER_KEY") or "").split())

    @property
    def origin(self) -> str | None:
        """The log's name (LEDGER_ORIGIN), which its checkpoints begin with."""
        return self.get("LEDGER_ORIGIN")

    @property
    def checkpoint_seconds(self) -> float:
        """How long after the ledger grew a checkpoint is made (LEDGER_CHECKPOINT_SECONDS)."""
        return self._seconds("LEDGER_CHECKPOINT_SECONDS", DEFAULT_CHECKPOINT_SECONDS)

    @property
    def metrics_seconds(self) -> float:
        """How often the gauges are read from the database (METRICS_SECONDS)."""
        return self._seconds("METRICS_SECONDS", DEFAULT_METRICS_SECONDS)

    @property
    def checkpoint_file(self) -> Path | None:
        """A checkpoint kept outside the database (LEDGER_CHECKPOINT_FILE)."""
        path = self.get("LEDGER_CHECKPOINT_FILE")
        return Path(path) if path else None

    @property
    def witnesses(self) -> tuple[str, ...]:
        """Witnesses to submit checkpoints to (LEDGER_WITNESSES): URL and verifier key in turn."""
        return tuple((self.get("LEDGER_WITNESSES") or "").split())

    @property
    def witness_state(self) -> Path:
        """Where a witness keeps what it cosigned (WITNESS_STATE); ./witness where unset."""
        return Path(self.get("WITNESS_STATE") or "witness")

    @property
    def witness_key_file(self) -> Path:
        """What a witness signs with (WITNESS_KEY_FILE); where unset, a file of its state."""
        path = self.get("WITNESS_KEY_FILE")
        return Path(path) if path else self.witness_state / "witness.key"

    @property
    def witness_logs(self) -> tuple[str, ...]:
        """Verifier keys of the logs that a witness cosigns (WITNESS_LOGS)."""
        return tuple((self.get("WITNESS_LOGS") or "").split())

    @property
    def watch_webhook(self) -> str | None:
        """Where `watch` posts to (WATCH_WEBHOOK); the URL itself may be a secret."""
        return self.get("WATCH_WEBHOOK")

    @property
    def watch_webhook_keys(self) -> tuple[str, ...]:
        """What it signs with (WATCH_WEBHOOK_KEY): one key, or several while they change."""
        return tuple((self.get("WATCH_WEBHOOK_KEY") or "").split())

    @property
    def erasures(self) -> Path | None:
        """The list of erasures, which outlives a restore (SECRETS_ERASURES)."""
        path = self.get("SECRETS_ERASURES")
        return Path(path) if path else None

    @property
    def tls(self) -> Tls | None:
        """What to serve TLS with (TLS_CERT_FILE and the rest); None where it is plain HTTP."""
        for name, needed in _TLS_NEEDS.items():
            if self.get(name) and not self.get(needed):
                raise SettingsError(f"{name} is set, and {needed} is not: set both, or neither")
        certificate, key = self.get(TLS_CERT_FILE), self.get(TLS_KEY_FILE)
        if certificate is None or key is None:
            return None
        required = (self.get(TLS_CLIENT_CERT) or "required").lower()
        if required not in _CLIENT_CERTIFICATES:
            raise SettingsError(f"{TLS_CLIENT_CERT} must be required or optional")
        authority = self.get(TLS_CLIENT_CA_FILE)
        return Tls(
            Path(certificate),
            Path(key),
            Path(authority) if authority else None,
            _CLIENT_CERTIFICATES[required],
        )

    @property
    def trusted_proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Whose X-Forwarded-For is believed (TRUSTED_PROXIES): addresses and CIDRs, or none."""
        texts = (self.get("TRUSTED_PROXIES") or "").replace(",", " ").split()
        return tuple(_proxies(number, text) for number, text in enumerate(texts, 1))

    @property
    def max_connections(self) -> int:
        """How many connections the service has open at a time (MAX_CONNECTIONS)."""
        return self._number("MAX_CONNECTIONS", DEFAULT_CONNECTIONS)

    @property
    def max_connections_per_source(self) -> int:
        """How many of them an address, or an IPv6 /64, may have (MAX_CONNECTIONS_PER_SOURCE)."""
        return self._number("MAX_CONNECTIONS_PER_SOURCE", DEFAULT_CONNECTIONS_PER_SOURCE)

    @property
    def readable_logs(self) -> bool:
        """Whether log lines are for people (SECRETS_BROKER_LOG=readable) or JSON."""
        return self.get("SECRETS_BROKER_LOG") == "readable"

    def _seconds(self, name: str, default: float) -> float:
        try:
            seconds = float(self.get(name) or default)
        except ValueError:
            seconds = 0.0
        if not MIN_SECONDS <= seconds <= MAX_SECONDS:
            raise SettingsError(f"{name} must be a number from {MIN_SECONDS} to {MAX_SECONDS}")
        return seconds

    def _number(self, name: str, default: int) -> int:
        text = self.get(name) or str(default)
        number = int(text) if re.fullmatch("[0-9]{1,7}", text) else 0
        if not 1 <= number <= MAX_NUMBER:
            raise SettingsError(f"{name} must be a whole number from 1 to {MAX_NUMBER}")
        return number

    def _switch(self, name: str) -> bool:
        text = (self.get(name) or "false").lower()
        if text not in _SWITCHES:
            raise SettingsError(f"{name} must be true or false")
        return _SWITCHES[text]


@dataclass(frozen=True, slots=True)
class _Stated:
    """What a source says of a name: its value, or the file that holds it."""

    text: str = field(repr=False)
    in_file: bool

    def read(self, name: str) -> str:
        if not self.in_file:
            return self.text
        try:
            content = Path(self.text).read_bytes()
            if name == PREVIOUS:  # readings without a carriage return are among its own
                return content.decode("utf-8").removesuffix("\n")
            return text_of_file(content)
        except (OSError, UnicodeDecodeError) as error:
            # Without the path: somebody may have put the secret itself there.
            raise UnreadableSettingsError(f"the file of {name}{_FILE}", error) from None


def text_of_file(content: bytes) -> str:
    """What a file says, less one line's end, which editors and `echo` add; all else may be meant.

    Raises UnicodeDecodeError.
    """
    text = content.decode("utf-8")
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


def _stated(source: Mapping[str, str | None]) -> dict[str, _Stated]:
    filled = {name: value for name, value in source.items() if value}
    stated = {}
    for name, value in filled.items():
        secret = name.removesuffix(_FILE)
        in_file = secret != name and secret in SECRETS
        if in_file and secret in filled:
            raise SettingsError(f"{secret} and {name} are both set: keep one of them")
        stated[secret if in_file else name] = _Stated(value, in_file)
    return stated


def _proxies(number: int, text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError:
        raise SettingsError(
            f"TRUSTED_PROXIES: entry {number} is no address, and no CIDR without bits behind "
            "its prefix"
        ) from None
    if network.prefixlen == 0:
        # Then every address would be a proxy's, and anybody could write his own.
        raise SettingsError(f"TRUSTED_PROXIES: entry {number} is everybody: name the proxies")
    return network


def _weakest_first(data_dir: Path | None) -> Iterator[Mapping[str, str | None]]:
    yield _env_file(Path(".env"))
    yield os.environ
    if data_dir is not None:
        yield _env_file(data_dir / ".env")


def _env_file(path: Path) -> Mapping[str, str | None]:
    try:
        if not path.is_file():
            return {}
        with path.open(encoding="utf-8") as lines:
            # No interpolation: a key may hold a "$", and means it.
            return {
                b.key: _value(b.key, b.value, b.original.string)
                for b in parse_stream(lines)
                if b.key
            }
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableSettingsError(path.absolute(), error) from None


def _value(name: str, value: str | None, line: str) -> str | None:
    """A value of a .env: white space around a key is kept, for the rule of keys to see it.

    Without quotes python-dotenv takes it away, and `docker --env-file` does not.
    """
    written = line.strip("\r\n").partition("=")[2]
    if name not in SHARED_KEYS or value is None or written.strip()[:1] in ("'", '"'):
        return value
    kept = _COMMENT.sub("", written)
    return kept if kept.strip() == value else value
