"""Commands: what a caller wants, checked against the rules before anything is done.

`parse` is the one place where outside input becomes a command. Its errors name a field and a rule.
They never hold the value: it may be a password.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from secrets_broker.ledger.access.grant_commands import GrantCommand
from secrets_broker.ledger.content import TIMES, Content, JsonObject, check, check_texts
from secrets_broker.ledger.encoding import cut
from secrets_broker.ledger.errors import FieldError, InvalidCommandError

Host = Annotated[str, Meta(min_length=1, max_length=255)]
Purpose = Annotated[str, Meta(min_length=1, max_length=50)]

Name = tuple[str, str]
"""A credential's name: host and purpose."""


class _Given(Content, frozen=True, kw_only=True):
    """A content as a caller gives it. Its rules are stricter than those for imported content."""

    password: str
    additional_data: JsonObject | None = None


# The name is positional, so it comes first: in errors too, which name a missing field.
class Upsert(_Given, frozen=True, forbid_unknown_fields=True):
    """Store a credential: a new one, or the next version of an existing one."""

    host: Host
    purpose: Purpose

    def __post_init__(self) -> None:
        """Check what types cannot express; default additional_data; make times UTC."""
        check_texts(self, "host", "purpose")
        check(self)
        force_setattr(self, "additional_data", self.additional_data or {})
        for field in TIMES:
            moment = getattr(self, field)
            force_setattr(self, field, moment and moment.astimezone(UTC))

    def __repr__(self) -> str:
        """Show the name only: a repr ends in logs and tracebacks."""
        return f"Upsert(host={self.host!r}, purpose={self.purpose!r}, …)"

    @property
    def name(self) -> Name:
        """The credential's name."""
        return self.host, self.purpose


class _Named(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: Host
    purpose: Purpose

    def __post_init__(self) -> None:
        """Hold what types cannot say."""
        check_texts(self, "host", "purpose")

    @property
    def name(self) -> Name:
        """The credential's name."""
        return self.host, self.purpose


class Lookup(_Named, frozen=True, kw_only=True):
    """Disclose a credential to the caller."""


class Delete(_Named, frozen=True, kw_only=True):
    """Take a credential out of what is served; its history stays."""


class Rekey(_Named, frozen=True, kw_only=True):
    """Give a live credential a new data key; its content, id and version stay.

    `content` is the position of the change that set the content, as read under the lock.
    """

    content: int


class Erase(msgspec.Struct, frozen=True, kw_only=True):
    """Destroy data keys that a name ever had, and every body under them.

    The ids were read under the lock. `keeps_live` marks an erasure that leaves the live
    credential, because that one is under another key.
    """

    host: str
    purpose: str
    credential_id: int | None
    version: int | None
    data_keys: tuple[str, ...]
    credential_ids: tuple[int, ...]
    bodies: int
    again: bool = False
    keeps_live: bool = False

    @property
    def name(self) -> Name | None:
        """The name that the event ends; None where its live credential stays."""
        return None if self.keeps_live else (self.host, self.purpose)

    @property
    def details(self) -> JsonObject:
        """The event's details."""
        return {
            "data_keys": list(self.data_keys),
            "credential_ids": list(self.credential_ids),
            "bodies": self.bodies,
            **({"again": True} if self.again else {}),
            **({"host": self.host, "purpose": self.purpose} if self.keeps_live else {}),
        }


class ImportCredential(_Named, frozen=True, kw_only=True):
    """Import a credential of an earlier installation, with its own times and names."""

    content: Content
    occurred_at: datetime | None
    details: JsonObject

    def __post_init__(self) -> None:
        """Check the content by the rules of an upsert."""
        super().__post_init__()
        check(self.content)


class ImportAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Import a line of an earlier installation's access log."""

    host: str
    purpose: str
    ok: bool
    credential_id: int | None
    occurred_at: datetime | None
    details: JsonObject

    @property
    def name(self) -> Name:
        """The credential's name in that line."""
        return self.host, self.purpose


class Reveal(msgspec.Struct, frozen=True, kw_only=True):
    """Disclose an old version: the credential as it was after the event at position `at`.

    `opened` says whether its content could be decrypted; it was read under the lock.
    """

    host: str
    purpose: str
    credential_id: int
    version: int
    at: int
    opened: bool

    @property
    def name(self) -> Name:
        """The credential's name."""
        return self.host, self.purpose

    @property
    def details(self) -> JsonObject:
        """The event's details, which distinguish it from a lookup."""
        return {"replay": {"at": self.at}}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Record what a tool did to the whole ledger: an event's type and its details."""

    type: str
    details: JsonObject

    @property
    def name(self) -> None:
        """It concerns no credential."""
        return None


CredentialCommand = (
    Upsert | Lookup | Delete | Rekey | Erase | ImportCredential | ImportAccess | Reveal | Record
)
Command = CredentialCommand | GrantCommand

C = TypeVar("C", bound=msgspec.Struct)


def parse(kind: type[C], fields: object) -> C:
    """Make a command of decoded JSON or keyword arguments; raises InvalidCommandError."""
    if isinstance(fields, dict):
        fields = _with_times_cut(fields, _times(kind))
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise InvalidCommandError(_field_error(str(error), kind)) from None
    except UnicodeEncodeError:
        # msgspec raises this for a text where an object belongs; the error holds the text.
        raise InvalidCommandError(FieldError("", "must not contain a lone surrogate")) from None


def parse_at(kind: type[C], fields: object, now: datetime) -> C:
    """As `parse`, for a command that arrives now; raises InvalidCommandError.

    An upsert must not have expired already: a lookup would never disclose it. `now` is this
    machine's time. Each lookup decides again, by the ledger's time.
    """
    command = parse(kind, fields)
    if isinstance(command, Upsert) and command.expires_at and command.expires_at <= now:
        raise InvalidCommandError(FieldError("expires_at", "must be in the future"))
    return command


@lru_cache
def _times(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields that hold a time."""
    found = msgspec.structs.fields(kind)
    return tuple(field.encode_name for field in found if _mentions(field.type, datetime))


def _mentions(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_mentions(part, kind) for part in get_args(annotation))


def _with_times_cut(fields: dict[str, Any], times: Sequence[str]) -> dict[str, Any]:
    # msgspec would round them.
    texts = {name: fields[name] for name in times if isinstance(fields.get(name), str)}
    return {**fields, **{name: cut(text) for name, text in texts.items()}} if texts else fields


def _field_error(message: str, kind: type[msgspec.Struct]) -> FieldError:
    # msgspec's messages hold types and limits, never values; two are the exception.
    known = ", ".join(kind.__struct_fields__)
    if "unknown field" in message:
        return FieldError("", f"has a field that is not known; known are {known}")
    text, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".").removeprefix("content.").split("[")[0].split(".")[0]
    if text.startswith("Invalid enum value"):
        return FieldError(field, "has a word that is not known here")
    if "missing required field" in text:
        return FieldError(text.split("`")[1], "is required")
    head, _, rest = (
        text.partition(": ") if text.split(":")[0] in kind.__struct_fields__ else ("", "", text)
    )
    return FieldError(head or field, rest[:1].lower() + rest[1:])
