"""Request bodies: bounded, and JSON that every reader understands the same way.

The standard library's parser is used for its hooks: duplicate keys, NaN, and numbers that a
double does not hold as written are refused (RFC 7493), which faster parsers let pass.
"""

import json
from codecs import BOM_UTF8
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import falcon
import falcon.asgi

from secrets_broker.http.errors import InvalidRequestError
from secrets_broker.http.router import matched
from secrets_broker.ledger.errors import FieldError

TRUNCATED: Final = "truncated"
"""Set in the scope's state by the protocol where the connection ended before the body did."""


async def read_json(req: falcon.asgi.Request) -> Any:
    """Read and decode the body; raises InvalidRequestError, or falcon's 413 and 415."""
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    coding = (req.get_header("Content-Encoding") or "identity").strip().lower()
    if media_type != "application/json" or coding != "identity":
        # The header says what would be taken (RFC 9110, section 15.5.16).
        raise falcon.HTTPUnsupportedMediaType(headers={"Accept-Encoding": "identity"})
    return decode(await read_bounded(req))


async def read_bounded(req: falcon.asgi.Request) -> bytes:
    """Read the body; raises InvalidRequestError, or falcon's 413."""
    match = matched(req)
    limit = match.route.max_body if match else 0
    if (req.content_length or 0) > limit:
        raise falcon.HTTPContentTooLarge
    data = await req.stream.read(limit + 1)
    if req.scope["state"].get(TRUNCATED):  # what did arrive may be JSON, but is not what was meant
        raise InvalidRequestError(FieldError("", "the body ended early"))
    if len(data) > limit:  # sent in chunks, with no length to refuse it by
        raise falcon.HTTPContentTooLarge
    return data


def decode(data: bytes) -> Any:
    """Decode strict JSON; raises InvalidRequestError, which never quotes the data.

    A byte order mark before it is passed over, as RFC 8259, section 8.1, allows.
    """
    try:
        return _decoder.decode(data.removeprefix(BOM_UTF8).decode("utf-8"))
    except _RefusedError as error:
        raise InvalidRequestError(FieldError("", error.args[0])) from None
    except UnicodeDecodeError:
        raise InvalidRequestError(FieldError("", "the body is not UTF-8")) from None
    except RecursionError:
        raise InvalidRequestError(FieldError("", "the body is nested too deeply")) from None
    except ValueError:
        raise InvalidRequestError(FieldError("", "the body is not JSON")) from None


class _RefusedError(ValueError):
    """JSON by the grammar, but not to every reader the same."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RefusedError("an object has a key twice")
    return members


def _float(literal: str) -> float:
    number = float(literal)
    try:
        exact = Decimal(literal) == Decimal(repr(number))
    except InvalidOperation:
        exact = False
    if not exact:
        raise _RefusedError(
            "a number has more digits, or is larger or smaller, than a double holds"
        )
    return number


def _int(literal: str) -> int | float:
    # "-0" is an int without a sign in Python and a negative zero elsewhere.
    return -0.0 if literal == "-0" else int(literal)


def _constant(_name: str) -> None:
    raise _RefusedError("NaN and Infinity are not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
)
