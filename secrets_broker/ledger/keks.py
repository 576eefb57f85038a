"""ledger.keks: which KEK is active, and whether this process holds it."""

from typing import Any

from psycopg import AsyncConnection

from secrets_broker.ledger.errors import WrongKeyError
from secrets_broker.ledger.keyring import Keyring


async def check_keys(connection: AsyncConnection[Any], keyring: Keyring) -> None:
    """Check the active KEK's canary; an empty ledger begins with the keyring's first KEK.

    Raises WrongKeyError where this process does not hold the active KEK.
    """
    active = await _active_kek(connection)
    if active is None:
        first = keyring.first
        await connection.execute(
            "SELECT ledger.register_first_kek(%s, %s, %s)",
            (first.id, first.provider, first.canary()),
        )
        active = await _active_kek(connection)
    if active is None:
        raise WrongKeyError("ledger.keks has keys, but none of them is active")
    kek_id, canary = active
    keyring.require(kek_id).check_canary(canary)


async def _active_kek(connection: AsyncConnection[Any]) -> tuple[str, bytes] | None:
    cursor = await connection.execute("SELECT id, canary FROM ledger.keks WHERE state = 'active'")
    rows = await cursor.fetchall()
    return rows[0] if rows else None
