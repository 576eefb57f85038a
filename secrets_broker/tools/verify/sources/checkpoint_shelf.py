"""Kept checkpoints in the order of their sizes, however many: in a temporary SQLite file."""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from secrets_broker.tools.verify.checks.checkpoints import KeptCheckpoint

_AT_ONCE: Final = 1_000
_BETWEEN: Final = """
    SELECT origin, size, note FROM kept WHERE size > ? AND size <= ? ORDER BY size, origin
"""
_BEYOND: Final = "SELECT origin, max(size) FROM kept WHERE size > ? GROUP BY origin LIMIT 1000"


class Shelf:
    """Takes checkpoints in any order, and gives them by size."""

    def __init__(self) -> None:
        # An empty name: a file that SQLite itself removes, even if this process is killed.
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("PRAGMA synchronous = OFF")
        self._file.execute("CREATE TABLE kept (origin TEXT, size INTEGER, note TEXT)")

    def fill(self, kept: Iterable[KeptCheckpoint]) -> None:
        """Take them in; once."""
        rows = ((one.origin, one.size, one.note) for one in kept)
        while some := list(islice(rows, _AT_ONCE)):
            self._file.execute("BEGIN")
            self._file.executemany("INSERT INTO kept VALUES (?, ?, ?)", some)
            self._file.execute("COMMIT")
        self._file.execute("CREATE INDEX by_size ON kept (size)")

    def between(self, low: int, high: int) -> Sequence[KeptCheckpoint]:
        """Those whose size is above low and at most high."""
        return [KeptCheckpoint(*row) for row in self._file.execute(_BETWEEN, (low, high))]

    def beyond(self, size: int) -> list[KeptCheckpoint]:
        """The largest of each origin that is of more than that."""
        return [
            KeptCheckpoint(origin, most, "")
            for origin, most in self._file.execute(_BEYOND, (size,))
        ]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
