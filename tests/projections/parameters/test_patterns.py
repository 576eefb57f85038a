"""Patterns and durations: what people write, and what the database is asked."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secrets_broker.ledger.database.name_pattern import like
from secrets_broker.ledger.errors import InvalidCommandError
from secrets_broker.projections.parameters.duration import parse_duration
from secrets_broker.tools.postgres import Cluster

# Few letters, so that patterns match now and then; the ones that LIKE or a regex would take.
letters = st.text(st.sampled_from("ab*%_\\.[ü\n"), max_size=8)


@pytest.fixture(scope="module")
def connection(cluster: Cluster) -> Iterator["psycopg.Connection[Any]"]:
    """A connection to a database whose tables do not matter."""
    with psycopg.connect(cluster.superuser_url(), autocommit=True) as connection:
        yield connection


@given(pattern=letters, name=letters)
@example("%", "a")
@example("_", "a")
@example("\\*", "\\ab")
@example("a*", "a")
def test_a_star_is_any_run_and_all_else_is_itself(
    connection: "psycopg.Connection[Any]", pattern: str, name: str
) -> None:
    """PostgreSQL finds just the names that a pattern means."""
    row = connection.execute(
        "SELECT %s::text LIKE %s ESCAPE '\\'", (name, like("host", pattern))
    ).fetchone()
    meant = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert row == (re.fullmatch(meant, name, re.DOTALL) is not None,)


@pytest.mark.parametrize("pattern", ["m4rker\x00", "m4rker\ud800", "m4rker" * 50])
def test_a_pattern_that_no_name_could_have_is_refused(pattern: str) -> None:
    """The field is named, and the pattern not repeated."""
    with pytest.raises(InvalidCommandError, match=r"^host: ") as caught:
        like("host", pattern)
    assert "m4rker" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("90m", timedelta(minutes=90)),
        ("2w", timedelta(days=14)),
        ("0d", timedelta()),
        ("9999w", timedelta(weeks=9_999)),
    ],
)
def test_durations(text: str, meant: timedelta) -> None:
    """A number and a unit."""
    assert parse_duration("within", text) == meant


@pytest.mark.parametrize(
    "text", ["", "30", "d", "-1d", "+1d", "1.5d", "30 d", "30D", "30d\n", "10000d", "1d12h", "٣d"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """One rule, said in the error, whatever is wrong."""
    with pytest.raises(InvalidCommandError, match=r"^within: must be a whole number .* as in 30d$"):
        parse_duration("within", text)
