"""The Parquet files of an export, held to its entries: every row of every column.

No checkpoint signs a table. But each follows from the entries, which a checkpoint does sign, so it
is made again from them and must come out the same.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from secrets_broker.ledger.audit.findings import Findings
from secrets_broker.ledger.audit.subtree import RANGE
from secrets_broker.ledger.entries import Row
from secrets_broker.ledger.merkle import TILE_WIDTH, leaf_hash
from secrets_broker.tools.progress import Tell
from secrets_broker.tools.verify.folder import FolderSource

if TYPE_CHECKING:
    from secrets_broker.tools.verify.table import Table

_FOLDER: Final = "parquet"
_KINDS: Final = ("events", "access_log")
_POSITIONS: Final = TILE_WIDTH**2  # of a file, as an export makes them


def check_tables(source: FolderSource, findings: Findings, tell: Tell) -> None:
    """Hold the folder's tables to its entries; these must have been checked before."""
    folder, size = source.folder / _FOLDER, source.size
    if not folder.is_dir():
        findings.left_out("tables: the export has none")
        return
    try:
        from secrets_broker.tools.verify.table import Table  # noqa: PLC0415 - an extra
    except ImportError:
        findings.left_out("tables: they need pyarrow (pip install pyarrow)")
        return
    for name in sorted(_others(folder, size)):
        findings.left_out(f"tables: {name} is of no events that the checkpoint covers")
    for first in range(0, size, _POSITIONS):
        last = min(first + _POSITIONS, size)
        tables = [
            table
            for kind in _KINDS
            if (table := Table.open(folder, kind, first, findings, partial=source.partial))
        ]
        _hold(source, tables, first, last)
        tell("events compared with tables", last, size)
        for table in tables:
            table.finish()


def _hold(source: FolderSource, tables: "list[Table]", first: int, last: int) -> None:
    for start in range(first, last, RANGE) if tables else ():
        rows = list(_rows(source, start, min(RANGE, last - start)))
        for table in tables:
            table.hold(rows)


def _rows(source: FolderSource, first: int, count: int) -> Iterator[Row]:
    """The entries that are there; of the others, and of what cannot be read, was told before."""
    for position, entry in enumerate(source.load(first, count).entries, first):
        if entry is not None:
            yield Row(position, entry, leaf_hash(entry))


def _others(folder: Path, size: int) -> Iterator[str]:
    wanted = {f"part-{first:012d}.parquet" for first in range(0, size, _POSITIONS)}
    for kind in folder.iterdir():
        if kind.name not in _KINDS or not kind.is_dir():
            yield f"{_FOLDER}/{kind.name}"
            continue
        yield from (
            f"{_FOLDER}/{kind.name}/{part.name}"
            for part in kind.iterdir()
            if part.name not in wanted
        )
