"""Steps and strategies that the ledger's tests share."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from hypothesis import strategies as st

from secrets_broker.ledger.commands import Command, Delete, ImportCredential, Lookup, Upsert
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.keks import check_keys
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context, Event, encode_entry
from secrets_broker.ledger.fold import Fold, Outcome
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.transactions import Login
from secrets_broker.ledger.transparency_log.frontier import load_tree_state
from secrets_broker.ledger.transparency_log.merkle import Node, node_hash
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.projections.rebuild import Comparison, rebuild
from tests.conftest import Database

T = TypeVar("T")
BEGUN = 1
"""How many events a ledger has before anybody's: it begins with ledger.authenticated."""
CONTEXT = Context(actor="tester", authn="internal_key", ip="192.0.2.7", request_id="r-1")

# What PostgreSQL and JSON can keep: no U+0000 and no lone surrogate.
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)
integers = st.integers(-(2**53) + 1, 2**53 - 1)
floats = st.floats(-(2**53) + 1, 2**53 - 1).filter(lambda f: str(f) != "-0.0")
json_values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)
# Any offset that RFC 3339 can write, and any time that is within its years in UTC too.
offsets = st.integers(-1_439, 1_439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=offsets)
rotations = st.integers(1, 36_500)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end on an event loop of its own."""
    return asyncio.run(coroutine)


@asynccontextmanager
async def writing(url: str, keyring: Keyring) -> AsyncIterator[Writer]:
    """A writer that has started, and is closed at the end."""
    writer = Writer(url, keyring, HostCredentials())
    try:
        await writer.start()
        yield writer
    finally:
        await writer.close()


async def send(writer: Writer, *commands: Command, context: Context = CONTEXT) -> list[Outcome]:
    """Submit all at once, so that they are recorded together; their outcomes in order."""
    return await asyncio.gather(*(writer.submit(command, context) for command in commands))


def record(
    database: Database, keyring: Keyring, *commands: Command, context: Context = CONTEXT
) -> list[Outcome]:
    """Submit together, with a writer of their own.

    What the doors refuse, such as to store what has expired, is taken: as if it were of before.
    """

    async def all_of_them() -> list[Outcome]:
        async with writing(database.service_url, keyring) as writer:
            return await send(writer, *commands, context=context)

    return run(all_of_them())


def append_as_it_is(
    database: Database, keyring: Keyring, kind: str, details: dict[str, Any]
) -> None:
    """Append an event that our code would refuse to write, with a right MAC all the same."""

    def add(fold: Fold) -> None:
        event = Event(type=kind, at=rfc3339(fold.at), authn="none", details=details)
        fold.append.add_entry(encode_entry(event))

    _append(database, keyring, add)


def record_at(database: Database, keyring: Keyring, clock: datetime, command: Command) -> Outcome:
    """Record what a process would whose database has that time."""
    return _append(database, keyring, lambda fold: fold.take(command, CONTEXT), clock)


def _append(
    database: Database,
    keyring: Keyring,
    take: Callable[[Fold], T],
    clock: datetime | None = None,
) -> T:
    async def alone() -> T:
        store = await Store.connect(database.service_url, HostCredentials(), keyring)
        try:
            await check_keys(store.connection, keyring)
            snapshot = await store.read([], await load_tree_state(store.connection))
            fold = Fold(replace(snapshot, clock=clock or snapshot.clock), keyring)
            taken = take(fold)
            await store.append(fold)
            return taken
        finally:
            await store.close()

    return run(alone())


def upsert(host: str, secret: str = "hunter2", **fields: Any) -> Upsert:
    """Store a password for ssh."""
    return Upsert(host=host, purpose="ssh", password=secret, **fields)


def imported(
    host: str, purpose: str = "ssh", by: str | None = None, **content: Any
) -> ImportCredential:
    """Take over a credential of an earlier installation, whatever it is called."""
    told = Content(**{"password": "hunter2", **content})
    details = {"legacy_id": 1, "created_by": by, "updated_by": by}
    return ImportCredential(
        host=host, purpose=purpose, content=told, occurred_at=None, details=details
    )


def lookup(host: str) -> Lookup:
    """Look up what `upsert` stored."""
    return Lookup(host=host, purpose="ssh")


def delete(host: str) -> Delete:
    """Delete what `upsert` stored."""
    return Delete(host=host, purpose="ssh")


def password_of(outcome: Outcome) -> str | None:
    """The password that a lookup disclosed."""
    return outcome.content.password if outcome.content else None


def rebuilt(database: Database, keyring: Keyring, *, check_only: bool = False) -> Comparison:
    """Rebuild the projection, or only compare."""
    context = Context(actor="tester", authn="cli")
    return run(rebuild(database.owner_url, keyring, context, check_only=check_only))


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word by word; of at least one leaf hash."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(naive_root(leaves[:split]), naive_root(leaves[split:]))


def naive_nodes(leaves: Sequence[bytes]) -> set[Node]:
    """Every node that a tree of these leaves stores: a root for each complete 256^level."""
    return {
        Node(level, index, naive_root(leaves[index * width : (index + 1) * width]))
        for level in (1, 2)
        for width in (256**level,)
        for index in range(len(leaves) // width)
    }


def login_of(url: str, keyring: Keyring) -> Login:
    """As whom an operation of a test writes."""
    return Login(url, keyring, HostCredentials())
