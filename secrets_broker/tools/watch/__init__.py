"""`secrets-broker watch`: tells of conditions, from the ledger's events, at least once."""

from secrets_broker.tools.watch.command import watch

__all__ = ["watch"]
