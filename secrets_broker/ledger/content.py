"""A credential's fields, each declared once: its type, its limits, and how it is kept.

These follow from `Content`: what an upsert accepts, the encrypted body and its AAD (body.py), the
columns of secrets.host_credentials, and the answer to a lookup.

A new field is one more line at the end of `Content`, marked `later`. Bodies and answers that lack
it then keep the bytes they had before the field existed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec
from msgspec import Meta

from secrets_broker.ledger.encoding import canonical_json, json_problem, rfc3339, text_problem
from secrets_broker.ledger.encryption.envelope import PASSWORD, SECRET_DATA

MAX_PASSWORD_BYTES: Final = 8 * 1024
MAX_DATA_BYTES: Final = 32 * 1024

ShortText = Annotated[str, Meta(max_length=255)]
JsonObject = dict[str, Any]
ExpiresAt = Annotated[datetime, Meta(tz=True)]
RotateAfter = Annotated[int, Meta(ge=1, le=36_500)]
"""Whole days; a hundred years at most."""

SqlType = Literal["text", "jsonb", "timestamptz", "integer"]


@dataclass(frozen=True, slots=True)
class Field:
    """How a field is stored."""

    type: SqlType
    """The column's type if the field is readable. A sealed field is always in a text column."""
    label: str | None = None
    """The ciphertext's label in the AAD; None for a readable field, which is only bound."""
    later: bool = False
    """Whether a body holds it only if it is set."""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a credential holds, in clear. It is never printed.

    Only imported content can lack a password or have an additional_data that is no object:
    earlier installations had such rows.
    """

    password: Annotated[str | None, Field("text", PASSWORD)]
    username: Annotated[ShortText | None, Field("text")] = None
    domain: Annotated[ShortText | None, Field("text")] = None
    additional_data: Annotated[Any, Field("jsonb")] = msgspec.field(default_factory=dict)
    secret_data: Annotated[JsonObject | None, Field("jsonb", SECRET_DATA)] = None
    expires_at: Annotated[ExpiresAt | None, Field("timestamptz", later=True)] = None
    rotate_after: Annotated[RotateAfter | None, Field("integer", later=True)] = None

    def __repr__(self) -> str:
        """Show nothing: a repr ends in logs and tracebacks."""
        return f"{type(self).__name__}(…)"


def _declared() -> Mapping[str, Field]:
    hints = get_type_hints(Content, include_extras=True)
    return {
        name: next(one for one in hints[name].__metadata__ if isinstance(one, Field))
        for name in Content.__struct_fields__
    }


FIELDS: Final = _declared()
READABLE: Final = tuple(name for name, field in FIELDS.items() if field.label is None)
SEALED: Final = tuple(name for name, field in FIELDS.items() if field.label is not None)


def _of_type(kind: SqlType) -> tuple[str, ...]:
    return tuple(name for name in (*READABLE, *SEALED) if FIELDS[name].type == kind)


TIMES: Final = _of_type("timestamptz")
_TEXTS: Final = _of_type("text")
_DATA: Final = _of_type("jsonb")

FIRST: Final = ("username", "password", "domain", "additional_data")
"""The fields of every answer, null or not, in this order. Other fields appear only if set."""
_FURTHER: Final = tuple(name for name in FIELDS if name not in FIRST)


def disclosed(host: str, purpose: str, content: Content, version: int | None) -> dict[str, Any]:
    """The answer to a lookup. It holds the secret."""
    answer: dict[str, Any] = {"host": host, "purpose": purpose}
    for field in FIRST:
        answer[field] = getattr(content, field)
    answer["version"] = version
    for field in _FURTHER:
        if (value := getattr(content, field)) is not None:
            answer[field] = kept(value)
    return answer


def kept(value: Any) -> Any:
    """A field's value as it stands in a body or an answer: a time becomes its one text form."""
    return rfc3339(value) if isinstance(value, datetime) else value


def check(content: Content) -> None:
    """Check what types cannot express; the ValueError names a field and holds no value."""
    check_texts(content, *_TEXTS)
    if content.password is not None and len(content.password.encode()) > MAX_PASSWORD_BYTES:
        raise ValueError("password: must be at most 8 KiB")
    _check_data(content)
    for name in TIMES:
        _check_time(name, getattr(content, name))


def check_texts(struct: msgspec.Struct, *names: str) -> None:
    """Check that texts can be stored; raises ValueError as `check` does."""
    for name in names:
        text = getattr(struct, name)
        problem = text_problem(text) if text is not None else None
        if problem:
            raise ValueError(f"{name}: {problem}")


def _check_data(content: Content) -> None:
    total = 0
    for name in _DATA:
        data = getattr(content, name)
        total += _size(data) if data else 0
        if total > MAX_DATA_BYTES:  # checked first: small data has few values to inspect
            raise ValueError("additional_data: with secret_data must be at most 32 KiB")
        problem = json_problem(data)
        if problem:
            raise ValueError(f"{name}: {problem}")


def _size(data: JsonObject) -> int:
    try:
        return len(canonical_json(data))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return 0  # it has no canonical form, and json_problem says why


def _check_time(name: str, moment: datetime | None) -> None:
    if moment is None:
        return
    if moment.utcoffset() is None:  # a time zone that knows no offset
        raise ValueError(f"{name}: must have an offset from UTC")
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name}: must be within the years 1 to 9999 in UTC") from None
