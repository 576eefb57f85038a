"""Every type of event, each declared once: its subject, its details, and its effect.

To add a type, add a declaration to `TYPES`. Writing, verify, the export's access log and the lists
in SQL follow from it. A test compares it with the table in docs/format.md. What only one module
does with a type stays in that module: how a grant evolves, for example.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from secrets_broker.ledger.access.rights import Operation

CREATED: Final = "credential.created"
UPDATED: Final = "credential.updated"
DELETED: Final = "credential.deleted"
READ: Final = "credential.read"
ERASED: Final = "credential.erased"
REKEYED: Final = "credential.rekeyed"
IMPORTED: Final = "credential.imported"
ACCESS_IMPORTED: Final = "access.imported"
KEY_ROTATION_STARTED: Final = "key.rotation_started"
KEY_ROTATED: Final = "key.rotated"
PROJECTION_REBUILT: Final = "projection.rebuilt"
LEDGER_RESTORED: Final = "ledger.restored"
LEDGER_AUTHENTICATED: Final = "ledger.authenticated"
LEDGER_DISOWNED: Final = "ledger.disowned"
LEDGER_REHEARSED: Final = "ledger.rehearsed"
ACCESS_DENIED: Final = "access.denied"
ACCESS_COUNTING: Final = "access.counting"
ACCESS_COUNTED: Final = "access.counted"
ACCESS_KEY_GRANTED: Final = "access_key.granted"
ACCESS_KEY_CHANGED: Final = "access_key.changed"
ACCESS_KEY_ROTATED: Final = "access_key.rotated"
ACCESS_KEY_REVOKED: Final = "access_key.revoked"

About = Literal["credential", "access", "grant", "KEK", "ledger", "projection"]

Text = Callable[[str], str | None]
"""Returns a detail's value as PostgreSQL's operator ->> does."""
Message = Callable[[str | None, Text], str | None]
"""Makes an access line's error_message from an event's error and its details."""


@dataclass(frozen=True, slots=True)
class Detail:
    """A member of `details`; its kind is a msgspec type with its limits."""

    name: str
    kind: Any
    required: bool = True
    audited: bool = False
    """Whether verify checks its content, and not only its MAC."""


CLAIM: Final = "claim"
_CLAIM: Final = Detail(CLAIM, str, required=False)
"""A detail that any event may have: the name that the caller claimed without proof."""


@dataclass(frozen=True, slots=True)
class OnCredential:
    """What a successful event does to its credential, and after what it may come."""

    stands_after: Literal["nothing", "live", "anything"]
    """What the name has before the event; a deleted or erased credential counts as nothing."""
    content: Literal["set", "resealed", "kept", "ended"]
    """New content; the same under a new data key; unchanged; gone."""

    @property
    def has_body(self) -> bool:
        """Whether the event stores a content."""
        return self.content in ("set", "resealed")

    @property
    def changes(self) -> bool:
        """Whether it changes what a lookup finds."""
        return self.content != "kept"

    @property
    def version(self) -> Literal["first", "next", "last"]:
        """Which version it names: 1 of a new credential, the one it makes, or the one it found."""
        if self.content != "set":
            return "last"
        return "first" if self.stands_after == "nothing" else "next"

    @property
    def new_data_key(self) -> bool:
        """Whether its body is under a fresh data key, or else under the credential's."""
        return self.has_body and self.version != "next"


def _error(error: str | None, _: Text) -> str | None:
    return error


@dataclass(frozen=True, slots=True)
class AccessLine:
    """How the access log shows an event; the view secrets.credential_access_log does the same."""

    word: str | None = None
    """Its access_type; if None, the detail named by `word_detail` has it."""
    word_detail: str = ""
    success: bool = True
    """False if the line shows a refusal although its event is ok."""
    message: Message = _error


@dataclass(frozen=True, kw_only=True)
class EventType:
    """A type of event, and its rules."""

    name: str
    about: About
    details: tuple[Detail, ...] = ()
    succeeds: bool = True
    """False if events of this type are refusals, which are never ok."""
    fails: bool = False
    """Whether an event of this type may be not ok."""
    credential: OnCredential | None = None
    access: AccessLine | None = None
    right: Operation | None = None
    """The right that a caller with a grant needs; the command line needs none."""
    trust: bool = False
    """Whether it changes which events are believed."""

    @property
    def has_body(self) -> bool:
        """Whether a successful event of this type stores a content."""
        return self.credential is not None and self.credential.has_body

    @property
    def audited_details(self) -> bool:
        """Whether verify checks any of its details."""
        return any(detail.audited for detail in self.details)

    @cached_property
    def _required(self) -> frozenset[str]:
        return frozenset(detail.name for detail in self.details if detail.required)

    @cached_property
    def _model(self) -> Any:
        fields = [
            (detail.name, Union[detail.kind, UnsetType], UNSET)  # noqa: UP007 - not a type yet
            for detail in (*self.details, _CLAIM)
        ]
        return msgspec.defstruct("Details", fields, forbid_unknown_fields=True, kw_only=True)

    def problem_of(self, details: Mapping[str, Any] | None, *, ok: bool) -> str | None:
        """Say why this outcome or these details do not fit the type; None if they do.

        The text holds no value.
        """
        if not (self.succeeds if ok else self.fails):
            return f"are of an outcome that {self.name} cannot have"
        # A failed event states what was known. A type that is always a refusal states all.
        required = self._required if ok or not self.succeeds else frozenset()
        if details is None:
            return f"lack what {self.name} says" if required else None
        if not required <= details.keys():
            return f"lack what {self.name} says"
        try:
            msgspec.convert(details, self._model)
        except msgspec.ValidationError:
            return f"are not those of {self.name}"
        return None


