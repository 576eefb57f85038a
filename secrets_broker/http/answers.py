"""The body that answers a recorded command, in a single request or as an item of a batch."""

from typing import Any

from secrets_broker.ledger.commands import Delete, Lookup, Upsert
from secrets_broker.ledger.content import disclosed
from secrets_broker.ledger.fold import Outcome


def body(command: Upsert | Lookup | Delete, outcome: Outcome) -> dict[str, Any]:
    """The body of the 200; that of a lookup holds the secret."""
    match command:
        case Upsert():
            return {
                "success": True,
                "credential_id": outcome.credential_id,
                "host": command.host,
                "purpose": command.purpose,
                "version": outcome.version,
            }
        case Delete():
            return {"success": True, "host": command.host, "purpose": command.purpose}
        case Lookup():
            assert outcome.content is not None  # noqa: S101 - it did not come to an error
            return disclosed(command.host, command.purpose, outcome.content, outcome.version)
