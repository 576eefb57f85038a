"""Whether a request is allowed, against the plainest way to say it."""

import ipaddress
import re
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secrets_broker.ledger.access.rights import (
    MAX_PATTERN,
    OPERATIONS,
    Fit,
    Request,
    Rights,
    Rule,
    fit,
    matches,
)
from secrets_broker.ledger.commands import parse
from secrets_broker.ledger.errors import InvalidCommandError
from tests.ledger.access.rule_strategies import addresses, hosts, purposes, rules

NOW = datetime(2026, 1, 2, tzinfo=UTC)

texts = st.text(alphabet="ab*.\n", max_size=8)
requests = st.builds(
    Request,
    operation=st.sampled_from((*OPERATIONS, "none")),
    at=st.just(NOW),
    host=hosts | st.none(),
    purpose=purposes,
    ip=addresses,
)


def model(pattern: str, text: str) -> bool:
    """What `*` means, said with a regular expression."""
    pieces = ".*".join(re.escape(piece) for piece in pattern.split("*"))
    return re.fullmatch(pieces, text, re.DOTALL) is not None


@given(texts, texts)
@example("*", "")
@example("a*a", "a")
@example("*b*ab", "bab")
def test_a_star_is_any_run_of_characters(pattern: str, text: str) -> None:
    """And everything else stands for itself, a dot and a line's end too."""
    assert matches(pattern, text) == model(pattern, text)


def test_no_pattern_makes_the_comparison_slow() -> None:
    """A pattern that has a backtracking matcher try for ever needs a look at each character."""
    pattern = ("a*" * (MAX_PATTERN // 2))[: MAX_PATTERN - 1] + "b"
    assert not matches(pattern, "a" * 255)


def _allows(rule: Rule, request: Request) -> bool:
    anywhere = not rule.networks
    near = request.ip is not None and any(
        ipaddress.ip_address(request.ip) in ipaddress.ip_network(network)
        for network in rule.networks
    )
    return (
        request.operation in rule.allow
        and (request.host is None or any(model(p, request.host) for p in rule.hosts))
        and (request.purpose is None or any(model(p, request.purpose) for p in rule.purposes))
        and (anywhere or near)
    )


@given(st.lists(rules, min_size=1, max_size=5).map(tuple), requests)
def test_the_first_rule_that_fits_decides(given_rules: tuple[Rule, ...], request: Request) -> None:
    """By operation, host, purpose and network; without one, no rule decides.

    A list is not refused for its reason where a later rule that fits wants none.
    """
    fitting = [number for number, rule in enumerate(given_rules, 1) if _allows(rule, request)]
    is_list = request.host is None and request.operation in ("read", "write", "delete")
    free = [number for number in fitting if is_list and not given_rules[number - 1].reason]
    expected = next(iter(fitting if request.names_later else free or fitting), None)
    decided = fit(given_rules, request)
    assert decided.rule == expected
    assert (decided.failed is None) == (expected is not None)
    if expected is not None and request.host is not None:
        assert decided.reason == given_rules[expected - 1].reason


@pytest.mark.parametrize(
    ("request_", "failed"),
    [
        (Request("write", NOW, "web-1", "ssh", "10.0.0.1"), "operation"),
        (Request("read", NOW, "db-1", "ssh", "10.0.0.1"), "host"),
        (Request("read", NOW, "web-1", "rdp", "10.0.0.1"), "purpose"),
        (Request("read", NOW, "web-1", "ssh", "192.0.2.1"), "network"),
        (Request("read", NOW, "web-1", "ssh", None), "network"),
    ],
)
def test_a_refusal_names_what_was_in_the_way(request_: Request, failed: str) -> None:
    """Of the nearest rule, so that the one line says what to change."""
    near = Rule(allow=("read",), hosts=("web-*",), purposes=("ssh",), networks=("10.0.0.0/8",))
    far = Rule(allow=("audit",))
    assert fit((far, near), request_) == Fit(None, failed)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"allow": []}, "rules"),
        ({"allow": ["root"]}, "rules"),
        ({"allow": ["read"]}, "hosts"),
        ({"allow": ["read"], "hosts": ["*"]}, "hosts"),
        ({"allow": ["audit"], "networks": ["10.0.0.1/8"]}, "networks"),
        ({"allow": ["audit"], "networks": ["everywhere"]}, "networks"),
        ({"allow": ["read"], "hosts": ["a\x00"], "purposes": ["*"]}, "hosts"),
        ({"allow": ["read"], "hosts": ["a" * 256], "purposes": ["*"]}, "rules"),
        ({"allow": ["audit"], "host": ["*"]}, ""),
    ],
)
def test_rights_that_cannot_be_meant_are_refused(rule: dict[str, object], field: str) -> None:
    """By the field; no name is left out by mistake and then means all of them."""
    with pytest.raises(InvalidCommandError) as caught:
        parse(Rights, {"rules": [rule]})
    assert field in str(caught.value)
