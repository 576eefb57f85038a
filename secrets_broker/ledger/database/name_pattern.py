"""Patterns for names: `*` stands for any run of characters, everything else for itself."""

from typing import Final

from secrets_broker.ledger.encoding import text_problem
from secrets_broker.ledger.errors import FieldError, InvalidCommandError

ANY: Final = "*"
MAX_CHARACTERS: Final = 255  # as long as the longest name

# In this order, so that no escape is escaped again.
_ESCAPES: Final = (("\\", "\\\\"), ("%", "\\%"), ("_", "\\_"), ("*", "%"))


def like(field: str, pattern: str) -> str:
    r"""The pattern as a parameter of `LIKE … ESCAPE '\'`; raises InvalidCommandError."""
    problem = text_problem(pattern)
    if problem is None and len(pattern) > MAX_CHARACTERS:
        problem = f"must have at most {MAX_CHARACTERS} characters"
    if problem:
        raise InvalidCommandError(FieldError(field, problem))
    for plain, escaped in _ESCAPES:
        pattern = pattern.replace(plain, escaped)
    return pattern
