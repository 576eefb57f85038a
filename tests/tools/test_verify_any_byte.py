"""A hostile superuser changes one thing anywhere in the tables, and verify finds it.

The ledger has events of every type. Whatever the tables' triggers, keys and checks would refuse is
out of the way; what verify cannot find is listed, each with its reason, and nothing else is let by.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pytest

from secrets_broker.ledger import events
from secrets_broker.ledger.access import ChangeGrant, Grant, Revoke, RotateKey
from secrets_broker.ledger.access_key import digest, new_grant_id
from secrets_broker.ledger.commands import Content, ImportAccess, ImportCredential, Record
from secrets_broker.ledger.connection import connect
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.ledger.errors import AccessDeniedError
from secrets_broker.ledger.events import (
    ACCESS_COUNTED,
    ACCESS_COUNTING,
    LEDGER_RESTORED,
    Context,
    Subject,
)
from secrets_broker.ledger.keyring import Keyring
from secrets_broker.ledger.note import SigningKey
from secrets_broker.ledger.published import keep_cosignature, read_published
from secrets_broker.ledger.rights import Rights, Rule
from secrets_broker.projections.replay import Scope
from secrets_broker.projections.reveal import reveal
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database
from tests.ledger.helpers import lookup, rebuilt, record, run, send, upsert, writing
from tests.ledger.rotating import rotated
from tests.tools.verifying import KEY, OPERATOR, Copies, Report, checkpoints, history, verified

NEW_KEY: Final = "the key after the rotation"
WITNESS: Final = SigningKey("witness.example", bytes(range(1, 33)), 4)
TABLES: Final = (
    "ledger.events",
    "ledger.nodes",
    "ledger.bodies",
    "ledger.data_keys",
    "ledger.keks",
    "ledger.checkpoints",
    "ledger.published",
    "ledger.cosignatures",
    "ledger.lock",
    "secrets.host_credentials",
)
EVERY_TYPE: Final = {
    value
    for value in vars(events).values()
    if isinstance(value, str) and value.startswith(("credential.", "access", "key.", "proj", "led"))
}
EXEMPT: Final[dict[tuple[str, str], str]] = {}


@dataclass(frozen=True, slots=True)
class Ledger:
    """What stands in each table: its columns' names and types, and its rows by ctid."""

    database: Database
    copies: Copies
    columns: dict[str, dict[str, str]]


async def _access(database: Database, keyring: Keyring) -> None:
    rights = Rights(rules=(Rule(allow=("read",), hosts=("h*",), purposes=("*",)),))
    shas = [digest(f"key {number}") for number in range(2)]
    async with writing(database.service_url, keyring) as writer:
        await send(writer, Grant(grantee="ann", id=new_grant_id(), sha256=shas[0], rights=rights))
        until = (await _now(database)) + timedelta(days=1)
        await send(writer, ChangeGrant(grantee="ann", rights=rights))
        await send(writer, RotateKey(grantee="ann", sha256=shas[1], previous_until=until))
        caller = Context(actor=None, authn="none", ip="192.0.2.8", subject=Subject(sha256=shas[1]))
        await send(writer, lookup("h05"), context=caller)
        for refused in (lookup("other"), upsert("h05")):
            with pytest.raises(AccessDeniedError):
                await send(writer, refused, context=caller)
        await send(writer, Revoke(grantee="ann"))


async def _now(database: Database) -> Any:
    ((now,),) = database.fetch("SELECT now()")
    return now


def _everything(database: Database, keyring: Keyring) -> None:
    history(database, keyring)
    run(_access(database, keyring))
    ((now,),) = database.fetch("SELECT now()")
    log = {"legacy_id": 4, "access_type": "read", "error_message": None}
    source = {"source": "192.0.2.9"}
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
        Record(type=ACCESS_COUNTED, details={**source, "count": 7, "first_at": rfc3339(now)}),
    )
    rebuilt(database, keyring)
    run(rotated(database, keyring, Keyring.from_kms_keys(NEW_KEY).first))

    async def reveal_some() -> None:
        async for _ in reveal(
            database.service_url, Keyring.from_kms_keys(NEW_KEY), OPERATOR, Scope(50)
        ):
            break

    run(reveal_some())


def _size(database: Database) -> int:
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


def _free(database: Database) -> None:
    """No trigger, no constraint, no NOT NULL; but for the projection, which rebuild copies."""
    for table in TABLES:
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


