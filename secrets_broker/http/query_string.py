"""Query strings, read strictly: each parameter at most once, and decoded exactly."""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl

from secrets_broker.http.error_handlers import InvalidRequestError
from secrets_broker.ledger.errors import FieldError

MAX_QUERY_FIELDS: Final = 16
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000

_NUMBER: Final = re.compile("[0-9]{1,4}")


def read_query(query: str) -> dict[str, str]:
    """The query's parameters; raises InvalidRequestError."""
    # Not falcon's parser: it replaces bytes that are not UTF-8, and a name must be exact.
    try:
        pairs = parse_qsl(
            query,
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=MAX_QUERY_FIELDS,
        )
    except ValueError:
        raise InvalidRequestError(FieldError("", "the query is malformed")) from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidRequestError(FieldError("", "the query has a parameter twice"))
    return fields


def known_fields(query: str, known: Collection[str]) -> dict[str, str]:
    """The query's parameters, where all are known; raises InvalidRequestError."""
    fields = read_query(query)
    if not fields.keys() <= set(known):
        message = f"has a parameter that is not known; known are {', '.join(known)}"
        raise InvalidRequestError(FieldError("", message))
    return fields


def page_limit(text: str | None) -> int:
    """How many items a page may have; raises InvalidRequestError."""
    if text is None:
        return DEFAULT_LIMIT
    limit = int(text) if _NUMBER.fullmatch(text) else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequestError(FieldError("limit", f"must be a number from 1 to {MAX_LIMIT}"))
    return limit
