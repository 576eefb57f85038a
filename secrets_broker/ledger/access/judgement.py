"""Decides whether a caller is allowed what it asks for, and makes a refusal's event. Pure.

`judge` is the one judgement. Admission (http/auth/admission.py) calls it with the grants as this
process last read them. The fold (fold.py) calls it again under the ledger's lock, with the grants
of that moment. The second answer is the one that counts.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import msgspec

from secrets_broker.ledger.access import grants as granting
from secrets_broker.ledger.access.grant_commands import Enter, GrantCommand
from secrets_broker.ledger.access.grants import (
    EXPIRED,
    REVOKED,
    UNKNOWN_KEY,
    Grants,
    authn,
    too_wide,
)
from secrets_broker.ledger.access.quota import HOSTS, REQUESTS, Meters
from secrets_broker.ledger.access.rights import (
    ADMIN,
    DELETE,
    READ,
    REASON,
    TESTS,
    WIDER,
    WRITE,
    Refusal,
    Request,
)
from secrets_broker.ledger.commands import Command, Delete, Lookup, Upsert
from secrets_broker.ledger.credential import Decision
from secrets_broker.ledger.event_types import ACCESS_DENIED
from secrets_broker.ledger.events import CERTIFICATE, NO_KEY, TWO_KEYS, Context, Subject

_OPERATIONS: Final[dict[type[Any], str]] = {Lookup: READ, Upsert: WRITE, Delete: DELETE}

UNKNOWN: Final = "none"
"""The authn of a caller that is not authenticated."""

NO_VALID_KEY: Final = (NO_KEY, TWO_KEYS, CERTIFICATE, UNKNOWN_KEY, REVOKED, EXPIRED)
"""The rules that refuse a caller without a valid key."""
RULES: Final = (*NO_VALID_KEY, *TESTS, REASON, REQUESTS, HOSTS, WIDER)
"""Every rule that a refusal may name."""


def judge(
    grants: Grants, meters: Meters, command: Command | Enter, context: Context, at: datetime
) -> Refusal | None:
    """Say why the caller is refused, by its rights, its limits, or for giving more than it has.

    None if it is allowed, or if the caller needs no grant.
    """
    subject = context.subject
    if subject is None:
        return None
    request = asked(command, context, at)
    refusal = granting.judge(grants, subject, request) or _over(grants, meters, subject, request)
    if refusal is None and isinstance(command, GrantCommand):
        return too_wide(grants, command, subject)
    return refusal


def _over(grants: Grants, meters: Meters, subject: Subject, request: Request) -> Refusal | None:
    granted = grants.of(subject)
    limited = meters.judge(granted, request) if granted else None
    if limited is None or granted is None:
        return None
    how = authn(granted, subject)
    return replace(limited, key=granted.id, name=granted.name, authn=how)


def asked(command: Command | Enter, context: Context, at: datetime) -> Request:
    """What a command asks for: the operation, the credential, and where from."""
    host, purpose = command.name or (None, None)
    later = isinstance(command, Enter) and command.names
    return Request(operation(command), at, host, purpose, context.ip, context.reason, later)


def operation(command: Command | Enter) -> str:
    """The right that a command needs; by default admin."""
    if isinstance(command, Enter):
        return command.operation
    return _OPERATIONS.get(type(command), ADMIN)


def proven(grants: Grants, context: Context) -> Context:
    """The context with the actor and authn of the caller's grant."""
    granted = grants.of(context.subject) if context.subject else None
    if granted is None or context.subject is None:
        return context
    how = authn(granted, context.subject)
    return msgspec.structs.replace(context, actor=granted.name, authn=how)


def denied(
    command: Command | Enter, context: Context, refusal: Refusal
) -> tuple[Decision, Context]:
    """The refusal as an event, and its context; without a valid key it has no actor."""
    known = {"key": refusal.key, "name": refusal.name}
    details = {
        "operation": operation(command),
        "rule": refusal.rule,
        **{name: text for name, text in known.items() if text is not None},
    }
    who = msgspec.structs.replace(
        context,
        actor=refusal.name if refusal.authn else None,
        authn=refusal.authn or context.authn,
        # A caller without any grant must not fill the ledger with texts of its choice.
        reason=context.reason if refusal.key else None,
    )
    return Decision(ACCESS_DENIED, error=refusal.error, details=details), who
