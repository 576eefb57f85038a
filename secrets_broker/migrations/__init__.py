"""The database's schema as plain SQL, and its runner.

``NNNN.name.sql`` makes a part of the schema and ``NNNN.name.rollback.sql`` takes it back; each
is also fit for ``psql -f``. ``SHA256SUMS`` holds their digests: after a change to a file, run
``python -m secrets_broker.migrations.manifest``. A file that was released is never edited.
``schema.sql`` is what all of them come to, for people: begin there.
"""

from secrets_broker.migrations.errors import MigrationError

__all__ = ["MigrationError"]
