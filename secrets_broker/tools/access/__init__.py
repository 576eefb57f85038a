"""`secrets-broker access`: who may do what."""

from secrets_broker.tools.access.command import access

__all__ = ["access"]
