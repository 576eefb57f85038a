"""One Parquet file of an export, read beside the entries that its rows follow from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from secrets_broker.ledger.transparency_log.stored_entries import StoredEntry
from secrets_broker.tools.export.parquet import KEYS, SCHEMAS, part_name, tables_of
from secrets_broker.tools.verify.checks.findings import Findings

_ROWS: Final = 4_096


class ParquetCheck:
    """Takes the entries in their order, `hold` after `hold`; what differs is told once.

    After the first difference nothing more is compared: rows that follow it may only have moved.
    """

    def __init__(self, path: Path, kind: str, first: int, findings: Findings) -> None:
        self._name = part_name(kind, first)
        self._kind, self._first, self._findings = kind, first, findings
        self._file = pq.ParquetFile(path)
        self._batches = self._file.iter_batches(_ROWS)
        self._ahead: Any = SCHEMAS[kind].empty_table()
        self._told = False
        if not self._file.schema_arrow.equals(SCHEMAS[kind], check_metadata=False):
            self._tell(first, "has other columns than an export's")

    @classmethod
    def open(
        cls, folder: Path, kind: str, first: int, findings: Findings, *, partial: bool
    ) -> Self | None:
        """A table of the folder, or None where it is not there or cannot be read, which is told."""
        name = part_name(kind, first)
        path = folder.parent / name
        if not path.is_file():
            if not partial:
                findings.wrong(first, "table", f"{name} is not there")
            return None
        try:
            return cls(path, kind, first, findings)
        except (OSError, pa.ArrowException, ValueError) as error:
            findings.wrong(first, "table", f"{name} cannot be read ({type(error).__name__})")
            return None

    def hold(self, rows: Sequence[StoredEntry]) -> bool:
        """The rows that follow from the next entries must be the next ones of the file.

        False where an entry is none that a row can be made of.
        """
        try:
            wanted = tables_of(rows)[self._kind]
        except (ValueError, OverflowError, pa.ArrowException):  # msgspec's errors are ValueErrors
            return False
        if self._told:
            return True
        there = self._next(len(wanted))
        if there is not None and not there.equals(wanted):
            self._difference(wanted, there, rows[0].position)
        return True

    def finish(self) -> None:
        """No row may be left."""
        if not self._told and (left := self._next(1)) is not None and len(left):
            key = left[KEYS[self._kind]][0].as_py()
            self._tell(self._first, f"has a row ({key}) that follows from no entry")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _next(self, count: int) -> Any:
        """That many rows, or as many as there are; None where they cannot be read."""
        try:
            while len(self._ahead) < count:
                batch = pa.Table.from_batches([next(self._batches)])
                self._ahead = pa.concat_tables([self._ahead, batch])
        except StopIteration:
            pass
        except (OSError, pa.ArrowException, ValueError) as error:
            self._tell(self._first, f"cannot be read ({type(error).__name__})")
            return None
        taken = self._ahead.slice(0, count)
        self._ahead = self._ahead.slice(count)
        return taken.combine_chunks()

    def _difference(self, wanted: Any, there: Any, position: int) -> None:
        key = KEYS[self._kind]
        for index in range(len(wanted)):
            at = wanted[key][index].as_py()
            if index >= len(there):
                self._tell(at, "ends before the row that follows from this entry")
                return
            pairs = [
                (name, wanted[name][index], there[name][index]) for name in wanted.column_names
            ]
            other = [name for name, right, given in pairs if not right.equals(given)]
            if other:
                self._tell(at, f"does not say what this entry says ({', '.join(other)})")
                return
        self._tell(position, "is not what follows from the entries")

    def _tell(self, position: int, what: str) -> None:
        self._told = True
        self._findings.wrong(position, "table", f"{self._name} {what}")
