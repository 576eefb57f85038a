"""What verify makes of a row is the entry that was appended, byte for byte."""

from collections.abc import Sequence
from contextlib import closing

import psycopg
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from secrets_broker.ledger.append import Append
from secrets_broker.ledger.encoding import canonical_json, rfc3339
from secrets_broker.ledger.events import BodyReference, Event, encode_entry
from secrets_broker.ledger.store import insert_events
from secrets_broker.ledger.tree_state import TreeState
from secrets_broker.tools.verify.checks.examine import examine
from secrets_broker.tools.verify.checks.facts import decode, encode
from secrets_broker.tools.verify.sources.database_reader import DatabaseReader
from tests.conftest import Database
from tests.ledger.helpers import integers, texts, times

optional = st.none() | texts.map(lambda text: text[:40])
details = st.dictionaries(
    st.text(st.characters(codec="ascii", exclude_characters="\x00"), max_size=8),
    st.recursive(
        st.none() | st.booleans() | integers | texts,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("abcdefgz_", max_size=9), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=4,
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Any that the table takes."""
    ok = draw(st.booleans())
    return Event(
        type=draw(texts.map(lambda text: f"x{text}"[:64])),
        at=rfc3339(draw(times)),
        occurred_at=draw(st.none() | times.map(rfc3339)),
        actor=draw(optional),
        authn=draw(texts),
        ip=draw(st.none() | st.sampled_from(["192.0.2.1", "2001:db8::1"])),
        request_id=draw(optional),
        reason=draw(optional),
        host=draw(optional),
        purpose=draw(optional),
        credential_id=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        version=draw(st.none() | st.integers(1, 2**31 - 1)),
        ok=ok,
        error=None if ok else draw(texts),
        details=draw(st.none() | details),
        body=draw(st.none() | st.builds(BodyReference, texts, texts)),
    )


@given(st.lists(events(), min_size=1, max_size=12))
def test_an_entry_is_decoded_and_encoded_as_it_is(given_events: list[Event]) -> None:
    """The fast encoding is the canonical one."""
    for entry in map(encode_entry, given_events):
        assert encode(decode(entry)) == entry == canonical_json(decode(entry))


def test_a_row_is_made_into_its_entry(database: Database) -> None:
    """All kinds of values, texts and times; leaf hashes as they were computed at the append."""
    database.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
    with closing(DatabaseReader(database.owner_url, bodies=False)) as reader:

        @given(st.lists(events(), min_size=1, max_size=12))
        @hypothesis_settings(max_examples=40)
        def check(given_events: list[Event]) -> None:
            entries = [encode_entry(event) for event in given_events]
            _put(database, entries)
            loaded = reader.load(0, len(entries))
            assert [encode(decode(raw or b"")) for raw in loaded.entries] == entries
            problems = examine(loaded, (), ()).problems
            assert "leaf" not in {problem.check for problem in problems}

        check()


def _put(database: Database, entries: Sequence[bytes]) -> None:
    """Append them in the service's own words."""
    append = Append(TreeState())
    for entry in entries:
        append.add_entry(entry)
    statement = insert_events(append)
    with psycopg.connect(database.owner_url, autocommit=True) as connection:
        connection.execute("TRUNCATE ledger.events")
        cursor = psycopg.RawCursor(connection)
        values = [(value or b"").decode() for value in statement.values]
        cursor.execute(statement.sql, values)
