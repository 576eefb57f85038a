"""A line of the access log from an event: what the view secrets.credential_access_log says."""

import json
from typing import Any, Final

from secrets_broker.ledger.event_types import BY_NAME, AccessLine
from secrets_broker.ledger.events import Event

_LINES: Final = {name: kind.access for name, kind in BY_NAME.items() if kind.access}


def is_access(event: Event) -> bool:
    """Tell whether the view has a line of this event."""
    return event.type in _LINES


def access_type(event: Event) -> str | None:
    """Its access_type."""
    line = _line(event)
    return line.word or _text_of(event, line.word_detail)


def success(event: Event) -> bool:
    """Its success: refusals that were counted are none, though their event is ok."""
    return event.ok and _line(event).success


def error_message(event: Event) -> str | None:
    """Its error_message."""
    return _line(event).message(event.error, lambda name: _text_of(event, name))


def _line(event: Event) -> AccessLine:
    return _LINES[event.type]


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
