"""Events: whatever is asked for, what an independent filter of all events gives."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from re import escape, fullmatch
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_broker.ledger.commands import ImportAccess
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.ledger.events import Event, encode_entry
from secrets_broker.ledger.transparency_log.merkle import leaf_hash
from secrets_broker.projections.paging.position_walk import PAGE_BUDGET, PageBudget
from secrets_broker.projections.queries.event_list import EventCursor, EventFilter, EventLine, page
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import lookup, record, upsert
from tests.projections.asking import Connection, answer, auditor, pages

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
COUNT = 120
INSERT = """
    INSERT INTO ledger.events (position, at, occurred_at, v, ok, error, leaf_hash, mac, type,
                               actor, authn, reason, host, purpose)
    VALUES (%s, %s, %s, 1, %s, %s, decode(repeat('00', 32), 'hex'), sha256(''), %s, %s, 'cli', %s,
            %s, %s)
"""
TYPES = ("credential.read", "credential.deleted", "access.imported", "key.rotated")
HOSTS = ("db1.example", "db2.example", "web1.example", "a*b%_", None)
WORDS = (None, "alice", "bob", "CHG-1 now")


def generated() -> list[tuple[Any, ...]]:
    """Events of every kind that a filter tells apart, always the same."""
    chosen = random.Random(7)  # noqa: S311 - not a secret
    rows = []
    for position in range(COUNT):
        at = BEGIN + timedelta(hours=position // 2)
        kind, ok = chosen.choice(TYPES), chosen.random() < 0.7
        imported = kind == "access.imported" and chosen.random() < 0.8
        occurred_at = BEGIN + timedelta(hours=chosen.randrange(-90, 90)) if imported else None
        error = None if ok else chosen.choice(["not_found", "expired"])
        words = chosen.choice(WORDS), chosen.choice(WORDS)
        name = chosen.choice(HOSTS), chosen.choice(["ssh", "http"])
        rows.append((position, at, occurred_at, ok, error, kind, *words, *name))
    return rows


EVENTS = generated()


@pytest.fixture(scope="module")
def filled(cluster: Cluster) -> Iterator[str]:
    """The auditor's URL of a database with those events."""
    with fresh_database(cluster, TEMPLATE) as database:
        with database.owner() as connection:
            # Of a ledger that began before there were MACs.
            connection.execute("ALTER TABLE ledger.events DISABLE TRIGGER check_append")
            for row in EVENTS:
                connection.execute(INSERT, row)
        yield auditor(cluster, database)


def found(
    url: str, wanted: EventFilter, limit: int = 1_000, budget: PageBudget = PAGE_BUDGET
) -> tuple[list[EventLine], list[int]]:
    """All of them, and how many each page had."""

    async def one(
        connection: Connection, after: EventCursor | None
    ) -> tuple[list[EventLine], EventCursor | None]:
        return await page(connection, wanted, limit, after, budget)

    every = pages(url, one)
    return [line for lines in every for line in lines], [len(lines) for lines in every]


def matches(row: tuple[Any, ...], texts: dict[str, str], types: list[str]) -> bool:
    """The same rules, in another way."""
    position, at, occurred_at, ok, error, kind, actor, reason, host, purpose = row
    columns = {"host": host, "purpose": purpose, "actor": actor, "reason": reason}
    for name, value in columns.items():
        if name in texts and (value is None or not like(value, texts[name])):
            return False
    happened = min(occurred_at or at, at)
    return (
        (not types or any(like(kind, text) for text in types))
        and texts.get("outcome", "ok" if ok else "failed") == ("ok" if ok else "failed")
        and texts.get("error", error) == error
        and ("since" not in texts or happened >= datetime.fromisoformat(texts["since"]))
        and ("until" not in texts or happened < datetime.fromisoformat(texts["until"]))
        and position > int(texts.get("after", -1))
    )


def like(value: str, pattern: str) -> bool:
    """A `*` is any run of characters."""
    return fullmatch(".*".join(map(escape, pattern.split("*"))), value) is not None


moments = st.integers(-100, 100).map(lambda hours: (BEGIN + timedelta(hours=hours)).isoformat())
filters = st.fixed_dictionaries(
    {},
    optional={
        "host": st.sampled_from(["db*", "*.example", "db1.example", "a*b%_", "nobody", "*"]),
        "purpose": st.sampled_from(["ssh", "h*"]),
        "actor": st.sampled_from(["alice", "*"]),
        "reason": st.sampled_from(["CHG*", "bob"]),
        "outcome": st.sampled_from(["ok", "failed"]),
        "error": st.sampled_from(["not_found", "expired", "other"]),
        "since": moments,
        "until": moments,
        "after": st.integers(0, COUNT + 5).map(str),
    },
)
budgets = st.sampled_from(
    [PAGE_BUDGET, PageBudget(positions=5, seconds=0), PageBudget(positions=9, few=3)]
)


