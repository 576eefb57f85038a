"""A credential's fields: what follows from their one declaration."""

from datetime import UTC, datetime
from typing import Any

from secrets_broker.ledger.commands import Upsert, parse
from secrets_broker.ledger.content import FIELDS, FIRST, Content, disclosed
from secrets_broker.ledger.credential import decide

NAME = {"host": "db1", "purpose": "ssh"}


def test_an_upsert_takes_every_field_and_no_other() -> None:
    """The name comes first, so that it is what is named first where more than one is missing."""
    assert Upsert.__struct_fields__ == (*NAME, *FIELDS)


def test_every_field_is_disclosed_where_it_is_set() -> None:
    """What came after the first four, and what is not set, leaves an answer as it was."""
    values: dict[str, Any] = {"expires_at": datetime(2120, 1, 2, tzinfo=UTC)}
    full = Content(**{name: values.get(name, name) for name in FIELDS})
    answer = disclosed("db1", "ssh", full, 7)
    assert answer.keys() == {*NAME, *FIELDS, "version"}
    assert answer["expires_at"] == "2120-01-02T00:00:00.000000Z"
    assert [*disclosed("db1", "ssh", Content(password="p"), 7)] == [*NAME, *FIRST, "version"]


def test_between_json_and_ciphertext_a_password_is_in_one_object() -> None:
    """What is decided on, and sealed, is the command itself, and no copy of what is in it."""
    command = parse(Upsert, {**NAME, "password": "hunter2"})
    assert decide(None, command, 0, at=datetime.now(UTC)).content is command
