"""Has every MAC of a database checked, where the keys are at hand."""

from collections.abc import Iterator
from typing import Final

from secrets_broker.ledger.encryption.event_key import EventKey, WrappedEventKey, unwrap
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import DecryptionError
from secrets_broker.ledger.event_macs.acceptance import Span
from secrets_broker.ledger.event_types import IS_CONTROL
from secrets_broker.tools.shared.progress import Tell
from secrets_broker.tools.verify.checks.findings import Findings
from secrets_broker.tools.verify.checks.macs import MacCheck, MacInput
from secrets_broker.tools.verify.sources.database import DatabaseSource

AT_ONCE: Final = 16_384  # events a statement: some ten milliseconds

_EVENTS: Final = f"""
    SELECT position, type, ok, CASE WHEN {IS_CONTROL} THEN details END, leaf_hash, mac
    FROM ledger.events WHERE position >= %s AND position < %s ORDER BY position
"""  # noqa: S608 - our own constants
_LEDGERS: Final = f"""
    SELECT DISTINCT details ->> 'ledger' FROM ledger.events
    WHERE ok AND {IS_CONTROL} AND type = 'ledger.authenticated' AND details ->> 'ledger' IS NOT NULL
"""  # noqa: S608 - our own constants
_KEYS: Final = "SELECT id, kek, wrapped, from_position FROM ledger.event_keys"
_ANY_MAC: Final = "SELECT EXISTS (SELECT FROM ledger.events WHERE mac IS NOT NULL)"
_DISOWNED: Final = """
    SELECT first_position, last_position, by_position FROM ledger.disowned
    ORDER BY by_position, first_position
"""


def disowned(source: DatabaseSource) -> tuple[Span, ...]:
    """The positions that nothing follows from."""
    # Where there is no last one, nothing is left out; with the keys, it is told.
    rows = source.fetch(_DISOWNED)
    return tuple((first, last) for first, last, _ in rows if last is not None)


def check_macs(
    source: DatabaseSource, size: int, keyring: Keyring | None, findings: Findings, tell: Tell
) -> None:
    """Find the events that were not made with the ledger's keys."""
    if not size:
        return
    ((there_are,),) = source.fetch(_ANY_MAC)
    if not there_are:
        findings.left_out("who appended: this ledger has no MACs; run secrets-broker authenticate")
        return
    if keyring is None:
        findings.left_out("who appended (MACs): that takes the keys, as a service has them")
        return
    keys, unopened = _event_keys(source, keyring)
    check = MacCheck(keys)
    for first in range(0, size, AT_ONCE):
        check.take(_events(source, first, min(first + AT_ONCE, size)))
        tell("MACs checked", min(first + AT_ONCE, size), size)
    check.finish(findings, [*map(tuple, source.fetch(_DISOWNED))], unopened)


def _events(source: DatabaseSource, first: int, end: int) -> Iterator[MacInput]:
    for row in source.fetch(_EVENTS, first, end):
        yield MacInput(*row)


def _event_keys(
    source: DatabaseSource, keyring: Keyring
) -> tuple[dict[tuple[str, int], EventKey], list[int | None]]:
    """What opens, and from where on what does not was to be in force."""
    ledgers = [ledger for (ledger,) in source.fetch(_LEDGERS)]
    opened: dict[tuple[str, int], EventKey] = {}
    unopened: list[int | None] = []
    for row in source.fetch(_KEYS):
        stored = WrappedEventKey(*row)
        key = next(filter(None, (_open(keyring, ledger, stored) for ledger in ledgers)), None)
        if key is None:
            unopened.append(stored.from_position)
        else:
            opened[stored.id, stored.from_position] = key
    return opened, unopened


def _open(keyring: Keyring, ledger: str, stored: WrappedEventKey) -> EventKey | None:
    kek = keyring.get(stored.kek)
    try:
        return unwrap(kek, ledger, stored) if kek else None
    except (DecryptionError, ValueError):
        return None
