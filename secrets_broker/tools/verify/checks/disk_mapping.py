"""A mapping that does not grow in memory: past a limit it continues in a temporary SQLite file."""

import marshal
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

LIMIT: Final = 200_000
"""How many values are held in memory, about 300 bytes each."""

_PUT: Final = "INSERT OR REPLACE INTO kept VALUES (?, ?)"


class Spill:
    """Texts to tuples of plain values; close it at the end, and its file is gone."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._recent: dict[str, tuple[Any, ...]] = {}
        self._file: sqlite3.Connection | None = None

    def get(self, key: str) -> tuple[Any, ...] | None:
        """What was put there, or None."""
        found = self._recent.get(key)
        if found is not None or self._file is None:
            return found
        row = self._file.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        return None if row is None else marshal.loads(row[0])  # noqa: S302 - our own file

    def put(self, key: str, value: tuple[Any, ...]) -> None:
        """Keep a value in the place of the one before."""
        self._recent[key] = value
        if len(self._recent) > self._limit:
            self._flush()

    def items(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """All of it, in no order that is known."""
        if self._file is None:
            yield from self._recent.items()
            return
        self._flush()
        for key, value in self._file.execute("SELECT key, value FROM kept"):
            yield key, marshal.loads(value)  # noqa: S302 - our own file

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        if self._file is None:
            # An empty name: a file that SQLite itself removes, even if this process is killed.
            self._file = sqlite3.connect("", isolation_level=None)
            self._file.execute("PRAGMA journal_mode = OFF")
            self._file.execute("PRAGMA synchronous = OFF")
            self._file.execute("CREATE TABLE kept (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self._file.execute("BEGIN")
        # marshal takes tuples and none of their subclasses: not a NamedTuple, which most of it is.
        self._file.executemany(
            _PUT, ((key, marshal.dumps(tuple(value))) for key, value in self._recent.items())
        )
        self._file.execute("COMMIT")
        self._recent.clear()
