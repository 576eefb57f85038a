"""Commands: what a caller may ask for, and errors that never say a value back."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from secrets_broker.ledger.commands import Delete, Lookup, Upsert, parse
from secrets_broker.ledger.content import MAX_DATA_BYTES, MAX_PASSWORD_BYTES, Content
from secrets_broker.ledger.credential import Decision
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.ledger.fold import Outcome
from tests.ledger.helpers import json_objects, json_values, texts

NAME = {"host": "db1", "purpose": "ssh"}
GOOD = {**NAME, "password": "hunter2"}
MARKER = "s3cr3t-m4rker"
TEXT_FIELDS = ["host", "purpose", "username", "domain", "password"]
OBJECT_FIELDS = ["additional_data", "secret_data"]

names = texts.filter(bool)


def refused(fields: object, kind: Any = Upsert) -> FieldError:
    """The one error that the fields get."""
    with pytest.raises(InvalidCommandError) as caught:
        parse(kind, fields)
    (error,) = caught.value.errors
    return error


@given(
    host=names,
    purpose=names,
    password=texts,
    username=st.none() | texts,
    domain=st.none() | texts,
    additional_data=st.none() | json_objects,
    secret_data=st.none() | json_objects,
)
def test_whatever_keeps_the_rules_is_taken_as_it_is(**fields: Any) -> None:
    """Any text and any JSON is kept to the character; an absent additional_data is empty."""
    command = parse(Upsert, fields)
    assert command.name == (fields["host"], fields["purpose"])
    kept = {**fields, "additional_data": fields["additional_data"] or {}}
    assert {name: getattr(command, name) for name in fields} == kept


@pytest.mark.parametrize(
    ("field", "limit"), [("host", 255), ("purpose", 50), ("username", 255), ("domain", 255)]
)
@pytest.mark.parametrize("character", ["a", "ü", "😀"])
def test_texts_have_a_length_in_characters(field: str, limit: int, character: str) -> None:
    """A limit counts characters, whatever bytes they take: one more is refused."""
    assert getattr(parse(Upsert, {**GOOD, field: character * limit}), field) == character * limit
    error = refused({**GOOD, field: character * (limit + 1)})
    assert error.field == field
    assert str(limit) in error.message


@pytest.mark.parametrize("character", ["a", "ü", "😀"])
def test_a_password_has_a_size_in_bytes(character: str) -> None:
    """8 KiB of UTF-8 is the longest password."""
    full = character * (MAX_PASSWORD_BYTES // len(character.encode()))
    assert len(full.encode()) == 8 * 1024
    assert parse(Upsert, {**GOOD, "password": full}).password == full
    assert refused({**GOOD, "password": full + "a"}) == FieldError(
        "password", "must be at most 8 KiB"
    )


@given(st.integers(0, MAX_DATA_BYTES - 16))
def test_data_has_a_size_together(first: int) -> None:
    """additional_data and secret_data share 32 KiB: one byte more in either is refused."""
    second = MAX_DATA_BYTES - 2 * len(b'{"a":""}') - first
    full = {"additional_data": {"a": "x" * first}, "secret_data": {"a": "y" * second}}
    assert parse(Upsert, {**GOOD, **full}).secret_data == full["secret_data"]
    for field in OBJECT_FIELDS:
        more = {**full, field: {"a": full[field]["a"] + "z"}}
        assert "32 KiB" in refused({**GOOD, **more}).message


@pytest.mark.parametrize("kind", [Upsert, Lookup, Delete])
@pytest.mark.parametrize("field", ["host", "purpose"])
def test_names_are_required_and_not_empty(kind: Any, field: str) -> None:
    """host and purpose must be there, be texts, and have a character."""
    good = GOOD if kind is Upsert else NAME
    missing = {key: value for key, value in good.items() if key != field}
    assert refused(missing, kind) == FieldError(field, "is required")
    for bad in ("", None, 1, ["a"], {"a": 1}, True):
        assert refused({**good, field: bad}, kind).field == field


def test_a_password_is_required() -> None:
    """An upsert without a password, or with null for one, is refused; an empty one is a text."""
    assert refused(NAME) == FieldError("password", "is required")
    assert refused({**NAME, "password": None}).field == "password"
    assert parse(Upsert, {**NAME, "password": ""}).password == ""


@pytest.mark.parametrize("kind", [Upsert, Lookup, Delete])
def test_an_unknown_field_is_refused_and_not_repeated(kind: Any) -> None:
    """A field that is not known is refused; the error lists the known ones, not that one."""
    good = GOOD if kind is Upsert else NAME
    error = refused({**good, MARKER: 1}, kind)
    assert MARKER not in str(error)
    assert "known are host, purpose" in error.message


@pytest.mark.parametrize(
    "fields", [None, 1, "text", "\ud800", [], ["host"], b"bytes", {1: 2}, {"\ud800": 1}]
)
@pytest.mark.parametrize("kind", [Upsert, Lookup, Delete])
def test_only_an_object_is_a_command(kind: Any, fields: object) -> None:
    """Whatever is not an object with text keys is refused, and not with another error."""
    refused(fields, kind)


@given(st.sampled_from(TEXT_FIELDS), texts, st.sampled_from(["\x00", "\ud800"]), texts)
def test_text_that_cannot_be_kept_is_refused(field: str, left: str, bad: str, right: str) -> None:
    """U+0000 and lone surrogates are refused in every text field, which the error names."""
    text = f"{left}{bad}{right}"
    assume(len(text) <= 50)
    assert refused({**GOOD, field: text}).field == field


@given(
    st.sampled_from(OBJECT_FIELDS), json_values, st.sampled_from([2**53, -0.0, "\x00", "\ud800"])
)
def test_json_that_cannot_be_kept_is_refused(field: str, beside: Any, bad: Any) -> None:
    """What JSON readers take differently is refused in both objects, which the error names."""
    assert refused({**GOOD, field: {"beside": beside, "k": [bad]}}).field == field


@given(st.sampled_from(OBJECT_FIELDS), json_values)
def test_data_is_an_object(field: str, value: Any) -> None:
    """additional_data and secret_data are objects or null, and nothing else."""
    assume(value is not None and not isinstance(value, dict))
    assert refused({**GOOD, field: value}).field == field


bad_markers = st.sampled_from(
    [
        f"{MARKER}\x00",
        f"\ud800{MARKER}",
        MARKER * 1_000,
        [MARKER],
        {f"\ud800{MARKER}": 1},
        {MARKER: f"{MARKER}\x00"},
        {"a": [{MARKER: 2**60}]},
        {MARKER: MARKER * 4_000},
        {MARKER: -0.0},
    ]
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(TEXT_FIELDS + OBJECT_FIELDS, bad_markers)))
def test_an_error_never_holds_the_value(bad: dict[str, Any]) -> None:
    """Whatever is wrong with a value, no error, repr or cause says it back: it may be a secret."""
    try:
        parse(Upsert, {**GOOD, **bad})
    except InvalidCommandError as error:
        assert MARKER not in f"{error} {error!r} {error.errors}"
        assert error.__cause__ is None
        assert error.__suppress_context__
    else:
        assert not bad.keys() & set(TEXT_FIELDS)


def test_repr_shows_no_secret() -> None:
    """A command, content, decision or outcome shows no password and no data when printed."""
    command = Upsert(
        host="db1",
        purpose="ssh",
        password=MARKER,
        username=MARKER,
        domain=MARKER,
        additional_data={"a": MARKER},
        secret_data={MARKER: 1},
    )
    content = Content(password=MARKER, additional_data={"a": MARKER})
    outcome = Outcome(1, content=content)
    shown = f"{command} {command!r} {content} {content!r} {outcome!r}"
    assert MARKER not in shown + repr(Decision("t", content=command))
    assert "db1" in repr(command)