@settings(max_examples=150)
@given(
    texts=filters,
    types=st.lists(st.sampled_from(["credential.*", "key.rotated", "*.imported", "k"]), max_size=2),
    order=st.sampled_from([None, "oldest", "newest"]),
    limit=st.integers(1, 30),
    budget=budgets,
)
def test_just_what_matches(
    filled: str,
    texts: dict[str, str],
    types: list[str],
    order: str | None,
    limit: int,
    budget: PageBudget,
) -> None:
    """Every filter and all together, from either end, in pages of any size and budget."""
    expected = [row[0] for row in EVENTS if matches(row, texts, types)]
    if order == "newest":
        expected.reverse()
    wanted = EventFilter.parse({**texts, **({"order": order} if order else {})}, types)
    lines, sizes = found(filled, wanted, limit, budget)
    assert [line.position for line in lines] == expected
    assert max(sizes) <= limit


def test_a_page_does_no_more_than_its_pace(filled: str) -> None:
    """Where nothing matches, pages come back empty, and each says where the next begins."""
    wanted = EventFilter.parse({"actor": "nobody"})
    _, sizes = found(filled, wanted, 10, PageBudget(positions=20, seconds=0))
    assert sizes == [0] * (COUNT // 20)


def test_what_is_appended_meanwhile_comes_last(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """Oldest first, a later page has it; newest first, none has."""
    record(database, keyring, upsert("a"), lookup("a"))
    url = auditor(cluster, database)
    _, cursor = begun = answer(url, lambda connection: page(connection, EventFilter(), 2))
    assert [line.position for line in begun[0]] == [0, 1]
    newest = EventFilter.parse({"order": "newest"})
    _, downwards = answer(url, lambda connection: page(connection, newest, 2))
    record(database, keyring, lookup("a"))
    lines, end = answer(url, lambda connection: page(connection, EventFilter(), 9, cursor))
    assert ([line.position for line in lines], end) == ([2, 3], None)
    lines, end = answer(url, lambda connection: page(connection, newest, 9, downwards))
    assert ([line.position for line in lines], end) == ([0], None)


def test_a_ledger_with_a_gap_is_read_all_the_same(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """Whoever took an event away, the others still answer."""
    record(database, keyring, upsert("a"), *[lookup("a")] * 3)
    database.execute("ALTER TABLE ledger.events DISABLE TRIGGER append_only")
    database.execute("DELETE FROM ledger.events WHERE position IN (2, 3)")
    for texts in {"since": "1d"}, {"order": "newest"}, {"host": "a"}:
        lines, _ = found(auditor(cluster, database), EventFilter.parse(texts))
        assert sorted(line.position for line in lines if line.host) == [1, 4]


def test_a_line_of_a_clock_that_was_ahead(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """What is said to have happened after it was recorded is not hidden by `until`."""
    line = ImportAccess(
        host="old",
        purpose="ssh",
        ok=True,
        credential_id=None,
        occurred_at=datetime.now(UTC) + timedelta(days=99),
        details={"legacy_id": 1, "access_type": "read"},
    )
    record(database, keyring, line)
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    lines, _ = found(auditor(cluster, database), EventFilter.parse({"until": until}))
    assert [line.host for line in lines] == [None, "old"]


def test_a_line_is_the_whole_event_and_verifies(
    cluster: Cluster, database: Database, keyring: Keyring
) -> None:
    """Of what is shown, its leaf hash can be made again; no ciphertext and no key is in it."""
    record(database, keyring, upsert("a", "p4ssword"), lookup("a"), lookup("b"))
    lines, _ = found(auditor(cluster, database), EventFilter())
    for line in lines:
        fields = {name: getattr(line, name) for name in Event.__struct_fields__}
        event = json.loads(encode_entry(Event(**fields)))
        assert event["body"] == line.body
        assert leaf_hash(encode_entry(Event(**fields))).hex() == line.leaf_hash
    secrets = database.fetch(
        "SELECT encode(ciphertext, 'hex'), encode(ciphertext, 'base64') FROM ledger.bodies"
        " UNION ALL SELECT encode(wrapped, 'hex'), encode(wrapped, 'base64') FROM ledger.data_keys"
    )
    assert len(secrets) == 2
    for secret in sum(secrets, ()):
        assert secret not in repr(lines)


@pytest.mark.parametrize(
    ("texts", "types", "field"),
    [
        ({"host": "m4rker" * 50}, [], "host"),
        ({"reason": "m4rker\x00"}, [], "reason"),
        ({"outcome": "m4rker"}, [], "outcome"),
        ({"order": "m4rker"}, [], "order"),
        ({"error": ""}, [], "error"),
        ({"error": "m4rker\ud800"}, [], "error"),
        ({"since": "m4rker"}, [], "since"),
        ({"since": "2026-01-01"}, [], "since"),
        ({"until": "2026-01-01T00:00:00"}, [], "until"),
        ({"until": "0001-01-01T00:00:00+23:59"}, [], "until"),
        ({"after": "-1"}, [], "after"),
        ({"after": "1" * 19}, [], "after"),
        ({}, [""], "type"),
        ({}, ["m4rker"] * 17, "type"),
        ({}, ["m4rker" * 11], "type"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(
    texts: dict[str, str], types: list[str], field: str
) -> None:
    """The field is named and the value is not."""
    with pytest.raises(InvalidCommandError) as caught:
        EventFilter.parse(texts, types)
    assert [error.field for error in caught.value.errors] == [field]
    assert "m4rker" not in str(caught.value)
