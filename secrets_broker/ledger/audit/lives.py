"""The credentials' lives: each event must be one that the events before it allow.

These are the rules of credential.py, read from the other side: not what a command becomes, but
whether an event can stand where it stands. Positions, ids, versions and data keys are held to
docs/format.md, sections "Ids" and "Erased and rekeyed".

What is kept is one small tuple a name that ever had a credential, and one a data key.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from secrets_broker.ledger.audit.facts import Fact
from secrets_broker.ledger.audit.findings import Problem
from secrets_broker.ledger.audit.spill import LIMIT, Spill
from secrets_broker.ledger.credential import ALREADY_THERE, DECRYPT_FAILED, EXPIRED, NOT_FOUND
from secrets_broker.ledger.events import CREATED, DELETED, ERASED, IMPORTED, READ, REKEYED, UPDATED

_STORES: Final = frozenset({CREATED, UPDATED, IMPORTED, REKEYED})


class _Life(NamedTuple):
    """A name's last change: id and version; the live content's data key and position, or None."""

    id: int | None
    version: int | None
    key: str | None
    content: int | None


class _Key(NamedTuple):
    """A data key: whose it is, and where it was erased."""

    credential_id: int | None
    erased: int | None


_NOBODY: Final = _Life(None, None, None, None)


class Lives:
    """Takes facts in order, and says what is wrong with each."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._names = Spill(limit)
        self._keys = Spill(limit)

    def close(self) -> None:
        """Let go of temporary files."""
        self._names.close()
        self._keys.close()

    def take(self, fact: Fact) -> Iterator[Problem]:
        """Go on with the next fact; gives its problems."""
        if fact.type == ERASED and fact.ok:
            yield from _told(fact, *self._erase(fact))
        if fact.host is None or fact.purpose is None:
            return
        name = f"{fact.host}\x00{fact.purpose}"
        life = _Life._make(self._names.get(name) or _NOBODY)
        detail = _problem(fact, life)
        if detail is not None:
            yield from _told(fact, detail)
        if fact.type == READ or not fact.ok:
            return
        if fact.type in _STORES and fact.key is not None:
            yield from _told(fact, *self._use(fact, life))
        self._names.put(name, _after(fact, life))

    def allows(self, fact: Fact) -> bool:
        """Whether a fact is a disclosure of what is live: most are, and this is the quick way."""
        if fact.type != READ or not fact.ok or fact.key is not None:
            return False
        life = self._names.get(f"{fact.host}\x00{fact.purpose}")
        return life is not None and life[2] is not None and life[:2] == fact[4:6]

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

    def _use(self, fact: Fact, life: _Life) -> Iterator[str]:
        key = fact.key or ""
        found = self._keys.get(key)
        if found is None:
            self._keys.put(key, _Key(fact.credential_id, None))
            if fact.type == UPDATED:
                yield "its data key is none that the credential had"
            return
        known = _Key._make(found)
        if known.erased is not None:
            yield "its data key was erased before"
        elif known.credential_id != fact.credential_id:
            yield "its data key is another credential's"
        elif fact.type != UPDATED:
            yield "its data key should be a new one"
        elif life.key != key:
            yield "its data key is not the credential's last one"

    def _erase(self, fact: Fact) -> Iterator[str]:
        details = fact.details or {}
        keys = _all(details.get("data_keys"), str)
        ids = _all(details.get("credential_ids"), int)
        if keys is None or ids is None:
            yield "the erasure does not name data keys and credentials"
            return
        for key in keys:
            found = self._keys.get(key)
            known = _Key(None, None) if found is None else _Key._make(found)
            if known.erased is not None:
                yield "the erasure names a data key that was erased before"
            elif known.credential_id is not None and known.credential_id not in ids:
                yield "the erasure does not name the credential that a data key was of"
            self._keys.put(key, _Key(known.credential_id, fact.position))


def _all(values: Any, kind: type) -> list[Any] | None:
    right = isinstance(values, list) and all(type(value) is kind for value in values)
    return values if right else None


def _told(fact: Fact, *details: str) -> Iterator[Problem]:
    check = "erasure" if fact.type == ERASED else "credential"
    return (Problem(fact.position, check, f"{fact.type}: {detail}") for detail in details)


def _after(fact: Fact, life: _Life) -> _Life:
    if fact.type in (DELETED, ERASED):
        return _Life(fact.credential_id, fact.version, None, None)
    if fact.type == REKEYED:
        return _Life(fact.credential_id, fact.version, fact.key, life.content)
    if fact.type in _STORES:
        return _Life(fact.credential_id, fact.version, fact.key, fact.position)
    return life


def _problem(fact: Fact, life: _Life) -> str | None:
    """Say why an event cannot stand where it stands, or None where it can."""
    live = life if life.key is not None else _NOBODY
    if (fact.key is not None) is not (fact.ok and fact.type in _STORES):
        return "it has a body that it must not have, or lacks one"
    if not fact.ok:
        return _failure_problem(fact, live)
    if fact.type == REKEYED and (fact.details or {}).get("content") != live.content:
        return "it does not name the event that set the content"
    if fact.type in (CREATED, IMPORTED):
        if live.key is not None:
            return "there is a live credential of that name"
    elif live.key is None and fact.type != ERASED:
        return "there is no live credential of that name"
    return _differs((fact.credential_id, fact.version), *_right(fact, life))


def _right(fact: Fact, life: _Life) -> tuple[tuple[int | None, int | None], str]:
    if fact.type in (CREATED, IMPORTED):
        return (fact.position + 1, 1), "a new credential"
    if fact.type == UPDATED:
        return (life.id, (life.version or 0) + 1), "the next version"
    return (life.id, life.version), "the last version"


def _failure_problem(fact: Fact, live: _Life) -> str | None:
    given = (fact.credential_id, fact.version)
    if fact.error == NOT_FOUND:
        if live.key is not None:
            return "not found, while there is a live credential of that name"
        return _differs(given, (None, None), "nothing")
    if fact.error == ALREADY_THERE:
        return _differs(given, (live.id, None), "the live credential")
    if fact.error in (DECRYPT_FAILED, EXPIRED):
        return _differs(given, (live.id, live.version), "the live version")
    return None


def _differs(
    given: tuple[int | None, int | None], right: tuple[int | None, int | None], what: str
) -> str | None:
    if given == right:
        return None
    return f"it names {_named(given)}, and {what} would be {_named(right)}"


def _named(pair: tuple[int | None, int | None]) -> str:
    credential_id, version = pair
    if credential_id is None:
        return "no credential"
    return f"credential {credential_id} version {version}"
