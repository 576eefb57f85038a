"""Batches on bad days: all of it is on record or nothing, and nobody is told otherwise."""

import asyncio

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import InvalidCommandError, OutcomeUnknownError
from secrets_broker.ledger.writer import MAX_BATCH, Writer
from tests.conftest import Database
from tests.ledger.helpers import CONTEXT, lookup, password_of, run, upsert, writing
from tests.ledger.interruptions import as_usual, at_commit, count, terminate, until_it_waits

HOSTS = [f"host-{number}" for number in range(20)]


async def _stored(writer: Writer) -> list[str]:
    results = await writer.submit_all([upsert(host, f"pw {host}") for host in HOSTS], CONTEXT)
    assert not any(isinstance(result, InvalidCommandError) for result in results)
    return [host for host, _ in zip(HOSTS, results, strict=True)]


async def _found(writer: Writer) -> list[str | None]:
    results = await writer.submit_all([lookup(host) for host in HOSTS], CONTEXT)
    return [
        None if isinstance(result, InvalidCommandError) or result.error else password_of(result)
        for result in results
    ]


def test_died_before_the_commit(database: Database, keyring: Keyring) -> None:
    """The outcome is unknown, and nothing of the batch is on record."""
    at_commit(database, "PERFORM pg_sleep(5)")

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            task = asyncio.create_task(_stored(writer))
            await until_it_waits(database, "PgSleep")
            terminate(database)
            with pytest.raises(OutcomeUnknownError):
                await task
            as_usual(database)
            assert await _found(writer) == [None] * len(HOSTS)

    run(through_it())
    assert count(database) == len(HOSTS)


def test_died_after_the_commit(database: Database, keyring: Keyring) -> None:
    """The outcome is unknown, nothing is released, and all of the batch is on record."""

    async def through_it() -> None:
        async with writing(database.service_url, keyring) as writer:
            await _stored(writer)
            at_commit(database, "RAISE WARNING 'not certain'")
            with pytest.raises(OutcomeUnknownError):
                await _found(writer)
            as_usual(database)
            assert await _found(writer) == [f"pw {host}" for host in HOSTS]

    run(through_it())
    assert count(database) == 3 * len(HOSTS)


def test_one_that_the_database_refuses_does_not_disturb_the_others(
    database: Database, keyring: Keyring
) -> None:
    """The batch is taken apart then: every other command is recorded, in order."""
    database.execute(
        "ALTER TABLE ledger.events ADD CONSTRAINT not_this_one CHECK (host <> 'host-7')"
    )

    async def through_it() -> list[bool]:
        async with writing(database.service_url, keyring) as writer:
            commands = [upsert(host) for host in HOSTS]
            results = await writer.submit_all(commands, CONTEXT)
            return [isinstance(result, InvalidCommandError) for result in results]

    assert run(through_it()) == [host == "host-7" for host in HOSTS]
    hosts = database.fetch(
        "SELECT host FROM ledger.events WHERE host IS NOT NULL ORDER BY position"
    )
    assert [host for (host,) in hosts] == [host for host in HOSTS if host != "host-7"]


def test_batches_of_several_callers_do_not_mix(database: Database, keyring: Keyring) -> None:
    """Each has its own results, and its events one after another, however they came together."""

    async def through_it() -> list[list[int]]:
        async with writing(database.service_url, keyring) as writer:
            sizes = (MAX_BATCH, 1, 300, 300, 2)
            batches = [
                writer.submit_all([lookup(f"{number}") for _ in range(size)], CONTEXT)
                for number, size in enumerate(sizes)
            ]
            results = await asyncio.gather(*batches)
            assert [len(each) for each in results] == list(sizes)
            return [[each.position for each in batch] for batch in results]  # type: ignore[union-attr]

    for number, positions in enumerate(run(through_it())):
        assert positions == list(range(positions[0], positions[0] + len(positions)))
        hosts = database.fetch(
            "SELECT DISTINCT host FROM ledger.events WHERE position BETWEEN %s AND %s",
            positions[0],
            positions[-1],
        )
        assert hosts == [(f"{number}",)]
