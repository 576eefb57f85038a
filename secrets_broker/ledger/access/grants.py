"""Grants: who may do what, as follows from the events of access keys. Pure.

`evolve` says which grants follow from an event, `decide` which event a command becomes, and `judge`
whether a request is allowed. A grant keeps its id and its name for ever. A revoked name can be
granted again; that makes another grant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, assert_never

import msgspec

from secrets_broker.ledger import event_types
from secrets_broker.ledger.access.attenuation import is_within
from secrets_broker.ledger.access.grant_commands import (
    ChangeGrant,
    Grant,
    GrantCommand,
    Revoke,
    RotateKey,
)
from secrets_broker.ledger.access.rights import (
    FORBIDDEN,
    REASON,
    REASON_REQUIRED,
    WIDER,
    Refusal,
    Request,
    Rights,
    fit,
)
from secrets_broker.ledger.credential import Decision
from secrets_broker.ledger.encoding import from_rfc3339, rfc3339
from secrets_broker.ledger.errors import FieldError, InvalidCommandError
from secrets_broker.ledger.events import Subject

EXPIRED: Final = "expired"
REVOKED: Final = "revoked"
UNKNOWN_KEY: Final = "unknown_key"


@dataclass(frozen=True, slots=True)
class Granted:
    """One grant, as its events left it."""

    id: str
    name: str
    rights: Rights | None
    """None if an event of the grant could not be read: then it allows nothing."""
    certificate: bool
    position: int
    """The position of the event that granted it."""
    keys: Mapping[str, datetime | None]
    """The SHA-256 of each key, and its end if a rotation has set one."""
    revoked_at: str | None = None


@dataclass(frozen=True, slots=True)
class Grants:
    """All grants that ever were; `generation` is the position of the last change."""

    generation: int = -1
    by_id: Mapping[str, Granted] = field(default_factory=dict)
    by_key: Mapping[str, str] = field(default_factory=dict)
    """A grant's id by the SHA-256 of a key."""
    live: Mapping[str, str] = field(default_factory=dict)
    """A grant's id by its name, for grants that are not revoked."""

    def named(self, name: str) -> Granted | None:
        """The unrevoked grant of this name."""
        return self.by_id.get(self.live.get(name, ""))

    def of(self, subject: Subject) -> Granted | None:
        """The grant of the presented key or certificate, valid or not."""
        if subject.sha256 is not None:
            # A look-up by the hash of 256 random bits: its timing tells nothing about the key.
            return self.by_id.get(self.by_key.get(subject.sha256, ""))
        found = self.named(subject.certificate) if subject.certificate is not None else None
        return found if found and found.certificate else None


def judge(grants: Grants, subject: Subject, request: Request) -> Refusal | None:
    """Say why the request is refused; None where it is allowed."""
    granted = grants.of(subject)
    if granted is None:
        return Refusal(subject.problem or UNKNOWN_KEY)
    problem = _problem(granted, subject, request.at)
    if problem or granted.rights is None:
        return Refusal(problem or UNKNOWN_KEY, key=granted.id, name=granted.name)
    decided = fit(granted.rights.rules, request)
    if decided.failed is None and (request.reason or not decided.reason):
        return None
    return Refusal(
        decided.failed or REASON,
        FORBIDDEN if decided.failed else REASON_REQUIRED,
        key=granted.id,
        name=granted.name,
        authn=authn(granted, subject),
    )


def authn(granted: Granted, subject: Subject) -> str:
    """How the caller is known, as an event says it."""
    if subject.fingerprint is not None and subject.sha256 is None:
        return f"mtls:{subject.fingerprint}"
    return f"access_key:{granted.id}"


def _problem(granted: Granted, subject: Subject, at: datetime) -> str | None:
    if granted.revoked_at is not None:
        return REVOKED
    ends = granted.keys.get(subject.sha256) if subject.sha256 is not None else None
    expires_at = granted.rights.expires_at if granted.rights else None
    over = any(end is not None and at >= end for end in (ends, expires_at))
    # A certificate is valid through its last moment (RFC 5280, section 4.1.2.5). The handshake
    # checked that once; a connection may stay open longer.
    over = over or (subject.not_after is not None and at > subject.not_after)
    return EXPIRED if over else None


def too_wide(grants: Grants, command: GrantCommand, subject: Subject | None) -> Refusal | None:
    """Say why a caller that may change grants may not give these rights; None if it may.

    A caller gives nothing wider than its own rights: in a new grant, in changed rights, or by a new
    key to a grant. Revoking gives nothing. A caller without a grant (the command line) is not
    bounded.
    """
    own = grants.of(subject) if subject is not None else None
    if own is None or subject is None or isinstance(command, Revoke):
        return None
    given = grants.named(command.grantee) if isinstance(command, RotateKey) else command
    if given is None:  # a revoked or unknown grant: another key would open nothing
        return None
    if given.rights and own.rights and is_within(given.rights, own.rights):
        return None
    return Refusal(WIDER, key=own.id, name=own.name, authn=authn(own, subject))


