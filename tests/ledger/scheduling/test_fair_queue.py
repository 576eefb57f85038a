"""The fair queue: order, bounds, fairness, and that nothing is lost, for any callers."""

from collections import Counter, defaultdict
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.access.grants import Granted, Grants
from secrets_broker.ledger.events import Context, Subject
from secrets_broker.ledger.scheduling.fair_queue import MARGIN, MAX_PARTS, FairQueue, Share
from secrets_broker.ledger.scheduling.shares import share_of
from secrets_broker.ledger.writer import MAX_BATCH, MAX_WAITING

MOST, TOGETHER = MAX_WAITING, MAX_BATCH

callers = st.builds(Share, st.integers(0, 5), st.integers(0, 3))
sizes = st.sampled_from([1, 1, 1, 2, 50, 300, 500, TOGETHER])
Item = tuple[Share, int, int]
"""Whose it is, its number, its size."""


def full_of(queue: FairQueue[Item], caller: Share, size: int) -> int:
    """Put in as much as the caller may; how many requests that is."""
    for number in count():
        if not queue.put(caller, (caller, number, size), size):
            return number
    raise AssertionError


@given(st.lists(st.tuples(callers, sizes) | st.none() | st.just("own"), max_size=200))
def test_nothing_is_lost_and_each_part_keeps_its_order(steps: list[object]) -> None:
    """All that was taken in comes out once, whole, in its part's order and within the bounds."""
    queue: FairQueue[Item] = FairQueue(MOST, TOGETHER)
    inside: dict[Share, list[Item]] = defaultdict(list)
    own = Share("own")
    numbers = count()

    def take() -> None:
        batch = queue.take()
        assert batch or not any(inside.values())
        assert sum(size for _, _, size in batch) <= TOGETHER
        for item in batch:
            assert inside[item[0]].pop(0) == item
        firsts = [caller == own for caller, _, _ in batch]
        assert firsts == sorted(firsts, reverse=True)  # ours are before all others

    for step in steps:
        if step is None:
            take()
        elif step == "own":
            inside[own].append((own, next(numbers), 1))
            queue.put_own(inside[own][-1], 1)
        else:
            assert isinstance(step, tuple)
            caller, size = step
            item = (caller, next(numbers), size)
            if queue.put(caller, item, size):
                inside[caller].append(item)
        waiting = sum(size for items in inside.values() for _, _, size in items)
        assert queue.size == waiting
        assert bool(queue) == bool(waiting)
    while queue:
        take()
    assert not any(inside.values())


