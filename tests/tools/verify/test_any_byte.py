"""A hostile superuser changes one thing anywhere in the tables, and verify finds it.

The ledger has events of every type. Whatever the tables' triggers, keys and checks would refuse is
out of the way; what verify cannot find is listed, each with its reason, and nothing else is let by.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.event_types import BY_NAME, LEDGER_RESTORED
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.tools.everything import NEW_KEY, TABLES, WITNESS, everything, free, size_of
from tests.tools.verify.changing import KEY, Copies, Report, verified

EXAMPLES: Final = 25
ANY: Final = "true"
FIRST_KEK: Final = "state = 'retired'"
EXEMPT: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("ledger.lock", "only_row"): (ANY, "it says nothing; without its row nothing can be appended"),
    ("ledger.lock", "DELETE"): (ANY, "as above: every append is refused, which nobody overlooks"),
    ("ledger.published", "only_row"): (ANY, "it says nothing: the one row is the one row"),
    ("ledger.cosignatures", "received_at"): (ANY, "for their order; the line has its own time"),
    ("ledger.cosignatures", "DELETE"): (ANY, "the ledger cannot know who cosigned; witnesses do"),
    ("ledger.checkpoints", "signed_at"): (ANY, "for the order of pages only; no note names it"),
    ("ledger.checkpoints", "DELETE"): (
        "size < (SELECT size FROM ledger.published)",
        "which checkpoints there were is kept by those who keep them (--since); not the newest",
    ),
    ("ledger.keks", "provider"): (FIRST_KEK, "no event names that of a ledger's first KEK"),
    ("ledger.keks", "canary"): (FIRST_KEK, "it proves a key that opens nothing any more"),
    ("ledger.keks", "wrapped"): (ANY, "a KEK of the environment has none, and none is read"),
    ("ledger.keks", "created_at"): (ANY, "for their order only"),
}
"""What verify lets by: for which rows, and why."""
OF_DISOWNED: Final = {"position", "leaf_hash", "mac", "DELETE"}
"""What still counts of disowned events: the tree has their leaves, and the MACs are a chain."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What stands in each table: its columns' names and types, and its rows by ctid."""

    database: Database
    copies: Copies
    columns: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def ledger(cluster: Cluster, keyring: Keyring) -> Iterator[Ledger]:
    """Everything that can be in a ledger, and nothing in the way of who changes it."""
    with fresh_database(cluster, TEMPLATE) as made:
        everything(made, keyring)
        free(made)
        columns: dict[str, dict[str, str]] = {}
        for table in TABLES:
            columns[table] = dict(
                made.fetch(
                    "SELECT attname::text, atttypid::regtype::text FROM pg_attribute"
                    f" WHERE attrelid = '{table}'::regclass AND attnum > 0"
                )
            )
        yield Ledger(made, Copies(made), columns)


def check(database: Database) -> Report:
    """Verify, with every key."""
    return verified(database, keys=(KEY.verifier, WITNESS.verifier), kms_key=NEW_KEY)


def test_nothing_was_changed(ledger: Ledger) -> None:
    """Events of every type are there, and all of it is right."""
    report = check(ledger.database)
    assert (report.problems, report.not_checked) == ([], [])
    ((first, last),) = ledger.database.fetch(
        "SELECT first_position, last_position FROM ledger.disowned"
    )
    assert report.remarks == [f"disowned: {first}-{last}"]
    types = ledger.database.fetch("SELECT DISTINCT type FROM ledger.events")
    assert {name for (name,) in types} == BY_NAME.keys() - {LEDGER_RESTORED}


CHANGES: Final = {
    "text": [
        "{0} || ' '",
        "' ' || {0}",
        "upper({0})",
        "lower({0})",
        "left({0}, -1)",
        "''",
        "overlay({0} placing 'q' from 1 + length({0}) / 2 for 1)",
        "replace({0}, E'\\n', E'\\r\\n')",
        "normalize({0} || E'\\u0301', NFD)",
    ],
    "bytea": [
        "set_bit({0}, 0, 1 - get_bit({0}, 0))",
        "set_bit({0}, 8 * length({0}) - 1, 1 - get_bit({0}, 8 * length({0}) - 1))",
        "substr({0}, 2)",
        "{0} || '\\x00'",
        "''",
    ],
    "integer": ["{0} + 1", "{0} - 1", "0", "-{0}"],
    "boolean": ["NOT {0}"],
    "timestamp with time zone": [
        "{0} + interval '1 microsecond'",
        "{0} - interval '1 microsecond'",
        "{0} + interval '1 day'",
        "'infinity'",
        "'0044-03-15 BC'",
    ],
    "jsonb": [
        """{0} || '{{"also": null}}'""",
        "'{{}}'",
        "'null'",
        "{0} - (SELECT max(k) FROM jsonb_object_keys({0}) AS k)",
        "jsonb_set({0}, ARRAY[(SELECT min(k) FROM jsonb_object_keys({0}) AS k)], '\"x\"')",
        "jsonb_build_array({0})",
    ],
}
CHANGES["bigint"] = CHANGES["smallint"] = CHANGES["integer"]


