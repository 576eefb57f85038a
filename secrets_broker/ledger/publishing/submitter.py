"""Submits each newly published checkpoint to every witness, beside the writer.

Only one process does so at a time, on its own connection, so nothing waits for a witness. Each
witness has its own task, which submits one checkpoint at a time and always the newest. So a slow
witness skips checkpoints and delays nobody.
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
RETRY_SECONDS: Final = 5.0  # until the database answers, or the submitting process has ended
MAX_DOUBLINGS: Final = 8  # of the pause between failed attempts: up to four minutes
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
        """Stop; a request under way ends by itself."""
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
        """Work until the connection is lost; return why, or None if another process works."""
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
        except Exception as error:  # no error may end the submissions unnoticed
            return safe_message(error)
        return None


async def submit_newest(connection: AsyncConnection[Any], witness: Witness) -> int | None:
    """Have the published checkpoint cosigned; return its size, or None if it was already.

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
        halt.check()  # a ledger that does not match is submitted to nobody
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
