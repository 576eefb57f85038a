"""What a command that was recorded is answered with, alone or as an item of a batch."""

from typing import Any

from secrets_broker.ledger.commands import Content, Delete, Lookup, Upsert
from secrets_broker.ledger.encoding import rfc3339
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
            return _disclosed(command, outcome.content, outcome.version)


def _disclosed(command: Lookup, content: Content, version: int | None) -> dict[str, Any]:
    answer = {
        "host": command.host,
        "purpose": command.purpose,
        "username": content.username,
        "password": content.password,
        "domain": content.domain,
        "additional_data": content.additional_data,
        "version": version,
    }
    if content.secret_data is not None:
        answer["secret_data"] = content.secret_data
    if content.expires_at is not None:
        answer["expires_at"] = rfc3339(content.expires_at)
    if content.rotate_after is not None:
        answer["rotate_after"] = content.rotate_after
    return answer
