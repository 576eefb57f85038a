"""A batch's SQL: one connection, and two round trips.

`read` takes the lock and then reads, in separate statements. In one statement, or under REPEATABLE
READ, it would read the state from before the lock was granted. `append` writes and commits. Rows
travel as one JSON value, which PostgreSQL handles several times faster than long lists.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
from psycopg import AsyncConnection, errors

from secrets_broker.ledger.access.grants import Grants
from secrets_broker.ledger.access.quota import Meters
from secrets_broker.ledger.access.usage import add_uses, new_uses
from secrets_broker.ledger.append import Append
from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.credential import LiveCredential
from secrets_broker.ledger.database.commit_check import check_commit
from secrets_broker.ledger.database.ledger_session import SESSION, connect
from secrets_broker.ledger.database.round_trip import RoundTrips, Rows, Statement
from secrets_broker.ledger.encryption.event_key import MAC_BYTES, NO_MAC
from secrets_broker.ledger.encryption.keyring import DataKey, Keyring
from secrets_broker.ledger.errors import (
    LedgerUnavailableError,
    OutcomeUnknownError,
    RowsMissingError,
)
from secrets_broker.ledger.event_macs.authenticator import Authenticator
from secrets_broker.ledger.event_types import IS_CHANGE, IS_CONTROL
from secrets_broker.ledger.fold import Fold, Snapshot
from secrets_broker.ledger.projection_protocol import Projection
from secrets_broker.ledger.rollback_detection.continuity import PUBLISHED, Continuity
from secrets_broker.ledger.transparency_log.frontier import check_contains, load_tree_state
from secrets_broker.ledger.tree_state import TreeState
from secrets_broker.session import Session, safe_message, with_grant

# Further behind than this, a process catches up from the stored nodes, outside the lock.
MAX_BEHIND: Final = 2_048

_BEGIN: Final = Statement("BEGIN ISOLATION LEVEL READ COMMITTED")
_COMMIT: Final = Statement("COMMIT")
_ROLLBACK: Final = Statement("ROLLBACK")
# Reads the session's marker: if a pooler put us into another session, this statement fails. The
# server then skips all that follow.
_LOCK: Final = "SELECT __marker__ FROM ledger.lock FOR UPDATE"
# The new leaf hashes and MACs come as one byte string: a row for each would cost more to read.
# Zeros stand for a missing MAC.
_HEAD: Final = """
    SELECT clock_timestamp(), last.position, last.at, last.mac,
           (SELECT jsonb_object_agg(id, state) FROM ledger.keks WHERE state <> 'retired'),
           (SELECT string_agg(leaf_hash || coalesce(mac, $3), '' ORDER BY position) FROM (
                SELECT position, leaf_hash, mac FROM ledger.events
                WHERE position >= $1 ORDER BY position LIMIT $2) AS behind),
           (SELECT max(position) FROM ledger.events WHERE ok AND __is_control__)
    FROM (VALUES (1)) AS one
    LEFT JOIN LATERAL (
        SELECT position, at, mac FROM ledger.events ORDER BY position DESC LIMIT 1
    ) AS last ON true
""".replace("__is_control__", IS_CONTROL)
_AT: Final = "SELECT at FROM ledger.events WHERE position = $1"
# For each name: the last change that the ledger has, its data key, and the projection's row.
_NAMED: Final = """
    SELECT name.host, name.purpose, last.credential_id, last.version, last.position, last.key,
           data_key.credential_id, data_key.kek, data_key.wrapped, live.*
    FROM jsonb_to_recordset($1::jsonb) AS name (host text, purpose text)
    LEFT JOIN LATERAL (
        SELECT credential_id, version, position, body ->> 'key' AS key
        FROM __events__ AS event
        WHERE event.host = name.host AND event.purpose = name.purpose
          AND __is_change__
        ORDER BY position DESC LIMIT 1
    ) AS last ON true
    LEFT JOIN ledger.data_keys AS data_key ON data_key.id = last.key
    LEFT JOIN LATERAL (__live__) AS live ON true
""".replace("__is_change__", IS_CHANGE)
# Hashes and MACs come as one string of bytes each, in the order of the positions from $4 on.
_INSERT_EVENTS: Final = """
    INSERT INTO ledger.events (
        position, leaf_hash, mac, v, type, at, occurred_at, actor, authn, ip, request_id, reason,
        host, purpose, credential_id, version, ok, error, details, body)
    SELECT position, substr($2::bytea, ((position - $4) * 32 + 1)::integer, 32),
           nullif(substr($3::bytea, ((position - $4) * 32 + 1)::integer, 32), ''),
           v, type, at, occurred_at, actor, authn, ip, request_id, reason, host, purpose,
           credential_id, version, ok, error, details, body
    FROM jsonb_to_recordset($1::jsonb) AS entry (
        position bigint, v smallint, type text, at timestamptz,
        occurred_at timestamptz, actor text, authn text, ip text, request_id text, reason text,
        host text, purpose text, credential_id bigint, version integer, ok boolean, error text,
        details jsonb, body jsonb)
