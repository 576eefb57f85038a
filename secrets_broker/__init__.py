"""Secrets Broker: an event-sourced, audit-first credential ledger.

from secrets_broker import SecretsManager

with SecretsManager(kms_key=..., database_url=...) as secrets:
    secrets.lookup_credential("db1.example", "ssh", accessed_by="deploy")
"""

from typing import TYPE_CHECKING

from secrets_broker.ledger.errors import (
    CredentialUndisclosableError,
    InvalidCommandError,
    LedgerError,
    LedgerUnavailableError,
    OutcomeUnknownError,
    UnfitKeyError,
    WrongKeyError,
)

if TYPE_CHECKING:
    from secrets_broker.secrets_manager import SecretsManager

__all__ = [
    "CredentialUndisclosableError",
    "InvalidCommandError",
    "LedgerError",
    "LedgerUnavailableError",
    "OutcomeUnknownError",
    "SecretsManager",
    "UnfitKeyError",
    "WrongKeyError",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import SecretsManager when it is first asked for: few commands need the write path."""
        if name != "SecretsManager":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from secrets_broker.secrets_manager import SecretsManager  # noqa: PLC0415

        globals()[name] = SecretsManager
        return SecretsManager
