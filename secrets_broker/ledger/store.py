"""A batch's SQL: one connection, and two round trips.

`read` takes the lock and then reads, as separate statements: in one statement, or under
REPEATABLE READ, what is read would come from before the lock was granted. `append` writes and
commits. Rows travel as one JSON value, which PostgreSQL handles several times faster than long
lists.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import psycopg
from psycopg import AsyncConnection

from secrets_broker.ledger import grants as granting
from secrets_broker.ledger.append import Append
from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.connection import SESSION, connect
from secrets_broker.ledger.continuity import PUBLISHED, Continuity
from secrets_broker.ledger.credential import Live
from secrets_broker.ledger.durable import check_commit
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.errors import LedgerUnavailableError, OutcomeUnknownError
from secrets_broker.ledger.events import IS_ACCESS_KEY, IS_CHANGE
from secrets_broker.ledger.fold import Snapshot
from secrets_broker.ledger.grants import Grants
from secrets_broker.ledger.keyring import DataKey
from secrets_broker.ledger.projection import Projection
from secrets_broker.ledger.quota import Meters
from secrets_broker.ledger.round_trip import RoundTrips, Statement
from secrets_broker.ledger.seen import Seen
from secrets_broker.ledger.usage import add_uses, unseen_uses

# Further behind than this, a process catches up from the stored nodes, outside the lock.
MAX_UNSEEN: Final = 2_048

_BEGIN: Final = Statement("BEGIN ISOLATION LEVEL READ COMMITTED")
_COMMIT: Final = Statement("COMMIT")
_ROLLBACK: Final = Statement("ROLLBACK")
_LOCK: Final = Statement("SELECT 1 FROM ledger.lock FOR UPDATE")
# The unseen leaf hashes come as one string of bytes: a row for each would cost more to read.
_HEAD: Final = """
    SELECT clock_timestamp(), last.position, last.at,
           (SELECT jsonb_object_agg(id, state) FROM ledger.keks WHERE state <> 'retired'),
           (SELECT string_agg(leaf_hash, '' ORDER BY position) FROM (
                SELECT position, leaf_hash FROM ledger.events
                WHERE position >= $1 ORDER BY position LIMIT $2) AS unseen),
           (SELECT max(position) FROM ledger.events WHERE ok AND __is_access_key__)
    FROM (VALUES (1)) AS one
    LEFT JOIN LATERAL (
        SELECT position, at FROM ledger.events ORDER BY position DESC LIMIT 1
    ) AS last ON true
""".replace("__is_access_key__", IS_ACCESS_KEY)
# Only where the grants have changed since this connection last read them.
_GRANTS: Final = """
    SELECT position, type, details, at FROM ledger.events
    WHERE ok AND __is_access_key__ AND position > $1 ORDER BY position
""".replace("__is_access_key__", IS_ACCESS_KEY)
# For each name: the last change that the ledger has, its data key, and the projection's row.
_NAMED: Final = """
    SELECT name.host, name.purpose, last.credential_id, last.version, last.position, last.key,
           data_key.credential_id, data_key.kek, data_key.wrapped, live.*
    FROM jsonb_to_recordset($1::jsonb) AS name (host text, purpose text)
    LEFT JOIN LATERAL (
        SELECT credential_id, version, position, body ->> 'key' AS key
        FROM ledger.events AS event
        WHERE event.host = name.host AND event.purpose = name.purpose
          AND __is_change__
        ORDER BY position DESC LIMIT 1
    ) AS last ON true
    LEFT JOIN ledger.data_keys AS data_key ON data_key.id = last.key
    LEFT JOIN LATERAL (__live__) AS live ON true