"""
_INSERT_BODIES: Final = """
    INSERT INTO ledger.bodies (position, key, ciphertext)
    SELECT position, key, decode(ciphertext, 'base64')
    FROM jsonb_to_recordset($1::jsonb) AS body (position bigint, key text, ciphertext text)
"""
_INSERT_DATA_KEYS: Final = """
    INSERT INTO ledger.data_keys (id, credential_id, kek, wrapped)
    SELECT id, credential_id, kek, decode(wrapped, 'base64')
    FROM jsonb_to_recordset($1::jsonb)
        AS data_key (id text, credential_id bigint, kek text, wrapped text)
"""
_INSERT_NODES: Final = """
    INSERT INTO ledger.nodes (level, index, hash)
    SELECT level, index, decode(hash, 'hex')
    FROM jsonb_to_recordset($1::jsonb) AS node (level smallint, index bigint, hash text)
"""
_BEGIN_EVENT_KEY: Final = "SELECT ledger.begin_event_key($1, $2, decode($3, 'hex'), $4)"
_DISOWN: Final = "SELECT ledger.disown($1)"
_DESTROY: Final = "SELECT ledger.destroy($1)"
# Runs deferred triggers now, before the rows are counted, instead of at COMMIT.
_NOW: Final = Statement("SET CONSTRAINTS ALL IMMEDIATE")
_REQUIRE_APPENDED: Final = "SELECT ledger.require_appended($1, $2, decode($3, 'hex'), $4, $5)"


class _Head(NamedTuple):
    """The columns of `_HEAD`, in order: the present end of the ledger."""

    clock: datetime
    position: int | None
    last_at: datetime | None
    last_mac: bytes | None
    keks: dict[str, str] | None
    new: bytes | None
    """Leaf hash and MAC of each position from the tree state's overlap on, alternating."""
    generation: int | None
    """The position of the last event that changes grants, or which events are believed."""

    @property
    def size(self) -> int:
        """How many events there are."""
        return 0 if self.position is None else self.position + 1


