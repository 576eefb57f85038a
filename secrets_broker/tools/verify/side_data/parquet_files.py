"""The Parquet files of an export, held to its entries: every row of every column.

No checkpoint signs a table. But each follows from the entries, which a checkpoint does sign, so it
is made again from them and must come out the same.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH, leaf_hash
from secrets_broker.ledger.transparency_log.stored_entries import StoredEntry
from secrets_broker.tools.shared.progress import Tell
from secrets_broker.tools.verify.checks.findings import Findings
from secrets_broker.tools.verify.checks.subtree import RANGE
from secrets_broker.tools.verify.sources.folder import FolderSource

if TYPE_CHECKING:
    from secrets_broker.tools.verify.side_data.parquet_file import ParquetCheck

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
        from secrets_broker.tools.verify.side_data.parquet_file import ParquetCheck  # noqa: PLC0415 - an extra
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
            if (table := ParquetCheck.open(folder, kind, first, findings, partial=source.partial))
        ]
        _hold(source, tables, first, last, findings)
        tell("events compared with tables", last, size)


def _hold(
    source: FolderSource, tables: "list[ParquetCheck]", first: int, last: int, findings: Findings
) -> None:
    try:
        for start in range(first, last, RANGE) if tables else ():
            rows = _rows(source, start, min(RANGE, last - start))
            held = [rows is not None and table.hold(rows) for table in tables]
            if rows is None or not all(held):
                # What is wrong with the entry was told; rows behind it would only be out of step.
                what = f"tables from position {start} on: an entry is not there, or cannot be read"
                findings.left_out(what)
                return
            findings.checked["events in tables"] += len(rows)
        for table in tables:
            table.finish()
    finally:
        for table in tables:
            table.close()


def _rows(source: FolderSource, first: int, count: int) -> list[StoredEntry] | None:
    entries = source.load(first, count).entries
    rows = [
        StoredEntry(position, leaf_hash(entry), entry)
        for position, entry in enumerate(entries, first)
        if entry is not None
    ]
    return rows if len(rows) == count else None


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
