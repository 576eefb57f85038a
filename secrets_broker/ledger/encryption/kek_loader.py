"""Fetches KEKs from a KMS beside the writer, so that no lookup waits for a KMS."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from secrets_broker.ledger.database.ledger_session import connect
from secrets_broker.ledger.encryption.keks import check_keys
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.encryption.kms.provider import Provider
from secrets_broker.ledger.scheduling.background import BackgroundTask
from secrets_broker.session import with_grant

_log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = 2.0
# A start waits that long for its KMS, then continues unready: gunicorn kills a worker that does
# not answer for 30 s.
START_SECONDS: Final = 20.0


class KekLoader:
    """Adds new KEKs of a rotation to a keyring; one task of the event loop."""

    def __init__(self, database_url: str, keyring: Keyring, providers: Sequence[Provider]) -> None:
        self._database_url = database_url
        self._keyring = keyring
        self._providers = providers
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()
        self._task = BackgroundTask("kek-loader", self._run)
        self.failure: str | None = None
        """Why the last attempt failed; None if it did not."""

    async def start(self) -> None:
        """Begin, and wait for the first attempt."""
        self._wanted.set()
        self._task.start()
        try:
            await asyncio.wait_for(self._tried.wait(), START_SECONDS)
        except TimeoutError:
            self.failure = "the KMS has not answered yet"

    async def close(self) -> None:
        """Stop."""
        await self._task.close()

    def see(self, kek_ids: Iterable[str]) -> None:
        """Fetch in the background if the keyring lacks one of these KEKs."""
        if any(self._keyring.get(kek_id) is None for kek_id in kek_ids):
            self._wanted.set()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self.failure = await self._try()
            self._tried.set()
            if self.failure:
                _log.error("kek_not_loaded", why=self.failure)
                await asyncio.sleep(RETRY_SECONDS)
                self._wanted.set()

    async def _try(self) -> str | None:
        try:
            connection = await connect(self._database_url)
            try:
                await check_keys(connection, self._keyring, self._providers)
            finally:
                await connection.close()
        except Exception as error:  # an unforeseen error must not end the attempts
            return with_grant(error)
        return None
