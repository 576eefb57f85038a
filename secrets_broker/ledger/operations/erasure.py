"""Erases for good: destroys a name's data keys and bodies, and records that.

An erasure destroys all that a name ever had: the data keys of each credential id, every body under
them, and the live row. It takes one transaction for each name. The keys and bodies are read under
the lock, the `credential.erased` events name them, and `ledger.destroy` removes them. The database
refuses to destroy what no event of the same transaction names. Events, leaves and the access log
stay, so the tree verifies as before.

Restoring an older backup brings the keys back. So erasures can be listed by their data keys, and
applied again to a restored database. There they match key ids and nothing else.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import psycopg

from secrets_broker.ledger.commands import Erase, Name
from secrets_broker.ledger.database.ledger_session import TOOL_SESSION, connect
from secrets_broker.ledger.database.name_pattern import like
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.event_types import IS_CHANGE
from secrets_broker.ledger.events import Context, Event
from secrets_broker.ledger.fold import Fold
from secrets_broker.ledger.transactions import Login, Transactions, refused

# A key's id and its credential's take 53 bytes at most; with the name that is under 16 KiB.
KEYS_PER_EVENT: Final = 256

_FIND: Final = """
    SELECT change.host, change.purpose,
           count(DISTINCT (change.credential_id, change.version))
               FILTER (WHERE data_key.id IS NOT NULL OR body.position IS NOT NULL),
           count(DISTINCT data_key.id), count(body.position)
    FROM ledger.events AS change
    LEFT JOIN ledger.data_keys AS data_key ON data_key.id = change.body ->> 'key'
    LEFT JOIN ledger.bodies AS body
        ON body.position = change.position AND body.key = change.body ->> 'key'
    LEFT JOIN secrets.host_credentials AS live
        ON live.host = change.host AND live.purpose = change.purpose
    WHERE __is_change__ AND change.body IS NOT NULL
      AND change.host LIKE %(host)s AND change.purpose LIKE %(purpose)s
    GROUP BY change.host, change.purpose
    HAVING count(data_key.id) > 0 OR count(body.position) > 0 OR count(live.id) > 0
    ORDER BY change.host, change.purpose
""".replace("__is_change__", IS_CHANGE)
# From the events, and also from the keys, in case a key has lost its body.
_KEYS: Final = """
    WITH change AS (
        SELECT position, credential_id, body ->> 'key' AS key FROM ledger.events
        WHERE __is_change__ AND body IS NOT NULL AND host = %(host)s AND purpose = %(purpose)s
    ), stored AS (
        SELECT change.credential_id, change.key, body.position
        FROM change JOIN ledger.bodies AS body USING (position, key)
        UNION ALL
        SELECT credential_id, id, NULL FROM ledger.data_keys
        WHERE credential_id IN (SELECT credential_id FROM change)
    )
    SELECT key, min(credential_id), count(position) FROM stored GROUP BY key
    ORDER BY min(credential_id), key
""".replace("__is_change__", IS_CHANGE)
_LAST: Final = """
    SELECT credential_id, version FROM ledger.effective_events
    WHERE __is_change__ AND host = %(host)s AND purpose = %(purpose)s
    ORDER BY position DESC LIMIT 1
""".replace("__is_change__", IS_CHANGE)
_NAMES_OF_KEYS: Final = """
    SELECT DISTINCT first.host, first.purpose
    FROM ledger.data_keys AS data_key
    JOIN ledger.events AS first ON first.position = data_key.credential_id - 1
    WHERE data_key.id = ANY (%(keys)s) ORDER BY 1, 2
"""
_RECORDED: Final = """
    SELECT key, position, at, coalesce(host, details ->> 'host'),
           coalesce(purpose, details ->> 'purpose')
    FROM ledger.effective_events, jsonb_array_elements_text(details -> 'data_keys') AS key
    WHERE ok AND type = 'credential.erased' ORDER BY position, key
"""


class Erasure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A destroyed data key, and the event that records it; it holds no secret."""

    data_key: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$", max_length=32)]
    position: int
    host: str
    purpose: str
    at: str


@dataclass(frozen=True, slots=True)
class Erasable:
    """A name, and how much of it can be erased."""

    host: str
    purpose: str
    versions: int
    data_keys: int
    bodies: int


@dataclass(frozen=True, slots=True)
class Erased:
    """What one transaction destroyed."""

    host: str
    purpose: str
    bodies: int
    positions: tuple[int, ...]
    erasures: tuple[Erasure, ...]


@dataclass(frozen=True, slots=True)
class _Key:
    id: str
    credential_id: int
    bodies: int


