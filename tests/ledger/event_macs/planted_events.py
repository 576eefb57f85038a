"""Events that somebody else put into the ledger, without its keys."""

import json

import psycopg

from tests.conftest import Database

_APPEND = """
    INSERT INTO ledger.events (position, at, v, ok, leaf_hash, mac, type, authn, details)
    SELECT last + n, clock_timestamp(), 1, true, sha256('x'), sha256('x'), %s, 'none', %s::jsonb
    FROM (SELECT max(position) AS last FROM ledger.events) AS there, generate_series(1, %s) AS n
"""
_LAST = "SELECT max(position) FROM ledger.events"
_PLANT = (
    "SELECT ledger.begin_event_key('planted', id, 'x', %s) FROM ledger.keks WHERE state = 'active'"
)
NESTED = json.dumps({"x": json.loads("[" * 64 + "]" * 64)})
POISON: list[tuple[str, str | None]] = [
    *[
        ("ledger.disowned", f'{{"ranges": {spans}}}')
        for spans in (
            "[[1]]",
            "[[1, 1, 1]]",
            '[["1", "1"]]',
            "[[1.5, 1.5]]",
            '["ab", 5, null, {}]',
            "{}",
            "null",
            "[[-5, 1e300]]",
            "[[9, 1]]",
            "[[1, 1], [2]]",
        )
    ],
    ("ledger.disowned", None),
    ("ledger.authenticated", '{"ledger": "zz", "event_key": "x"}'),
    ("ledger.authenticated", '{"ledger": 5, "event_key": []}'),
    ("ledger.restored", '{"event_key": "x", "size": -1, "origin": null}'),
    ("access_key.granted", '{"id": [], "rules": 7, "expires_at": "never"}'),
    ("access_key.rotated", NESTED),
    ("credential.read", '{"é": 1.5}'),
    ("credential.erased", '{"data_keys": ["a", null], "positions": "x"}'),
    ("key.rotated", '{"data_keys": 9, "retired": 1}'),
]


def append(database: Database, kind: str, details: str | None, count: int = 1) -> int:
    """Append events as a service's login can; the last one's position."""
    with psycopg.connect(database.service_url, autocommit=True) as thief:
        thief.execute(_APPEND.encode(), (kind, details, count))
    ((last,),) = database.fetch(_LAST)
    return int(last)


def plant(database: Database) -> int:
    """A forged event that brings an event key of the thief's; its position."""
    with psycopg.connect(database.service_url) as thief:
        thief.execute(_APPEND.encode(), ("ledger.restored", '{"event_key": "planted"}', 1))
        row = thief.execute(_LAST.encode()).fetchone()
        assert row
        thief.execute(_PLANT.encode(), row)
    return int(row[0])
