"""Tells whether rights are within others, so that they allow nothing more. Pure.

A grantor may only give rights within its own. The answer errs on the safe side: what is not surely
within counts as wider. A rule is compared as a whole with one of the grantor's rules at a time;
only each operation and each host may be covered by a different rule. A grantor can split a rule.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from secrets_broker.ledger.access.rights import (
    ADMIN,
    ANY,
    AUDIT,
    Limit,
    Rights,
    Rule,
    matches,
)

MOST_COMPARISONS: Final = 10_000
"""Comparisons of patterns or networks: some 20 ms. Rights that need more count as wider."""

_ON_NO_CREDENTIAL: Final = frozenset({ADMIN, AUDIT})
# No pattern holds it (encoding.text_problem).
_ANY_RUN: Final = "\0"


def is_within(rights: Rights, own: Rights) -> bool:
    """Tell whether `own` allow all that `rights` allow, as long and as often."""
    return (
        _ends_no_later(rights.expires_at, own.expires_at)
        and _is_no_more(rights.requests, own.requests)
        and _is_no_more(rights.hosts, own.hosts)
        and _comparisons(rights, own) <= MOST_COMPARISONS
        and all(_is_allowed(rule, own.rules) for rule in rights.rules)
    )


def covers(pattern: str, narrower: str) -> bool:
    """Tell whether a pattern fits every text that the narrower one fits.

    The narrower one's stars are replaced by a character that no pattern holds. Only a star can
    match it, and that star matches any other text in its place too.
    """
    return matches(pattern, narrower.replace(ANY, _ANY_RUN))


def may_meet(pattern: str, other: str) -> bool:
    """Tell whether some text may fit both; False only if surely none does."""
    if ANY not in other:
        return matches(pattern, other)
    if ANY not in pattern:
        return matches(other, pattern)
    (first, *_, last), (other_first, *_, other_last) = pattern.split(ANY), other.split(ANY)
    begins = first.startswith(other_first) or other_first.startswith(first)
    return begins and (last.endswith(other_last) or other_last.endswith(last))


def _ends_no_later(expires_at: datetime | None, own: datetime | None) -> bool:
    return own is None or (expires_at is not None and expires_at <= own)


def _is_no_more(limit: Limit | None, own: Limit | None) -> bool:
    """Whether keeping to one limit means keeping to the grantor's own."""
    if own is None or limit is None:
        return own is None
    # So many of the other's windows always cover the own window.
    windows = -(-own.seconds // limit.seconds)
    return limit.most * windows <= own.most


def _is_allowed(rule: Rule, own: tuple[Rule, ...]) -> bool:
    return all(
        _covers_hosts(rule, list(_able(operation, rule, own))) for operation in set(rule.allow)
    )


def _able(operation: str, rule: Rule, own: tuple[Rule, ...]) -> Iterator[Rule]:
    """The own rules that cover the rule, apart from hosts, and demand no reason beyond it."""
    for one in own:
        if operation not in one.allow:
            continue
        if one.reason and not rule.reason and _may_decide(operation, rule, one):
            return  # the first fitting rule decides, so a later one does not help
        near = _all_contained(rule.networks, one.networks)
        if near and _all_covered(rule.purposes, one.purposes):
            yield one


def _covers_hosts(rule: Rule, able: list[Rule]) -> bool:
    return bool(able) and _all_covered(rule.hosts, [host for one in able for host in one.hosts])


def _may_decide(operation: str, rule: Rule, one: Rule) -> bool:
    """Whether a request that the rule allows may fit one of the grantor's rules."""
    names = operation in _ON_NO_CREDENTIAL or _may_both_fit(rule, one)
    return names and _networks_may_meet(rule.networks, one.networks)


def _may_both_fit(rule: Rule, other: Rule) -> bool:
    return all(
        any(may_meet(one, two) for one in patterns for two in others)
        for patterns, others in ((rule.hosts, other.hosts), (rule.purposes, other.purposes))
    )


def _all_covered(patterns: Iterable[str], by: Iterable[str]) -> bool:
    known = tuple(dict.fromkeys(by))
    if ANY in known:
        return True
    return all(any(covers(one, pattern) for one in known) for pattern in patterns)


def _all_contained(networks: tuple[str, ...], own: tuple[str, ...]) -> bool:
    if not own or not networks:
        return not own
    return all(any(_contains(one, network) for one in own) for network in networks)


def _contains(network: str, narrower: str) -> bool:
    outer, inner = _network(network), _network(narrower)
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]


@lru_cache(maxsize=8_192)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text)


def _networks_may_meet(networks: tuple[str, ...], others: tuple[str, ...]) -> bool:
    if not networks or not others:
        return True
    return any(_contains(one, two) or _contains(two, one) for one in networks for two in others)


def _comparisons(rights: Rights, own: Rights) -> int:
    """The number of comparisons at most, those for reasons included."""

    def size(given: Rights, what: str) -> int:
        return sum(len(set(rule.allow)) * len(getattr(rule, what)) for rule in given.rules)

    parts = ("hosts", "purposes", "networks")
    return sum(size(rights, part) * size(own, part) for part in parts)
