"""The fields that all answers share about an event: when, who, from where and why."""

from typing import Any, Final

from secrets_broker.ledger.encoding import rfc3339_or_none

COLUMNS: Final = (
    *("position", "type", "at", "occurred_at", "actor", "authn", "ip", "request_id", "reason"),
)
"""Columns of ledger.events, and fields of answers."""

_TIMES: Final = ("at", "occurred_at")


def happening(record: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of a record of COLUMNS; times as RFC 3339."""
    fields = dict(zip(COLUMNS, record, strict=True))
    return fields | {name: rfc3339_or_none(fields[name]) for name in _TIMES}
