"""JSON that every reader understands the same way, read in bounded work. Pure.

The standard library's parser is used for its hooks. They refuse duplicate keys, NaN, and numbers
that a double does not hold as written (RFC 7493); faster parsers let these pass. A hook is called
for each number and object and costs a hundred times the parsing. So values that are too many to be
stored are refused before or while they are counted. A batch is read item by item, so that other
requests run in between.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]  # typeshed lacks it
from typing import Any, Final

from secrets_broker.http.error_handlers import InvalidRequestError
from secrets_broker.ledger.errors import FieldError

MAX_ITEM: Final = 256 * 1024
"""Characters of one item of a batch, as of a single request's body."""
MAX_COUNTED: Final = 16 * 1024
"""Numbers, or objects, of a request: as many as fit into 32 KiB, a digit and a comma each."""
MAX_MARKS: Final = 45_000
"""Commas, colons and opening brackets of a request, also inside strings. A password of 8 KiB and
data of 32 KiB that consist of nothing else have fewer."""
_MARKS: Final = (b",", b":", b"[", b"{")
# Smaller bodies are not counted: they cannot hold that much work.
_LARGE: Final = 32 * 1024
# A double holds any 15 digits (DBL_DIG of C), except near the ends of its range. One more
# character is the point or the e.
_EXACT_LENGTH: Final = 16
_SMALLEST: Final = 1e-290
_LARGEST: Final = 1e290
_TOO_MUCH: Final = "the body has more values than can be stored"


def decode(data: bytes) -> Any:
    """Decode strict JSON; raises InvalidRequestError, which never quotes the data.

    A byte order mark at the start is skipped, as RFC 8259, section 8.1, allows.
    """
    if len(data) > _LARGE and sum(data.count(mark) for mark in _MARKS) > MAX_MARKS:
        raise InvalidRequestError(FieldError("", _TOO_MUCH))
    with _Refusals():
        text = data.removeprefix(BOM_UTF8).decode("utf-8")
        return (_counting() if len(data) > _LARGE else _plain).decode(text)


def items(data: bytes, name: str, most: int) -> Iterator[Any] | None:
    """The items of `{"name": [item, …]}`, each decoded when the iterator reaches it.

    None where the body is anything else. Raises InvalidRequestError, which never quotes the data,
    before the first item or at any later one.
    """
    with _Refusals():
        text = data.removeprefix(BOM_UTF8).decode("utf-8")
        start = _array(text, name)
    return None if start is None else _items(text, start, name, most)


class MoreMembersError(Exception):
    """The body has another member after the array of items."""


def _array(text: str, name: str) -> int | None:
    """Where the array of that name begins, if it is the first member of the text."""
    at = _after(text, "{", _skip(text, 0))
    if at is None or text[at : at + 1] != '"':
        return None
    key, at = scanstring(text, at + 1, True)
    colon = _after(text, ":", _skip(text, at))
    return _after(text, "[", colon) if key == name and colon is not None else None


def _items(text: str, at: int, name: str, most: int) -> Iterator[Any]:
    for _ in range(most):
        with _Refusals():
            # Bounded by the size of one item: else an item of 4 MiB would be parsed in one piece.
            value, length = _counting().raw_decode(text[at : at + MAX_ITEM])
        yield value
        at = _skip(text, at + length)
        if text[at : at + 1] == "]":
            return _check_end(text, _skip(text, at + 1))
        if text[at : at + 1] != ",":
            raise InvalidRequestError(FieldError("", "the body is not JSON"))
        at = _skip(text, at + 1)
    raise InvalidRequestError(FieldError(name, f"expected `array` of length <= {most}"))


def _check_end(text: str, at: int) -> None:
    if text[at : at + 1] == ",":
        raise MoreMembersError
    if text[at : at + 1] != "}" or _skip(text, at + 1) != len(text):
        raise InvalidRequestError(FieldError("", "the body is not JSON"))


def _after(text: str, mark: str, at: int) -> int | None:
    return _skip(text, at + 1) if text[at : at + 1] == mark else None


def _skip(text: str, at: int) -> int:
    found = WHITESPACE.match(text, at)
    return int(found.end())


class _RefusedError(ValueError):
    """Valid JSON that readers understand differently, or with more values than can be stored."""


class _Refusals:
    """Reports what is wrong without the data: the parser's own errors quote it."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Raise InvalidRequestError in place of what was raised."""
        match error:
            case _RefusedError() as refused:
                message = str(refused)
            case UnicodeDecodeError():
                message = "the body is not UTF-8"
            case RecursionError():
                message = "the body is nested too deeply"
            case ValueError():
                message = "the body is not JSON"
            case _:
                return
        raise InvalidRequestError(FieldError("", message)) from None


def _counting() -> json.JSONDecoder:
    """A decoder for one value that refuses more numbers or objects than can be stored."""
    left = MAX_COUNTED

    def counted(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(found: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise _RefusedError(_TOO_MUCH)
            return hook(found)

        return call

    return json.JSONDecoder(
        object_pairs_hook=counted(_object),
        parse_float=counted(_float),
        parse_int=counted(_int),
        parse_constant=_constant,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RefusedError("an object has a key twice")
    return members


def _float(literal: str) -> float:
    number = float(literal)
    if len(literal) <= _EXACT_LENGTH and _SMALLEST < abs(number) < _LARGEST:
        return number
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


_plain = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
)
