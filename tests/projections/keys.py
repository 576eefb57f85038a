"""What is readable: every key that is left, tried on everything that is left."""

from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.encryption.body import Body, CiphertextPlace, open_body, open_content
from secrets_broker.ledger.encryption.keyring import DataKey, Keyring
from secrets_broker.ledger.errors import DecryptionError
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.operations.erasure import Erased, erase, erase_again
from secrets_broker.ledger.operations.rekey import Rekeyed, rekey
from tests.conftest import Database
from tests.ledger.helpers import login_of, run

OPERATOR = Context(actor="operator", authn="cli", reason="GDPR-1")

_KEYS = "SELECT id, credential_id, kek, wrapped FROM ledger.data_keys"
# Each body with every place that it could be bound to: the events say which there are.
_BODIES = """
    SELECT event.type, event.host, event.purpose, event.credential_id, event.version,
           body.ciphertext
    FROM ledger.bodies AS body JOIN ledger.events AS event USING (position)
"""
_ROWS = """
    SELECT host, purpose, id, version, username, domain, additional_data, password_encrypted,
           secret_data_encrypted FROM secrets.host_credentials
"""


def readable(database: Database, keyring: Keyring) -> set[tuple[str | None, str | None]]:
    """Every host and password that some remaining key brings out of what remains."""
    ciphers = list(_ciphers(database, keyring))
    found: set[tuple[str | None, str | None]] = set()
    for event_type, host, purpose, credential_id, version, ciphertext in database.fetch(_BODIES):
        place = CiphertextPlace(host, purpose, credential_id, version)
        for cipher in ciphers:
            try:
                content = open_content(
                    cipher, place, open_body(cipher, event_type, place, ciphertext)
                )
            except DecryptionError:
                continue
            found.add((host, content.password))
    for host, password in _rows(database, ciphers):
        found.add((host, password))
    return found


def _rows(database: Database, ciphers: list[AESGCM]) -> Iterator[tuple[str, str | None]]:
    for host, purpose, credential_id, version, *fields in database.fetch(_ROWS):
        username, domain, additional_data, password, secret_data = fields
        body = Body(
            username=username,
            domain=domain,
            additional_data=additional_data,
            password_encrypted=password,
            secret_data_encrypted=secret_data,
        )
        for cipher in ciphers:
            try:
                place = CiphertextPlace(host, purpose, credential_id, version)
                yield host, open_content(cipher, place, body).password
            except DecryptionError:
                continue


def _ciphers(database: Database, keyring: Keyring) -> Iterator[AESGCM]:
    for record in database.fetch(_KEYS):
        yield keyring.unwrap(DataKey(*record))


def erased(database: Database, keyring: Keyring, *hosts: str) -> list[Erased | None]:
    """Erase these hosts' ssh."""
    names: list[Name] = [(host, "ssh") for host in hosts]

    async def all_of_them() -> list[Erased | None]:
        found = erase(login_of(database.owner_url, keyring), OPERATOR, names)
        return [result async for result in found]

    return run(all_of_them())


def erased_again(database: Database, keyring: Keyring, *keys: str) -> list[Erased]:
    """Erase what is under these data keys."""

    async def all_of_them() -> list[Erased]:
        found = erase_again(login_of(database.owner_url, keyring), OPERATOR, keys)
        return [result async for result in found]

    return run(all_of_them())


def rekeyed(database: Database, keyring: Keyring, host: str = "*", **options: Any) -> Rekeyed:
    """Give these hosts new data keys."""
    return run(rekey(login_of(database.owner_url, keyring), OPERATOR, host, "*", **options))
