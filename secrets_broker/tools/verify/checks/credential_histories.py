"""The credential histories: each event must be one that the events before it allow.

credential_history says what the history of one name allows. This file keeps all names and whose
each data key is, by docs/format.md, sections "Ids" and "Erased and rekeyed".

What is kept is one small tuple a name that ever had a credential, and one a data key.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from secrets_broker.ledger.event_types import ERASED, ON_CREDENTIAL, READ, OnCredential
from secrets_broker.tools.verify.checks.credential_history import NOBODY, CredentialHistory
from secrets_broker.tools.verify.checks.disk_mapping import LIMIT, Spill
from secrets_broker.tools.verify.checks.facts import Fact
from secrets_broker.tools.verify.checks.findings import Violation


class _Key(NamedTuple):
    """A data key: whose it is, where it was erased; of the bodies under it the first, and all."""

    credential_id: int | None
    erased: int | None
    first: int | None
    bodies: int = 0


class CredentialHistories:
    """Takes facts in order, and says what is wrong with each."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._names = Spill(limit)
        self._keys = Spill(limit)

    def close(self) -> None:
        """Let go of temporary files."""
        self._names.close()
        self._keys.close()

    def take(self, fact: Fact) -> Iterator[Violation]:
        """Take the next fact; gives its problems."""
        if fact.type == ERASED and fact.ok:
            yield from _told(fact, *self._erase(fact))
        rule = ON_CREDENTIAL.get(fact.type)
        if rule is None or fact.host is None or fact.purpose is None:
            return
        name = f"{fact.host}\x00{fact.purpose}"
        history = CredentialHistory._make(self._names.get(name) or NOBODY)
        detail = history.problem_of(fact)
        if detail is not None:
            yield from _told(fact, detail)
        if not rule.changes or not fact.ok:
            return
        if rule.has_body and fact.key is not None:
            yield from _told(fact, *self._use(fact, history, rule))
        self._names.put(name, history.after(fact))

    def allows(self, fact: Fact) -> bool:
        """Whether a fact is a disclosure of what is live: most are, and this is the quick way."""
        if fact.type != READ or not fact.ok or fact.key is not None or fact.details is not None:
            return False
        history = self._names.get(f"{fact.host}\x00{fact.purpose}")
        return history is not None and history[2] is not None and history[:2] == fact[4:6]

    def note_erased(self, fact: Fact) -> None:
        """Take in which data keys an erasure names, and judge nothing."""
        if fact.type == ERASED and fact.ok:
            for _ in self._erase(fact):
                pass

    def erased_at(self, key: str) -> int | None:
        """Where the ledger says that a data key was erased; None where it says no such thing."""
        found = self._keys.get(key)
        return None if found is None else _Key._make(found).erased

    def knows(self, key: str) -> bool:
        """Whether any event names that data key."""
        return self._keys.get(key) is not None

    def erased(self) -> Iterator[tuple[str, int]]:
        """Every data key that was erased, and where."""
        for key, value in self._keys.items():
            at = _Key._make(value).erased
            if at is not None:
                yield key, at

    def kept(self) -> Iterator[tuple[str, int | None, int | None]]:
        """Every data key that was not erased, its credential, and the first event that names it."""
        for key, value in self._keys.items():
            known = _Key._make(value)
            if known.erased is None:
                yield key, known.credential_id, known.first

    def _use(self, fact: Fact, history: CredentialHistory, rule: OnCredential) -> Iterator[str]:
        key = fact.key or ""
        found = self._keys.get(key)
        if found is None:
            self._keys.put(key, _Key(fact.credential_id, None, fact.position, 1))
            if not rule.new_data_key:
                yield "its data key is none that the credential had"
            return
        known = _Key._make(found)
        self._keys.put(key, known._replace(bodies=known.bodies + 1))
        if known.erased is not None:
            yield "its data key was erased before"
        elif known.credential_id != fact.credential_id:
            yield "its data key is another credential's"
        elif rule.new_data_key:
            yield "its data key should be a new one"
        elif history.key != key:
            yield "its data key is not the credential's last one"

    def _erase(self, fact: Fact) -> Iterator[str]:
        details = fact.details or {}
        keys = _all(details.get("data_keys"), str)
        ids = _all(details.get("credential_ids"), int)
        if keys is None or ids is None:
            yield "the erasure does not name data keys and credentials"
            return
        named = 0
        for key in keys:
            found = self._keys.get(key)
            known = _Key(None, None, None) if found is None else _Key._make(found)
            if known.erased is not None:
                yield "the erasure names a data key that was erased before"
            elif known.credential_id is not None and known.credential_id not in ids:
                yield "the erasure does not name the credential that a data key was of"
            named += known.bodies
            self._keys.put(key, known._replace(erased=fact.position))
        # Fewer were there where somebody had taken a body away before, which is no erasure's fault.
        bodies = details.get("bodies")
        if type(bodies) is not int or not 0 <= bodies <= named:
            yield f"the erasure must say how many bodies: {named} were named under its data keys"


def _all(values: Any, kind: type) -> list[Any] | None:
    right = isinstance(values, list) and all(type(value) is kind for value in values)
    return values if right else None


def _told(fact: Fact, *details: str) -> Iterator[Violation]:
    check = "erasure" if fact.type == ERASED else "credential"
    return (Violation(fact.position, check, f"{fact.type}: {detail}") for detail in details)
