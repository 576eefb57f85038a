"""What a process knows is only what is durable: a failover that loses nothing stops nobody."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import LedgerMismatchError
from secrets_broker.ledger.publishing.checkpointer import Checkpointer
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.continuity import Continuity
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials
from tests.ledger.checkpoints import KEY
from tests.ledger.helpers import BEGUN, CONTEXT, lookup, run, send, upsert
from tests.ledger.standby import Pair, standing_by

SYNC_REP = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@pytest.fixture
def pair(bin_dir: Path | None) -> Iterator[Pair]:
    """A primary that runs, and a standby that is made of it."""
    with standing_by(bin_dir) as made:
        yield made


def known(path: Path) -> Continuity:
    """What a service with that file goes on from."""
    return Continuity((KEY.verifier,), CheckpointFile(path), KEY.name)


def kept(path: Path) -> Checkpoint:
    """What is in the file."""
    signed = CheckpointFile(path).read()
    assert signed is not None
    return signed.checkpoint


async def until(pair: Pair, query: str) -> None:
    """Wait, while other tasks go on."""
    await asyncio.to_thread(pair.until, query)


async def lose(pair: Pair, writer: Writer) -> None:
    """Have events wait for the standby that is cut off, then become visible all the same."""
    pair.standby.stop()
    waiting = asyncio.gather(
        *(writer.submit(lookup("a"), CONTEXT) for _ in range(5)), return_exceptions=True
    )
    await until(pair, SYNC_REP)
    pair.primary.kill()
    pair.primary.start()
    assert all(isinstance(outcome, Exception) for outcome in await waiting)
    ((size,),) = pair.primary.fetch("SELECT count(*) FROM ledger.events")
    assert size == BEGUN + 8


async def checkpoints_are_tried(pair: Pair, path: Path) -> None:
    """A checkpointer works, and twice its wait for the standby is cancelled."""
    checkpointer = Checkpointer(pair.url, KEY, 0.05, known(path))
    await checkpointer.start()
    for _ in range(2):
        await until(pair, SYNC_REP)
        pair.primary.execute(CANCEL)
    await until(pair, SYNC_REP)
    await checkpointer.close()


def test_what_waits_for_a_standby_is_not_signed(
    pair: Pair, keyring: Keyring, tmp_path: Path
) -> None:
    """Visible after a crash is not durable: after a failover without a loss, all goes on."""
    path = tmp_path / "checkpoint"

    async def work() -> None:
        pair.follow(synchronous=True)
        writer = Writer(pair.url, keyring, HostCredentials(), continuity=known(path))
        await writer.start()
        await send(writer, upsert("a"), lookup("a"), lookup("a"))
        checkpointer = Checkpointer(pair.url, KEY, 3_600, known(path))
        await checkpointer.start()
        await checkpointer.close()
        assert kept(path).size == BEGUN + 3
        await lose(pair, writer)
        await writer.probe()  # it has seen them: that is no promise either
        await checkpoints_are_tried(pair, path)
        assert kept(path).size == BEGUN + 3
        assert pair.primary.fetch("SELECT size FROM ledger.published") == [(BEGUN + 3,)]
        pair.fail_over()
        await send(writer, lookup("a"))  # its connection was to the one that is gone
        await writer.close()
        again = Writer(pair.url, keyring, HostCredentials(), continuity=known(path))
        await again.start()
        await send(again, lookup("a"))
        await again.close()

    run(work())
    assert pair.standby.fetch("SELECT count(*) FROM ledger.events") == [(BEGUN + 3 + 2,)]


def test_a_loss_is_remembered(pair: Pair, keyring: Keyring, tmp_path: Path) -> None:
    """A standby that was behind by less than a checkpoint: stopped, and stopped when started."""
    path = tmp_path / "checkpoint"

    async def work() -> None:
        pair.follow(synchronous=False)
        writer = Writer(pair.url, keyring, HostCredentials(), continuity=known(path))
        await writer.start()
        await send(writer, upsert("a"), lookup("a"))
        pair.until(
            "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()"
        )
        pair.standby.stop()
        await send(writer, lookup("a"))
        await writer.close()  # it never sees the other one, and no checkpoint was made
        pair.fail_over()
        again = Writer(pair.url, keyring, HostCredentials(), continuity=known(path))
        missing = f"has {BEGUN + 2} events, and {BEGUN + 3} were acknowledged"
        with pytest.raises(LedgerMismatchError, match=missing):
            await again.start()
        await again.close()

    run(work())
    for _ in range(2):
        with pytest.raises(LedgerMismatchError, match="secrets-broker restored"):
            run(_start(pair, keyring, path))
    assert pair.standby.fetch("SELECT count(*) FROM ledger.events") == [(BEGUN + 2,)]


async def _start(pair: Pair, keyring: Keyring, path: Path) -> None:
    writer = Writer(pair.url, keyring, HostCredentials(), continuity=known(path))
    try:
        await writer.start()
    finally:
        await writer.close()
