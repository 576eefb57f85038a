"""Who could do what: held against what the service would decide."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.access.grant_commands import Grant, Revoke, RotateKey
from secrets_broker.ledger.access.grants import Grants, judge
from secrets_broker.ledger.access.rights import Limit, Request, Rights, Rule, fit
from secrets_broker.ledger.events import Subject
from secrets_broker.projections.parameters.credential_name import CredentialName
from secrets_broker.projections.queries.who_may import WhoLine, lines
from tests.ledger.access.grant_history import apply, at
from tests.ledger.access.rule_strategies import rules

ADDRESSES = ("10.0.0.1", "10.1.0.1", "192.0.2.1", "2001:db8::1", "2001:db9::1")


def granted(*each: Rights) -> Grants:
    """One grant each, by key: the first one's is 0, 64 times."""
    grants = Grants()
    for number, rights in enumerate(each):
        key, id_ = f"{number:064x}", f"{number:016x}"
        command = Grant(grantee=f"n{number}", id=id_, sha256=key, rights=rights)
        grants = apply(grants, command, 0, number)
    return grants


def of(grants: Grants, host: str = "web-1", purpose: str = "ssh", minute: int = 1) -> list[WhoLine]:
    """What is answered."""
    return list(lines(grants, CredentialName(host, purpose), at(minute)))


@given(
    st.lists(rules, min_size=1, max_size=4).map(tuple),
    st.sampled_from(["web-1", "db-1", "x"]),
    st.sampled_from(["ssh", "rdp", "r?p"]),
)
def test_a_line_for_every_rule_that_could_decide(
    given_rules: tuple[Rule, ...], host: str, purpose: str
) -> None:
    """And none for another: by asking from everywhere, for everything."""
    grants = granted(Rights(rules=given_rules))
    found = {(line.rule, one): line for line in of(grants, host, purpose) for one in line.allow}
    seen = set()
    for operation in ("read", "write", "delete"):
        for ip in ADDRESSES:
            request = Request(operation, at(1), host, purpose, ip, "why")
            decided = fit(given_rules, request).rule
            allowed = judge(grants, Subject(sha256="0" * 64), request) is None
            assert allowed == (decided is not None)
            if decided is not None:
                seen.add((decided, operation))
                line = found[decided, operation]
                assert line.reason == given_rules[decided - 1].reason
                assert line.networks == list(given_rules[decided - 1].networks)
    # A rule that only some address decides may be hidden from these five, but not invented.
    for number, operation in found.keys() - seen:
        rule = given_rules[number - 1]
        assert rule.networks
        assert operation in rule.allow


def test_a_line_says_all_that_bounds_it() -> None:
    """The patterns that fit, of the others none; networks, reason, limits, ends."""
    rule = Rule(
        allow=("read", "audit", "delete"),
        hosts=("db-*", "web-*", "*"),
        purposes=("ssh", "rdp"),
        networks=("10.0.0.0/8",),
        reason=True,
    )
    rights = Rights(rules=(rule,), expires_at=at(90), requests=Limit(9, 60), hosts=Limit(2, 60))
    grants = granted(rights)
    rotate = RotateKey(grantee="n0", sha256="f" * 64, previous_until=at(30))
    grants = apply(grants, rotate, 0, 1)
    (line,) = of(grants)
    assert line == WhoLine(
        name="n0",
        id="0" * 16,
        proof="key",
        allow=["read", "delete"],
        rule=1,
        hosts=["web-*", "*"],
        purposes=["ssh"],
        networks=["10.0.0.0/8"],
        reason=True,
        requests=[9, 60],
        hosts_limit=[2, 60],
        expires_at=line.expires_at,
        previous_until=line.previous_until,
        granted_at_position=0,
    )
    assert line.expires_at and line.previous_until
    (later,) = of(grants, minute=31)
    assert later.previous_until is None
    assert of(grants, minute=90) == []
    assert of(grants, purpose="http") == []


def test_who_was_revoked_or_is_not_understood_has_none() -> None:
    """Now is what is asked for."""
    read = Rights(rules=(Rule(allow=("read",), hosts=("*",), purposes=("*",)),))
    admin = Rights(rules=(Rule(allow=("admin", "audit")),))
    grants = granted(read, read, admin)
    grants = apply(grants, Revoke(grantee="n0"), 0, 3)
    assert [line.name for line in of(grants)] == ["n1"]
    strange = replace(grants.by_id[f"{1:016x}"], rights=None)
    grants = replace(grants, by_id={**grants.by_id, strange.id: strange})
    assert of(grants) == []
