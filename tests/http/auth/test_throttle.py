"""A flood of refusals: which are events, which are numbers, and that none is neither."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.http.auth.throttle import (
    ALTOGETHER,
    FEW,
    LONGEST_SECONDS,
    MAX_WINDOWS,
    OTHERS,
    PERIOD_SECONDS,
    QUIET_SECONDS,
    Throttle,
)
from secrets_broker.ledger.scheduling.network_source import source_of

START = datetime(2026, 1, 2, tzinfo=UTC)

refusals = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 5.0, 30.0]), st.integers(0, 3)), max_size=300
)


@given(refusals)
def test_every_refusal_is_an_event_or_is_counted(steps: list[tuple[float, int]]) -> None:
    """Their sum is how many there were, and no source has more events than the few of a period."""
    flood, now, counted = Throttle(), 0.0, 0
    events: list[tuple[float, str]] = []
    for pause, number in steps:
        now += pause
        counted += sum(window.count for window in flood.over(now))
        window = flood.window(f"192.0.2.{number}", now)
        if window is None:
            events.append((now, f"192.0.2.{number}"))
        else:
            window.add(now, START + timedelta(seconds=now))
    counted += sum(window.count for window in flood.windows.values())
    assert len(events) + counted == len(steps)
    for at, source in events:
        near = [t for t, s in events if s == source and at <= t < at + PERIOD_SECONDS]
        assert len(near) <= 2 * FEW  # a period may begin anywhere


def test_a_window_knows_its_time_span_and_when_it_is_over() -> None:
    """Quiet for a while, or long enough to be told of."""
    flood = Throttle()
    for _ in range(FEW):
        assert flood.window("192.0.2.1", 0.0) is None
    window = flood.window("192.0.2.1", 1.0)
    assert window is not None
    for second in (1, 4):
        window.add(float(second), START + timedelta(seconds=second))
    assert not list(flood.over(4.0 + QUIET_SECONDS - 0.1))
    assert list(flood.over(4.0 + QUIET_SECONDS)) == [window]
    assert (window.count, window.first_at, window.last_at) == (
        2,
        START + timedelta(seconds=1),
        START + timedelta(seconds=4),
    )
    assert not flood.windows
    busy = flood.window("192.0.2.1", 20.0)
    assert busy is not None
    busy.add(20.0 + LONGEST_SECONDS, START)
    assert busy.is_over(20.0 + LONGEST_SECONDS)


def test_there_is_a_cap_over_all_sources() -> None:
    """A million addresses fill neither the disk nor the memory."""
    flood = Throttle()
    windows = [flood.window(f"2001:db8:0:{n:x}::/64", 0.0) for n in range(20_000)]
    assert windows.count(None) == ALTOGETHER
    assert set(flood.windows) == {OTHERS}
    assert len(flood._recent) < 20_000


def test_there_are_only_so_many_windows() -> None:
    """Sources past them are counted together, and none is lost."""
    flood = Throttle()
    for number in range(MAX_WINDOWS + 5):
        for _ in range(FEW + 1):
            flood.window(f"192.0.2.{number}", number * PERIOD_SECONDS)
    assert len(flood.windows) == MAX_WINDOWS + 1
    assert OTHERS in flood.windows


@pytest.mark.parametrize(
    ("ip", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        (None, OTHERS),
    ],
)
def test_an_ipv6_network_of_64_bits_is_one_source(ip: str | None, source: str | None) -> None:
    """Whoever has one address of it has all of them."""
    assert source_of(ip) == source
