"""What is in the database: what we recorded, and which of the files' objects are there.

It only reads the system's catalogs and our own table, so that the service's role may ask too.
"""

import re
from dataclasses import dataclass

from secrets_broker.migrations.connection import Connection
from secrets_broker.migrations.manifest import SqlFile
from secrets_broker.migrations.yoyo_backend import SCHEMA


@dataclass(frozen=True, slots=True)
class Recorded:
    """A file that was applied, as the database has it."""

    name: str
    sha256: str


_PATTERNS = tuple(
    (re.compile(pattern, re.MULTILINE), template)
    for pattern, template in (
        (r"^CREATE SCHEMA (?:IF NOT EXISTS )?(\w+)", r"schema \1"),
        (r"^CREATE TABLE (?:IF NOT EXISTS )?([\w.]+)", r"table \1"),
        (r"^CREATE (?:OR REPLACE )?VIEW ([\w.]+)", r"view \1"),
        (r"^CREATE (?:OR REPLACE )?FUNCTION ([\w.]+)", r"function \1"),
        (r"^CREATE (?:UNIQUE )?INDEX (\w+)\s+ON (\w+)\.", r"index \2.\1"),
        (r"^CREATE TRIGGER (\w+)[^;]*?\sON ([\w.]+)", r"trigger \1 on \2"),
        (r"^ALTER FUNCTION ([\w.]+) SET search_path = ([\w, ]+);", r"path \2 of \1"),
        (r"^ALTER TABLE ([\w.]+) ENABLE ALWAYS TRIGGER (\w+)", r"ALWAYS trigger \2 on \1"),
    )
)

_THERE = """
SELECT 'schema ' || nspname FROM pg_namespace
UNION ALL
SELECT CASE relkind WHEN 'r' THEN 'table ' WHEN 'p' THEN 'table '
                    WHEN 'v' THEN 'view ' ELSE 'index ' END || nspname || '.' || relname
FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'i', 'I')
UNION ALL
SELECT 'function ' || nspname || '.' || proname
FROM pg_proc JOIN pg_namespace AS n ON n.oid = pronamespace
UNION ALL
SELECT 'path ' || split_part(setting, '=', 2) || ' of ' || nspname || '.' || proname
FROM pg_proc JOIN pg_namespace AS n ON n.oid = pronamespace, unnest(proconfig) AS setting
WHERE split_part(setting, '=', 1) = 'search_path'
UNION ALL
SELECT kind || tgname || ' on ' || nspname || '.' || relname
FROM pg_trigger
     JOIN pg_class AS c ON c.oid = tgrelid
     JOIN pg_namespace AS n ON n.oid = relnamespace,
     LATERAL (VALUES ('trigger '), (CASE tgenabled WHEN 'A' THEN 'ALWAYS trigger ' END)) AS k (kind)
WHERE NOT tgisinternal AND kind IS NOT NULL
"""


def recorded(connection: Connection) -> tuple[Recorded, ...]:
    """The files that we recorded as applied, oldest first."""
    if f"table {SCHEMA}.applied" not in there(connection):
        return ()
    # SCHEMA is our own constant.
    rows = connection.execute(f"SELECT name, sha256 FROM {SCHEMA}.applied ORDER BY name")  # noqa: S608
    return tuple(Recorded(*row) for row in rows)


def there(connection: Connection) -> frozenset[str]:
    """Every schema, table, view, index, function, its search_path, and trigger.

    As ``table ledger.events``.
    """
    return frozenset(row[0] for row in connection.execute(_THERE))


def made_by(files: tuple[SqlFile, ...]) -> frozenset[str]:
    """What these files make, in the words of there()."""
    texts = [file.path.read_text(encoding="utf-8") for file in files]
    return frozenset(
        match.expand(template)
        for text in texts
        for pattern, template in _PATTERNS
        for match in pattern.finditer(text)
    )
