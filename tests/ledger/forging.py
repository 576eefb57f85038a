"""What somebody can do who has the service's database login, and none of its keys."""

import os
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.events import Event, encode_entry
from secrets_broker.ledger.transparency_log.merkle import leaf_hash

_LAST = "SELECT position, at, clock_timestamp() FROM ledger.events ORDER BY position DESC LIMIT 1"
_COLUMNS = tuple(Event.__struct_fields__)


def forge(url: str, kind: str, *, mac: bytes | None = None, **columns: Any) -> int:
    """Append an event whose leaf is right and whose MAC is a guess; its position."""
    with psycopg.connect(url, autocommit=True) as connection:
        position, at = _next(connection, columns.pop("ahead", timedelta()))
        given = {"authn": "internal_key", **columns}
        event = Event(type=kind, at=rfc3339(at), **given)
        insert(connection, position, event, mac or os.urandom(32))
    return position


def insert(
    connection: "psycopg.Connection[Any]", position: int, event: Event, mac: bytes | None
) -> None:
    """Store an event as a service would."""
    row = msgspec.to_builtins(event)
    values = {
        name: Jsonb(row[name]) if isinstance(row[name], dict) else row[name] for name in _COLUMNS
    }
    names = ", ".join(_COLUMNS)
    marks = ", ".join(f"%({name})s" for name in _COLUMNS)
    connection.execute(
        f"INSERT INTO ledger.events (position, leaf_hash, mac, {names})"  # noqa: S608
        f" VALUES (%(position)s, %(leaf)s, %(mac)s, {marks})".encode(),
        {
            **values,
            "position": position,
            "leaf": leaf_hash(encode_entry(event)),
            "mac": mac,
        },
    )


def _next(connection: "psycopg.Connection[Any]", ahead: timedelta) -> tuple[int, datetime]:
    row = connection.execute(_LAST.encode()).fetchone()
    assert row
    position, at, clock = row
    return position + 1, max(at, clock) + ahead
