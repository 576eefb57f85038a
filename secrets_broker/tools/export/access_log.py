"""A line of the access log from an event: what the view secrets.credential_access_log says."""

import json
from typing import Any, Final

from secrets_broker.ledger.events import (
    ACCESS_COUNTED,
    ACCESS_COUNTING,
    ACCESS_DENIED,
    ACCESS_IMPORTED,
    CREATED,
    DELETED,
    ERASED,
    READ,
    UPDATED,
    Event,
)

_WORDS: Final = {
    READ: "read",
    CREATED: "create",
    UPDATED: "update",
    DELETED: "delete",
    ERASED: "erase",
    ACCESS_COUNTING: "denied",
    ACCESS_COUNTED: "denied",
}
_COUNTS: Final = frozenset({ACCESS_COUNTING, ACCESS_COUNTED})


def is_access(event: Event) -> bool:
    """Tell whether the view has a line of this event."""
    return event.type in _WORDS or event.type in (ACCESS_DENIED, ACCESS_IMPORTED)


def access_type(event: Event) -> str | None:
    """Its access_type."""
    if event.type == ACCESS_DENIED:
        return _text_of(event, "operation")
    if event.type == ACCESS_IMPORTED:
        return _text_of(event, "access_type")
    return _WORDS[event.type]


def success(event: Event) -> bool:
    """Its success: refusals that were counted are none, though their event is ok."""
    return event.ok and event.type not in _COUNTS


def error_message(event: Event) -> str | None:
    """Its error_message."""
    source = _text_of(event, "source") or "all other sources"
    match event.type:
        case "access.imported":
            return _text_of(event, "error_message")
        case "access.denied":
            return ": ".join(filter(None, (event.error, _text_of(event, "rule"))))
        case "access.counting":
            return f"refusals are only counted from here on: {source}"
        case "access.counted":
            count, *span = (_text_of(event, key) or "" for key in ("count", "first_at", "last_at"))
            return f"{count} refusals from {span[0]} to {span[1]}: {source}"
        case _:
            return event.error


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