@dataclass(frozen=True, slots=True)
class Tampering:
    """One change of one row: what is set, or that the row goes."""

    table: str
    row: int
    column: str
    change: str

    def exempt(self) -> str | None:
        """For which rows verify may let it by."""
        if self.table == "ledger.events" and self.column not in OF_DISOWNED:
            return "ledger.is_disowned(position)"  # nothing follows from what they say
        return EXEMPT.get((self.table, self.column), (None, ""))[0]

    def do(self, database: Database) -> tuple[bool, int | None]:
        """Change it; tells whether anything is another now, and the row's position in events."""
        place = f"(SELECT ctid FROM {self.table} ORDER BY ctid OFFSET {self.row} LIMIT 1)"
        at = "position" if self.table == "ledger.events" else "NULL::bigint"
        seen = f"SELECT {at}, ({self.exempt() or 'false'}) FROM {self.table} WHERE ctid = {place}"
        ((position, exempt),) = database.fetch(seen)
        if exempt:
            return False, None
        with database.owner() as connection:
            if self.column == "DELETE":
                connection.execute(f"DELETE FROM {self.table} WHERE ctid = {place}")
                return True, position
            column = f'"{self.column}"'
            value = self.change.format(column)
            done = connection.execute(
                f"UPDATE {self.table} SET {column} = {value}"
                f" WHERE ctid = {place} AND {column}::text IS DISTINCT FROM ({value})::text"
            )
            return done.rowcount == 1, position


@st.composite
def tamperings(
    draw: st.DrawFn, columns: dict[str, dict[str, str]], rows: dict[str, int]
) -> Tampering:
    """Any change of any column of any row; the table first, so that small ones are met."""
    table = draw(st.sampled_from(TABLES))
    column = draw(st.sampled_from([*columns[table], "DELETE"]))
    row = draw(st.integers(0, rows[table] - 1))
    kinds = ["NULL", *CHANGES[columns[table][column]]] if column != "DELETE" else [""]
    return Tampering(table, row, column, draw(st.sampled_from(kinds)))


def tampered(ledger: Ledger, tampering: Tampering) -> None:
    """Do it, and hold verify to it."""
    database = ledger.database
    try:
        changed, position = tampering.do(database)
    except psycopg.Error:  # a key that is taken, or a value that the type has not
        changed = False
    if not changed:
        return
    try:
        report = check(database)
    finally:
        ledger.copies.put_back()
    assert not report.ok, tampering
    if position is not None:
        assert report.first_bad is not None
        moved = tampering.column == "position"
        assert report.first_bad <= position if moved else report.first_bad == position


def test_any_change_of_any_row_is_found(ledger: Ledger) -> None:
    """One value of one row, by one byte, by its case or by a microsecond: verify says not ok, and
    of an event names the position."""
    rows = {
        table: int(ledger.database.fetch(f"SELECT count(*) FROM {table}")[0][0]) for table in TABLES
    }

    @given(tamperings(ledger.columns, rows))
    @hypothesis_settings(max_examples=EXAMPLES, deadline=None)
    def any_of_them(tampering: Tampering) -> None:
        tampered(ledger, tampering)

    any_of_them()


def test_each_column_once(ledger: Ledger) -> None:
    """Every column of every table, in its first row that is not exempt: none is overlooked."""
    for table, columns in ledger.columns.items():
        for column, kind in columns.items():
            tampered(ledger, Tampering(table, 0, column, CHANGES[kind][0]))


def test_an_event_key_that_is_in_force_from_nowhere(ledger: Ledger) -> None:
    """A row that no event could have brought is told, and ends nothing."""
    tampered(ledger, Tampering("ledger.event_keys", 0, "from_position", "NULL"))


@given(st.data())
@hypothesis_settings(max_examples=6, deadline=None)
def test_two_events_swapped(ledger: Ledger, data: st.DataObject) -> None:
    """Each fits its own leaf hash; where a MAC is wrong first is exactly the lower one."""
    database, size = ledger.database, size_of(ledger.database)
    low = data.draw(st.integers(0, size - 2))
    high = data.draw(st.integers(low + 1, size - 1))
    for before, after in ((low, -1), (high, low), (-1, high)):
        database.execute(
            "UPDATE ledger.events SET position = %s WHERE position = %s", after, before
        )
    try:
        report = check(database)
    finally:
        ledger.copies.put_back()
    assert report.first_bad is not None
    assert report.first_bad <= low
    wrong = {at for at, check, _ in report.problems if check == "mac" and at is not None}
    ((left_out,),) = database.fetch("SELECT ledger.is_disowned(%s)", low)
    assert left_out or low == min(wrong)


@pytest.mark.parametrize("table", TABLES)
def test_a_row_too_many(ledger: Ledger, table: str) -> None:
    """A copy of a row under another key, wherever one can be put."""
    database = ledger.database
    key = {
        "ledger.events": "position",
        "ledger.nodes": "index",
        "ledger.bodies": "position",
        "ledger.data_keys": "id",
        "ledger.keks": "id",
        "ledger.event_keys": "id",
        "ledger.disowned": "first_position",
        "ledger.checkpoints": "size",
        "ledger.cosignatures": "name",
        "ledger.published": "only_row",
        "secrets.host_credentials": "host",
    }.get(table)
    if key is None:
        return  # of the lock: it says nothing
    columns = ledger.columns[table]
    kinds = {"text": f"'x' || {key}", "boolean": f"NOT {key}"}
    other = kinds.get(columns[key], f"{key} + 7000")
    chosen = {key: other}
    if table == "ledger.event_keys":
        chosen["from_position"] = "from_position + 7000"
    if table == "secrets.host_credentials":
        chosen["id"] = "id + 7000"
    values = ", ".join(chosen.get(name, f'"{name}"') for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    database.execute(f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} LIMIT 1")
    try:
        report = check(database)
    finally:
        ledger.copies.put_back()
    assert not report.ok
