"""Names of prepared statements, each of which follows from its SQL.

Where a pooler mixes sessions up, a name of ours is then the same statement there, or none: never
another one. A name that counts, as psycopg's own do, is another statement in each process.
"""

from hashlib import sha256

from psycopg._preparing import Prepare, PrepareManager
from psycopg._queries import PostgresQuery


def name_of(sql: str | bytes) -> bytes:
    """The same SQL has the same name everywhere, and no other has it."""
    text = sql.encode() if isinstance(sql, str) else sql
    return b"sb_" + sha256(text).hexdigest()[:32].encode()


class NamedStatements(PrepareManager):
    """psycopg's choice of what to prepare, under our names."""

    def get(self, query: PostgresQuery, prepare: bool | None = None) -> tuple[Prepare, bytes]:
        """As psycopg's; a number tells apart what is prepared again, with other types, say."""
        choice, name = super().get(query, prepare)
        if choice is Prepare.SHOULD:
            name = b"%s_%d" % (name_of(query.query), self._prepared_idx)
        return choice, name
