"""Makes keys, KMS providers and other parts of the ledger from the settings."""

from collections.abc import Mapping, Sequence

from secrets_broker.ledger.database.ledger_session import TOOL_SESSION, connect
from secrets_broker.ledger.encryption.keks import check_keys
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.encryption.kms import Provider, open_provider
from secrets_broker.ledger.publishing.witness_client import Witness, WitnessUrlError
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.continuity import Continuity
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.transactions import Login
from secrets_broker.ledger.transparency_log.note import (
    COSIGNATURE,
    ED25519,
    NoteError,
    SigningKey,
    VerifierKey,
)
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.settings import Settings, SettingsError


def keyring(settings: Settings) -> Keyring:
    """The KEKs derived from the environment's keys, the current one first.

    Raises MissingSettingError if neither SECRETS_KMS_KEY nor SECRETS_KMS is set, and UnfitKeyError
    if SECRETS_KMS_KEY is unfit.
    """
    wanted = settings.kms_url is None or settings.kms_key_is_set
    current = [settings.kms_key] if wanted else []
    return Keyring.from_kms_keys(*current, *settings.previous_kms_keys)


def providers(settings: Settings) -> list[Provider]:
    """The KMS providers, the current one first; none is called yet.

    Raises KmsUrlError, or KmsError if a library or a secret is missing.
    """
    current = [settings.kms_url] if settings.kms_url else []
    return [open_kms(settings, url) for url in (*current, *settings.previous_kms_urls)]


def open_kms(settings: Settings, url: str) -> Provider:
    """The provider of a URL, with its secrets from the settings."""
    return open_provider(url, pin=settings.kms_pin, token=settings.vault_token)


async def loaded_keyring(settings: Settings, database_url: str) -> Keyring:
    """Every KEK in use, including those of a KMS; for a tool.

    Raises LedgerUnavailableError, or its WrongKeyError or KmsError.
    """
    keys, asked = keyring(settings), providers(settings)
    connection = await connect(database_url)
    try:
        await check_keys(connection, keys, asked)
    finally:
        await connection.close()
        close(asked)
    return keys


async def login_to_append(settings: Settings, database_url: str) -> Login:
    """The login with which a tool records events.

    Raises LedgerMismatchError if the ledger does not extend the checkpoint in
    LEDGER_CHECKPOINT_FILE, which a restored database does not know.
    """
    known = continuity(settings)
    keys = await loaded_keyring(settings, database_url)
    login = Login(database_url, keys, HostCredentials())
    await (await Store.connect(login.url, login.projection, keys, TOOL_SESSION, known)).close()
    return login


def close(asked: Sequence[Provider]) -> None:
    """Close the providers."""
    for provider in asked:
        provider.close()


def signing_key(settings: Settings) -> SigningKey | None:
    """The key that signs checkpoints, or None if it is not set.

    Raises SettingsError if it is malformed, is a witness's key, or has another name than
    LEDGER_ORIGIN.
    """
    if settings.signing_key is None:
        return None
    try:
        key = SigningKey.parse(settings.signing_key)
    except NoteError as error:
        raise SettingsError(f"LEDGER_SIGNING_KEY: {error}") from None
    if key.kind != ED25519:
        raise SettingsError(
            "LEDGER_SIGNING_KEY is the key of a witness: make a log's with: secrets-broker keygen"
        )
    if settings.origin not in (None, key.name):
        raise SettingsError(
            f"LEDGER_SIGNING_KEY is the key of {key.name}, and not of LEDGER_ORIGIN: "
            "a log signs under its own name"
        )
    return key


def verifier_keys(settings: Settings) -> list[VerifierKey]:
    """The keys that verify the log's checkpoints; raises SettingsError.

    These are the keys of LEDGER_VERIFIER_KEY, and that of the signing key if it is set.
    """
    try:
        keys = [VerifierKey.parse(text) for text in settings.verifier_keys]
    except NoteError as error:
        raise SettingsError(f"LEDGER_VERIFIER_KEY: {error}") from None
    own = signing_key(settings)
    if own is not None and own.verifier not in keys:
        keys.append(own.verifier)
    return keys


def continuity(settings: Settings) -> Continuity:
    """What the ledger must extend; raises SettingsError or LedgerUnavailableError."""
    path, key = settings.checkpoint_file, signing_key(settings)
    file = CheckpointFile.at(path) if path else None
    return Continuity(tuple(verifier_keys(settings)), file, key.name if key else settings.origin)


def witnesses(settings: Settings) -> list[Witness]:
    """The witnesses that cosign the log's checkpoints; raises SettingsError."""
    parts = settings.witnesses
    if len(parts) % 2:
        raise SettingsError("LEDGER_WITNESSES: each witness is a URL and a verifier key, in turn")
    try:
        found = [Witness.parse(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    except WitnessUrlError as error:
        raise SettingsError(f"LEDGER_WITNESSES: {error}") from None
    if len({witness.key for witness in found}) != len(found):
        raise SettingsError("LEDGER_WITNESSES: two witnesses have the same key")
    return found


def witness_key(settings: Settings) -> SigningKey:
    """The key that our own witness cosigns with; raises SettingsError."""
    path = settings.witness_key_file
    try:
        key = SigningKey.parse(path.read_text())
    except NoteError as error:
        raise SettingsError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"{path} cannot be read: it is to hold a witness's key") from None
    if key.kind != COSIGNATURE:
        raise SettingsError(
            f"{path} holds a log's key: make a witness's with: secrets-broker witness keygen"
        )
    return key


def witness_logs(settings: Settings) -> Mapping[str, Sequence[VerifierKey]]:
    """The keys of the logs that our own witness cosigns, by origin; raises SettingsError."""
    logs: dict[str, list[VerifierKey]] = {}
    try:
        for text in settings.witness_logs:
            key = VerifierKey.parse(text)
            logs.setdefault(key.name, []).append(key)
    except NoteError as error:
        raise SettingsError(f"WITNESS_LOGS: {error}") from None
    if any(key.kind != ED25519 for keys in logs.values() for key in keys):
        raise SettingsError("WITNESS_LOGS: one of the keys is a witness's, and not a log's")
    return logs