def decide(grants: Grants, command: GrantCommand, at: datetime) -> Decision:
    """Say which event the command becomes; raises InvalidCommandError."""
    found = grants.named(command.grantee)
    match command:
        case Grant():
            if found is not None:
                raise _refused("name", "has a grant already: change, rotate or revoke that")
            return Decision(event_types.ACCESS_KEY_GRANTED, details=_granted(command, at))
        case ChangeGrant():
            details = {**_about(found), **_rights(command.rights, at)}
            return Decision(event_types.ACCESS_KEY_CHANGED, details=details)
        case RotateKey():
            return Decision(event_types.ACCESS_KEY_ROTATED, details=_rotated(found, command))
        case Revoke():
            return Decision(event_types.ACCESS_KEY_REVOKED, details=_about(found))
        case _:
            assert_never(command)


def _granted(command: Grant, at: datetime) -> dict[str, Any]:
    proof = {"certificate": True} if command.sha256 is None else {"sha256": command.sha256}
    return {"id": command.id, "name": command.grantee, **proof, **_rights(command.rights, at)}


def _rotated(found: Granted | None, command: RotateKey) -> dict[str, Any]:
    about = _about(found)
    if found is not None and found.certificate:
        raise _refused("name", "is proven by a certificate, and has no key to rotate")
    until = rfc3339(command.previous_until)
    return {**about, "sha256": command.sha256, "previous_until": until}


def _about(found: Granted | None) -> dict[str, Any]:
    if found is None:
        raise _refused("name", "has no grant that is not revoked")
    return {"id": found.id, "name": found.name}


def _rights(rights: Rights, at: datetime) -> dict[str, Any]:
    if rights.expires_at is not None and rights.expires_at <= at:
        raise _refused("expires_at", "must be in the future")
    return rights.details


def _refused(field_name: str, message: str) -> InvalidCommandError:
    return InvalidCommandError(FieldError(field_name, message))


def evolve(grants: Grants, kind: str, details: Mapping[str, Any], position: int, at: str) -> Grants:
    """Say which grants follow from this successful event at this position.

    Before MACs were demanded, anybody could append such an event. So any details are accepted:
    what cannot be read allows nothing.
    """
    following = replace(grants, generation=position)
    if kind == event_types.ACCESS_KEY_GRANTED:
        granted = _new(details, position)
        return _with(following, granted) if granted else following
    known = grants.by_id.get(_text(details, "id") or "")
    if known is None:
        return following
    match kind:
        case event_types.ACCESS_KEY_CHANGED:
            return _with(following, replace(known, rights=_read_rights(details)))
        case event_types.ACCESS_KEY_ROTATED:
            return _with(following, replace(known, keys=_rotated_keys(known, details)))
        case event_types.ACCESS_KEY_REVOKED:
            return _with(following, replace(known, revoked_at=at))
        case _:
            return following


def _text(details: Mapping[str, Any], name: str) -> str | None:
    value = details.get(name)
    return value if isinstance(value, str) else None


def _new(details: Mapping[str, Any], position: int) -> Granted | None:
    id_, name, sha256 = (_text(details, field) for field in ("id", "name", "sha256"))
    if id_ is None or name is None:
        return None
    return Granted(
        id=id_,
        name=name,
        rights=_read_rights(details),
        certificate=details.get("certificate") is True,
        position=position,
        keys={sha256: None} if sha256 else {},
    )


def _rotated_keys(known: Granted, details: Mapping[str, Any]) -> dict[str, datetime | None]:
    sha256 = _text(details, "sha256")
    try:
        until = from_rfc3339(_text(details, "previous_until") or "")
    except (ValueError, OverflowError):
        return {}
    before = {key: min(end, until) if end else until for key, end in known.keys.items()}
    return {**before, sha256: None} if sha256 else {}


def _read_rights(details: Mapping[str, Any]) -> Rights | None:
    fields = {name: details.get(name) for name in Rights.__struct_fields__}
    try:
        return msgspec.convert(fields, Rights)
    except msgspec.ValidationError:
        return None  # a later version wrote it: what cannot be read allows nothing


def _with(grants: Grants, granted: Granted) -> Grants:
    by_key = {**grants.by_key, **dict.fromkeys(granted.keys, granted.id)}
    live = {name: known for name, known in grants.live.items() if known != granted.id}
    if granted.revoked_at is None:
        live[granted.name] = granted.id
    return replace(grants, by_id={**grants.by_id, granted.id: granted}, by_key=by_key, live=live)