@pytest.fixture(scope="module")
def ledger(cluster: Cluster, keyring: Keyring) -> Iterator[Ledger]:
    """Everything that can be in a ledger, and nothing in the way of who changes it."""
    with fresh_database(cluster, TEMPLATE) as made:
        _everything(made, keyring)
        size = _size(made)
        checkpoints(made, sorted({*range(1, size, 40), 256, 512, size}))
        _cosigned(made)
        _free(made)
        columns: dict[str, dict[str, str]] = {}
        for table in TABLES:
            columns[table] = dict(
                made.fetch(
                    "SELECT attname::text, atttypid::regtype::text FROM pg_attribute"
                    f" WHERE attrelid = '{table}'::regclass AND attnum > 0"
                )
            )
        yield Ledger(made, Copies(made), columns)


def check(database: Database) -> Report:
    """Verify, with every key."""
    return verified(database, keys=(KEY.verifier, WITNESS.verifier), kms_key=NEW_KEY)


def test_nothing_was_changed(ledger: Ledger) -> None:
    """Events of every type are there, and all of it is right."""
    report = check(ledger.database)
    assert (report.problems, report.not_checked, report.remarks) == ([], [], [])
    types = ledger.database.fetch("SELECT DISTINCT type FROM ledger.events")
    assert {name for (name,) in types} == EVERY_TYPE - {LEDGER_RESTORED}


CHANGES: Final = {
    "text": [
        "{0} || ' '",
        "' ' || {0}",
        "upper({0})",
        "lower({0})",
        "left({0}, -1)",
        "''",
        "overlay({0} placing 'q' from 1 + length({0}) / 2 for 1)",
        "replace({0}, E'\\n', E'\\r\\n')",
        "normalize({0} || E'\\u0301', NFD)",
    ],
    "bytea": [
        "set_bit({0}, 0, 1 - get_bit({0}, 0))",
        "set_bit({0}, 8 * length({0}) - 1, 1 - get_bit({0}, 8 * length({0}) - 1))",
        "substr({0}, 2)",
        "{0} || '\\x00'",
        "''",
    ],
    "integer": ["{0} + 1", "{0} - 1", "0", "-{0}"],
    "boolean": ["NOT {0}"],
    "timestamp with time zone": [
        "{0} + interval '1 microsecond'",
        "{0} - interval '1 microsecond'",
        "{0} + interval '1 day'",
        "'infinity'",
        "'0044-03-15 BC'",
    ],
    "jsonb": [
        """{0} || '{{"also": null}}'""",
        "'{{}}'",
        "'null'",
        "{0} - (SELECT max(k) FROM jsonb_object_keys({0}) AS k)",
        "jsonb_set({0}, ARRAY[(SELECT min(k) FROM jsonb_object_keys({0}) AS k)], '\"x\"')",
        "jsonb_build_array({0})",
    ],
}
CHANGES["bigint"] = CHANGES["smallint"] = CHANGES["integer"]


def explore(ledger):
    import random

    db = ledger.database
    random.seed(3)
    missed = {}
    for table in TABLES:
        ((count,),) = db.fetch(f"SELECT count(*) FROM {table}")
        for column, kind in ledger.columns[table].items():
            for change in [*CHANGES[kind], "NULL"]:
                row = random.randrange(count)
                expression = change.format(f'"{column}"')
                try:
                    with db.owner() as c:
                        done = c.execute(
                            f'UPDATE {table} SET "{column}" = {expression} WHERE ctid ='
                            f" (SELECT ctid FROM {table} ORDER BY ctid OFFSET {row} LIMIT 1)"
                            f' AND "{column}" IS DISTINCT FROM {expression}'
                        ).rowcount
                except psycopg.Error:
                    ledger.copies.put_back()
                    continue
                if done:
                    try:
                        report = check(db)
                    except BaseException as e:
                        print("CRASH", table, column, change, type(e), str(e)[:300])
                        report = None
                    if report and (
                        report.ok or (table == "ledger.events" and report.first_bad is None)
                    ):
                        print("MISS", table, column, change, row, report.ok, report.remarks)
                    ledger.copies.put_back()
        for what in ("DELETE",):
            row = random.randrange(count)
            db.execute(
                f"DELETE FROM {table} WHERE ctid = (SELECT ctid FROM {table} ORDER BY ctid OFFSET {row} LIMIT 1)"
            )
            report = check(db)
            if report.ok:
                print("MISS", table, "DELETE", row, count)
            ledger.copies.put_back()


def test_explore(ledger):
    explore(ledger)
