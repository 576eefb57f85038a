"""Grants: what their events make of them, and whom they let in."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.access.access_key import digest, new_grant_id
from secrets_broker.ledger.access.grant_commands import (
    ChangeGrant,
    Grant,
    GrantCommand,
    Revoke,
    RotateKey,
)
from secrets_broker.ledger.access.grants import Grants, decide, evolve, judge
from secrets_broker.ledger.access.judgement import RULES
from secrets_broker.ledger.access.rights import Request, Rights, Rule
from secrets_broker.ledger.commands import parse
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.ledger.event_types import KEY_ROTATED
from secrets_broker.ledger.events import NO_KEY, TWO_KEYS, Subject
from tests.ledger.access.grant_history import START, apply, at

NAMES = ("deploy", "backup")
KEYS = tuple(digest(f"key-{number}") for number in range(6))
READ_ALL = Rights(rules=(Rule(allow=("read",), hosts=("*",), purposes=("*",)),))
READ_WEB = Rights(rules=(Rule(allow=("read",), hosts=("web-*",), purposes=("*",)),))


def refused(grants: Grants, key: str, minute: int, host: str = "web-1") -> str | None:
    """The rule that refuses a lookup, or None."""
    request = Request("read", at(minute), host, "ssh", "192.0.2.1")
    refusal = judge(grants, Subject(sha256=key), request)
    assert refusal is None or refusal.rule in RULES
    return refusal.rule if refusal else None


@dataclass
class Model:
    """One grant, said plainly."""

    ends: dict[str, int | None]
    everywhere: bool
    expires: int | None
    revoked: bool = False

    def refuses(self, key: str, minute: int, host: str) -> str | None:
        """The rule that refuses a lookup of that host, or None."""
        if self.revoked:
            return "revoked"
        until = self.ends[key]
        if (until is not None and minute >= until) or (
            self.expires is not None and minute >= self.expires
        ):
            return "expired"
        return None if self.everywhere or host.startswith("web-") else "host"


@dataclass
class World:
    """All that is granted, twice: as the ledger has it, and plainly."""

    grants: Grants = field(default_factory=Grants)
    models: list[Model] = field(default_factory=list)
    live: dict[str, Model] = field(default_factory=dict)
    unused: list[str] = field(default_factory=lambda: list(KEYS))


steps = st.tuples(
    st.sampled_from(["grant", "change", "rotate", "revoke"]),
    st.sampled_from(NAMES),
    st.booleans(),
    st.integers(0, 8),
)


@given(st.lists(steps, max_size=14), st.integers(0, 14), st.sampled_from(["web-1", "db-1"]))
def test_a_life_of_grants(life: list[tuple[str, str, bool, int]], later: int, host: str) -> None:
    """Whatever is granted, changed, rotated and revoked, each key opens what the model says."""
    world = World()
    for minute, (what, name, everywhere, length) in enumerate(life):
        _step(world, what, name, everywhere=everywhere, minute=minute, length=length)
    minute = len(life) + later
    known = {key: model for model in world.models for key in model.ends}
    for key in KEYS:
        expected = known[key].refuses(key, minute, host) if key in known else "unknown_key"
        assert refused(world.grants, key, minute, host) == expected


def _step(
    world: World, what: str, name: str, *, everywhere: bool, minute: int, length: int
) -> None:
    rights = READ_ALL if everywhere else READ_WEB
    model = world.live.get(name)
    if not world.unused and what in ("grant", "rotate"):
        return
    command: GrantCommand
    if what == "grant":
        expires = minute + length if length else None
        limited = Rights(rules=rights.rules, expires_at=at(expires) if expires else None)
        command = Grant(grantee=name, id=new_grant_id(), sha256=world.unused[0], rights=limited)
    elif what == "change":
        command = ChangeGrant(grantee=name, rights=rights)
    elif what == "rotate":
        command = RotateKey(
            grantee=name, sha256=world.unused[0], previous_until=at(minute + length)
        )
    else:
        command = Revoke(grantee=name)
    if (model is None) != (what == "grant"):
        with pytest.raises(InvalidCommandError):
            decide(world.grants, command, at(minute))
        return
    world.grants = apply(world.grants, command, minute, minute)
    if what == "grant":
        made = Model({world.unused.pop(0): None}, everywhere, minute + length if length else None)
        world.models.append(made)
        world.live[name] = made
    elif model is not None:
        _change(world, model, what, name, everywhere=everywhere, until=minute + length)


def _change(
    world: World, model: Model, what: str, name: str, *, everywhere: bool, until: int
) -> None:
    if what == "change":
        model.everywhere, model.expires = everywhere, None
    elif what == "rotate":
        model.ends = {k: until if end is None else min(end, until) for k, end in model.ends.items()}
        model.ends[world.unused.pop(0)] = None
    else:
        model.revoked = True
        del world.live[name]


def test_whoever_shows_nothing_is_refused_by_that_name() -> None:
    """No key, and two keys, are rules of their own."""
    request = Request("read", START, "web-1", "ssh")
    for problem in (NO_KEY, TWO_KEYS):
        refusal = judge(Grants(), Subject(problem=problem), request)
        assert refusal is not None
        assert (refusal.rule, refusal.authn) == (problem, None)


def test_a_certificate_opens_only_a_grant_for_certificates() -> None:
    """A name that somebody put into a certificate is no key of the same name."""
    by_key = Grant(grantee="deploy", id="0" * 16, sha256=KEYS[0], rights=READ_ALL)
    by_certificate = Grant(grantee="spiffe://x/y", id="1" * 16, sha256=None, rights=READ_ALL)
    grants = apply(apply(Grants(), by_key, 0, 0), by_certificate, 0, 1)
    request = Request("read", at(1), "web-1", "ssh")
    shown = [Subject(certificate=n, fingerprint="f" * 64) for n in ("deploy", "spiffe://x/y")]
    refusals = [judge(grants, subject, request) for subject in shown]
    assert [refusal.rule if refusal else None for refusal in refusals] == ["unknown_key", None]


def test_a_certificate_is_good_through_its_last_moment() -> None:
    """By the time of the event that is judged; what it names is on record, and it proves nobody."""
    granted = Grant(grantee="deploy", id="0" * 16, sha256=None, rights=READ_ALL)
    grants = apply(Grants(), granted, 0, 0)
    subject = Subject(certificate="deploy", fingerprint="f" * 64, not_after=at(5))
    for moment, rule in ((4, None), (5, None), (6, "expired")):
        refusal = judge(grants, subject, Request("read", at(moment), "web-1", "ssh"))
        assert (refusal.rule if refusal else None) == rule
        assert refusal is None or (refusal.name, refusal.authn) == ("deploy", None)


def test_a_reason_is_demanded_where_the_rule_says_so() -> None:
    """It is its own error, and the caller is known."""
    rules = (
        Rule(allow=("read",), hosts=("prod-*",), purposes=("*",), reason=True),
        Rule(allow=("read",), hosts=("*",), purposes=("*",)),
    )
    command = Grant(grantee="deploy", id="0" * 16, sha256=KEYS[0], rights=Rights(rules=rules))
    grants = apply(Grants(), command, 0, 0)

    def asked(host: str, reason: str | None) -> str | None:
        request = Request("read", at(1), host, "ssh", reason=reason)
        refusal = judge(grants, Subject(sha256=KEYS[0]), request)
        return f"{refusal.error} {refusal.rule} {refusal.authn}" if refusal else None

    assert asked("prod-1", None) == f"reason_required reason access_key:{'0' * 16}"
    assert asked("prod-1", "CHG-1") is None
    assert asked("test-1", None) is None


def test_what_a_later_version_wrote_allows_nothing() -> None:
    """Rights that are not understood are no rights; and other events change nothing."""
    command = Grant(grantee="deploy", id="0" * 16, sha256=KEYS[0], rights=READ_ALL)
    grants = apply(Grants(), command, 0, 0)
    strange = {"id": "0" * 16, "name": "deploy", "rules": [{"allow": ["fly"]}]}
    changed = evolve(grants, "access_key.changed", strange, 1, rfc3339(at(1)))
    assert refused(changed, KEYS[0], 2) == "unknown_key"
    assert evolve(grants, KEY_ROTATED, strange, 1, rfc3339(at(1))).by_id == grants.by_id


@pytest.mark.parametrize("name", ["", "a\nb", "a\u202eb", " a", "a" * 101, "a\x00", "\ud800"])
def test_a_name_that_would_mislead_is_refused(name: str) -> None:
    """It becomes the actor of events, and stands in tables and logs."""
    with pytest.raises(InvalidCommandError):
        parse(Revoke, {"grantee": name})


def test_what_is_over_already_is_not_granted() -> None:
    """Rights that end in the past are a slip of the pen."""
    over = Rights(rules=READ_ALL.rules, expires_at=at(0))
    command = Grant(grantee="deploy", id="0" * 16, sha256=KEYS[0], rights=over)
    with pytest.raises(InvalidCommandError, match="future"):
        decide(Grants(), command, at(0))
