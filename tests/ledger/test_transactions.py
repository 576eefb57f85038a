"""Operations beside a service that records more than they read under the lock."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from secrets_broker.ledger.access.access_key import new_grant_id
from secrets_broker.ledger.access.grant_commands import Grant
from secrets_broker.ledger.access.rights import Rights
from secrets_broker.ledger.commands import Lookup, parse
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Fold
from secrets_broker.ledger.operations.disowning import disown
from secrets_broker.ledger.operations.erasure import erase
from secrets_broker.ledger.operations.granting import change
from secrets_broker.ledger.operations.rekey import rekey
from secrets_broker.ledger.operations.require_macs import authenticate
from secrets_broker.ledger.store import MAX_BEHIND, Store
from secrets_broker.ledger.transparency_log.frontier import load_tree_state
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.projections.queries.replay import Scope
from secrets_broker.projections.rebuild import rebuild
from secrets_broker.tools.replay.reveal import reveal
from tests.conftest import Database
from tests.ledger.forging import forge
from tests.ledger.helpers import CONTEXT, login_of, lookup, record, run, send, upsert, writing
from tests.ledger.rotating import fresh_kek, rotated

NEW = fresh_kek()
GRANT = Grant(
    grantee="reader",
    id=new_grant_id(),
    sha256="0" * 64,
    rights=parse(Rights, {"rules": [{"allow": ["read"], "hosts": ["*"], "purposes": ["*"]}]}),
)
OPERATOR = Context(actor="operator", authn="cli")
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database()
"""

Operation = Callable[[Database, Keyring], Coroutine[Any, Any, object]]


async def _erased(database: Database, keyring: Keyring) -> object:
    login = login_of(database.owner_url, keyring)
    return [one async for one in erase(login, OPERATOR, [("a", "ssh")])]


async def _revealed(database: Database, keyring: Keyring) -> object:
    login = login_of(database.owner_url, keyring)
    return [one async for one in reveal(login, OPERATOR, Scope(2))]


OPERATIONS: dict[str, Operation] = {
    "rotate-key": lambda database, keyring: rotated(database, keyring, NEW),
    "rebuild": lambda database, keyring: rebuild(database.owner_url, keyring, OPERATOR),
    "rekey": lambda database, keyring: rekey(login_of(database.owner_url, keyring), OPERATOR),
    "erase": _erased,
    "replay --reveal": _revealed,
    "access grant": lambda database, keyring: change(
        login_of(database.owner_url, keyring), GRANT, OPERATOR
    ),
    "authenticate": lambda database, keyring: authenticate(
        login_of(database.owner_url, keyring), MAX_BEHIND * 4, OPERATOR
    ),
}


def _somebody_waits(database: Database) -> bool:
    ((waiting,),) = database.fetch(WAITING)
    return bool(waiting)


async def _while_others_record(
    database: Database, keyring: Keyring, operation: Callable[[], Awaitable[object]]
) -> object:
    """Have the operation wait for the lock while more is recorded than it will read under it."""
    store = await Store.connect(database.service_url, HostCredentials(), keyring)
    try:
        fold = Fold(await store.read([], await load_tree_state(store.connection)), keyring)
        running = asyncio.ensure_future(operation())
        while not (await asyncio.to_thread(_somebody_waits, database) or running.done()):
            pass
        for _ in range(MAX_BEHIND + 1):
            fold.take(Lookup(host="nobody", purpose="ssh"), CONTEXT)
        await store.append(fold)
        return await running
    finally:
        await store.close()


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_falls_far_behind_catches_up(
    database: Database, keyring: Keyring, name: str
) -> None:
    """Whatever it is, and however much was recorded while it waited: it ends as it would alone."""
    record(database, keyring, upsert("a"))

    run(_while_others_record(database, keyring, lambda: OPERATIONS[name](database, keyring)))

    ((events,),) = database.fetch("SELECT count(*) FROM ledger.events")
    assert events > MAX_BEHIND + 2
    held = Keyring([*keyring, NEW])
    assert all(outcome.position for outcome in record(database, held, lookup("b")))


def test_disowning_far_behind_catches_up(database: Database, keyring: Keyring) -> None:
    """A forged event stops all others: nobody records while it is there, but it may be far off."""
    record(database, keyring, upsert("a"))
    position = 0
    for _ in range(MAX_BEHIND + 1):
        position = forge(database.service_url, "credential.read", host="x", purpose="y")
    ranges = [(2, position)]

    run(disown(login_of(database.owner_url, keyring), ranges, OPERATOR))

    assert record(database, keyring, lookup("a"))[0].error is None


def test_a_writer_that_falls_far_behind_catches_up(database: Database, keyring: Keyring) -> None:
    """The commands that wait are recorded behind what others recorded meanwhile."""
    record(database, keyring, upsert("a"))

    async def read_it() -> object:
        async with writing(database.service_url, keyring) as writer:
            (outcome,) = await send(writer, lookup("a"))
            return outcome.content

    assert run(_while_others_record(database, keyring, read_it)) is not None
