"""A ledger with events of every type, and nothing in the way of whoever changes it."""

from datetime import timedelta
from typing import Any, Final

from secrets_broker.ledger.access.access_key import digest, new_grant_id
from secrets_broker.ledger.access.grant_commands import ChangeGrant, Grant, Revoke, RotateKey
from secrets_broker.ledger.access.rights import Rights, Rule
from secrets_broker.ledger.commands import ImportAccess, ImportCredential, Record
from secrets_broker.ledger.content import Content
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.event_types import ACCESS_COUNTED, ACCESS_COUNTING
from secrets_broker.ledger.events import Context, Subject
from secrets_broker.ledger.operations.disowning import disown
from secrets_broker.ledger.transparency_log.checkpoint_store import keep_cosignature, read_published
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, SigningKey
from secrets_broker.projections.queries.replay import Scope
from secrets_broker.tools.replay.reveal import reveal
from tests.conftest import Database
from tests.ledger.forging import forge
from tests.ledger.helpers import login_of, lookup, rebuilt, record, run, send, upsert, writing
from tests.ledger.rotating import rotated
from tests.tools.verify.changing import OPERATOR, checkpoints, history, tables

NEW_KEY: Final = "the key after the rotation"
WITNESS: Final = SigningKey("witness.example", bytes(range(1, 33)), COSIGNATURE)
TABLES: Final = (
    "ledger.events",
    "ledger.nodes",
    "ledger.bodies",
    "ledger.data_keys",
    "ledger.keks",
    "ledger.event_keys",
    "ledger.disowned",
    "ledger.checkpoints",
    "ledger.published",
    "ledger.cosignatures",
    "ledger.lock",
    "secrets.host_credentials",
)


async def _access(database: Database, keyring: Keyring) -> None:
    rights = Rights(rules=(Rule(allow=("read",), hosts=("h*",), purposes=("*",)),))
    shas = [digest(f"key {number}") for number in range(2)]
    async with writing(database.service_url, keyring) as writer:
        await send(writer, Grant(grantee="ann", id=new_grant_id(), sha256=shas[0], rights=rights))
        until = _now(database) + timedelta(days=1)
        await send(writer, ChangeGrant(grantee="ann", rights=rights))
        await send(writer, RotateKey(grantee="ann", sha256=shas[1], previous_until=until))
        caller = Context(actor=None, authn="none", ip="192.0.2.8", subject=Subject(sha256=shas[1]))
        await send(writer, lookup("h05"), context=caller)
        for refused in (lookup("other"), upsert("h05")):
            await send(writer, refused, context=caller)
        await send(writer, Revoke(grantee="ann"))


def _now(database: Database) -> Any:
    ((now,),) = database.fetch("SELECT now()")
    return now


def everything(database: Database, keyring: Keyring) -> None:
    """Events of every type, but for a restore's; checkpoints each 40, the last one cosigned."""
    history(database, keyring)
    run(_access(database, keyring))
    now = _now(database)
    log = {"legacy_id": 4, "access_type": "read", "error_message": None}
    source = {"source": "192.0.2.9"}
    counted = {**source, "counting": 1, "count": 7, "first_at": rfc3339(now), "last_at": None}
    record(
        database,
        keyring,
        ImportCredential(
            host="old",
            purpose="ssh",
            content=Content(password="x"),
            occurred_at=now,
            details={"legacy_id": 3},
        ),
        ImportAccess(
            host="old", purpose="ssh", ok=True, credential_id=3, occurred_at=now, details=log
        ),
        Record(type=ACCESS_COUNTING, details=source),
        Record(type=ACCESS_COUNTED, details=counted),
    )
    for kind in ("credential.read", "credential.deleted"):
        forge(database.service_url, kind, host="h06", purpose="ssh", credential_id=7)
    forged = (size_of(database) - 2, size_of(database) - 1)
    run(disown(login_of(database.owner_url, keyring), [forged], OPERATOR))
    rebuilt(database, keyring)
    run(rotated(database, keyring, Keyring.from_kms_keys(NEW_KEY).first))

    async def reveal_some() -> None:
        async for _ in reveal(
            login_of(database.service_url, Keyring.from_kms_keys(NEW_KEY)), OPERATOR, Scope(50)
        ):
            break

    run(reveal_some())
    size = size_of(database)
    checkpoints(database, sorted({*range(1, size, 40), 256, 512, size}))
    _cosigned(database)


def size_of(database: Database) -> int:
    """How many events there are."""
    ((size,),) = database.fetch("SELECT max(position) + 1 FROM ledger.events")
    return int(size)


def _cosigned(database: Database) -> None:
    async def work() -> None:
        async with await connect(database.owner_url) as connection:
            signed = (await read_published(connection)).checkpoint
            assert signed is not None
            line = WITNESS.cosign(signed.note.text, 1_700_000_000)
            await keep_cosignature(connection, signed.checkpoint, line)

    run(work())


def free(database: Database) -> None:
    """No trigger, no constraint, no NOT NULL; but for the projection, which rebuild copies."""
    for table in tables(database):
        database.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    for table, name in database.fetch(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint"
        " WHERE connamespace = 'ledger'::regnamespace AND contype = 'c'"
    ):
        database.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    database.execute("DROP INDEX ledger.keks_one_active")
    for table, name in database.fetch(
        "SELECT attrelid::regclass::text, attname FROM pg_attribute JOIN pg_class"
        " ON pg_class.oid = attrelid WHERE relnamespace = 'ledger'::regnamespace"
        " AND relkind = 'r' AND attnum > 0 AND attnotnull AND NOT attnum = ANY ("
        " SELECT unnest(conkey) FROM pg_constraint WHERE conrelid = attrelid AND contype = 'p')"
    ):
        database.execute(f'ALTER TABLE {table} ALTER "{name}" DROP NOT NULL')
