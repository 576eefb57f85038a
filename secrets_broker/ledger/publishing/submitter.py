"""Submits each newly published checkpoint to every witness, beside the writer.

One process of all does so at a time, on a connection of its own, so that nothing waits for a
witness. Each witness has a task: one submission at a time, always of the newest checkpoint, so
that a slow witness skips those between and holds nobody up.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import structlog
from psycopg import AsyncConnection

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.errors import BusyError
from secrets_broker.ledger.publishing.cosigning import (
    WitnessDisagreesError,
    WitnessError,
    cosign,
    last_cosigned,
    published_checkpoint,
)
from secrets_broker.ledger.publishing.witness_client import Witness
from secrets_broker.ledger.rollback_detection.halt import Halt
from secrets_broker.ledger.scheduling.advisory_lock import take_advisory_lock
from secrets_broker.ledger.scheduling.background import BackgroundTask
from secrets_broker.session import safe_message

_log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 5.0  # for the database, or for the process that submits to end
MAX_DOUBLINGS: Final = 8  # of the pause between attempts that fail: up to four minutes
TOOL: Final = "witness submission"


class Submitter:
    """A task of the event loop; without witnesses there is none."""

    def __init__(
        self, database_url: str, witnesses: Sequence[Witness], halt: Halt | None = None
    ) -> None:
        self._database_url = database_url
        self._witnesses = witnesses
        self._halt = halt or Halt()
        self._task = BackgroundTask("submitter", self._run)

    async def start(self) -> None:
        """Begin."""
        if self._witnesses:
            self._task.start()

    async def close(self) -> None:
        """Stop; a request that is under way is left to end by itself."""
        await self._task.close()

    async def _run(self) -> None:
        told: str | None = None
        while not self._halt.is_stopped:
            why = await self._session()
            if why not in (None, told):
                _log.warning("witnesses_not_served", why=why)
            told = why
            await asyncio.sleep(RETRY_SECONDS)

    async def _session(self) -> str | None:
        """Work until the connection is lost; say why, or None where another process works."""
        try:
            connection = await connect(self._database_url)
            try:
                await take_advisory_lock(connection, TOOL)
                async with asyncio.TaskGroup() as group:
                    for witness in self._witnesses:
                        group.create_task(_follow(connection, witness, self._halt))
            finally:
                await connection.close()
        except BusyError:
            return None
        except ExceptionGroup as group:
            return ", ".join(sorted({safe_message(error) for error in group.exceptions}))
        except Exception as error:  # whatever it is must not end the submissions unheard
            return safe_message(error)
        return None


async def submit_newest(connection: AsyncConnection[Any], witness: Witness) -> int | None:
    """Have the published checkpoint cosigned, if it is not yet: its size, or None.

    Raises WitnessError.
    """
    signed = await published_checkpoint(connection)
    if signed is None:
        return None
    size = signed.checkpoint.size
    if await last_cosigned(connection, witness, signed) == size:
        return None
    await cosign(connection, witness, signed)
    return size


async def _follow(connection: AsyncConnection[Any], witness: Witness, halt: Halt) -> None:
    failures = 0
    while True:
        halt.check()  # a ledger that is not what it was is put before nobody
        failures = await _attempt(connection, witness, failures)
        await asyncio.sleep(POLL_SECONDS * 2 ** min(failures, MAX_DOUBLINGS))


async def _attempt(connection: AsyncConnection[Any], witness: Witness, failures: int) -> int:
    """Submit once; how many attempts have failed in a row."""
    name = witness.key.name
    try:
        size = await submit_newest(connection, witness)
    except WitnessDisagreesError as error:
        _log.error("witness_disagrees", witness=name, why=str(error))
        return failures + 1
    except WitnessError as error:
        _log.warning("witness_failed", witness=name, why=str(error))
        return failures + 1
    if size is not None and failures:
        _log.info("witness_cosigns_again", witness=name, size=size)
    return 0