class Store:
    """One connection to the ledger's database, used by one batch at a time."""

    def __init__(self, connection: Session, projection: Projection, keyring: Keyring) -> None:
        self._connection = connection
        self._projection = projection
        self.committing = False
        named = _NAMED.replace("__live__", projection.select)
        self._named = named.replace("__events__", "ledger.events")
        self._effective = named.replace("__events__", "ledger.effective_events")
        self._lock = Statement(_LOCK.replace("__marker__", connection.marker.expression))
        self._round_trips = RoundTrips(connection)
        self.authenticator = Authenticator(self._round_trips, keyring)
        self._warnings: list[str] = []
        connection.add_notice_handler(
            lambda diagnostic: self._warnings.append(diagnostic.message_primary or "")
        )

    @property
    def grants(self) -> Grants:
        """The grants as of the last batch that was read."""
        return self.authenticator.grants

    @classmethod
    async def connect(
        cls,
        database_url: str,
        projection: Projection,
        keyring: Keyring,
        session: Mapping[str, str] = SESSION,
        continuity: Continuity | None = PUBLISHED,
    ) -> "Store":
        """Connect and check what the ledger relies on; raises LedgerUnavailableError.

        Raises LedgerMismatchError if the ledger does not extend a checkpoint that was made of it.
        `continuity` None skips that check.
        """
        connection = await connect(database_url, session)
        try:
            if continuity:
                await continuity.check(connection)
        except psycopg.Error as error:
            await connection.close()
            raise LedgerUnavailableError(f"the database refused: {with_grant(error)}") from None
        except BaseException:
            await connection.close()
            raise
        return cls(connection, projection, keyring)

    async def close(self) -> None:
        """Close the connection; what is not committed is rolled back by the server."""
        await self._connection.close()

    @property
    def is_lost(self) -> bool:
        """Whether the server or the network has ended the connection."""
        return self._connection.closed

    @property
    def connection(self) -> AsyncConnection[Any]:
        """For a tool's own statements between `read` and `append`."""
        return self._connection

    async def read(
        self, names: Iterable[Name], known: TreeState, meters: Meters | None = None
    ) -> Snapshot:
        """Begin, take the lock, and read all that the batch needs, in one round trip.

        `meters` are updated with what was used meanwhile; without meters that costs nothing. A
        process that is far behind catches up outside the lock first, and its meters begin empty.

        Raises LedgerMismatchError, LedgerUnavailableError or psycopg.Error; nothing is written.
        """
        wanted = msgspec.json.encode(
            [{"host": host, "purpose": purpose} for host, purpose in names]
        )
        meters, most = meters or Meters(), MAX_BEHIND
        rows = await self._lock_and_read(wanted, known, meters, most)
        head = _Head(*rows[2][0])
        while head.size - known.overlap > most:
            # Give the lock back first, so that others need not wait for this process. The bound
            # doubles each time, so it outgrows what they append meanwhile.
            await self.give_up()
            known, meters, most = await self._caught_up(known), Meters(), 2 * most
            rows = await self._lock_and_read(wanted, known, meters, most)
            head = _Head(*rows[2][0])
        return await self._snapshot(head, rows[3], rows[4:], known, meters)

    async def _lock_and_read(
        self, wanted: bytes, known: TreeState, meters: Meters, most: int
    ) -> Sequence[Rows]:
        answer = await self._round_trips.send(
            _BEGIN,
            self._lock,
            Statement(_HEAD, (b"%d" % known.overlap, b"%d" % most, _NO_MAC)),
            Statement(self._named, (wanted,)),
            *self._new_uses(meters),
        )
        if len(answer.rows[1]) != 1:
            raise LedgerUnavailableError("ledger.lock has not its one row: nothing can be locked")
        return answer.rows

    async def _caught_up(self, known: TreeState) -> TreeState:
        state = await load_tree_state(self._connection)
        await check_contains(self._connection, known)
        return state

    async def _snapshot(
        self, head: "_Head", named: Rows, uses: Sequence[Rows], known: TreeState, meters: Meters
    ) -> Snapshot:
        """Check the MACs of what was read, and make a snapshot of it."""
        caught_up = await self._authenticated(head, known)
        snapshot = Snapshot(
            head.clock,
            await self._last_at(head.size - 1, head.last_at),
            caught_up,
            head.keks or {},
            grants=self.grants,
            meters=meters,
            authenticity=self.authenticator.authenticity,
            event_key=self.authenticator.key_at(head.size),
            last_mac=head.last_mac or NO_MAC,
        )
        if self.authenticator.leaves_out_any:
            named = await self._without_disowned(named)
        await self.authenticator.check_changes(named)
        for record in named:
            self._take(record, snapshot)
        for used in uses:
            believed = [use for use in used if not self.authenticator.is_left_out(use[0])]
            add_uses(snapshot.meters, self.grants, believed, head.size)
        return snapshot

    async def _authenticated(self, head: "_Head", known: TreeState) -> TreeState:
        """Check the MACs of what was appended meanwhile, and extend the tree state by it."""
        await self.authenticator.follow(-1 if head.generation is None else head.generation)
        leaves, macs = _leaves_and_macs(head.new)
        caught_up = known.catch_up(head.size, leaves)
        self.authenticator.check_chain(known.overlap, leaves, macs)
        if head.position is not None and head.last_at is not None:
            await self.authenticator.check_head(head.position, head.last_mac, head.last_at)
        return caught_up

    async def _last_at(self, position: int, last_at: datetime | None) -> datetime | None:
        """The time of the last event that is not left out: the others do not count."""
        if position < 0 or not self.authenticator.is_left_out(position):
            return last_at
        while self.authenticator.is_left_out(position):
            position -= 1
        answer = await self._round_trips.send(Statement(_AT, (b"%d" % position,)))
        return answer.rows[0][0][0] if answer.rows[0] else None

    async def _without_disowned(self, records: Rows) -> Rows:
        """For names whose last change is disowned, read the last one that is not."""
        left_out = [
            record
            for record in records
            if record[4] is not None and self.authenticator.is_left_out(record[4])
        ]
        if not left_out:
            return records
        names = [{"host": host, "purpose": purpose} for host, purpose, *_ in left_out]
        again = Statement(self._effective, (msgspec.json.encode(names),))
        answer = await self._round_trips.send(again)
        return [record for record in records if record not in left_out] + answer.rows[0]

    def _new_uses(self, meters: Meters) -> Iterator[Statement]:
        if meters.by_id:
            metered = [self.grants.by_id[id_] for id_ in meters.by_id]
            yield new_uses(meters.size, 2 * MAX_BEHIND, metered)  # meters may lag by a batch

    def _take(self, record: Sequence[Any], snapshot: Snapshot) -> None:
        host, purpose, credential_id, version, position, key, *rest = record
        # A last change without a data key ended the credential.
        live = LiveCredential(credential_id, version, position, key) if key else None
        snapshot.states[host, purpose] = live
        data_key, row = rest[:3], self._projection.row((host, purpose), rest[3:])
        if key and data_key[0] is not None:
            snapshot.data_keys[key] = DataKey(key, *data_key)
        if row:
            snapshot.rows[row.name] = row

    async def give_up(self) -> None:
        """Give the lock back; nothing is written."""
        await self._round_trips.send(_ROLLBACK)

    async def append(self, fold: Fold, *also: Statement) -> None:
        """Write and commit what the fold took, in one round trip; `also` runs before COMMIT.

        Raises psycopg.Error if the server refused a statement, and RowsMissingError if it did not
        store exactly what it was given: then nothing was committed. Raises OutcomeUnknownError
        if the outcome cannot be known.
        """
        append = fold.append
        self._warnings.clear()
        self.committing = True  # from here on, no answer does not mean that nothing was written
        statements = [*_statements(append), *self._projection.apply(append.changes), *also]
        try:
            # Died before this line: the server rolls back, and no caller was answered.
            # Died after: the events are recorded, their callers got no answer, and an
            # event says more than was delivered, never less.
            answer = await self._round_trips.send(*statements, _NOW, _counted(append), _COMMIT)
        except psycopg.Error as error:
            if self._connection.closed or error.diag.severity_nonlocalized != "ERROR":
                raise OutcomeUnknownError("the connection was lost while committing") from None
            if problem := _rows_problem(error):
                raise RowsMissingError(problem) from None
            raise
        check_commit(answer.tag, self._warnings)
        self.committing = False
        self.authenticator.learn(append, fold.at)

    async def rehearse(self, fold: Fold) -> None:
        """Write what the fold took as `append` does, then roll back; raises the same errors."""
        statements = [*_statements(fold.append), *self._projection.apply(fold.append.changes)]
        try:
            await self._round_trips.send(*statements, _NOW, _counted(fold.append))
        except psycopg.Error as error:
            if problem := _rows_problem(error):
                raise RowsMissingError(problem) from None
            raise
        await self.give_up()