_Number = Annotated[int, Meta(ge=0)]
_Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_GRANT: Final = (
    Detail("id", Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]),
    Detail("name", str),
)
_RIGHTS: Final = (
    Detail("rules", Annotated[list[dict[str, Any]], Meta(min_length=1)]),
    Detail("expires_at", str | None),
    Detail("requests", list[int] | None),
    Detail("hosts", list[int] | None),
)


def _of_earlier(_: str | None, text: Text) -> str | None:
    return text("error_message")


def _denied(error: str | None, text: Text) -> str:
    return ": ".join(filter(None, (error, text("rule"))))


def _of_source(text: Text) -> str:
    source = text("source")
    return "all other sources" if source is None else source


def _counting(_: str | None, text: Text) -> str:
    return f"refusals are only counted from here on: {_of_source(text)}"


def _counted(_: str | None, text: Text) -> str:
    count, first, last = (text(name) or "" for name in ("count", "first_at", "last_at"))
    return f"{count} refusals from {first} to {last}: {_of_source(text)}"


TYPES: Final = (
    EventType(
        name=CREATED,
        about="credential",
        credential=OnCredential("nothing", "set"),
        access=AccessLine("create"),
        right="write",
    ),
    EventType(
        name=UPDATED,
        about="credential",
        fails=True,
        credential=OnCredential("live", "set"),
        access=AccessLine("update"),
        right="write",
    ),
    EventType(
        name=DELETED,
        about="credential",
        fails=True,
        credential=OnCredential("live", "ended"),
        access=AccessLine("delete"),
        right="delete",
    ),
    EventType(
        name=ERASED,
        about="credential",
        details=(
            Detail("data_keys", list[str], audited=True),
            Detail("credential_ids", list[int], audited=True),
            Detail("bodies", _Number, audited=True),
            Detail("again", bool, required=False),
            Detail("host", str, required=False),
            Detail("purpose", str, required=False),
        ),
        credential=OnCredential("anything", "ended"),
        access=AccessLine("erase"),
    ),
    EventType(
        name=REKEYED,
        about="credential",
        details=(Detail("content", _Number, audited=True),),
        fails=True,
        credential=OnCredential("live", "resealed"),
    ),
    EventType(
        name=IMPORTED,
        about="credential",
        details=(
            Detail("legacy_id", int),
            Detail("created_at", str | None, required=False),
            Detail("created_by", str | None, required=False),
            Detail("updated_at", str | None, required=False),
            Detail("updated_by", str | None, required=False),
        ),
        fails=True,
        credential=OnCredential("nothing", "set"),
    ),
    EventType(
        name=READ,
        about="credential",
        details=(Detail("replay", dict[Literal["at"], _Number], required=False, audited=True),),
        fails=True,
        credential=OnCredential("live", "kept"),
        access=AccessLine("read"),
        right="read",
    ),
    EventType(
        name=ACCESS_IMPORTED,
        about="access",
        details=(
            Detail("legacy_id", int),
            Detail("legacy_credential_id", int | None, required=False),
            Detail("access_type", str | None),
            Detail("error_message", str | None, required=False),
            Detail("error_message_cut", bool, required=False),
            Detail("success", None, required=False),
            Detail("accessed_at", None, required=False),
            Detail("ip_network", str, required=False),
        ),
        fails=True,
        access=AccessLine(word_detail="access_type", message=_of_earlier),
    ),
    EventType(
        name=ACCESS_DENIED,
        about="access",
        details=(
            Detail("operation", str),
            Detail("rule", str),
            Detail("key", str, required=False),
            Detail("name", str, required=False),
        ),
        succeeds=False,
        fails=True,
        access=AccessLine(word_detail="operation", message=_denied),
    ),
    EventType(
        name=ACCESS_COUNTING,
        about="access",
        details=(Detail("source", str | None),),
        access=AccessLine("denied", success=False, message=_counting),
    ),
    EventType(
        name=ACCESS_COUNTED,
        about="access",
        details=(
            Detail("counting", _Number),
            Detail("source", str | None),
            Detail("count", _Number),
            Detail("first_at", str | None),
            Detail("last_at", str | None),
        ),
        access=AccessLine("denied", success=False, message=_counted),
    ),
    EventType(
        name=ACCESS_KEY_GRANTED,
        about="grant",
        details=(
            *_GRANT,
            Detail("sha256", _Hash, required=False),
            Detail("certificate", bool, required=False),
            *_RIGHTS,
        ),
    ),
    EventType(name=ACCESS_KEY_CHANGED, about="grant", details=(*_GRANT, *_RIGHTS)),
    EventType(
        name=ACCESS_KEY_ROTATED,
        about="grant",
        details=(*_GRANT, Detail("sha256", _Hash), Detail("previous_until", str)),
    ),
    EventType(name=ACCESS_KEY_REVOKED, about="grant", details=_GRANT),
    EventType(
        name=KEY_ROTATION_STARTED,
        about="KEK",
        details=(
            Detail("kek", str, audited=True),
            Detail("provider", str, audited=True),
            Detail("data_keys", dict[str, _Number], audited=True),
        ),
    ),
    EventType(
        name=KEY_ROTATED,
        about="KEK",
        details=(
            Detail("kek", str, audited=True),
            Detail("data_keys", _Number),
            Detail("retired", list[str], audited=True),
        ),
    ),
    EventType(
        name=LEDGER_AUTHENTICATED,
        about="ledger",
        details=(
            Detail("ledger", str),
            Detail("event_key", str),
            Detail("checkpoint", dict[str, Any], required=False),
        ),
        trust=True,
    ),
    EventType(
        name=LEDGER_DISOWNED,
        about="ledger",
        details=(Detail("ranges", list[tuple[_Number, _Number]], audited=True),),
        trust=True,
    ),
    EventType(
        name=LEDGER_RESTORED,
        about="ledger",
        details=(
            Detail("origin", str, audited=True),
            Detail("size", _Number, audited=True),
            Detail("root", str),
            Detail("new_origin", str, audited=True),
            Detail("event_key", str, required=False),
        ),
        trust=True,
    ),
    EventType(
        name=PROJECTION_REBUILT,
        about="projection",
        details=(
            Detail("projection", str),
            Detail("size", _Number),
            Detail("rows", _Number),
            Detail("replaced", _Number),
            Detail("unreadable", _Number),
        ),
    ),
)
REHEARSAL: Final = EventType(name=LEDGER_REHEARSED, about="ledger")
"""Always rolled back, never recorded."""

