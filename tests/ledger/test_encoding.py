"""Encodings: the same bytes from any encoder, and no value that two readers take differently."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.encoding import (
    MAX_DEPTH,
    MAX_SAFE_INTEGER,
    canonical_json,
    full_canonical_json,
    json_problem,
    label_problem,
    number_problem,
    rfc3339,
    text_problem,
)
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.ledger.events import (
    MAX_DETAILS_BYTES,
    BodyReference,
    Event,
    check_details,
    encode_entry,
)
from tests.ledger.helpers import integers, json_objects, json_values, texts

ascii_texts = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=20)
details = st.dictionaries(
    ascii_texts,
    st.recursive(
        st.none() | st.booleans() | integers | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ascii_texts, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


def python_json(value: Any) -> bytes:
    """The same with Python's own encoder."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


@given(
    st.fixed_dictionaries(
        {
            "type": texts,
            "at": texts,
            "actor": st.none() | texts,
            "authn": texts,
            "host": st.none() | texts,
            "reason": st.none() | texts,
            "version": st.none() | integers,
            "details": st.none() | details,
        }
    ),
    st.none() | st.tuples(texts, texts),
)
def test_entry_is_canonical(fields: dict[str, Any], body: tuple[str, str] | None) -> None:
    """An entry is the bytes that another encoder makes of all its fields, the null ones too."""
    event = Event(**fields, body=BodyReference(*body) if body else None)
    expected = dict.fromkeys(Event.__struct_fields__) | {"v": 1, "ok": True} | fields
    expected["body"] = {"key": body[0], "sha256": body[1]} if body else None
    assert len(expected) == 17
    assert encode_entry(event) == python_json(expected)


@given(texts)
def test_both_forms_agree_on_text(text: str) -> None:
    """For any text, what binds entries and RFC 8785 in full give the same bytes."""
    assert canonical_json([text]) == full_canonical_json([text]) == python_json([text])


@given(json_objects)
def test_full_form_says_the_same(value: dict[str, Any]) -> None:
    """RFC 8785's bytes read back as the value they were made of."""
    assert json.loads(full_canonical_json(value)) == value


@given(
    st.datetimes(
        min_value=datetime(1, 1, 3),
        max_value=datetime(9999, 12, 29),
        timezones=st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    )
)
def test_a_time_has_one_text(moment: datetime) -> None:
    """A time in any zone is UTC to the microsecond, and its text has always the same form."""
    text = rfc3339(moment)
    assert len(text) == len("2026-01-01T00:00:00.000000Z")
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == moment
    assert text == rfc3339(moment.astimezone(UTC))


@given(json_values)
def test_plain_json_has_no_problem(value: Any) -> None:
    """What every JSON reader takes the same way is accepted."""
    assert json_problem(value) is None


@given(
    json_values,
    st.sampled_from(
        [
            2**53,
            -(2**53),
            1e300,
            math.inf,
            -math.inf,
            math.nan,
            -0.0,
            "a\x00b",
            "\ud800",
            {"\udfff": 1},
            {"a\x00": 1},
            {1: "a"},
            b"bytes",
            (1, 2),
        ]
    ),
    st.integers(0, 5),
)
def test_a_bad_value_is_found_at_any_depth(beside: Any, bad: Any, depth: int) -> None:
    """Whatever readers disagree about is refused, however deep it stands and whatever beside."""
    value = bad
    for _ in range(depth):
        value = [beside, {"key": value}]
    assert json_problem(value) is not None


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"k": v}])
def test_depth_has_a_limit(wrap: Any) -> None:
    """64 levels of nesting are accepted, 65 are not, and 100,000 are refused without harm."""
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert json_problem(value) is None
    value = wrap(value)
    assert "nested" in (json_problem(value) or "")
    for _ in range(100_000):
        value = wrap(value)
    assert "nested" in (json_problem(value) or "")


def test_numbers_keep_to_the_safe_range() -> None:
    """±(2^53-1) is the last number that is accepted; no negative zero, as RFC 8785 would lose."""
    for number in (MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER, 0, 0.0, 0.1, -1e-300):
        assert number_problem(number) is None
    for number in (MAX_SAFE_INTEGER + 1, -MAX_SAFE_INTEGER - 1, 1e17, -0.0, math.nan, math.inf):
        assert number_problem(number) is not None


@given(st.text(), st.sampled_from(["\x00", "\ud800", "\udc00"]), st.text())
def test_text_that_cannot_be_kept(before: str, bad: str, after: str) -> None:
    """U+0000 and lone surrogates are refused wherever they stand."""
    assert text_problem(before + bad + after) is not None


@given(texts)
def test_text_that_can_be_kept(text: str) -> None:
    """Any other text is accepted."""
    assert text_problem(text) is None


def test_labels() -> None:
    """A caller's name is held to its length in characters, and has no control characters."""
    assert label_problem("ü" * 10, 10) is None
    assert "10 characters" in (label_problem("ü" * 11, 10) or "")
    for control in "\n", "\x1b", "\x7f", "\x85", "\x00":
        assert label_problem(f"a{control}b", 10) is not None


@given(details)
def test_details_are_kept(value: dict[str, Any]) -> None:
    """Strings, integers, booleans, null, lists and objects of these pass unchanged."""
    assert check_details(value) is value


@pytest.mark.parametrize(
    "bad", [1.5, 1.0, {"ü": 1}, [{"ü": 1}], "\x00", 2**53, [[{"a": [0.5]}]], {"a": "\ud800"}]
)
def test_details_hold_no_float_and_no_odd_key(bad: Any) -> None:
    """A float, a key beyond ASCII or what JSON readers differ on is refused at any depth."""
    with pytest.raises(InvalidCommandError) as caught:
        check_details({"fact": bad})
    assert caught.value.errors[0].field == "details"


def test_details_have_a_size() -> None:
    """16 KiB of details in UTF-8 are accepted, one byte more is not."""
    around = len(b'{"a":""}')
    full = {"a": "x" * (MAX_DETAILS_BYTES - around)}
    assert check_details(full) == full
    with pytest.raises(InvalidCommandError, match="16 KiB"):
        check_details({"a": "x" * (MAX_DETAILS_BYTES - around + 1)})


def test_an_entry_has_a_size() -> None:
    """An entry of 65,535 bytes is the largest: its length has two bytes in an entry bundle."""
    empty = len(encode_entry(Event(type="t", at="a", authn="n", reason="")))
    full = Event(type="t", at="a", authn="n", reason="x" * (65_535 - empty))
    assert len(encode_entry(full)) == 65_535
    with pytest.raises(InvalidCommandError, match="too large"):
        encode_entry(Event(type="t", at="a", authn="n", reason="x" * (65_536 - empty)))
