"""Steps that the import's tests share."""

import asyncio
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from secrets_broker.ledger.commands import Command, Lookup
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Outcome
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.tools.import_legacy import ImportReport, import_legacy
from tests.conftest import KMS_KEY, Database

REPOSITORY = Path(__file__).parents[3]
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end on an event loop of its own."""
    return asyncio.run(coroutine)


def imported(database: Database, keyring: Keyring) -> ImportReport:
    """Import into the database that the tables are in."""
    return run(import_legacy(database.owner_url, database.service_url, keyring))


def submit(database: Database, keyring: Keyring, *commands: Command) -> list[Outcome]:
    """Send commands as the service does."""

    async def send() -> list[Outcome]:
        writer = Writer(database.service_url, keyring, HostCredentials())
        await writer.start()
        try:
            context = Context(actor="test", authn="internal_key")
            return [await writer.submit(command, context) for command in commands]
        finally:
            await writer.close()

    return run(send())


def password(database: Database, keyring: Keyring, host: str) -> str | None:
    """What a lookup discloses."""
    (outcome,) = submit(database, keyring, Lookup(host=host, purpose="ssh"))
    return outcome.content.password if outcome.content else None


def times_imported(database: Database) -> dict[tuple[str, int], int]:
    """How often each legacy id was imported, by the event's type."""
    rows = database.fetch(
        "SELECT type, (details ->> 'legacy_id')::bigint, count(*) FROM ledger.events"
        " WHERE type LIKE '%imported' AND (ok OR type = 'access.imported') GROUP BY 1, 2"
    )
    return {(kind, legacy_id): count for kind, legacy_id, count in rows}


def environment(database: Database) -> dict[str, str]:
    """The settings of the command."""
    return {
        "PYTHONPATH": str(REPOSITORY),
        "SECRETS_KMS_KEY": KMS_KEY,
        "DATABASE_URL": database.service_url,
        "MIGRATION_DATABASE_URL": database.owner_url,
    }


def start(env: dict[str, str], cwd: Path, *options: str) -> subprocess.Popen[str]:
    """The command, as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "secrets_broker", "import-legacy", *options],
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    with process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err
