"""What is published: in the database's own words, so that no process can publish otherwise."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.checkpoint_store import (
    keep_cosignature,
    publish,
    read_published,
)
from secrets_broker.ledger.transparency_log.merkle import leaf_hash
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, Signature, SigningKey
from secrets_broker.ledger.transparency_log.proof import ProofError
from secrets_broker.ledger.transparency_log.stored_entries import read_rows
from secrets_broker.ledger.transparency_log.stored_hashes import root_at
from tests.conftest import Database
from tests.ledger.helpers import lookup, record, run, upsert

KEY = SigningKey("log.example", bytes(range(32)))
EARLIER = SigningKey("log.example", bytes(32))
WITNESS = SigningKey("witness.example", bytes(32), COSIGNATURE)


def signed(size: int, origin: str = KEY.name) -> SignedCheckpoint:
    """A checkpoint of that size; the database does not look at roots."""
    return SignedCheckpoint.sign(Checkpoint(origin, size, bytes(32)), KEY)


@pytest.fixture
def events(database: Database, keyring: Keyring) -> Database:
    """A ledger of five events."""
    record(database, keyring, upsert("a"), *[lookup("a")] * 3)
    return database


async def _try(url: str, *steps: tuple[SignedCheckpoint, tuple[str | None, int]]) -> list[bool]:
    async with await connect(url) as connection:
        return [await publish(connection, one, before) for one, before in steps]


def test_one_of_two_publishes(events: Database) -> None:
    """Compare-and-swap: who comes second finds that the published one is elsewhere."""

    async def both() -> list[bool]:
        moves = (_try(events.service_url, (signed(5), (None, 0))) for _ in range(2))
        return [moved for (moved,) in await asyncio.gather(*moves)]

    assert sorted(run(both())) == [False, True]
    assert events.fetch("SELECT origin, size FROM ledger.published") == [("log.example", 5)]
    assert events.fetch("SELECT size, note FROM ledger.checkpoints") == [(5, str(signed(5)))]


def test_what_lost_is_not_kept(events: Database) -> None:
    """A checkpoint that was not published is in no table."""
    done = run(_try(events.service_url, (signed(3), (None, 0)), (signed(4), (None, 0))))
    assert done == [True, False]
    assert events.fetch("SELECT size FROM ledger.checkpoints") == [(3,)]


@pytest.mark.parametrize("size", [2, 3, 6])
def test_it_never_goes_back_nor_ahead_of_the_ledger(events: Database, size: int) -> None:
    """Not smaller, not the same again, and not more than is committed; not for the owner either."""
    run(_try(events.service_url, (signed(3), (None, 0))))
    for url in (events.service_url, events.owner_url):
        with pytest.raises(psycopg.Error):
            run(_try(url, (signed(size), ("log.example", 3))))
    assert events.fetch("SELECT size FROM ledger.published") == [(3,)]


def test_another_origin_needs_its_event(events: Database) -> None:
    """A log does not change its name by itself."""
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=r"ledger\.restored"):
        run(_try(events.service_url, (signed(3), (None, 0)), (signed(5, "b"), ("log.example", 3))))


@pytest.mark.parametrize("table", ["checkpoints", "cosignatures"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET size = 1", "TRUNCATE {}"])
def test_what_was_published_is_kept(events: Database, table: str, change: str) -> None:
    """Neither the service nor the owner takes a checkpoint or a cosignature back."""
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="append-only"):
        events.execute(change.format(f"ledger.{table}"))
    with (
        psycopg.connect(events.service_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(change.format(f"ledger.{table}"))


async def _read(url: str) -> Any:
    async with await connect(url) as connection:
        return await read_published(connection)


def test_before_the_first_checkpoint_there_is_none(events: Database) -> None:
    """And the place to move it from says so."""
    found = run(_read(events.service_url))
    assert (found.checkpoint, found.place, found.size) == (None, (None, 0), 5)
    assert not found.in_recovery


def test_cosignatures_come_with_the_checkpoint(events: Database) -> None:
    """Behind the log's own signature, each once."""
    line = WITNESS.cosign(signed(5).checkpoint.text, 1_700_000_000)

    async def keep() -> None:
        async with await connect(events.service_url) as connection:
            await publish(connection, signed(5), (None, 0))
            for _ in range(2):
                await keep_cosignature(connection, signed(5).checkpoint, line)

    run(keep())
    found = run(_read(events.service_url)).checkpoint
    assert found is not None
    assert str(found) == f"{signed(5)}{line}"
    assert found.note.verified_by([KEY.verifier, WITNESS.verifier]) == [
        KEY.verifier,
        WITNESS.verifier,
    ]


