"""An import that is run again, killed, or run twice at once: everything once, nothing reverted."""

import asyncio
import time
from pathlib import Path

from secrets_broker.ledger.commands import Delete, ImportAccess, Upsert
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Fold
from secrets_broker.ledger.store import Store
from secrets_broker.ledger.transparency_log.frontier import load_tree_state
from secrets_broker.projections.host_credentials import HostCredentials
from secrets_broker.tools.import_legacy import ImportReport, import_legacy
from tests.tools.import_legacy.earlier import Earlier, sealed
from tests.tools.import_legacy.helpers import (
    environment,
    imported,
    password,
    run,
    start,
    submit,
    times_imported,
)
from tests.waiting import until

MANY_CREDENTIALS = 700
MANY_LINES = 4_000
EVERYTHING = {("credential.imported", n) for n in range(1, MANY_CREDENTIALS + 1)} | {
    ("access.imported", n) for n in range(1, MANY_LINES + 1)
}


def _fill(earlier: Earlier) -> None:
    earlier.database.execute(
        "INSERT INTO secrets.legacy_host_credentials (host, purpose, password_encrypted)"
        " SELECT 'host ' || n, 'ssh', %s FROM generate_series(1, %s) AS n",
        sealed("the same everywhere"),
        MANY_CREDENTIALS,
    )
    earlier.database.execute(
        "INSERT INTO secrets.legacy_credential_access_log"
        " (credential_id, host, purpose, access_type)"
        " SELECT 1 + n %% %s, 'host ' || 1 + n %% %s, 'ssh', 'read'"
        " FROM generate_series(1, %s) AS n",
        MANY_CREDENTIALS,
        MANY_CREDENTIALS,
        MANY_LINES,
    )


def test_changed_here_since(earlier: Earlier, keyring: Keyring) -> None:
    """A credential that was changed here after its import is not set back by another one."""
    earlier.credential("changed", "old")
    imported(earlier.database, keyring)
    submit(earlier.database, keyring, Upsert(host="changed", purpose="ssh", password="new"))
    assert imported(earlier.database, keyring).failures == ()
    assert password(earlier.database, keyring, "changed") == "new"


def test_deleted_here_since(earlier: Earlier, keyring: Keyring) -> None:
    """A credential that was deleted here after its import does not come back."""
    earlier.credential("deleted", "old")
    imported(earlier.database, keyring)
    submit(earlier.database, keyring, Delete(host="deleted", purpose="ssh"))
    assert imported(earlier.database, keyring).failures == ()
    assert password(earlier.database, keyring, "deleted") is None


def test_new_lines_since(earlier: Earlier, keyring: Keyring) -> None:
    """What came into the old tables after an import is imported by the next one."""
    earlier.access("a")
    imported(earlier.database, keyring)
    earlier.access("b")
    tally = imported(earlier.database, keyring).access_lines
    assert (tally.imported, tally.already_imported) == (1, 1)


def test_killed_in_the_middle(earlier: Earlier, keyring: Keyring, tmp_path: Path) -> None:
    """After a kill -9 at any moment the next import goes on: everything is there exactly once."""
    _fill(earlier)
    counts = []
    for enough in (300, 1_800):
        with start(environment(earlier.database), tmp_path) as process:
            while _count(earlier) < enough and process.poll() is None:
                time.sleep(0.002)
            process.kill()
        counts.append(_count(earlier))
    assert 0 < counts[0] < counts[1] < len(EVERYTHING)
    report = imported(earlier.database, keyring)
    assert report.failures == ()
    assert times_imported(earlier.database) == dict.fromkeys(EVERYTHING, 1)


def _count(earlier: Earlier) -> int:
    count: int = earlier.database.fetch("SELECT count(*) FROM ledger.events")[0][0]
    return count


def test_killed_while_committing(earlier: Earlier, keyring: Keyring) -> None:
    """What a killed import had handed over, and PostgreSQL commits only then, is waited for."""
    earlier.access("a")
    imported(earlier.database, keyring)
    earlier.access("a")
    urls = earlier.database.owner_url, earlier.database.service_url
    second = ImportAccess(
        host="a",
        purpose="ssh",
        ok=True,
        credential_id=None,
        occurred_at=None,
        details={"legacy_id": 2, "access_type": "read"},
    )

    async def late_commit() -> ImportReport:
        store = await Store.connect(earlier.database.service_url, HostCredentials(), keyring)
        fold = Fold(
            await store.read([("a", "ssh")], await load_tree_state(store.connection)), keyring
        )
        fold.take(second, Context(actor=None, authn="none"))
        importing = asyncio.create_task(import_legacy(*urls, keyring))
        await asyncio.to_thread(_until_somebody_waits, earlier)
        await store.append(fold)
        await store.close()
        return await importing

    report = run(late_commit())
    assert (report.access_lines.imported, report.access_lines.already_imported) == (0, 2)


def _until_somebody_waits(earlier: Earlier) -> None:
    query = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    until(lambda: earlier.database.fetch(query), "the import does not wait for the ledger's lock")


def test_two_at_once(earlier: Earlier, keyring: Keyring) -> None:
    """Of two imports at once the second waits for the first, and finds everything there."""
    _fill(earlier)
    urls = earlier.database.owner_url, earlier.database.service_url

    async def both() -> list[ImportReport]:
        return await asyncio.gather(*(import_legacy(*urls, keyring) for _ in range(2)))

    reports = run(both())
    assert sorted(report.access_lines.imported for report in reports) == [0, MANY_LINES]
    assert times_imported(earlier.database) == dict.fromkeys(EVERYTHING, 1)