""".replace("__is_change__", IS_CHANGE)
_INSERT_EVENTS: Final = """
    INSERT INTO ledger.events (
        position, leaf_hash, v, type, at, occurred_at, actor, authn, ip, request_id, reason,
        host, purpose, credential_id, version, ok, error, details, body)
    SELECT position, decode(leaf_hash, 'hex'), v, type, at, occurred_at, actor, authn, ip,
           request_id, reason, host, purpose, credential_id, version, ok, error, details, body
    FROM jsonb_to_recordset($1::jsonb) AS entry (
        position bigint, leaf_hash text, v smallint, type text, at timestamptz,
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
_DESTROY: Final = "SELECT ledger.destroy($1)"


class TooFarBehindError(Exception):
    """More leaves are unseen than are read under the lock."""


class Store:
    """One connection to the ledger's database, used by one batch at a time."""

    def __init__(self, connection: AsyncConnection[Any], projection: Projection) -> None:
        self._connection = connection
        self._projection = projection
        self.committing = False
        self.grants = Grants()
        self._named = _NAMED.replace("__live__", projection.select).replace(
            "__is_change__", IS_CHANGE
        )
        self._round_trips = RoundTrips(connection)
        self._warnings: list[str] = []
        connection.add_notice_handler(
            lambda diagnostic: self._warnings.append(diagnostic.message_primary or "")
        )

    @classmethod
    async def connect(
        cls,
        database_url: str,
        projection: Projection,
        session: Mapping[str, str] = SESSION,
        continuity: Continuity | None = PUBLISHED,
    ) -> "Store":
        """Connect and check what the ledger relies on; raises LedgerUnavailableError.

        LedgerMismatchError among them, where the ledger does not go on from a checkpoint that
        was made of it; `continuity` None does not look.
        """
        connection = await connect(database_url, session)
        try:
            if continuity:
                await continuity.check(connection)
        except psycopg.Error as error:
            await connection.close()
            why = error.diag.message_primary or type(error).__name__
            raise LedgerUnavailableError(f"the database refused: {why}") from None
        except BaseException:
            await connection.close()
            raise
        return cls(connection, projection)

    async def close(self) -> None:
        """Close the connection; what is not committed is rolled back by the server."""
        await self._connection.close()

    @property
    def connection(self) -> AsyncConnection[Any]:
        """For a tool's own statements between `read` and `append`."""
        return self._connection

    async def read(
        self, names: Iterable[Name], seen: Seen, meters: Meters | None = None
    ) -> Snapshot:
        """Begin, take the lock, and read all that the batch needs, in one round trip.

        `meters` take in what was used meanwhile; where there are none, that costs nothing.

        Raises LedgerMismatchError, TooFarBehindError, or psycopg.Error; nothing is written.
        """
        wanted = msgspec.json.encode(
            [{"host": host, "purpose": purpose} for host, purpose in names]
        )
        answer = await self._round_trips.send(
            _BEGIN,
            _LOCK,
            Statement(_HEAD, (b"%d" % seen.overlap, b"%d" % MAX_UNSEEN)),
            Statement(self._named, (wanted,)),
            *self._unseen_uses(meters),
        )
        (clock, position, last_at, keks, unseen, generation), *_ = answer.rows[2]
        size = 0 if position is None else position + 1
        if size - seen.overlap > MAX_UNSEEN:
            raise TooFarBehindError
        await self._read_grants(-1 if generation is None else generation)
        caught_up = seen.catch_up(size, _leaves(unseen))
        snapshot = Snapshot(
            clock, last_at, caught_up, keks or {}, grants=self.grants, meters=meters or Meters()
        )
        for record in answer.rows[3]:
            self._take(record, snapshot)
        for uses in answer.rows[4:]:
            add_uses(snapshot.meters, self.grants, uses, size)
        return snapshot

    def _unseen_uses(self, meters: Meters | None) -> Iterator[Statement]:
        if meters and meters.by_id:
            metered = [self.grants.by_id[id_] for id_ in meters.by_id]
            yield unseen_uses(meters.size, 2 * MAX_UNSEEN, metered)  # they may lag by a batch

    async def _read_grants(self, generation: int) -> None:
        if generation == self.grants.generation:
            return
        known = self.grants if generation > self.grants.generation else Grants()
        answer = await self._round_trips.send(Statement(_GRANTS, (b"%d" % known.generation,)))
        for position, kind, details, at in answer.rows[0]:
            known = granting.evolve(known, kind, details, position, rfc3339(at))
        self.grants = known

    def _take(self, record: Sequence[Any], snapshot: Snapshot) -> None:
        host, purpose, credential_id, version, position, key, *rest = record
        # A last change without a data key took the credential away.
        live = Live(credential_id, version, position, key) if key else None
        snapshot.states[host, purpose] = live
        data_key, row = rest[:3], self._projection.row((host, purpose), rest[3:])
        if key and data_key[0] is not None:
            snapshot.data_keys[key] = DataKey(key, *data_key)
        if row:
            snapshot.rows[row.name] = row

    async def give_up(self) -> None:
        """Give the lock back; nothing is written."""
        await self._round_trips.send(_ROLLBACK)

    async def append(self, append: Append, *also: Statement) -> None:
        """Write and commit, in one round trip; `also` runs between the two.

        Raises psycopg.Error where the server refused a statement: nothing was committed.
        Raises OutcomeUnknownError where it cannot be known.
        """
        self._warnings.clear()
        self.committing = True  # from here on, silence does not mean that nothing was written
        statements = [*_statements(append), *self._projection.apply(append.changes)]
        try:
            # Died before this line: the server rolls back, and no caller was answered.
            # Died after: the events are recorded, their callers got no answer, and an
            # event says more than was delivered, never less.
            answer = await self._round_trips.send(*statements, *also, _COMMIT)
        except psycopg.Error as error:
            if self._connection.closed or error.diag.severity_nonlocalized != "ERROR":
                raise OutcomeUnknownError("the connection was lost while committing") from None
            raise
        check_commit(answer.tag, self._warnings)
        self.committing = False


def _leaves(hashes: bytes | None) -> list[bytes]:
    joined = hashes or b""
    return [joined[start : start + 32] for start in range(0, len(joined), 32)]


def _statements(append: Append) -> list[Statement]:
    statements = [Statement(_INSERT_EVENTS, (_event_rows(append),))]
    if append.data_keys:
        statements.append(Statement(_INSERT_DATA_KEYS, (msgspec.json.encode(append.data_keys),)))
    if append.bodies:
        statements.append(Statement(_INSERT_BODIES, (msgspec.json.encode(append.bodies),)))
    if completed := append.nodes():
        nodes = [{"level": n.level, "index": n.index, "hash": n.hash.hex()} for n in completed]
        statements.append(Statement(_INSERT_NODES, (msgspec.json.encode(nodes),)))
    # After the events: what they do not name cannot be destroyed.
    statements += [Statement(_DESTROY, (b"%d" % position,)) for position in append.erasures]
    return statements


def _event_rows(append: Append) -> bytes:
    # A row's columns are the entry's own bytes: what is stored is what was hashed.
    rows = (
        b'%s,"position":%d,"leaf_hash":"%s"}' % (entry[:-1], position, leaf.hex().encode())
        for position, (entry, leaf) in enumerate(
            zip(append.entries, append.leaves, strict=True), append.first_position
        )
    )
    return b"[" + b",".join(rows) + b"]"
