"""Times as people write them: RFC 3339, or how long ago."""

from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from secrets_broker.ledger.encoding import cut
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.projections.parameters.duration import parse_duration

_WithOffset = Annotated[datetime, Meta(tz=True)]
_RULE: Final = (
    "must be a time with an offset, as 2026-01-31T00:00:00Z, or how long ago, as 30d "
    "(a whole number of at most four digits and m, h, d or w)"
)


def parse_moment(field: str, text: str) -> datetime:
    """Parse a time, in UTC; raises InvalidCommandError, which names the field."""
    return _from_now(field, text, -1)


def parse_later(field: str, text: str) -> datetime:
    """The same, but a duration counts from now into the future; a time may be in the past."""
    return _from_now(field, text, 1)


def _from_now(field: str, text: str, sign: int) -> datetime:
    try:
        return datetime.now(UTC) + sign * parse_duration(field, text)
    except InvalidCommandError:
        return parse_time(field, text, _RULE)


def parse_time(field: str, text: str, rule: str) -> datetime:
    """Parse RFC 3339 with an offset, in UTC; raises InvalidCommandError with the rule."""
    try:
        return msgspec.convert(cut(text), _WithOffset).astimezone(UTC)
    except (msgspec.ValidationError, ValueError, OverflowError):
        raise InvalidCommandError(FieldError(field, rule)) from None
