"""Every setting, declared once, in the order of the page of settings and of `keygen`'s lines.

These follow from it: the attributes of Settings, the secrets that NAME_FILE may name, the lines
that `keygen` and `dev` write, what logs mask, and the table in docs/settings.md. After a change,
run `python -m secrets_broker.settings.page`.
"""

from collections.abc import Mapping
from typing import Any, Final

from secrets_broker.settings import kinds
from secrets_broker.settings.errors import SettingsError
from secrets_broker.settings.setting import Fresh, Setting


def _not_the_internal_key(values: Mapping[str, str]) -> None:
    key = values.get("AUDITOR_KEY")
    if key is not None and key == values.get("INTERNAL_KEY"):
        raise SettingsError(
            "AUDITOR_KEY is the same as INTERNAL_KEY, so it would open secrets: "
            "print another one with: secrets-broker keygen"
        )


class Declared:
    """The settings; each is an attribute with its parsed value."""

    __slots__ = ()

    kms_key = Setting(
        "SECRETS_KMS_KEY",
        kinds.shared_key,
        "what the key-encryption key is derived from: 256 random bits, as `keygen` prints",
        needed_by="serve, rebuild, rotate-key, erase, import-legacy; not where SECRETS_KMS is set",
        secret=True,
        fresh=Fresh.KEY,
    )
    previous_kms_keys = Setting(
        "SECRETS_KMS_KEY_PREVIOUS",
        kinds.previous_keys,
        "a further key that a rotation needs, byte for byte, or several between commas or on "
        "lines; these may be any text",
        see="keys.md#rotate-the-kek",
        secret=True,
        fresh=Fresh.EMPTY,
    )
    kms_url = Setting(
        "SECRETS_KMS",
        kinds.kms_url,
        "the KMS that keeps the KEK, a URL",
        see="kms.md",
        default=kinds.ENVIRONMENT_KMS,
        fresh=Fresh.EMPTY,
    )
    previous_kms_urls = Setting(
        "SECRETS_KMS_PREVIOUS",
        kinds.kms_urls,
        "the KMS that a rotation needs besides: URLs, between white space",
        see="kms.md",
    )
    kms_pin = Setting(
        "SECRETS_KMS_PIN",
        kinds.text,
        "the PIN of a PKCS#11 token whose URL has no pin-source",
        see="kms.md",
        secret=True,
    )
    vault_token = Setting(
        "VAULT_TOKEN",
        kinds.text,
        "what the service proves itself to Vault or OpenBao with, under the name that they use",
        see="kms.md",
        secret=True,
    )
    internal_key = Setting(
        "INTERNAL_KEY",
        kinds.shared_key,
        "what callers send as `X-Internal-Key`",
        needed_by="serve",
        secret=True,
        fresh=Fresh.KEY,
    )
    internal_key_is_off = Setting(
        "INTERNAL_KEY_OFF",
        kinds.switch,
        "whether INTERNAL_KEY opens nothing any more, and only grants count: `true` or `false`",
        see="access.md",
        default="false",
    )
    auditor_key = Setting(
        "AUDITOR_KEY",
        kinds.optional_shared_key,
        "what auditors send, as `X-Internal-Key` or `Authorization: Bearer`; it opens no secret",
        unset="auditors' paths are shut",
        secret=True,
        fresh=Fresh.KEY,
        beside=_not_the_internal_key,
    )
    access_key = Setting(
        "SECRETS_BROKER_KEY",
        kinds.text,
        "an access key for what asks a service over HTTP (`--url`), where there is no AUDITOR_KEY",
        secret=True,
    )
    database_url = Setting(
        "DATABASE_URL",
        kinds.required,
        "`postgresql://…`, the service's login",
        needed_by="all but keygen, witness serve and witness keygen",
        secret=True,
    )
    owner_database_url = Setting(
        "MIGRATION_DATABASE_URL",
        kinds.text,
        "the same for the owner of the schemas",
        needed_by="migrate, rebuild, rotate-key, erase, import-legacy",
        unset="DATABASE_URL",
        secret=True,
    )
    erasures = Setting(
        "SECRETS_ERASURES",
        kinds.path,
        "the list of erasures, a file that outlives a restore",
        see="operations.md#the-list-of-erasures",
    )
    origin = Setting(
        "LEDGER_ORIGIN",
        kinds.text,
        "the log's name, which its checkpoints begin with; the signing key has to be of that name",
        fresh=Fresh.LOG_NAME,
    )
    signing_key = Setting(
        "LEDGER_SIGNING_KEY",
        kinds.text,
        "what checkpoints are signed with, as `keygen` prints it",
        unset="none are made, and the log says so",
        secret=True,
        fresh=Fresh.LOG_SIGNING_KEY,
    )
    verifier_keys = Setting(
        "LEDGER_VERIFIER_KEY",
        kinds.words,
        "the public half, and those of earlier signing keys, between white space",
        fresh=Fresh.LOG_VERIFIER_KEY,
    )
    checkpoint_seconds = Setting(
        "LEDGER_CHECKPOINT_SECONDS",
        kinds.seconds,
        "how soon after the ledger grew a checkpoint is made: 0.05 to 3600",
        default="1",
    )
    checkpoint_file = Setting(
        "LEDGER_CHECKPOINT_FILE",
        kinds.path,
        "where the newest checkpoint is also kept, outside the database",
        see="operations.md#checkpoints",
    )
    witnesses = Setting(
        "LEDGER_WITNESSES",
        kinds.words,
        "who cosigns checkpoints: submission URL and verifier key in turn, between white space",
        see="operations.md#witnesses",
    )
    tls_cert_file = Setting(
        "TLS_CERT_FILE",
        kinds.path,
        "the service's certificate, its chain behind it, in PEM: then serve speaks TLS alone",
        unset="plain HTTP",
    )
    tls_key_file = Setting("TLS_KEY_FILE", kinds.path, "its private key, in PEM")
    tls_client_ca_file = Setting(
        "TLS_CLIENT_CA_FILE",
        kinds.path,
        "who issues clients' certificates, in PEM",
        see="access.md#client-certificates",
        unset="clients are not asked for one",
    )
    tls_client_required = Setting(
        "TLS_CLIENT_CERT",
        kinds.certificate_required,
        "whether a client's certificate is `required` or `optional`",
        default="required",
    )
    trusted_proxies = Setting(
        "TRUSTED_PROXIES",
        kinds.networks,
        "addresses and CIDRs of proxies whose X-Forwarded-For is believed",
        see="access.md#behind-a-proxy",
        unset="nobody's is",
    )
    max_connections = Setting(
        "MAX_CONNECTIONS",
        kinds.whole_number,
        "how many connections the service has open at a time",
        see="operations.md#connections",
        default="1024",
    )
    max_connections_per_source = Setting(
        "MAX_CONNECTIONS_PER_SOURCE",
        kinds.whole_number,
        "how many of them an address, or an IPv6 /64, may have",
        see="operations.md#connections",
        default="256",
    )
    witness_logs = Setting(
        "WITNESS_LOGS",
        kinds.words,
        "the logs that a witness cosigns: verifier keys, between white space (`--log`)",
        needed_by="witness serve",
    )
    witness_state = Setting(
        "WITNESS_STATE",
        kinds.folder,
        "the folder of what a witness cosigned (`--state`)",
        default="witness",
    )
    own_witness_key_file = Setting(
        "WITNESS_KEY_FILE",
        kinds.path,
        "what a witness signs with (`--key-file`)",
        unset="`witness.key` in WITNESS_STATE",
    )
    metrics_seconds = Setting(
        "METRICS_SECONDS",
        kinds.seconds,
        "how often the gauges in `/metrics` are read from the database: 0.05 to 3600",
        see="monitoring.md",
        default="15",
    )
    watch_webhook = Setting(
        "WATCH_WEBHOOK",
        kinds.text,
        "where `watch` posts to (`--webhook`); the URL itself may be a secret",
        see="watch.md#webhooks",
    )
    watch_webhook_keys = Setting(
        "WATCH_WEBHOOK_KEY",
        kinds.words,
        "what it signs with: one key, or several between white space while they change",
        see="watch.md#webhooks",
        needed_by="watch, with a webhook",
        secret=True,
        fresh=Fresh.WEBHOOK_KEY,
    )
    named_data_dir = Setting(
        "SECRETS_BROKER_DATA_DIR", kinds.path, "as `--data-dir`; from the environment alone"
    )
    postgres_bin = Setting(
        "SECRETS_BROKER_POSTGRES_BIN",
        kinds.path,
        "a folder with `postgres` and `initdb`, for dev",
        unset="the wheel's",
    )
    readable_logs = Setting(
        "SECRETS_BROKER_LOG",
        kinds.readable,
        "whether log lines are `json` or `readable`",
        default="json",
    )


ATTRIBUTES: Final[Mapping[str, Setting[Any]]] = {
    attribute: setting
    for attribute, setting in vars(Declared).items()
    if isinstance(setting, Setting)
}
"""The settings by their attribute of Settings."""

DECLARED: Final = tuple(ATTRIBUTES.values())
DATA_DIR: Final = Declared.named_data_dir.name
SECRETS: Final = frozenset(setting.name for setting in DECLARED if setting.secret)
"""The settings that NAME_FILE may name a file for; LEDGER_CHECKPOINT_FILE is no such file."""
SHARED_KEYS: Final = tuple(
    setting.name
    for setting in DECLARED
    if setting.kind in (kinds.shared_key, kinds.optional_shared_key)
)
"""The keys that ledger/access/shared_key.py has rules for."""