BAD_LINES = (
    "",
    "rubbish",
    "\n",
    "\n\n",
    "— w",
    "— w AAAA\n",
    "— w !!!!!!!!\n",
    "— witness.example " + "A" * 5_000 + "\n",
    "x" * 100_000,
    "log.example\n9\nAAAA\n\n— log.example AAAAAAAA\n",
    "\u2028\x01\u202e",
    str(Signature(KEY.name, EARLIER.verifier.key_id, bytes(64))),
)


@pytest.mark.parametrize("before", [True, False], ids=["before it", "behind it"])
@pytest.mark.parametrize("bad", [*BAD_LINES, BAD_LINES], ids=lambda it: repr(it)[:20])
def test_a_row_that_is_no_cosignature_is_left_out(
    events: Database, bad: str | tuple[str, ...], *, before: bool
) -> None:
    """Whoever has the service's login can add such rows: the checkpoint and the others stay."""
    line = WITNESS.cosign(signed(5).checkpoint.text, 1_700_000_000)
    rows = [bad] if isinstance(bad, str) else list(bad)

    async def keep() -> None:
        async with await connect(events.service_url) as connection:
            await publish(connection, signed(5), (None, 0))
            await keep_cosignature(connection, signed(5).checkpoint, line)
            for number, each in enumerate(rows):
                await connection.execute(
                    "INSERT INTO ledger.cosignatures VALUES ('log.example', 5, %s, %s, %s, %s)",
                    (f"w{number}", bytes(4), each, "-infinity" if before else "infinity"),
                )

    run(keep())
    found = run(_read(events.service_url))
    keys = [KEY.verifier, EARLIER.verifier, WITNESS.verifier]
    assert found.checkpoint.note.verified_by(keys) == [KEY.verifier, WITNESS.verifier]
    assert found.checkpoint.checkpoint == signed(5).checkpoint
    assert SignedCheckpoint.parse(str(found.checkpoint)) == found.checkpoint


def test_more_rows_than_a_note_holds(events: Database) -> None:
    """The note is never longer than its readers take."""

    async def keep() -> None:
        async with await connect(events.service_url) as connection:
            await publish(connection, signed(5), (None, 0))
            for number in range(200):
                key = SigningKey(f"w{number}", bytes([number]) * 32, COSIGNATURE)
                await keep_cosignature(
                    connection, signed(5).checkpoint, key.cosign(signed(5).checkpoint.text, 1)
                )

    run(keep())
    found = run(_read(events.service_url)).checkpoint
    assert SignedCheckpoint.parse(str(found)) == found
    found.verify([KEY.verifier])


def test_entries_are_made_from_the_rows(events: Database) -> None:
    """Their leaf hashes are those that were stored when they were made."""

    async def read() -> Any:
        async with await connect(events.service_url) as connection:
            return await read_rows(connection, 1, 3), await root_at(connection, 4)

    rows, _ = run(read())
    assert [row.position for row in rows] == [1, 2, 3]
    assert all(leaf_hash(row.entry) == row.leaf for row in rows)


def test_there_is_no_root_beyond_the_ledger(events: Database) -> None:
    """A size that it never had."""

    async def ask(connection: "AsyncConnection[Any]") -> None:
        await root_at(connection, 6)

    async def read() -> None:
        async with await connect(events.service_url) as connection:
            await ask(connection)

    with pytest.raises(ProofError):
        run(read())
