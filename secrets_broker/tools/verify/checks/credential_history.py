"""One name's history: whether an event can stand after the last change before it.

These are the rules of credential.py, read from the other side: not what a command becomes, but
whether an event can stand where it stands. Ids and versions are held to docs/format.md, sections
"Ids", "Erased and rekeyed" and "Read out of the history".
"""

from typing import Final, NamedTuple

from secrets_broker.ledger.credential import ALREADY_THERE, DECRYPT_FAILED, EXPIRED, NOT_FOUND
from secrets_broker.ledger.event_types import ON_CREDENTIAL, READ, OnCredential
from secrets_broker.tools.verify.checks.facts import Fact

_Pair = tuple[int | None, int | None]


class CredentialHistory(NamedTuple):
    """A name's last change: id and version; the live content's data key and position, or None."""

    id: int | None
    version: int | None
    key: str | None
    content: int | None

    def after(self, fact: Fact) -> "CredentialHistory":
        """What it is once that event, a change that succeeded, has happened."""
        rule = ON_CREDENTIAL.get(fact.type)
        if rule is None or not rule.changes:
            return self
        content = {"set": fact.position, "resealed": self.content}.get(rule.content)
        key = fact.key if rule.has_body else None
        return CredentialHistory(fact.credential_id, fact.version, key, content)

    def problem_of(self, fact: Fact) -> str | None:
        """Say why an event cannot stand where it stands, or None where it can."""
        live = self if self.key is not None else NOBODY
        rule = ON_CREDENTIAL[fact.type]
        if (fact.key is not None) is not (fact.ok and rule.has_body):
            return "it has a body that it must not have, or lacks one"
        if fact.type == READ and fact.details is not None:
            return self._replay_problem(fact)
        if not fact.ok:
            return _failure_problem(fact, live)
        if rule.content == "resealed" and (fact.details or {}).get("content") != live.content:
            return "it does not name the event that set the content"
        if rule.stands_after == "nothing" and live.key is not None:
            return "there is a live credential of that name"
        if rule.stands_after == "live" and live.key is None:
            return "there is no live credential of that name"
        return _differs((fact.credential_id, fact.version), *self._right(fact, rule))

    def _right(self, fact: Fact, rule: OnCredential) -> tuple[_Pair, str]:
        if rule.version == "first":
            return (fact.position + 1, 1), "a new credential"
        if rule.version == "next":
            return (self.id, (self.version or 0) + 1), "the next version"
        return (self.id, self.version), "the last version"

    def _replay_problem(self, fact: Fact) -> str | None:
        """Of earlier versions only the last is kept here, so what is told is what never was."""
        if not fact.ok and fact.error != DECRYPT_FAILED:
            return "what is read out of the history is there, or does not open"
        match fact.details, self.id, fact.credential_id, fact.version:
            case {"replay": {"at": int(at)}}, int(last), int(id_), int(version):
                # An id is its first event's position + 1, and a name's ids only grow.
                was = 1 <= id_ <= last and id_ <= at + 1 and at < fact.position
                newest = (self.version or 0) if id_ == last else version
                if was and 1 <= version <= newest:
                    return None
        return "it does not say which version of before it disclosed, or there never was that one"


NOBODY: Final = CredentialHistory(None, None, None, None)


def _failure_problem(fact: Fact, live: CredentialHistory) -> str | None:
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


def _differs(given: _Pair, right: _Pair, what: str) -> str | None:
    if given == right:
        return None
    return f"it names {_named(given)}, and {what} would be {_named(right)}"


def _named(pair: _Pair) -> str:
    credential_id, version = pair
    if credential_id is None:
        return "no credential"
    return f"credential {credential_id} version {version}"
