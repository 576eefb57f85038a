"""Names of prepared statements, which follow from the SQL.

If a pooler mixes sessions up, our name is the same statement there or none, never another one. A
numbered name, as psycopg's own, would be a different statement in each process.
"""

from hashlib import sha256

from psycopg._preparing import Prepare, PrepareManager
from psycopg._queries import PostgresQuery


def name_of(sql: str | bytes) -> bytes:
    """The name of a statement: the same for the same SQL everywhere, and for no other."""
    text = sql.encode() if isinstance(sql, str) else sql
    return b"sb_" + sha256(text).hexdigest()[:32].encode()


class NamedStatements(PrepareManager):
    """Prepares what psycopg would, under our names."""

    def get(self, query: PostgresQuery, prepare: bool | None = None) -> tuple[Prepare, bytes]:
        """As psycopg's; a number distinguishes preparations with other types, for example."""
        choice, name = super().get(query, prepare)
        if choice is Prepare.SHOULD:
            name = b"%s_%d" % (name_of(query.query), self._prepared_idx)
        return choice, name
