"""A line of the access log from an event: what the view secrets.credential_access_log says."""

import json
from typing import Any, Final

from secrets_broker.ledger.events import (
    ACCESS_IMPORTED,
    CREATED,
    DELETED,
    ERASED,
    READ,
    UPDATED,
    Event,
)

_DENIED: Final = "access.denied"
_WORDS: Final = {
    READ: "read",
    CREATED: "create",
    UPDATED: "update",
    DELETED: "delete",
    ERASED: "erase",
}


def is_access(event: Event) -> bool:
    """Tell whether the view has a line of this event."""
    return event.type in _WORDS or event.type in (_DENIED, ACCESS_IMPORTED)


def access_type(event: Event) -> str | None:
    """Its access_type."""
    match event.type:
        case "access.denied":
            return _text_of(event, "operation")
        case "access.imported":
            return _text_of(event, "access_type")
        case _:
            return _WORDS[event.type]


def error_message(event: Event) -> str | None:
    """Its error_message."""
    return _text_of(event, "error_message") if event.type == ACCESS_IMPORTED else event.error


def _text_of(event: Event, key: str) -> str | None:
    """A value as the operator ->> gives it."""
    value = (event.details or {}).get(key)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(_in_jsonb_order(value), ensure_ascii=False)


def _in_jsonb_order(value: Any) -> Any:
    # jsonb keeps the keys of an object by length, then by bytes. They are ASCII here.
    match value:
        case dict():
            names = sorted(value, key=lambda name: (len(name), name))
            return {name: _in_jsonb_order(value[name]) for name in names}
        case list():
            return [_in_jsonb_order(part) for part in value]
        case _:
            return value