@given(st.lists(st.tuples(callers, sizes), max_size=300), sizes)
def test_it_is_bounded_and_a_newcomer_finds_room(steps: list[tuple[Share, int]], size: int) -> None:
    """Whoever came before, and however much he brought: who has nothing waiting may come in.

    With a request for which there is a fair part; small ones always have one.
    """
    queue: FairQueue[int] = FairQueue(MOST, TOGETHER)
    held: Counter[object] = Counter()
    for caller, each in steps:
        if queue.put(caller, 0, each):
            held[caller.who] += each
        assert queue.size <= MOST
        assert all(mine <= MOST // 2 for mine in held.values())
    room = MOST // (len(held) + 1) // MARGIN
    assert queue.put(Share("newcomer"), 0, min(size, room))


@given(sizes, st.integers(1, 12))
def test_one_who_fills_it_finds_it_full_and_nobody_else_does(size: int, names: int) -> None:
    """Requests of any size under one name or a dozen: another caller comes in with lookups and
    batches; and beside batches, another name of the same caller with lookups."""
    queue: FairQueue[Item] = FairQueue(MOST, TOGETHER)
    for name in range(names):
        assert full_of(queue, Share("greedy", name), size) <= MOST // size
    another = Share("another")
    if size >= 50:
        assert queue.put(Share("greedy", "new"), (Share("greedy"), 0, 1), 1)
    assert queue.put(another, (another, 0, 35), 35)
    assert queue.put(another, (another, 1, 300), 300)


@given(sizes.filter(lambda size: size >= 50))
def test_large_requests_leave_room_for_small_ones_of_the_same_caller(size: int) -> None:
    """Who sends batches as fast as he can may still look something up beside them."""
    queue: FairQueue[Item] = FairQueue(MOST, TOGETHER)
    caller = Share("busy", "name")
    full_of(queue, caller, size)
    assert full_of(queue, caller, 1) >= size


@given(
    st.dictionaries(st.integers(0, 7), st.sampled_from([1, 2, 100, 500]), min_size=2, max_size=8),
    st.booleans(),
)
def test_who_waits_gets_the_same_as_others(weights: dict[int, int], by_part: bool) -> None:
    """Whatever sizes they come in, by callers and by the parts of one: none gets a batch more."""
    queue: FairQueue[Item] = FairQueue(MOST * 8, TOGETHER)
    keys = {n: Share("all", n) if by_part else Share(n) for n in weights}
    waiting, got = Counter[Share](), Counter[Share]()
    for _ in range(20):
        for n, size in weights.items():  # each has always more waiting than fits into one batch
            while waiting[keys[n]] <= TOGETHER:
                assert queue.put(keys[n], (keys[n], 0, size), size)
                waiting[keys[n]] += size
        for caller, _, size in queue.take():
            waiting[caller] -= size
            got[caller] += size
    assert max(got.values()) - min(got[key] for key in keys.values()) <= 2 * TOGETHER


def test_a_small_request_is_in_the_next_batch() -> None:
    """Whoever has waited for nothing is not behind the thousands of another."""
    queue: FairQueue[Item] = FairQueue(MOST, TOGETHER)
    greedy, quiet = Share("greedy"), Share("quiet")
    full_of(queue, greedy, 500)
    queue.take()
    for number in range(12):
        assert queue.put(quiet, (quiet, number, 1), 1)
    assert [caller for caller, _, _ in queue.take()].count(quiet) == 12


def test_invented_names_share_a_line_and_cost_no_memory() -> None:
    """Past some names of one caller the rest wait together; afterwards nothing is kept."""
    queue: FairQueue[Item] = FairQueue(MOST, TOGETHER)
    for number in range(1_000):
        assert queue.put(Share("one", number), (Share("one", number), number, 1), 1)
    assert len(queue._accounts["one"].lines) <= MAX_PARTS + 1
    assert len(queue.take_all()) == 1_000
    assert not queue
    assert not queue._accounts


GRANT = Granted("0" * 16, "billing", None, False, 0, {"a" * 64: None, "b" * 64: None})
GRANTS = Grants(0, {GRANT.id: GRANT}, dict.fromkeys(GRANT.keys, GRANT.id), {GRANT.name: GRANT.id})


def test_who_is_a_caller() -> None:
    """A grant by whichever key, an address with the shared key; a name divides, and no more."""

    def who(ip: str, actor: str | None = None, key: str | None = None) -> Share:
        subject = Subject(sha256=key) if key else None
        return share_of(Context(actor=actor, authn="x", ip=ip, subject=subject), GRANTS)

    assert who("192.0.2.1", key="a" * 64) == who("192.0.2.1", key="b" * 64)
    assert who("192.0.2.1", key="a" * 64).who == who("192.0.2.2", key="b" * 64).who
    assert who("192.0.2.1", "a").who == who("192.0.2.1", "b").who != who("192.0.2.2", "a").who
    assert who("192.0.2.1", "a") != who("192.0.2.1", "b")
    assert who("2001:db8::1", "a") == who("2001:db8::2", "a")
    unknown = [who(f"192.0.2.{n}", key=f"{n:064}") for n in range(3)]
    assert len({caller.who for caller in unknown}) == 1
    assert who("192.0.2.1", key="a" * 64).who not in {caller.who for caller in unknown}
