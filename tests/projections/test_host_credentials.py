"""The columns of secrets.host_credentials: the declared ones are the table's."""

from secrets_broker.ledger.encryption.body import PARTS
from secrets_broker.projections.host_credentials import NAMES
from tests.conftest import Database

_TABLE = """
    SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
    WHERE attrelid = 'secrets.host_credentials'::regclass AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
"""


def test_the_declared_columns_are_the_tables(database: Database) -> None:
    """The same names in the same order; what comes from a body has the type of its field."""
    types = dict(database.fetch(_TABLE))
    assert tuple(types) == NAMES
    long_form = {"timestamptz": "timestamp with time zone"}
    assert {name: long_form.get(kind, kind) for name, kind in PARTS.items()} == {
        name: types[name] for name in PARTS
    }
