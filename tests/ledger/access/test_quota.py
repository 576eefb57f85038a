"""Limits, against counting everything anew each time."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.access import judgement
from secrets_broker.ledger.access.quota import Meter, Use
from secrets_broker.ledger.access.rights import READ, WRITE, Limit, Request, Rights, Rule

START = datetime(2026, 1, 2, tzinfo=UTC)
RULES = (Rule(allow=(READ, WRITE), hosts=("*",), purposes=("*",)),)

limits = st.none() | st.builds(Limit, most=st.integers(1, 4), seconds=st.integers(1, 20))
asked = st.tuples(st.integers(0, 8), st.sampled_from([READ, WRITE]), st.integers(0, 5))


def seconds(number: int) -> datetime:
    """A time of the ledger."""
    return START + timedelta(seconds=number)


@given(limits, limits, st.lists(asked, max_size=60))
def test_what_is_permitted_is_what_counting_anew_permits(
    requests: Limit | None, hosts: Limit | None, steps: list[tuple[int, str, int]]
) -> None:
    """In every window that ends now: so many requests, and so many distinct hosts read."""
    meter = Meter(Rights(rules=RULES, requests=requests, hosts=hosts))
    permitted: list[tuple[int, str, str]] = []
    now = 0
    for position, (pause, operation, number) in enumerate(steps):
        now += pause
        host = f"h{number}"
        refusal = meter.judge(Request(operation, seconds(now), host, "ssh"))
        assert refusal is None or refusal.rule in judgement.RULES
        assert (refusal.rule if refusal else None) == _model(
            requests, hosts, permitted, now, operation, host
        )
        if refusal is None:
            permitted.append((now, operation, host))
            meter.add(Use(position, seconds(now), host if operation == READ else None))
        else:
            _check_honest(meter, refusal.retry_after, now, operation, host)


def _model(
    requests: Limit | None,
    hosts: Limit | None,
    permitted: list[tuple[int, str, str]],
    now: int,
    operation: str,
    host: str,
) -> str | None:
    if requests:
        recent = [at for at, *_ in permitted if at > now - requests.seconds]
        if len(recent) >= requests.most:
            return "requests"
    if hosts and operation == READ:
        read = {h for at, op, h in permitted if op == READ and at > now - hosts.seconds}
        if host not in read and len(read) >= hosts.most:
            return "hosts"
    return None


def _check_honest(
    meter: Meter, retry_after: int | None, now: int, operation: str, host: str
) -> None:
    """Who waits as long as he is told finds that limit open, and not a second earlier."""
    assert retry_after is not None
    assert retry_after >= 1
    rule = getattr(meter.judge(Request(operation, seconds(now), host, "ssh")), "rule", None)
    early = Request(operation, seconds(now + retry_after - 1), host, "ssh")
    later = Request(operation, seconds(now + retry_after), host, "ssh")
    assert getattr(meter.judge(early), "rule", None) == rule
    assert getattr(meter.judge(later), "rule", None) != rule


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(0, 40))
def test_what_was_counted_is_not_counted_twice(pauses: list[int], again: int) -> None:
    """A use that comes again, by its position, changes nothing."""
    rights = Rights(rules=RULES, requests=Limit(most=3, seconds=10))
    once, twice = Meter(rights), Meter(rights)
    now, uses = 0, []
    for position, pause in enumerate(pauses):
        now += pause
        uses.append(Use(position, seconds(now), None))
    for use in uses:
        once.add(use)
        twice.add(use)
    for use in uses[:again]:
        twice.add(use)
    request = Request(READ, seconds(now), "h", "ssh")
    assert once.judge(request) == twice.judge(request)
