"""Conditions that follow from a single event."""

from typing import Any

from secrets_broker.ledger.access.rights import ADMIN
from secrets_broker.ledger.event_types import (
    ACCESS_DENIED,
    ACCESS_KEY_CHANGED,
    ACCESS_KEY_GRANTED,
    COUNTS,
    GRANTS,
    LEDGER_DISOWNED,
)
from secrets_broker.ledger.scheduling.network_source import source_of
from secrets_broker.projections.conditions.condition import (
    ADMIN_GRANTED,
    DENIED,
    ENCRYPTION_ERROR,
    EVENTS_DISOWNED,
    GRANT_CHANGED,
    UNAUTHORIZED,
    Finding,
    Happened,
    shown,
)

DECRYPT_FAILED = "decrypt_failed"


def encryption_error(event: Happened) -> Finding | None:
    """A stored credential could not be decrypted, or does not follow from the ledger."""
    if event.error != DECRYPT_FAILED:
        return None
    name = f"{shown(event.host)} {shown(event.purpose)}"
    return Finding(
        ENCRYPTION_ERROR,
        f"the credential {name} could not be decrypted",
        key=f"{ENCRYPTION_ERROR} {name}",
        facts={"host": event.host, "purpose": event.purpose, "actor": event.actor},
    )


def refusal(event: Happened) -> Finding | None:
    """A caller was refused, with a valid key or without one."""
    if event.type == ACCESS_DENIED:
        return _unauthorized(event) if event.actor is None else _denied(event)
    if event.type in COUNTS:
        return _counted_refusals(event)
    return None


def grant_changed(event: Happened) -> Finding | None:
    """A grant has changed; reported each time."""
    if event.type not in GRANTS or not event.ok:
        return None
    change = event.type.partition(".")[2]
    name = event.detail("name")
    return Finding(
        GRANT_CHANGED,
        f"the rights of {shown(name)} were {change} by {shown(event.actor)}",
        facts={
            "actor": event.actor,
            "source": source_of(event.ip),
            "change": change,
            "grant": event.detail("id"),
            "name": name,
        },
    )


def admin_granted(event: Happened) -> Finding | None:
    """A grant allows changing grants; reported each time, besides the change itself."""
    rules = event.detail("rules")
    if event.type not in (ACCESS_KEY_GRANTED, ACCESS_KEY_CHANGED) or not event.ok:
        return None
    if not isinstance(rules, list) or not any(ADMIN in _allowed(rule) for rule in rules):
        return None
    name = event.detail("name")
    return Finding(
        ADMIN_GRANTED,
        f"{shown(name)} may grant what it may do itself, by {shown(event.actor)}",
        facts={
            "actor": event.actor,
            "source": source_of(event.ip),
            "operation": ADMIN,
            "grant": event.detail("id"),
            "name": name,
        },
    )


def disowned(event: Happened) -> Finding | None:
    """An operator left out events made without the ledger's keys; reported each time."""
    if event.type != LEDGER_DISOWNED or not event.ok:
        return None
    spans = event.detail("ranges")
    count = sum(map(_length, spans)) if isinstance(spans, list) else 0
    return Finding(
        EVENTS_DISOWNED,
        f"{count} events were not made with the ledger's keys; {shown(event.actor)} left them out",
        facts={"actor": event.actor, "count": count},
    )


def _length(span: Any) -> int:
    match span:
        case [int(first), int(last)] if first <= last:
            return last - first + 1
        case _:
            return 0


def _allowed(rule: Any) -> Any:
    # The row may have been written by anybody, so the value may be of any type.
    return rule.get("allow") or () if isinstance(rule, dict) else ()


def _facts(event: Happened) -> dict[str, Any]:
    return {
        "source": source_of(event.ip),
        "operation": event.detail("operation"),
        "rule": event.detail("rule"),
        "grant": event.detail("key"),
        "name": event.detail("name"),
        "claim": event.detail("claim"),
    }


def _unauthorized(event: Happened) -> Finding:
    source = source_of(event.ip)
    return Finding(
        UNAUTHORIZED,
        f"a caller from {source or 'an unknown address'} has no valid key "
        f"({shown(event.detail('rule'))})",
        key=f"{UNAUTHORIZED} {source}",
        facts=_facts(event),
    )


def _denied(event: Happened) -> Finding:
    rule = event.detail("rule")
    return Finding(
        DENIED,
        f"{shown(event.actor)} was refused: {shown(event.error)}, by the rule {shown(rule)}",
        key=f"{DENIED} {rule} {event.actor}",
        facts={
            **_facts(event),
            "actor": event.actor,
            "host": event.host,
            "purpose": event.purpose,
        },
    )


def _counted_refusals(event: Happened) -> Finding:
    source, count = event.detail("source"), event.detail("count")
    many = "so many refusals" if count is None else f"{count} refusals"
    return Finding(
        UNAUTHORIZED,
        f"{many} of {source or 'several sources'} that they are only counted",
        # A key of its own: reported even if the single refusals before it were.
        key=f"{UNAUTHORIZED} counting {source}",
        facts={"source": source, "count": count},
    )
