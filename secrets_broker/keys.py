"""From settings to keys: what the environment gives, and the KMS providers it names."""

from collections.abc import Sequence

from secrets_broker.ledger.connection import connect
from secrets_broker.ledger.keks import check_keys
from secrets_broker.ledger.keyring import Keyring
from secrets_broker.ledger.kms import Provider, open_provider
from secrets_broker.settings import Settings


def keyring(settings: Settings) -> Keyring:
    """The KEKs that follow from the environment's keys; the current one first.

    Raises MissingSettingError where there is neither SECRETS_KMS_KEY nor SECRETS_KMS.
    """
    current = settings.get("SECRETS_KMS_KEY") if settings.kms_url else settings.kms_key
    return Keyring.from_kms_keys(*([current] if current else []), *settings.previous_kms_keys)


def providers(settings: Settings) -> list[Provider]:
    """The KMS providers, the current one first; none is asked yet.

    Raises KmsUrlError, or KmsError where a library or a secret is missing.
    """
    current = [settings.kms_url] if settings.kms_url else []
    return [open_kms(settings, url) for url in (*current, *settings.previous_kms_urls)]


def open_kms(settings: Settings, url: str) -> Provider:
    """The provider of a URL, with the secrets that the settings have for it."""
    return open_provider(url, pin=settings.kms_pin, token=settings.vault_token)


async def loaded_keyring(settings: Settings, database_url: str) -> Keyring:
    """Every KEK that data keys may be wrapped under, a KMS's too; for a tool.

    Raises LedgerUnavailableError, WrongKeyError and KmsError among them.
    """
    keys, asked = keyring(settings), providers(settings)
    connection = await connect(database_url)
    try:
        await check_keys(connection, keys, asked)
    finally:
        await connection.close()
        close(asked)
    return keys


def close(asked: Sequence[Provider]) -> None:
    """Let go of what providers hold open."""
    for provider in asked:
        provider.close()