async def find(owner_url: str, host: str, purpose: str, *, exact: bool) -> list[Erasable]:
    """The matching names that can be erased; in patterns `*` is any run of characters."""
    if exact:
        query, values = _FIND.replace("LIKE", "="), {"host": host, "purpose": purpose}
    else:
        query, values = _FIND, {"host": like("host", host), "purpose": like("purpose", purpose)}
    rows = await _ask(owner_url, query, values)
    return [Erasable(*row) for row in rows]


async def erase(
    login: Login, context: Context, names: Sequence[Name]
) -> AsyncIterator[Erased | None]:
    """Erase each of these names in its own transaction; yields None if nothing was left of one.

    Raises LedgerUnavailableError; what was yielded before is committed.
    """
    async with login.transactions() as work:
        for name in names:
            yield await _destroy(work, name, context)


async def erase_again(
    login: Login, context: Context, data_keys: Collection[str]
) -> AsyncIterator[Erased]:
    """Destroy those of these data keys that exist, and the bodies under them."""
    async with login.transactions() as work:
        for name in await work.fetch(_NAMES_OF_KEYS, {"keys": list(data_keys)}):
            if erased := await _destroy(work, name, context, data_keys):
                yield erased


async def still_there(url: str, data_keys: Collection[str]) -> list[str]:
    """Which of these data keys the database has; the service's role may read that."""
    query = "SELECT id FROM ledger.data_keys WHERE id = ANY (%(keys)s) ORDER BY id"
    return [key for (key,) in await _ask(url, query, {"keys": list(data_keys)})]


async def recorded(url: str) -> list[Erasure]:
    """Every data key that the ledger's events name as destroyed, oldest first."""
    return [
        Erasure(data_key=key, position=position, host=host, purpose=purpose, at=rfc3339(at))
        for key, position, at, host, purpose in await _ask(url, _RECORDED, {})
    ]


async def keks_so_far(url: str) -> list[str]:
    """All KEKs that ever were, oldest first: any may have wrapped an older key."""
    return [kek for (kek,) in await _ask(url, "SELECT id FROM ledger.keks ORDER BY created_at", {})]


async def has_legacy_table(url: str) -> bool:
    """Whether the credentials of an earlier installation are still in the database."""
    query = "SELECT to_regclass('secrets.legacy_host_credentials') IS NOT NULL"
    ((there,),) = await _ask(url, query, {})
    return bool(there)


async def _destroy(
    work: Transactions, name: Name, context: Context, only: Collection[str] | None = None
) -> Erased | None:
    fold = await work.begin([name])
    named = {"host": name[0], "purpose": name[1]}
    keys = [_Key(*row) for row in await work.fetch(_KEYS, named)]
    wanted = keys if only is None else [key for key in keys if key.id in only]
    if not wanted and (only is not None or name not in work.rows):
        await work.give_up()
        return None
    ((credential_id, version),) = await work.fetch(_LAST, named)
    live = fold.state(name)
    keeps_live = only is not None and live is not None and live.data_key not in only
    for part in _parts(wanted):
        command = Erase(
            host=name[0],
            purpose=name[1],
            credential_id=part[0].credential_id if keeps_live else credential_id,
            version=None if keeps_live else version,
            data_keys=tuple(key.id for key in part),
            credential_ids=tuple(sorted({key.credential_id for key in part})),
            bodies=sum(key.bodies for key in part),
            again=only is not None,
            keeps_live=keeps_live,
        )
        fold.take(command, context)
    # Died before this commits: everything of the name is there, and no event says otherwise.
    # Died after: all of it is gone, and the events say so; what is missing of this is the line
    # in a list of erasures, which the next run or --list adds.
    await work.commit(fold)
    return _erased(name, fold)


def _parts(keys: Sequence[_Key]) -> Iterator[Sequence[_Key]]:
    # Somebody may have removed keys and bodies, so that only a row is left: record that too.
    for start in range(0, max(len(keys), 1), KEYS_PER_EVENT):
        yield keys[start : start + KEYS_PER_EVENT]


def _erased(name: Name, fold: Fold) -> Erased:
    events = {
        position: msgspec.json.decode(entry, type=Event)
        for position, entry in enumerate(fold.append.entries, fold.append.first_position)
    }
    details = {position: event.details or {} for position, event in events.items()}
    erasures = tuple(
        Erasure(data_key=key, position=position, host=name[0], purpose=name[1], at=event.at)
        for position, event in events.items()
        for key in details[position]["data_keys"]
    )
    bodies = sum(part["bodies"] for part in details.values())
    return Erased(*name, bodies, tuple(events), erasures)


async def _ask(url: str, query: str, values: Mapping[str, Any]) -> list[Any]:
    async with await connect(url, TOOL_SESSION) as connection:
        try:
            cursor = await connection.execute(query.encode(), values)
            return await cursor.fetchall()
        except psycopg.Error as error:
            raise refused(error) from None