_NO_MAC: Final = b"\\x" + NO_MAC.hex().encode()
_PAIR: Final = 32 + MAC_BYTES


def _leaves_and_macs(new: bytes | None) -> tuple[list[bytes], list[bytes]]:
    joined = new or b""
    starts = range(0, len(joined), _PAIR)
    return [joined[at : at + 32] for at in starts], [joined[at + 32 : at + _PAIR] for at in starts]


def _rows_problem(error: psycopg.Error) -> str | None:
    """Say what is wrong with the stored rows; None if the error has another cause."""
    if isinstance(error, errors.DataCorrupted):
        return f"the database did not store what it was given: {safe_message(error)}"
    if isinstance(error, errors.UniqueViolation):
        # Positions, keys and nodes are always new: somebody else inserted this row.
        where = f"{error.diag.schema_name}.{error.diag.table_name}"
        return f"{where} holds a row that this ledger did not make; see docs/incidents.md"
    return None


def _counted(append: Append) -> Statement:
    keys = ",".join(key.id for key in append.data_keys)
    values = (
        b"%d" % append.first_position,
        b"%d" % len(append.entries),
        append.macs[-1].hex().encode() if append.macs[-1] else None,
        b"%d" % len(append.bodies),
        b"{%s}" % keys.encode(),
    )
    return Statement(_REQUIRE_APPENDED, values)


def _statements(append: Append) -> list[Statement]:
    statements = [insert_events(append)]
    statements += [
        Statement(
            _BEGIN_EVENT_KEY,
            (k.id.encode(), k.kek.encode(), k.wrapped.hex().encode(), b"%d" % k.from_position),
        )
        for k in append.event_keys
    ]
    if append.data_keys:
        statements.append(Statement(_INSERT_DATA_KEYS, (msgspec.json.encode(append.data_keys),)))
    if append.bodies:
        statements.append(Statement(_INSERT_BODIES, (msgspec.json.encode(append.bodies),)))
    if completed := append.nodes():
        nodes = [{"level": n.level, "index": n.index, "hash": n.hash.hex()} for n in completed]
        statements.append(Statement(_INSERT_NODES, (msgspec.json.encode(nodes),)))
    # After the events: only what they name can be destroyed.
    statements += [Statement(_DISOWN, (b"%d" % position,)) for position in append.disownings]
    statements += [Statement(_DESTROY, (b"%d" % position,)) for position in append.erasures]
    return statements


def insert_events(append: Append) -> Statement:
    """The statement that stores the events."""
    # The columns are made from the entry's own bytes: what is stored is what was hashed.
    rows = (
        b'%s,"position":%d}' % (entry[:-1], position)
        for position, entry in enumerate(append.entries, append.first_position)
    )
    macs = b"".join(mac for mac in append.macs if mac is not None)
    return Statement(
        _INSERT_EVENTS,
        (
            b"[" + b",".join(rows) + b"]",
            b"\\x" + b"".join(append.leaves).hex().encode(),
            b"\\x" + macs.hex().encode(),
            b"%d" % append.first_position,
        ),
    )
