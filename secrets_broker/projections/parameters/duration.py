"""Durations as people write them: 90m, 12h, 30d, 2w."""

import re
from datetime import timedelta
from typing import Final

from secrets_broker.ledger.errors import FieldError, InvalidCommandError

# Four digits, so that now plus or minus the duration is always a valid date.
_TEXT: Final = re.compile(r"([0-9]{1,4})([mhdw])")
_UNITS: Final = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_RULE: Final = (
    "must be a whole number of at most four digits and m, h, d or w "
    "(minutes, hours, days, weeks), as in 30d"
)


def parse_duration(field: str, text: str) -> timedelta:
    """Parse a duration; a day is 24 hours. Raises InvalidCommandError, which names the field."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise InvalidCommandError(FieldError(field, _RULE))
    return int(match[1]) * _UNITS[match[2]]
