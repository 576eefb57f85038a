"""A ledger with a bit of everything, checkpoints of it, and hands that change it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from secrets_broker.ledger.commands import Record
from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.event_types import PROJECTION_REBUILT
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.operations.erasure import Erased, erase
from secrets_broker.ledger.operations.rekey import rekey
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import publish, read_published
from secrets_broker.ledger.transparency_log.note import SigningKey, VerifierKey
from secrets_broker.ledger.transparency_log.stored_hashes import root_at
from secrets_broker.settings import Settings
from secrets_broker.tools.verify.run_checks import VerifyPlan
from secrets_broker.tools.verify.verification import Job
from tests.conftest import Database
from tests.ledger.helpers import delete, login_of, lookup, record, run, upsert

KEY = SigningKey("log.example", bytes(range(32)))
OPERATOR = Context(actor="tester", authn="cli", reason="test")


@dataclass(frozen=True, slots=True)
class Report:
    """What verify said, in short."""

    ok: bool
    size: int
    first_bad: int | None
    problems: list[tuple[int | None, str, str]]
    checked: dict[str, int]
    not_checked: list[str]
    remarks: list[str]

    @property
    def checks(self) -> set[str]:
        """Which checks found something."""
        return {check for _, check, _ in self.problems}

    def details(self) -> str:
        """All of them, to look for words."""
        return "\n".join(detail for *_, detail in self.problems)


def of_job(job: Job, *, schema: bool = True) -> Report:
    """Run it; without `schema`, what is wrong with the catalogue is left out of what it says."""
    found = job.run()
    problems = [
        (p.position, p.check, p.detail) for p in found["problems"] if schema or p.check != "schema"
    ]
    return Report(
        found["ok"] if schema else not problems,
        found["size"],
        found["first_bad"],
        problems,
        found["checked"],
        found["not_checked"],
        found["remarks"],
    )


def verified(
    database: Database,
    *,
    keys: Sequence[VerifierKey] = (KEY.verifier,),
    url: str | None = None,
    kms_key: str | None = None,
    schema: bool = False,
    **more: Any,
) -> Report:
    """Verify a database, without the KMS key unless it is given.

    Without `schema`, as if whoever changed rows had put the catalogue back as it was shipped.
    """
    values = {"DATABASE_URL": url or database.service_url}
    if kms_key:
        values["SECRETS_KMS_KEY"] = kms_key
    erasures = more.pop("erasures", None)
    job = Job(Settings(values), VerifyPlan(tuple(keys), **more), erasures)
    return of_job(job, schema=schema)


def history(database: Database, keyring: Keyring) -> None:
    """600 events: stored, read, not found, changed, deleted, stored anew, erased, rekeyed."""
    hosts = [f"h{number:02}" for number in range(40)]
    record(database, keyring, *(upsert(host) for host in hosts))
    record(database, keyring, *(lookup(host) for host in hosts), lookup("nobody"))
    record(database, keyring, *(upsert(host, "changed") for host in hosts[:10]))
    record(database, keyring, *(delete(host) for host in hosts[:4]), delete("nobody"))
    record(database, keyring, *(upsert(host) for host in hosts[:2]))
    erase_names(database, keyring, (hosts[0], "ssh"), (hosts[39], "ssh"))
    run(rekey(login_of(database.owner_url, keyring), OPERATOR, "h1*", "*", lambda _: None))
    counts = dict.fromkeys(("size", "rows", "replaced", "unreadable"), 1)
    rebuilt = {"projection": "secrets.host_credentials", **counts}
    record(database, keyring, Record(type=PROJECTION_REBUILT, details=rebuilt))
    ((size,),) = database.fetch("SELECT count(*) FROM ledger.events")
    record(database, keyring, *(lookup(hosts[n % 30 + 1]) for n in range(600 - size)))


def erase_names(database: Database, keyring: Keyring, *names: tuple[str, str]) -> list[Erased]:
    """Erase them."""

    async def all_of_them() -> list[Erased]:
        found = erase(login_of(database.owner_url, keyring), OPERATOR, list(names))
        return [erased async for erased in found if erased]

    return run(all_of_them())


def checkpoints(database: Database, sizes: Iterable[int], key: SigningKey = KEY) -> None:
    """Sign and publish the tree at these sizes."""

    async def all_of_them() -> None:
        connection = await connect(database.owner_url)
        async with connection:
            for size in sizes:
                tree = Checkpoint(key.name, size, await root_at(connection, size))
                before = (await read_published(connection)).place
                assert await publish(connection, SignedCheckpoint.sign(tree, key), before)

    run(all_of_them())


def unlock(database: Database) -> None:
    """Let nothing stand in the way, as a superuser can: no trigger and no constraint."""
    for table in tables(database):
        database.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    for (name,) in database.fetch(
        "SELECT conname FROM pg_constraint"
        " WHERE contype IN ('c', 'p') AND conrelid = 'ledger.events'::regclass"
    ):
        database.execute(f"ALTER TABLE ledger.events DROP CONSTRAINT {name}")


def tables(database: Database) -> list[str]:
    """Whatever verify reads."""
    rows = database.fetch(
        "SELECT schemaname || '.' || tablename FROM pg_tables"
        " WHERE schemaname = 'ledger' OR tablename = 'host_credentials' ORDER BY 1"
    )
    return [table for (table,) in rows]


class Copies:
    """What every table holds, to be put back after each test."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._names = {table: table.replace(".", "_") for table in tables(database)}
        database.execute("CREATE SCHEMA copies")
        for table, copy in self._names.items():
            database.execute(f"CREATE TABLE copies.{copy} AS TABLE {table}")

    def put_back(self) -> None:
        """Make every table what it was."""
        with self._database.owner() as connection, connection.transaction():
            connection.execute(f"TRUNCATE {', '.join(self._names)} CASCADE")
            # KEKs before data keys, which name them.
            for table, copy in sorted(self._names.items(), key=lambda n: "data_keys" in n[0]):
                connection.execute(f"INSERT INTO {table} TABLE copies.{copy}")
