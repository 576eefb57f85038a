"""Names, numbers and words of users; each parser raises InvalidCommandError with the field."""

import re
from dataclasses import dataclass
from typing import Final

from secrets_broker.ledger.commands import Lookup, parse
from secrets_broker.ledger.encoding import text_problem
from secrets_broker.ledger.errors import FieldError, InvalidCommandError

_NUMBER: Final = re.compile("[0-9]{1,18}")  # any position, and less than 2^63


@dataclass(frozen=True, slots=True)
class CredentialName:
    """A credential's name, exactly."""

    host: str
    purpose: str

    @classmethod
    def parse(cls, host: str | None, purpose: str | None) -> "CredentialName":
        """Parse a name by the same rules as a lookup's."""
        given = {"host": host, "purpose": purpose}
        fields = {field: text for field, text in given.items() if text is not None}
        return cls(*parse(Lookup, fields).name)


def number(field: str, text: str, least: int = 0, most: int = 10**18 - 1) -> int:
    """A whole number in plain digits."""
    value = int(text) if _NUMBER.fullmatch(text) else -1
    if not least <= value <= most:
        raise InvalidCommandError(FieldError(field, f"must be a number from {least} to {most}"))
    return value


def word(field: str, text: str, longest: int) -> str:
    """A text that a column could hold."""
    problem = text_problem(text)
    if problem is None and not 1 <= len(text) <= longest:
        problem = f"must have 1 to {longest} characters"
    if problem:
        raise InvalidCommandError(FieldError(field, problem))
    return text
