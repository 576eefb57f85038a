"""Query strings, read strictly: each parameter once, and exact."""

from typing import Final
from urllib.parse import parse_qsl

from secrets_broker.http.errors import InvalidRequestError
from secrets_broker.ledger.errors import FieldError

MAX_QUERY_FIELDS: Final = 16


def read_query(query: str) -> dict[str, str]:
    """The query's parameters; raises InvalidRequestError."""
    # Not falcon's own parser: that one replaces what is not UTF-8, and a name must be exact.
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
