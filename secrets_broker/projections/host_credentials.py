"""secrets.host_credentials: the live credentials, as a lookup serves them.

It follows from the state-changing events and their bodies. It is updated in the transaction of the
event, so a lookup right after an upsert sees it. A row is a function of the credential's last
state-changing event, its body, the event that set this content (the same one, unless the last event
changed the data key; then that event names it), and the event that created the credential.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import msgspec

from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.credential import LiveCredential
from secrets_broker.ledger.database.round_trip import Statement
from secrets_broker.ledger.encryption.body import LATER, PARTS, Body
from secrets_broker.ledger.projection_protocol import Change, Row


@dataclass(frozen=True, slots=True)
class Column:
    """A column and its SQL source: `body`, or one of the events `last`, `content`, `first`."""

    name: LiteralString
    source: LiteralString


def _of_body(names: Iterable[LiteralString]) -> tuple[Column, ...]:
    return tuple(Column(name, f"body.{name}") for name in names)


# In the table's order. Everything but the body comes from the events themselves. So a row edited
# by hand is right again after its next change, and a rebuilt row cannot differ from a live one.
COLUMNS: Final = (
    Column("id", "last.credential_id"),
    Column("host", "last.host"),
    Column("purpose", "last.purpose"),
    *_of_body(("username", "password_encrypted", "domain", "additional_data")),
    Column("created_at", "coalesce((first.details ->> 'created_at')::timestamptz, first.at)"),
    Column("updated_at", "coalesce((content.details ->> 'updated_at')::timestamptz, content.at)"),
    Column(
        "created_by",
        "CASE first.type WHEN 'credential.imported' THEN first.details ->> 'created_by'"
        " ELSE first.actor END",
    ),
    Column(
        "updated_by",
        "CASE content.type WHEN 'credential.imported' THEN content.details ->> 'updated_by'"
        " ELSE content.actor END",
    ),
    *_of_body(("secret_data_encrypted",)),
    Column("version", "last.version"),
    Column("position", "last.position"),
    Column("data_key", "last.body ->> 'key'"),
    *_of_body(LATER),
)
"""Each column of the table, once."""
NAMES: Final = tuple(column.name for column in COLUMNS)
STATE: Final = ("id", "version", "position", "data_key")
"""The columns that say which change a row follows from."""
_KEY: Final = ("host", "purpose")


def _listed(parts: Iterable[LiteralString]) -> LiteralString:
    return ", ".join(parts)


def _text(column: str) -> str:
    # Ciphertexts are bound to the text of a time, which must be that of encoding.rfc3339.
    is_time = PARTS[column] == "timestamptz"
    as_utc = f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
    return as_utc if is_time else column


_SELECT: Final = f"""
    SELECT {_listed(STATE)}, {_listed(map(_text, PARTS))}
    FROM secrets.host_credentials AS row
    WHERE row.host = name.host AND row.purpose = name.purpose
"""  # noqa: S608 - our own constants
_COLUMNS: Final = f"({_listed(NAMES)})"
_FROM_EVENTS: Final = f"""
    SELECT {_listed(column.source for column in COLUMNS)}
    FROM jsonb_to_recordset($1::jsonb) AS body (
        position bigint, {_listed(f"{name} {kind}" for name, kind in PARTS.items())})
    JOIN ledger.events AS last ON last.position = body.position
    JOIN ledger.events AS content ON content.position =
        CASE last.type WHEN 'credential.rekeyed' THEN (last.details ->> 'content')::bigint
                       ELSE last.position END
    JOIN ledger.events AS first ON first.position = last.credential_id - 1
"""  # noqa: S608
_REPLACE: Final = f"""
    ON CONFLICT ({_listed(_KEY)}) DO UPDATE SET
        {_listed(f"{name} = excluded.{name}" for name in NAMES if name not in _KEY)}
"""
# Rows are counted: a rule, a trigger or a row policy may drop some, or refuse this form.
_PUT: Final = f"""
    WITH made AS (
        INSERT INTO secrets.host_credentials {_COLUMNS} {_FROM_EVENTS} {_REPLACE} RETURNING 1)
    SELECT ledger.require_rows('secrets.host_credentials', (SELECT count(*) FROM made), $2)
"""  # noqa: S608
REBUILD: Final = f"INSERT INTO pg_temp.rebuilt {_COLUMNS} {_FROM_EVENTS}"
"""Makes rows beside the live table, by the same expressions."""
REPLAY: Final = f"SELECT made.* FROM ({_FROM_EVENTS}) AS made {_COLUMNS}"  # noqa: S608
"""Gives rows as they were, without storing them; in `$1`, a body may be missing."""
_DELETE: Final = """
    DELETE FROM secrets.host_credentials AS live
    USING jsonb_to_recordset($1::jsonb) AS gone (host text, purpose text)
    WHERE live.host = gone.host AND live.purpose = gone.purpose
"""


class HostCredentials:
    """The projection that lookups are served from."""

    select = _SELECT

    def row(self, name: Name, record: Sequence[Any]) -> Row | None:
        """Make a row from the record that `select` gave for a name."""
        if record[0] is None:
            return None
        return Row(name, LiveCredential(*record[: len(STATE)]), Body(*record[len(STATE) :]))

    def apply(self, changes: Sequence[Change]) -> list[Statement]:
        """Put the last change of each name into the table."""
        last = {change.name: change for change in changes}.values()
        gone = [{"host": c.name[0], "purpose": c.name[1]} for c in last if c.body is None]
        kept = [parameters(c.position, c.body) for c in last if c.body is not None]
        statements = []
        if gone:
            statements.append(Statement(_DELETE, (msgspec.json.encode(gone),)))
        if kept:
            statements.append(Statement(_PUT, (msgspec.json.encode(kept), b"%d" % len(kept))))
        return statements


def parameters(position: int, body: Body) -> dict[str, Any]:
    """The parameter of a row: a position and a body; the rest comes from events."""
    return {"position": position, **msgspec.structs.asdict(body)}
