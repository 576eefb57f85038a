"""A large ledger, made fast: real credentials, then reads of them in bulk.

The credentials go the service's own way, through the writer: their rows, bodies and data keys
are the real thing. The reads are real too (entries by `encode_entry`, leaf hashes, MACs, and
every node that they complete), but go in by COPY, as the superuser and with the table's triggers
and checks in force, while other processes encode the next ones.
"""

import asyncio
import os
import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg

from bench import load
from bench.stack import KMS_KEY
from secrets_broker.ledger.commands import Upsert
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.event_key import EventKey, WrappedEventKey, unwrap
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.event_types import READ
from secrets_broker.ledger.events import Context, Event, encode_entry
from secrets_broker.ledger.transparency_log.merkle import Frontier, Node, leaf_hash
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials

SUBMITTED_AT_ONCE: Final = 2_048
CHUNK: Final = 50_000
HASH_BYTES: Final = 32
MICROSECOND: Final = timedelta(microseconds=1)

_COPY_EVENTS: Final = """
    COPY ledger.events (position, leaf_hash, v, type, at, actor, authn, ip, request_id,
                        host, purpose, credential_id, version, ok, mac) FROM STDIN
"""
_EVENT_KEY: Final = """
    SELECT details ->> 'ledger', id, kek, wrapped, from_position
    FROM ledger.event_keys JOIN ledger.events ON position = from_position
    ORDER BY from_position DESC LIMIT 1
"""
_COPY_NODES: Final = "COPY ledger.nodes (level, index, hash) FROM STDIN"

Chunk = tuple[bytes, bytes]
"""Rows as COPY takes them, less their MACs, and their leaf hashes, one after another."""


def prepare(service_url: str, superuser_url: str, credentials: int, events: int) -> None:
    """Fill an empty, migrated database: that many credentials, and reads up to `events`."""
    asyncio.run(_store(service_url, credentials))
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        _append_reads(connection, credentials, events)
        connection.execute("VACUUM (ANALYZE)")
        # The measured runs then begin as far from the next checkpoint as they can be.
        connection.execute("CHECKPOINT")


async def _store(database_url: str, credentials: int) -> None:
    writer = Writer(database_url, Keyring.from_kms_keys(KMS_KEY), HostCredentials())
    await writer.start()
    try:
        for first in range(0, credentials, SUBMITTED_AT_ONCE):
            numbers = range(first, min(first + SUBMITTED_AT_ONCE, credentials))
            await asyncio.gather(*(_store_one(writer, number) for number in numbers))
    finally:
        await writer.close()


async def _store_one(writer: Writer, number: int) -> None:
    command = Upsert(host=load.host(number), purpose=load.PURPOSE, **load.content())
    outcome = await writer.submit(command, _caller(number))
    # The reads are made knowing this.
    assert outcome.credential_id == _credential_id(number)


def _credential_id(number: int) -> int:
    return number + 2  # the first event is the ledger's own, and an id is its event's position + 1


def _caller(number: int) -> Context:
    return Context(
        actor=f"service-{number % 50}",
        authn="internal_key",
        ip=f"10.{number % 7}.{number % 256}.{number % 199}",
        request_id=f"{random.getrandbits(64):016x}",
    )


def _append_reads(connection: "psycopg.Connection[Any]", credentials: int, events: int) -> None:
    last_at, mac, leaves = _written(connection)
    key = _event_key(connection)
    frontier, _ = Frontier().extend(leaves)
    nodes: list[Node] = []
    for rows, hashes in _encoded(credentials, frontier.size, events, last_at):
        split = [hashes[i : i + HASH_BYTES] for i in range(0, len(hashes), HASH_BYTES)]
        with connection.cursor().copy(_COPY_EVENTS) as copy:
            for position, (row, leaf) in enumerate(
                zip(rows.splitlines(), split, strict=True), frontier.size
            ):
                mac = key.mac(position, leaf, mac)
                copy.write(b"%s\t\\\\x%s\n" % (row, mac.hex().encode()))
        frontier, completed = frontier.extend(split)
        nodes += completed
    with connection.cursor().copy(_COPY_NODES) as copy:
        for node in nodes:
            copy.write_row((node.level, node.index, node.hash))


def _written(connection: "psycopg.Connection[Any]") -> tuple[datetime, bytes, list[bytes]]:
    rows = connection.execute("SELECT at, mac, leaf_hash FROM ledger.events ORDER BY position")
    found = rows.fetchall()
    return found[-1][0], found[-1][1], [leaf for *_, leaf in found]


def _event_key(connection: "psycopg.Connection[Any]") -> EventKey:
    ((ledger, *stored),) = connection.execute(_EVENT_KEY).fetchall()
    wrapped = WrappedEventKey(*stored)
    return unwrap(Keyring.from_kms_keys(KMS_KEY).require(wrapped.kek), ledger, wrapped)


def _encoded(credentials: int, first: int, events: int, last_at: datetime) -> Iterator[Chunk]:
    """The chunks in order; only a few are made ahead, so that they do not fill the memory."""
    ahead: deque[Future[Chunk]] = deque()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for start in range(first, events, CHUNK):
            stop = min(start + CHUNK, events)
            ahead.append(pool.submit(_encode, credentials, start, stop, last_at, first))
            if len(ahead) > 4:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _encode(credentials: int, start: int, stop: int, last_at: datetime, first: int) -> Chunk:
    rows, leaves = [], []
    for position in range(start, stop):
        number = random.randrange(credentials)  # noqa: S311 - not a secret
        event = _read(number, rfc3339(last_at + (position - first) * MICROSECOND))
        leaf = leaf_hash(encode_entry(event))
        leaves.append(leaf)
        rows.append(_row(position, leaf, event))
    return "".join(rows).encode("ascii"), b"".join(leaves)


def _read(number: int, at: str) -> Event:
    caller = _caller(number)
    return Event(
        type=READ,
        at=at,
        actor=caller.actor,
        authn=caller.authn,
        ip=caller.ip,
        request_id=caller.request_id,
        host=load.host(number),
        purpose=load.PURPOSE,
        credential_id=_credential_id(number),
        version=1,
    )


def _row(position: int, leaf: bytes, e: Event) -> str:
    # Nothing here holds what COPY's text format would want escaped.
    return (
        f"{position}\t\\\\x{leaf.hex()}\t{e.v}\t{e.type}\t{e.at}\t{e.actor}\t{e.authn}\t{e.ip}\t"
        f"{e.request_id}\t{e.host}\t{e.purpose}\t{e.credential_id}\t{e.version}\tt\n"
    )
