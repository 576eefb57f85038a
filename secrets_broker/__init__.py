"""Secrets Broker: an event-sourced, audit-first credential ledger.

from secrets_broker import SecretsManager

with SecretsManager(kms_key=..., database_url=...) as secrets:
    secrets.lookup_credential("db1.example", "ssh", accessed_by="deploy")
"""

from secrets_broker.ledger.errors import (
    CredentialUndisclosableError,
    InvalidCommandError,
    LedgerError,
    LedgerUnavailableError,
    OutcomeUnknownError,
    UnfitKeyError,
    WrongKeyError,
)
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
