"""What is told follows from the events alone: the fold against an obvious model of each rule."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.scheduling.network_source import source_of
from secrets_broker.projections.conditions import WORDS, Condition, Conditions, Memory, Thresholds
from secrets_broker.projections.conditions.condition import SEVERITIES, Happened
from secrets_broker.projections.conditions.time_windows import MAX_TOLD
from secrets_broker.projections.conditions.unusual_readers import (
    MAX_ACTORS,
    MAX_READERS,
    MAX_SOURCES,
)

START = datetime(2026, 1, 2, 3, tzinfo=UTC)
# Small, so that few events come to something; every window is ten steps of at least six seconds.
SMALL = Thresholds(
    failure_percent=30,
    failure_lookups=4,
    failure_seconds=60,
    spike_factor=2,
    spike_reads=3,
    spike_seconds=60,
    baseline_seconds=600,
    bulk_hosts=2,
    bulk_seconds=120,
    checkpoint_seconds=60,
    cooldown_seconds=300,
)
READ, DENIED = "credential.read", "access.denied"


@dataclass(frozen=True, slots=True)
class Step:
    """An event, and how long after the one before it was."""

    after: int
    type: str
    actor: str | None
    ip: str | None
    host: str | None
    error: str | None = None
    details: dict[str, Any] | None = None


def happened(position: int, at: datetime, step: Step) -> Happened:
    """A row of it."""
    names = (step.actor, "internal_key", step.ip, step.host, step.host and "ssh")
    return Happened(position, at, step.type, *names, step.error is None, step.error, step.details)


def events(steps: Iterable[Step]) -> list[Happened]:
    """Their rows, by position."""
    at, rows = START, []
    for position, step in enumerate(steps):
        at += timedelta(seconds=step.after)
        rows.append(happened(position, at, step))
    return rows


def fold(rows: Iterable[Happened], conditions: Conditions | None = None) -> list[Condition]:
    """All that is told of them."""
    conditions = conditions or Conditions(SMALL)
    return [condition for row in rows for condition in conditions.take(row)]


# Just at the lengths of the windows, and beside them.
gaps = st.sampled_from([0, 0, 0, 1, 6, 20, 60, 60, 61, 120, 121, 300, 301])
actors = st.sampled_from(["deploy", "backup", None])
addresses = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", None])
hosts = st.sampled_from(["web-1", "web-2", "web-3", "web-4"])
reads = st.builds(
    Step, gaps, st.just(READ), actors, addresses, hosts,
    st.sampled_from([None, None, "not_found", "decrypt_failed"]),
)  # fmt: skip
refusals = st.builds(
    Step, gaps, st.just(DENIED), actors, addresses, hosts, st.just("forbidden"),
    st.fixed_dictionaries(
        {"operation": st.sampled_from(["read", "write"]), "rule": st.sampled_from(["host", "no"])}
    ),
)  # fmt: skip
floods = st.builds(
    Step, gaps, st.sampled_from(["access.counting", "access.counted"]), st.none(), addresses,
    st.none(), st.none(),
    st.fixed_dictionaries({"source": addresses, "count": st.none() | st.integers(1, 9)}),
)  # fmt: skip
others = st.builds(
    Step, gaps, st.sampled_from(["credential.created", "access_key.granted", "key.rotated"]),
    actors, addresses, hosts, st.sampled_from([None, "failed"]),
    st.fixed_dictionaries({"id": st.just("0" * 16), "name": actors}),
)  # fmt: skip
steps = reads | reads | refusals | floods | others
# Also in runs of the same, so that rates come to something.
runs = st.lists(st.tuples(steps, st.integers(1, 9)), max_size=20)
histories = st.lists(steps, max_size=60) | runs.map(
    lambda found: [step for step, times in found for _ in range(times)]
)


@dataclass(slots=True)
class Model:
    """Each rule, by looking at all that was before, anew for each event."""

    rows: list[Happened]
    told: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)

    def ids(self) -> list[str]:
        """What is told, in order."""
        found = []
        for number in range(len(self.rows)):
            now, before = self.rows[number], self.rows[: number + 1]
            for word, key, quiet in self._holding(now, before):
                if key is None or self._tells(f"{word} {key}", now.seconds, quiet):
                    found.append(f"{word}:{number}")
        return found

    def _tells(self, key: str, at: int, quiet: int) -> bool:
        over = key not in self.held or at - self.held[key] > quiet
        again = key in self.told and at - self.told[key] >= SMALL.cooldown_seconds
        self.held[key] = at
        if over or again:
            self.told[key] = at
        return over or again

    def _holding(
        self, now: Happened, before: list[Happened]
    ) -> Iterable[tuple[str, str | None, int]]:
        if self._fails(now, before):
            yield "failure_rate", "", SMALL.failure_seconds
        if self._spikes(now, before):
            yield "read_spike", "", SMALL.spike_seconds
        if self._is_bulk(now, before):
            yield "bulk_reads", now.actor, SMALL.bulk_seconds
        if self._is_new(now, before[:-1]):
            yield "new_source", None, 0
        if now.error == "decrypt_failed":
            yield "encryption_error", now.host, 300
        if now.type == DENIED and now.actor is None:
            yield "unauthorized", str(source_of(now.ip)), 300
        if now.type == DENIED and now.actor is not None:
            yield "denied", f"{now.detail('rule')} {now.actor}", 300
        if now.type in ("access.counting", "access.counted"):
            yield "unauthorized", f"flood {now.detail('source')}", 300
        if now.type.startswith("access_key.") and now.ok:
            yield "grant_changed", None, 0
            rules = now.detail("rules") or []
            if now.type.endswith(("granted", "changed")) and "admin" in str(rules):
                yield "admin_granted", None, 0

    def _fails(self, now: Happened, before: list[Happened]) -> bool:
        def is_lookup(row: Happened) -> bool:
            denied = row.type == DENIED and row.actor is not None
            return row.type == READ or (denied and row.detail("operation") == "read")

        recent = [row for row in _steps(now, before, 6, 10) if is_lookup(row)]
        failed = [row for row in recent if not row.ok]
        return is_lookup(now) and len(recent) >= 4 and len(failed) / len(recent) > 0.3

    def _spikes(self, now: Happened, before: list[Happened]) -> bool:
        read = [row for row in before if row.type == READ]
        if now.type != READ:
            return False
        recent = _steps(now, read, 6, 10)
        earlier = [row for row in _steps(now, read, 6, 110) if row not in recent]
        known = now.seconds // 6 - read[0].seconds // 6 + 1 - 10
        if known < 60:  # six windows
            return False
        usual = len(earlier) / (min(known, 100) / 10)
        return len(recent) >= 3 and len(recent) > 2 * usual + 1e-9

    def _is_bulk(self, now: Happened, before: list[Happened]) -> bool:
        def counts(row: Happened) -> bool:
            return row.type == READ and row.ok and row.actor == now.actor is not None

        within = [row for row in before if counts(row) and row.seconds > now.seconds - 120]
        return counts(now) and len({row.host for row in within}) > 2

    def _is_new(self, now: Happened, before: list[Happened]) -> bool:
        seen = {source_of(row.ip) for row in before if row.actor == now.actor} - {None}
        source = source_of(now.ip)
        return now.actor is not None and source is not None and bool(seen) and source not in seen


def _steps(now: Happened, rows: list[Happened], step: int, steps: int) -> list[Happened]:
    first = now.seconds // step - steps + 1
    return [row for row in rows if row.seconds // step >= first]


@settings(max_examples=300)
@given(histories)
def test_what_is_told_is_what_the_rules_say(history: list[Step]) -> None:
    """Every condition that follows from an event is told at it, in order, and no other is."""
    rows = events(history)
    assert [condition.id for condition in fold(rows)] == Model(rows).ids()


@given(histories, st.integers(0, 90))
def test_a_pause_changes_nothing(history: list[Step], pause: int) -> None:
    """Going on from a kept memory tells, word for word, what one run would have told."""
    rows = events(history)
    first = Conditions(SMALL)
    told = fold(rows[:pause], first)
    kept = msgspec.json.decode(msgspec.json.encode(first.memory), type=Memory)
    assert told + fold(rows[pause:], Conditions(SMALL, kept)) == fold(rows)


@given(histories)
def test_no_id_is_given_twice(history: list[Step]) -> None:
    """So whoever was told twice of one knows."""
    ids = [condition.id for condition in fold(events(history))]
    assert len(ids) == len(set(ids))


def read(host: str = "web-1", after: int = 0, **fields: Any) -> Step:
    """A lookup that gave a secret."""
    return Step(after, READ, fields.pop("actor", "deploy"), fields.pop("ip", None), host, **fields)


def test_what_goes_on_is_told_once_a_cool_down() -> None:
    """And at once where it was over for a whole window; not each time it crosses the line."""
    failing = [read(after=10, error="not_found") for _ in range(60)]  # ten minutes
    ids = [condition.id for condition in fold(events(failing))]
    assert ids == ["failure_rate:3", "failure_rate:33"]
    again = [read(after=200, error="not_found"), *failing[:4]]
    over = [condition.id for condition in fold(events(failing[:5] + again))]
    assert over == ["failure_rate:3", "failure_rate:8"]


def test_a_rate_of_few_or_at_the_line_is_none() -> None:
    """Fewer lookups than the least are not judged, and exactly the percentage is not more."""
    assert fold(events([read(error="not_found")] * 3)) == []
    line = Conditions(msgspec.structs.replace(SMALL, failure_percent=50))
    assert fold(events([read(), read(error="not_found")] * 10), line) == []


def ids(history: Iterable[Step], word: str) -> list[int]:
    """Where that is told."""
    return [one.position for one in fold(events(history)) if one.condition == word]


def test_a_window_ends_where_it_ends() -> None:
    """What is as old as a window is not in it; as long as a window without it is not over."""
    bulk = [read("a"), read("b", after=60), read("c", after=59), read("d", after=1)]
    assert ids(bulk, "bulk_reads") == [2]
    assert ids([*bulk[:2], read("c", after=60)], "bulk_reads") == []
    failing = [read(error="not_found")] * 4
    pause = [read(after=60, error="not_found"), *failing[:3]]
    assert ids([*failing, *pause], "failure_rate") == [3]
    pause[0] = read(after=61, error="not_found")
    assert ids([*failing, *pause], "failure_rate") == [3, 7]
    old = [*[read(after=1, error="not_found")] * 3, *[read()] * 7, read(after=61)]
    assert ids([*old, *[read()] * 3], "failure_rate") == [3]


def test_a_spike_is_more_than_the_factor() -> None:
    """Just twice what is usual is not more than twice; and a window less to compare is too few."""
    usual = [read(after=30)] * 60  # two a window
    assert ids([*usual, read(after=31), *[read()] * 2], "read_spike") == []
    assert ids([*usual, read(after=31), *[read()] * 4], "read_spike") == [63]
    assert ids([read(), read(after=60 * 7 - 7), *[read()] * 9], "read_spike") == []
    assert ids([read(), read(after=60 * 7 - 6), *[read()] * 9], "read_spike") == [3]


def test_a_spike_needs_something_to_compare_with() -> None:
    """The first hour of windows says nothing; later it is told with what is usual."""
    assert fold(events([read()] * 50)) == []
    steady = [read(after=60)] * 12
    (spike,) = fold(events([*steady, *[read()] * 20]))
    assert (spike.condition, spike.position, spike.count, spike.baseline) == (
        *("read_spike", 13, 3),
        1,
    )


def test_the_first_sight_of_an_actor_is_no_news() -> None:
    """A known one from elsewhere is; two addresses of one IPv6 /64 are one source."""
    ips = ("192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.9")
    told = fold(events([read(ip=ip) for ip in ips]))
    assert [(one.id, one.actor, one.source) for one in told] == [
        ("new_source:2", "deploy", "2001:db8::/64"),
        ("new_source:5", "deploy", "192.0.2.9"),
    ]
    assert fold(events([read(actor=f"a{n}", ip=f"192.0.2.{n}") for n in range(9)])) == []


def test_refusals_tell_who_and_by_which_rule() -> None:
    """Of nobody: the claim, not as an actor; of a known one: the actor, rule, host and purpose."""
    details = {
        "operation": "read",
        "rule": "revoked",
        "key": "0" * 16,
        "name": "old",
        "claim": "me",
    }
    nobody = Step(0, DENIED, None, "192.0.2.1", "web-1", "forbidden", details)
    limited = {"operation": "read", "rule": "hosts", "key": "0" * 16, "name": "deploy"}
    known = Step(0, DENIED, "deploy", "192.0.2.2", "web-1", "rate_limited", limited)
    first, second = fold(events([nobody, known]))
    assert (first.condition, first.actor, first.claim, first.name) == (
        *("unauthorized", None, "me"),
        "old",
    )
    assert (first.source, first.rule, first.host) == ("192.0.2.1", "revoked", None)
    assert (second.condition, second.actor, second.rule) == ("denied", "deploy", "hosts")
    assert (second.host, second.purpose, second.operation) == ("web-1", "ssh", "read")


@pytest.mark.parametrize("word", ["granted", "changed", "rotated", "revoked"])
def test_every_change_of_grants_is_told(word: str) -> None:
    """Each time, with whose it is and who did it; what failed changed nothing."""
    details = {"id": "0" * 16, "name": "deploy", "sha256": "f" * 64}
    change = Step(0, f"access_key.{word}", "root", None, None, None, details)
    failed = Step(0, f"access_key.{word}", "root", None, None, "already_there", details)
    told = fold(events([change, change, failed]))
    assert [one.id for one in told] == ["grant_changed:0", "grant_changed:1"]
    assert (told[0].change, told[0].name, told[0].grant, told[0].actor) == (
        *(word, "deploy", "0" * 16),
        "root",
    )
    assert "f" * 64 not in str(msgspec.to_builtins(told))


RULES_WITH_ADMIN = [{"allow": ["read"]}, {"allow": ["audit", "admin"]}]


@pytest.mark.parametrize("word", ["granted", "changed"])
def test_who_may_grant_from_now_on_is_told_each_time(word: str) -> None:
    """Beside the change itself, and louder."""
    details = {"id": "0" * 16, "name": "ops", "rules": RULES_WITH_ADMIN}
    change = Step(0, f"access_key.{word}", "root", None, None, None, details)
    failed = Step(0, f"access_key.{word}", "root", None, None, "already_there", details)
    told = [one for one in fold(events([change, change, failed])) if one.severity == "warning"]
    assert [one.id for one in told] == ["admin_granted:0", "admin_granted:1"]
    assert (told[0].name, told[0].grant, told[0].actor) == ("ops", "0" * 16, "root")
    assert "'ops' may grant" in told[0].summary


@pytest.mark.parametrize("rules", [None, 7, "admin", ["admin"], [None], [{}], [{"allow": None}]])
def test_rules_that_are_none_give_nobody_the_right_to_grant(rules: Any) -> None:
    """A row that anybody wrote may hold anything; the fold goes on."""
    change = Step(0, "access_key.granted", "root", None, None, None, {"name": "x", "rules": rules})
    assert [one.condition for one in fold(events([change]))] == ["grant_changed"]


def test_a_checkpoint_that_is_late_is_told_of() -> None:
    """With the first event that none covers; again while it goes on, after the cool-down."""

    def ids(conditions: Conditions, *waits: int) -> list[str]:
        told = (conditions.checkpoint(7, START, START + timedelta(seconds=wait)) for wait in waits)
        return [one.id for found in told for one in found]

    assert ids(Conditions(SMALL), 0, 60) == []
    assert ids(Conditions(SMALL), 61, 70, 110, 170) == ["checkpoint_age:7"]
    assert ids(Conditions(SMALL), 61, *range(70, 400, 10)) == ["checkpoint_age:7"] * 2


def test_rows_that_do_not_follow_are_told_of() -> None:
    """Once a cool-down, at the first of their positions; none is nothing."""
    conditions = Conditions(SMALL)
    assert conditions.projection([], START) == []
    (told,) = conditions.projection([9, 4, *range(20, 60)], START)
    assert (told.id, told.count, len(told.positions)) == ("projection_difference:4", 42, 10)
    assert conditions.projection([4], START + timedelta(seconds=299)) == []
    assert len(conditions.projection([4], START + timedelta(seconds=300))) == 1


FLOODS: dict[str, Callable[[int], Step]] = {
    "actors": lambda n: read(actor=f"actor {n}", ip="192.0.2.1"),
    "addresses": lambda n: read(ip=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"),
    "hosts": lambda n: read(host=f"host {n}"),
    "sources without a key": lambda n: Step(
        0, DENIED, None, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", None, "forbidden", {"rule": "x"}
    ),
    "bad contents": lambda n: read(host=f"host {n}", error="decrypt_failed"),
    "seconds": lambda _: read(after=61),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_memory_is_bounded(kind: str) -> None:
    """However many actors, sources, hosts and steps there are."""
    conditions = Conditions(SMALL)
    fold(events(map(FLOODS[kind], range(6_000))), conditions)
    memory = conditions.memory
    assert len(memory.sources.by_actor) <= MAX_ACTORS
    assert max(map(len, memory.sources.by_actor.values()), default=0) <= MAX_SOURCES
    assert len(memory.bulk.by_actor) <= MAX_READERS
    assert max(map(len, memory.bulk.by_actor.values()), default=0) <= SMALL.bulk_hosts + 1
    assert len(memory.told.by_key) <= MAX_TOLD
    assert len(memory.reads.all.counts) <= memory.reads.all.steps


def test_past_the_cap_an_actor_is_new_and_a_source_is_told_again() -> None:
    """Too many actors can hide a new source; too many sources of one never do."""
    crowd = [read(actor=f"actor {n}", ip="192.0.2.1") for n in range(MAX_ACTORS)]
    rows = events([read(ip="192.0.2.1"), *crowd, read(ip="192.0.2.9")])
    assert [one.id for one in fold(rows) if one.condition == "new_source"] == []
    moving = [read(ip=f"10.0.{n >> 8}.{n & 255}", after=99) for n in range(MAX_SOURCES + 1)]
    told = [one.id for one in fold(events([*moving, moving[0]])) if one.condition == "new_source"]
    assert told[-1] == f"new_source:{len(moving)}"


@given(st.text(max_size=400))
def test_a_sentence_steers_nothing(name: str) -> None:
    """Whatever somebody calls himself stands quoted, in ASCII and bounded, in the summary."""
    details = {"rule": name, "claim": name, "name": name}
    for actor in (None, name):
        (told,) = fold(events([Step(0, DENIED, actor, None, name, "forbidden", details)]))
        assert told.summary.isascii()
        assert told.summary.isprintable()
        assert len(told.summary) < 8_000
        assert max(len(value) for value in msgspec.to_builtins(told).values() if value != 0) < 8_000


def test_every_word_has_a_severity() -> None:
    """Each is told with one of three."""
    assert set(SEVERITIES) == set(WORDS)
    assert set(SEVERITIES.values()) == {"critical", "warning", "notice"}


def test_what_was_disowned_is_told_each_time() -> None:
    """How many, and by whom; whatever the details say."""
    ranges = [[4, 6], [9, 9], "x", [3, 1]]
    steps = [
        Step(0, "ledger.disowned", "root", None, None, None, {"ranges": ranges}),
        Step(0, "ledger.disowned", "root", None, None, None, {"ranges": 7}),
    ]
    told = [one for one in fold(events(steps)) if one.condition == "events_disowned"]
    assert [one.count for one in told] == [4, 0]
    assert {(one.severity, one.actor) for one in told} == {("critical", "root")}
