"""Durations as people write them: 90m, 12h, 30d, 2w."""

import re
from datetime import timedelta
from typing import Final

from secrets_broker.ledger.errors import FieldError, InvalidCommandError

MAX_DURATION: Final = timedelta(days=36_500)
_TEXT: Final = re.compile(r"([0-9]{1,8})([mhdw])")
_UNITS: Final = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def parse_duration(field: str, text: str) -> timedelta:
    """Read one; a day is 24 hours. Raises InvalidCommandError, which names the field."""
    match = _TEXT.fullmatch(text)
    if match is None:
        message = "must be a whole number and m, h, d or w (minutes, hours, days, weeks), as in 30d"
        raise InvalidCommandError(FieldError(field, message))
    duration = int(match[1]) * _UNITS[match[2]]
    if duration > MAX_DURATION:
        raise InvalidCommandError(FieldError(field, "must be at most 36500d"))
    return duration
