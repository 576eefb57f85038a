"""Whether rights are within others, held against what each of them allows."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secrets_broker.ledger.access.access_key import digest, new_grant_id
from secrets_broker.ledger.access.attenuation import MOST_COMPARISONS, covers, is_within, may_meet
from secrets_broker.ledger.access.grant_commands import ChangeGrant, Grant, Revoke, RotateKey
from secrets_broker.ledger.access.grants import Grants, decide, evolve, judge, too_wide
from secrets_broker.ledger.access.quota import Meter, Use
from secrets_broker.ledger.access.rights import OPERATIONS, Limit, Request, Rights, Rule, matches
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.events import Subject

NOW = datetime(2026, 1, 2, tzinfo=UTC)
OWN, NEW = Subject(sha256=digest("own")), Subject(sha256=digest("new"))

patterns = st.text(alphabet="ab*", min_size=1, max_size=6)
texts = ["".join(letters) for size in range(6) for letters in product("abc", repeat=size)]
networks = st.sampled_from(
    ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "2001:db8::/32", "0.0.0.0/0", "::/0"]
)
names = st.lists(st.sampled_from(["*", "web-*", "web-1", "*-1", "w*1", "db-*"]), max_size=2)
operations = st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=3)


@st.composite
def rule(draw: st.DrawFn) -> Rule:
    """A rule that there can be."""
    allow, hosts, purposes = draw(operations), draw(names), draw(names)
    if {"read", "write", "delete"} & set(allow):
        hosts, purposes = hosts or ["web-*"], purposes or ["*"]
    return Rule(
        allow=tuple(allow),
        hosts=tuple(hosts),
        purposes=tuple(purposes),
        networks=tuple(draw(st.lists(networks, max_size=2))),
        reason=draw(st.booleans()),
    )


moments = st.none() | st.sampled_from([NOW + timedelta(days=days) for days in (1, 2, 3)])
rights = st.builds(
    Rights, rules=st.lists(rule(), min_size=1, max_size=3).map(tuple), expires_at=moments
)
REQUESTS = [
    Request(operation, NOW + timedelta(hours=hours), host, purpose, ip, reason)
    for operation in OPERATIONS
    for hours in (1, 30, 60, 90)
    for host, purpose in product(["web-1", "web-2", "db-1", "wx1", "other"], ["web-1", "db-1", "x"])
    for ip in ("10.0.0.1", "10.1.2.3", "192.0.2.1", "2001:db8::1", None)
    for reason in (None, "why")
]
REQUESTS += [
    Request(operation, NOW + timedelta(hours=1), None, None, ip, reason)
    for operation in OPERATIONS
    for ip in ("10.0.0.1", "192.0.2.1", None)
    for reason in (None, "why")
]


def granted(own: Rights, *more: Rights) -> Grants:
    """Grants with one key each: OWN's, NEW's."""
    grants = Grants()
    for number, (key, one) in enumerate(zip((OWN, NEW), (own, *more), strict=False)):
        command = Grant(grantee=f"n{number}", id=f"{number:016x}", sha256=key.sha256, rights=one)
        done = decide(grants, command, NOW)
        grants = evolve(grants, done.type, done.details or {}, number, rfc3339(NOW))
    return grants


@given(patterns, patterns)
@example("*", "**")
@example("a*a", "a*aa")
@example("*a*", "a")
def test_a_pattern_covers_another_where_it_fits_all_that_the_other_fits(
    pattern: str, narrower: str
) -> None:
    """Exactly: on all short texts, one with a letter that is in neither pattern among them."""
    fits = all(matches(pattern, text) for text in texts if matches(narrower, text))
    if covers(pattern, narrower):
        assert fits
    elif fits:  # then only longer texts tell them apart
        long = narrower.replace("*", "c" * 9)
        assert matches(narrower, long)
        assert not matches(pattern, long)


@given(patterns, patterns)
def test_two_patterns_are_never_said_to_be_apart_where_a_text_fits_both(one: str, two: str) -> None:
    """The other way round is allowed: then a reason is demanded that need not be."""
    if any(matches(one, text) and matches(two, text) for text in texts):
        assert may_meet(one, two)
        assert may_meet(two, one)


@given(rights, rights)
def test_what_is_within_is_allowed_to_the_granter_too(own: Rights, given_rights: Rights) -> None:
    """Any request, from anywhere, at any time, with a reason or without."""
    if not is_within(given_rights, own):
        return
    grants = granted(own, given_rights)
    for request in REQUESTS:
        if judge(grants, NEW, request) is None:
            assert judge(grants, OWN, request) is None, request


@given(rights)
def test_everybody_may_give_what_he_has(own: Rights) -> None:
    """Unless a rule of his that wants a reason may stand before one that does not."""
    if not any(rule.reason for rule in own.rules):
        assert is_within(own, own)


def test_a_reason_may_be_handed_on() -> None:
    """With it, and not without."""
    own = Rights(rules=(Rule(allow=("read",), hosts=("w*",), purposes=("*",), reason=True),))
    assert is_within(own, own)
    free = Rule(allow=("read",), hosts=("web-1",), purposes=("ssh",))
    assert not is_within(Rights(rules=(free,)), own)


limits = st.none() | st.builds(Limit, st.integers(1, 6), st.integers(1, 8))


@given(limits, limits, st.lists(st.integers(0, 3), max_size=60))
def test_who_keeps_to_a_limit_that_is_no_more_keeps_to_the_granters(
    own: Limit | None, limit: Limit | None, pauses: list[int]
) -> None:
    """Judged by the meters themselves, over every way to use it."""
    one = Rule(allow=("read",), hosts=("*",), purposes=("*",))
    outer, inner = Rights(rules=(one,), requests=own), Rights(rules=(one,), requests=limit)
    if not is_within(inner, outer):
        assert own is not None
        return
    mine, other = Meter(outer), Meter(inner)
    at = NOW
    for position, pause in enumerate(pauses):
        at += timedelta(seconds=pause)
        request = Request("read", at, "h", "p")
        if other.judge(request) is None:
            assert mine.judge(request) is None
            other.add(Use(position, at, "h"))
            mine.add(Use(position, at, "h"))


WEB = Rule(
    allow=("read", "admin"), hosts=("web-*",), purposes=("ssh", "rdp"), networks=("10.0.0.0/8",)
)
ADMIN = Rights(
    rules=(WEB,), expires_at=NOW + timedelta(days=9), requests=Limit(600, 60), hosts=Limit(10, 60)
)


def narrowed(**changed: object) -> Rights:
    """The same with a rule, or itself, changed."""
    fields: dict[str, Any] = {"allow": ("read",), "hosts": ("web-1",), "purposes": ("ssh",)}
    fields |= {"networks": ("10.1.0.0/16",), "reason": False}
    whole: dict[str, Any] = {"expires_at": NOW + timedelta(days=1)}
    whole |= {"requests": Limit(10, 60), "hosts": Limit(1, 60)}
    for name, value in changed.items():
        place = whole if name in ("expires_at", "requests", "most_hosts") else fields
        place[name.removeprefix("most_")] = value
    return Rights(rules=(Rule(**fields),), **whole)


WIDER = [
    *({"allow": (operation,)} for operation in ("write", "delete", "audit")),
    *({"hosts": hosts} for hosts in (("*",), ("web*",), ("web-1", "db-1"), ("*-1",))),
    *({"purposes": purposes} for purposes in (("*",), ("ssh", "x"), ("s*",), ("ssh*",))),
    *({"networks": nets} for nets in ((), ("0.0.0.0/0",), ("10.0.0.0/7",), ("::/0",))),
    *({"networks": nets} for nets in (("10.0.0.0/9", "11.0.0.0/9"), ("192.0.2.0/24",))),
    {"expires_at": None},
    {"expires_at": NOW + timedelta(days=10)},
    *({"requests": limit} for limit in (None, Limit(601, 60), Limit(600, 59), Limit(11, 1))),
    *({"most_hosts": limit} for limit in (None, Limit(11, 60), Limit(10, 59), Limit(1, 1))),
]


@pytest.mark.parametrize("changed", WIDER, ids=str)
def test_what_is_wider_in_any_one_way_is_refused(changed: dict[str, object]) -> None:
    """As a new grant, as other rights of one that is there, and as a key to it."""
    wide = narrowed(**changed)
    grants = granted(ADMIN, wide)
    new = Grant(grantee="x", id=new_grant_id(), sha256="0" * 64, rights=wide)
    later = NOW + timedelta(hours=1)
    for command in (
        new,
        ChangeGrant(grantee="n1", rights=wide),
        ChangeGrant(grantee="n0", rights=wide),
        RotateKey(grantee="n1", sha256="1" * 64, previous_until=later),
    ):
        refusal = too_wide(grants, command, OWN)
        assert refusal is not None
        assert (refusal.rule, refusal.error, refusal.name) == ("wider_than_own", "forbidden", "n0")
        assert too_wide(grants, command, None) is None
    assert too_wide(grants, Revoke(grantee="n1"), OWN) is None


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"allow": ("read", "admin")},
        {"allow": ("admin",), "hosts": (), "purposes": ()},
        {"hosts": ("web-*", "web-1*x")},
        {"purposes": ("ssh", "rdp")},
        {"networks": ("10.0.0.0/8",)},
        {"reason": True},
        {"expires_at": NOW + timedelta(days=9)},
        {"requests": Limit(600, 60)},
        {"requests": Limit(10, 1)},
        {"most_hosts": Limit(10, 3_600)},
    ],
    ids=str,
)
def test_what_is_no_wider_may_be_given(changed: dict[str, object]) -> None:
    """To the limit."""
    narrow = narrowed(**changed)
    grants = granted(ADMIN, narrow)
    for command in (
        Grant(grantee="x", id=new_grant_id(), sha256="0" * 64, rights=narrow),
        ChangeGrant(grantee="n1", rights=narrow),
        RotateKey(grantee="n1", sha256="1" * 64, previous_until=NOW),
        RotateKey(grantee="nobody", sha256="1" * 64, previous_until=NOW),
    ):
        assert too_wide(grants, command, OWN) is None


def test_rights_that_are_not_understood_are_not_surely_within() -> None:
    """A later version wrote them: nobody is given a key to them."""
    grants = granted(ADMIN, narrowed())
    strange = {"id": f"{1:016x}", "rules": [{"allow": ["fly"]}]}
    grants = evolve(grants, "access_key.changed", strange, 2, rfc3339(NOW))
    rotate = RotateKey(grantee="n1", sha256="1" * 64, previous_until=NOW)
    assert too_wide(grants, rotate, OWN) is not None


def test_what_would_take_long_to_compare_is_not_surely_within() -> None:
    """A body holds thousands of patterns; the ledger's lock is not held for them."""
    many = tuple(f"web-{number}" for number in range(MOST_COMPARISONS))
    wide = Rule(allow=("read",), hosts=("*", "web-*"), purposes=("*",))
    few = Rule(allow=("read",), hosts=many[:100], purposes=("*",))
    own = Rights(rules=(wide,))
    assert is_within(Rights(rules=(few,)), own)
    assert not is_within(Rights(rules=(Rule(allow=("read",), hosts=many, purposes=("*",)),)), own)
