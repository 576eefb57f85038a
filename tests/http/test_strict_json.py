"""Strict JSON in bounded work: what is taken does not change, and what it costs is bounded."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.http.error_handlers import InvalidRequestError
from secrets_broker.http.routes import MAX_BATCH_BYTES, MAX_BODY_BYTES
from secrets_broker.http.strict_json import MAX_COUNTED, MoreMembersError, decode, items
from secrets_broker.ledger.commands import Upsert, parse
from secrets_broker.ledger.content import MAX_DATA_BYTES, MAX_PASSWORD_BYTES
from secrets_broker.ledger.errors import InvalidCommandError
from tests.ledger.helpers import json_objects, json_values

MOST = 500
# What one piece of work may be: calls of our hooks and of our checks, a fraction of a microsecond
# each. Counted, not timed: a busy machine counts the same.
MAX_CALLS = 70_000


def calls(work: Callable[[], object]) -> int:
    """How many Python functions it calls."""
    called = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal called
        called += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


def pieces(data: bytes) -> Iterator[Callable[[], object]]:
    """A batch's work as the service does it, in the pieces between which others have their turn."""
    found: list[Any] = []
    yield lambda: found.append(items(data, "items", MOST))
    while found and found[-1] is not None:
        yield lambda: found.append(next(found[0], None))
        yield lambda: _checked(found[-1])


def _checked(item: object) -> None:
    with suppress(InvalidCommandError):
        parse(Upsert, item)


def most_calls(data: bytes) -> int:
    """The largest piece of a batch's work."""
    most = 0
    with suppress(InvalidRequestError, MoreMembersError):
        for piece in pieces(data):
            most = max(most, calls(piece))
    return most


FILLERS = [
    *(b"1.5", b"1.50", b"0.0", b"1e300", b"1e-300", b"1", b"12345678901234567.0"),
    *(b'""', b'"\\u0041"', b"{}", b"[]", b"null", b'{"":1}', b'{"a":{}}', b"[1]", b"9" * 4_000),
    *(b"1." + b"0" * 900, b'","', b'"[{:,"'),
]


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (b'{"items":[', b"]}"),
        (b'{"items":[{"additional_data":{"a":[', b"]}}]}"),
        (b'{"x":[', b"]}"),
        (b"[", b"]"),
        (b'{"items":[1],"x":[', b"]}"),
        (b'{"items":{"a":[', b"]}}"),
    ],
)
def test_no_batch_is_much_work_in_one_piece(filler: bytes, head: bytes, tail: bytes) -> None:
    """A body of 4 MiB, of whatever it consists: each piece of it is bounded."""
    number = (MAX_BATCH_BYTES - len(head) - len(tail)) // (len(filler) + 1)
    assert most_calls(head + b",".join([filler] * number) + tail) <= MAX_CALLS


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize(
    ("head", "tail"),
    [(b"[", b"]"), (b'{"host":"a","purpose":"b","password":"c","secret_data":{"a":[', b"]}}")],
)
def test_no_request_is_much_work(filler: bytes, head: bytes, tail: bytes) -> None:
    """The same for a body of 256 KiB, decoded and checked."""
    number = (MAX_BODY_BYTES - len(head) - len(tail)) // (len(filler) + 1)
    data = head + b",".join([filler] * number) + tail

    def work() -> None:
        with suppress(InvalidRequestError, InvalidCommandError):
            parse(Upsert, decode(data))

    assert calls(work) <= MAX_CALLS


@given(
    st.recursive(
        st.sampled_from(FILLERS),
        lambda inner: st.lists(inner, max_size=3).map(lambda parts: b"[" + b",".join(parts) + b"]"),
        max_leaves=6,
    ),
    st.integers(1, MAX_BATCH_BYTES),
)
def test_whatever_is_repeated_is_bounded_work(part: bytes, size: int) -> None:
    """Any shape, any length, alone and as items."""
    data = b'{"items":[' + b",".join([part] * (size // (len(part) + 1))) + b"]}"
    assert most_calls(data) <= MAX_CALLS


@given(st.lists(json_objects | json_values, min_size=1, max_size=8), st.integers(0, 3))
def test_items_are_what_the_whole_is(wanted: list[Any], indent: int) -> None:
    """Item by item, in whatever layout: the same values as when it is decoded at once."""
    data = json.dumps({"items": wanted}, indent=indent or None).encode()
    found = items(data, "items", MOST)
    assert found is not None
    assert list(found) == decode(data)["items"] == wanted
    escaped = data.replace(b'"items"', b'"\\u0069tems"', 1)
    assert list(items(escaped, "items", MOST) or ()) == wanted
    assert list(items(b"\xef\xbb\xbf" + data, "items", MOST) or ()) == wanted


@given(st.lists(json_values, min_size=1, max_size=4), st.data())
def test_a_batch_that_is_not_json_is_refused_as_a_whole(
    wanted: list[Any], data: st.DataObject
) -> None:
    """Cut anywhere, or with something behind it."""
    whole = json.dumps({"items": wanted}).encode()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    behind = data.draw(st.sampled_from([b"x", b"{}", b"]", b"}", b",", b"\x00"]))
    for broken in (cut, whole + behind):
        with pytest.raises(InvalidRequestError):
            if items(broken, "items", MOST) is None:
                decode(broken)
            list(items(broken, "items", MOST) or ())


literals = st.from_regex(r"\A-?(0|[1-9][0-9]{0,18})\.[0-9]{1,18}\Z") | st.from_regex(
    r"\A-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?[eE][-+]?[0-9]{1,3}\Z"
)


@given(literals)
def test_a_number_is_taken_if_a_double_holds_it_as_written(literal: str) -> None:
    """By exact decimal arithmetic, however it is written."""
    number = float(literal)
    finite = number not in (float("inf"), float("-inf"))
    exact = finite and Decimal(literal) == Decimal(repr(number))
    try:
        taken = decode(literal.encode()) == number
    except InvalidRequestError:
        taken = False
    assert taken == exact


def test_the_fullest_request_that_can_be_stored_is_taken() -> None:
    """Every byte of the limits in use, in the ways that have most values, marks and escapes."""
    most = MAX_DATA_BYTES - len('{"a":[]}')
    fullest: tuple[dict[str, Any], ...] = (
        {"a": [1] * ((most + 1) // 2)},
        {"a": "," * (most - 2)},
        {"a": "\x01" * ((most - 2) // 6)},
        {"a": [[]] * ((most + 1) // 3)},
    )
    for data in fullest:
        fields = {
            "host": "," * 255,
            "purpose": "," * 50,
            "username": "," * 255,
            "domain": "," * 255,
        }
        fields["password"] = "," * MAX_PASSWORD_BYTES
        body = json.dumps({**fields, "additional_data": data}, separators=(",", ":")).encode()
        assert parse(Upsert, decode(body)).additional_data == data
        whole = b'{"items":[%b,%b]}' % (body, body)
        assert [parse(Upsert, item).additional_data for item in items(whole, "items", 2) or ()] == [
            data,
            data,
        ]
    assert (most + 1) // 2 <= MAX_COUNTED
