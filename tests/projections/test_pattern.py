"""Patterns mean the same to PostgreSQL as they say."""

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secrets_broker.projections.pattern import like
from tests.conftest import Database

parts = st.text(st.sampled_from("*ab\\%_\n "), max_size=8)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts, parts)
def test_only_the_star_is_special(database: Database, pattern: str, text: str) -> None:
    """A star matches any run of characters, everything else matches itself."""
    meant = ".*".join(map(re.escape, pattern.split("*")))
    expected = re.fullmatch(meant, text, re.DOTALL) is not None
    assert database.fetch("SELECT %s::text LIKE %s", text, like(pattern)) == [(expected,)]