BY_NAME: Final = {one.name: one for one in TYPES}
_WRITTEN: Final = {**BY_NAME, REHEARSAL.name: REHEARSAL}


def problem_of(kind: str, details: Mapping[str, Any] | None, *, ok: bool) -> str | None:
    """Say why an event that is about to be written does not fit its type; None if it does."""
    written = _WRITTEN.get(kind)
    return written.problem_of(details, ok=ok) if written else "are of a type that is not declared"


def _names(*chosen: EventType) -> tuple[str, ...]:
    return tuple(one.name for one in chosen)


def is_one_of(names: tuple[str, ...]) -> str:
    """The SQL condition that an event is of one of these types."""
    return f"type IN ({', '.join(map(repr, names))})"


ON_CREDENTIAL: Final = {one.name: one.credential for one in TYPES if one.credential}
"""The rules of the types that name a credential."""

_CHANGES: Final = tuple(name for name, rule in ON_CREDENTIAL.items() if rule.changes)
CHANGES: Final = frozenset(_CHANGES)
"""The types whose successful events change what a lookup finds."""
IS_CHANGE: Final = f"ok AND {is_one_of(_CHANGES)}"
"""The same in SQL; the index events_changes covers exactly these."""

STORES: Final = _names(*(one for one in TYPES if one.has_body))
"""The types whose successful events have a body."""
MAKES: Final = tuple(name for name, rule in ON_CREDENTIAL.items() if rule.content == "set")
"""The types that make a version; rekeying does not."""
GONE: Final = tuple(name for name, rule in ON_CREDENTIAL.items() if rule.content == "ended")
"""The types after which the name has no credential."""
GRANTS: Final = _names(*(one for one in TYPES if one.about == "grant"))
IS_ACCESS_KEY: Final = is_one_of(GRANTS)
"""SQL: the events that change grants; the index events_access_keys covers exactly these."""

TRUST: Final = _names(*(one for one in TYPES if one.trust))
"""The types that change which events are believed."""
IS_CONTROL: Final = is_one_of((*GRANTS, *TRUST))
"""SQL: both; the index events_control covers exactly these."""

ROTATIONS: Final = _names(*(one for one in TYPES if one.about == "KEK"))
COUNTS: Final = _names(*(one for one in TYPES if one.access and not one.access.success))
"""The types that count refusals instead of recording each."""

WITH_DETAILS: Final = frozenset(_names(*(one for one in TYPES if one.audited_details)))
FOLLOWED: Final = WITH_DETAILS | ON_CREDENTIAL.keys()
"""The types that verify follows; WITH_DETAILS are those of which it needs the details."""
