"""Events and access log as Parquet: a file for each 65,536 positions, of either.

A file is named by the first position of its range, so the last one, which grows, is replaced by
its successor. A complete one names in its footer the hash of the subtree that its events are:
that of the tree's node of level 2 (`subtree`, in hex). Where it is the ledger's, it is kept.
"""

import operator
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from secrets_broker.ledger.encoding import canonical_json
from secrets_broker.ledger.events import Event
from secrets_broker.ledger.transparency_log.merkle import TILE_WIDTH, Node
from secrets_broker.ledger.transparency_log.stored_entries import StoredEntry
from secrets_broker.tools.export.access_log import access_type, error_message, is_access, success
from secrets_broker.tools.export.folder import Folder

RANGE: Final = TILE_WIDTH**2
_SUBTREE: Final = b"subtree"
_GROUP_ROWS: Final = 16_384
_GROUP_BYTES: Final = 32 << 20  # of entries, where they are long
_TIME: Final = pa.timestamp("us", "UTC")
_TEXTS: Final = ("actor", "authn", "ip", "request_id", "reason", "host", "purpose")

EVENTS: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("v", pa.int16(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("at", _TIME, nullable=False),
        pa.field("occurred_at", _TIME),
        *(pa.field(name, pa.string()) for name in _TEXTS),
        pa.field("credential_id", pa.int64()),
        pa.field("version", pa.int32()),
        pa.field("ok", pa.bool_(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("error", "details", "body_key", "body_sha256")),
        pa.field("leaf_hash", pa.binary(), nullable=False),
    ]
)
ACCESS_LOG: Final = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("credential_id", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("host", "purpose", "accessed_by")),
        pa.field("access_type", pa.string()),
        pa.field("success", pa.bool_(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("error_message", "ip_address")),
        pa.field("accessed_at", _TIME, nullable=False),
        pa.field("version", pa.int32()),
        *(pa.field(name, pa.string()) for name in ("authn", "request_id", "reason")),
    ]
)
SCHEMAS: Final = {"events": EVENTS, "access_log": ACCESS_LOG}
KEYS: Final = {"events": "position", "access_log": "id"}
"""The column of each table that holds the position of the row's event."""
_FROM_EVENTS: Final = {
    "id": "position",
    "accessed_by": "actor",
    "ip_address": "ip",
}
# What hardly repeats would only fill a dictionary.
_NO_DICTIONARY: Final = ("position", "id", "at", "accessed_at", "leaf_hash", "body_sha256")
_decoder = msgspec.json.Decoder(Event)


class Parts:
    """Takes verified rows, and writes the files that they fill."""

    def __init__(self, folder: Folder, start: int) -> None:
        """`start` is the first position that is wanted, a multiple of 65,536."""
        self._folder, self._next = folder, start
        self._rows: list[StoredEntry] = []
        self._writers: dict[str, Any] = {}

    def add(self, rows: Sequence[StoredEntry], nodes: Sequence[Node]) -> None:
        """The rows that follow, within one range, and the nodes that they complete."""
        if not rows or rows[0].position < self._next:
            return
        self._next = rows[-1].position + 1
        self._rows += rows
        long = sum(len(row.entry) for row in self._rows) >= _GROUP_BYTES
        if long or len(self._rows) >= _GROUP_ROWS:
            self._write()
        if self._next % RANGE == 0:
            self._end(next(node.hash for node in nodes if node.level == 2))

    def finish(self) -> None:
        """Write the last range, which is not complete."""
        if self._rows or self._writers:
            self._end(None)

    def _write(self) -> None:
        if not self._writers:
            self._open(self._rows[0].position)
        for kind, table in tables_of(self._rows).items():
            self._writers[kind].write_table(table)
        self._rows = []

    def _open(self, position: int) -> None:
        self._first = position // RANGE * RANGE
        for kind, schema in SCHEMAS.items():
            self._writers[kind] = pq.ParquetWriter(
                self._folder.temporary(part_name(kind, self._first)),
                schema,
                compression="zstd",
                use_dictionary=[name for name in schema.names if name not in _NO_DICTIONARY],
            )

    def _end(self, subtree: bytes | None) -> None:
        if self._rows:
            self._write()
        for kind, writer in self._writers.items():
            if subtree:
                writer.add_key_value_metadata({_SUBTREE: subtree.hex().encode()})
            writer.close()
            self._folder.keep(part_name(kind, self._first))
        self._writers = {}

    def close(self) -> None:
        """Let go of files that are not complete, and will not be."""
        for writer in self._writers.values():
            writer.close()


def part_name(kind: str, first: int) -> str:
    """Where the file of a range is: zeroes, so that names sort as positions do."""
    return f"parquet/{kind}/part-{first:012d}.parquet"


def first_missing(folder: Folder, subtrees: Sequence[bytes]) -> int:
    """Where to begin: the first range whose files are not there, or are not of this ledger."""
    for index, subtree in enumerate(subtrees):
        names = [part_name(kind, index * RANGE) for kind in SCHEMAS]
        if any(_subtree_of(folder, name) != subtree.hex().encode() for name in names):
            return index * RANGE
    return len(subtrees) * RANGE


def _subtree_of(folder: Folder, name: str) -> bytes | None:
    try:
        found = pq.read_metadata(folder.path / name).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    subtree: bytes | None = found.get(_SUBTREE)
    return subtree


def tables_of(rows: Sequence[StoredEntry]) -> dict[str, Any]:
    """The rows of each table that follow from these entries."""
    events = [_decoder.decode(row.entry) for row in rows]
    table = _events(rows, events)
    return {"events": table, "access_log": _access_log(table, events)}


def _events(rows: Sequence[StoredEntry], events: Sequence[Event]) -> Any:
    columns: dict[str, list[Any]] = {
        field: list(map(operator.attrgetter(field), events))
        for field in Event.__struct_fields__
        if field not in ("details", "body")
    }
    columns["position"] = [row.position for row in rows]
    columns["leaf_hash"] = [row.leaf for row in rows]
    columns["details"] = [
        None if event.details is None else canonical_json(event.details).decode()
        for event in events
    ]
    columns["body_key"] = [event.body and event.body.key for event in events]
    columns["body_sha256"] = [event.body and event.body.sha256 for event in events]
    return pa.table([_array(columns[field.name], field.type) for field in EVENTS], schema=EVENTS)


def _array(values: Sequence[Any], kind: Any) -> Any:
    return pa.array(values).cast(kind) if kind == _TIME else pa.array(values, kind)


def _access_log(table: Any, events: Sequence[Event]) -> Any:
    """Of the same events' columns, so that nothing is made twice."""
    chosen = table.filter(pa.array([is_access(event) for event in events]))
    lines = [event for event in events if is_access(event)]
    made = {
        "access_type": pa.array([access_type(line) for line in lines], pa.string()),
        "success": pa.array([success(line) for line in lines], pa.bool_()),
        "error_message": pa.array([error_message(line) for line in lines], pa.string()),
        "accessed_at": pc.coalesce(chosen["occurred_at"], chosen["at"]),
    }
    columns = [
        made[name] if name in made else chosen[_FROM_EVENTS.get(name, name)]
        for name in ACCESS_LOG.names
    ]
    return pa.table(columns, schema=ACCESS_LOG)
