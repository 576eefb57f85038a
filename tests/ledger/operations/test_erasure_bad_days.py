"""Bad days of an erasure: each name is wholly there or wholly gone, and the next run goes on."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.operations.erasure import Erased, erase, recorded
from secrets_broker.tools.postgres import Cluster
from tests.conftest import TEMPLATE, Database, fresh_database, migrated_cluster
from tests.ledger.helpers import (
    CONTEXT,
    delete,
    login_of,
    lookup,
    rebuilt,
    record,
    run,
    send,
    upsert,
    writing,
)
from tests.ledger.tree_checks import check_leaves, check_nodes
from tests.projections.keys import OPERATOR, readable, rekeyed
from tests.repository import ROOT
from tests.tools.command_line import settings

HOSTS = [f"h{number:03}" for number in range(150)]
NAMES: list[Name] = [(host, "ssh") for host in HOSTS]
ERASED = "SELECT host FROM ledger.events WHERE type = 'credential.erased' ORDER BY position"


@pytest.fixture
def own_cluster(bin_dir: Path | None) -> Iterator[Cluster]:
    """A PostgreSQL that a test may stop."""
    with migrated_cluster(bin_dir) as running:
        yield running


def fill(database: Database, keyring: Keyring) -> None:
    """Two lives of each name, with their own passwords."""
    commands = [c for h in HOSTS for c in (upsert(h, f"{h}1"), delete(h), upsert(h, f"{h}2"))]
    record(database, keyring, *commands)


def erased_hosts(database: Database) -> list[str]:
    """Those that the ledger says are erased."""
    return [host for (host,) in database.fetch(ERASED)]


def check(database: Database, keyring: Keyring) -> None:
    """What the ledger says is erased is gone, and everything else is readable."""
    there = [host for host in HOSTS if host not in erased_hosts(database)]
    expected = {(host, f"{host}{life}") for host in there for life in (1, 2)}
    assert readable(database, keyring) == expected
    assert rebuilt(database, keyring, check_only=True).differences == ()
    check_leaves(database)
    check_nodes(database)


def test_kill_9_in_the_middle(database: Database, keyring: Keyring, tmp_path: Path) -> None:
    """A killed run leaves whole names; the next one takes the rest, and completes the list."""
    fill(database, keyring)
    path = tmp_path / "erasures"
    path.touch()
    command = ["erase", "h*", "*", "--reason", "GDPR-1", "--yes"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SECRETS_ERASURES": str(path)}

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "secrets_broker", *command],
            cwd=tmp_path,
            env=env | settings(database),
            stdout=subprocess.DEVNULL,
        )

    with start() as killed:
        while not (done := erased_hosts(database)):
            assert killed.poll() is None
        killed.kill()
    assert done
    assert len(erased_hosts(database)) < len(HOSTS)
    check(database, keyring)
    with start() as second:
        assert second.wait(60) == 0
    assert erased_hosts(database) == HOSTS
    check(database, keyring)
    listed = [json.loads(line)["data_key"] for line in path.read_bytes().splitlines()]
    assert sorted(listed) == sorted(line.data_key for line in run(recorded(database.owner_url)))
    assert len(listed) == len(set(listed)) == 2 * len(HOSTS)


async def take(database: Database, keyring: Keyring) -> list[Erased | None]:
    """Erase all names."""
    return [r async for r in erase(login_of(database.owner_url, keyring), OPERATOR, NAMES)]


def test_two_at_once(database: Database, keyring: Keyring) -> None:
    """Each name is erased by one of the two, and recorded once."""
    fill(database, keyring)

    async def both() -> list[tuple[Erased | None, Erased | None]]:
        first, second = await asyncio.gather(take(database, keyring), take(database, keyring))
        return list(zip(first, second, strict=True))

    for results in run(both()):
        assert results.count(None) == 1
    assert sorted(erased_hosts(database)) == HOSTS
    check(database, keyring)


def test_the_database_is_restarted(own_cluster: Cluster, keyring: Keyring) -> None:
    """The run ends with an error; what it has done stays, and the next run does the rest."""

    async def until_it_breaks(database: Database) -> None:
        done = 0
        async for _ in erase(login_of(database.owner_url, keyring), OPERATOR, NAMES):
            done += 1
            if done == 20:
                own_cluster.stop()
                own_cluster.start()

    with fresh_database(own_cluster, TEMPLATE) as database:
        fill(database, keyring)
        with pytest.raises(LedgerError):
            run(until_it_breaks(database))
        assert len(erased_hosts(database)) == 20
        check(database, keyring)
        assert run(take(database, keyring))[:20] == [None] * 20
        check(database, keyring)
        assert readable(database, keyring) == set()


def test_while_a_service_serves(database: Database, keyring: Keyring) -> None:
    """Upserts, lookups and rekeys go on meanwhile; whatever is live at the end is whole."""
    fill(database, keyring)

    async def serve() -> None:
        async with writing(database.service_url, keyring) as writer:
            erasing = asyncio.create_task(take(database, keyring))
            while not erasing.done():
                some = HOSTS[::10]
                await send(writer, *map(upsert, some), *map(lookup, some))
            await erasing
            for outcome in await send(writer, *map(upsert, HOSTS), context=CONTEXT):
                assert outcome.error is None
            for outcome in await send(writer, *map(lookup, HOSTS)):
                assert outcome.content is not None

    run(serve())
    assert rekeyed(database, keyring).failures == ()
    assert rebuilt(database, keyring, check_only=True).differences == ()
    assert {password for _, password in readable(database, keyring)} == {"hunter2"}
    check_leaves(database)
    check_nodes(database)
