"""SecretsManager: the ledger for a Python program, without HTTP.

It has the rules, the write path and the guarantees of the HTTP API: a method returns a secret only
once the record of its disclosure is durable. A separate thread runs the writer. Any number of
threads can call, and their commands are committed together.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from secrets_broker.ledger.access.shared_key import key_warning, require_fit
from secrets_broker.ledger.commands import Command, Delete, Lookup, Upsert, parse, parse_at
from secrets_broker.ledger.content import disclosed
from secrets_broker.ledger.credential import DECRYPT_FAILED, EXPIRED, NOT_FOUND
from secrets_broker.ledger.encoding import label_problem, name_problem
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import (
    CredentialUndisclosableError,
    FieldError,
    InvalidCommandError,
)
from secrets_broker.ledger.events import MAX_NAME, MAX_REASON, Context
from secrets_broker.ledger.fold import Outcome
from secrets_broker.ledger.writer import Writer
from secrets_broker.projections.host_credentials import HostCredentials

T = TypeVar("T")

_log = logging.getLogger(__name__)  # the standard library's, which the caller configures


class SecretsManager:
    """Stores, discloses and deletes credentials; safe to share between threads.

    Make it after a fork, not before. Raises LedgerUnavailableError if the database does not answer,
    WrongKeyError if the key is not this ledger's, and UnfitKeyError, a ValueError, if the key is
    too short, has white space around it, or is not printable ASCII. During a rotation it needs the
    old keys too, in `previous_kms_keys`; these may be any text. It logs a warning about a key that
    looks guessable.
    """

    def __init__(
        self,
        kms_key: str | None,
        database_url: str | None,
        *,
        previous_kms_keys: Sequence[str] = (),
    ) -> None:
        if not kms_key:
            raise ValueError("SECRETS_KMS_KEY not set")
        if not database_url:
            raise ValueError("DATABASE_URL not set")
        require_fit("SECRETS_KMS_KEY", kms_key)
        if warning := key_warning(kms_key):
            _log.warning("SECRETS_KMS_KEY %s, and may be found by trying", warning)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="secrets-manager", daemon=True
        )
        self._thread.start()
        keyring = Keyring.from_kms_keys(kms_key, *previous_kms_keys)
        self._writer = Writer(database_url, keyring, HostCredentials())
        try:
            self._run(self._writer.start())
        except BaseException:
            self.close()
            raise

    def upsert_credential(
        self,
        host: str,
        purpose: str,
        username: str | None = None,
        password: str | None = None,
        domain: str | None = None,
        additional_data: dict[str, Any] | None = None,
        created_by: str | None = None,
        *,
        secret_data: dict[str, Any] | None = None,
        expires_at: datetime | str | None = None,
        rotate_after: int | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        """Store a credential; returns success, credential_id, host, purpose and version.

        expires_at is a datetime with a time zone, or RFC 3339 with an offset. It must be in the
        future; from then on the credential is not disclosed. rotate_after is in whole days;
        `secrets-broker due` reminds of it.
        Raises InvalidCommandError if an argument breaks a rule.
        """
        fields = {
            "host": host,
            "purpose": purpose,
            "username": username,
            "password": password,
            "domain": domain,
            "additional_data": additional_data,
            "secret_data": secret_data,
            "expires_at": expires_at,
            "rotate_after": rotate_after,
        }
        outcome = self._record(parse_at(Upsert, fields, datetime.now(UTC)), created_by, reason)
        return {
            "success": True,
            "credential_id": outcome.credential_id,
            "host": host,
            "purpose": purpose,
            "version": outcome.version,
        }

    def lookup_credential(
        self,
        host: str,
        purpose: str,
        accessed_by: str | None = None,
        *,
        reason: str | None = None,
    ) -> dict[str, Any] | None:
        """Disclose a credential, as the HTTP API answers it; None if it is not found or expired.

        The record says which.
        """
        command = parse(Lookup, {"host": host, "purpose": purpose})
        outcome = self._record(command, accessed_by, reason)
        if outcome.content is None:
            return None
        found = disclosed(host, purpose, outcome.content, outcome.version)
        return {**found, "secret_data": outcome.content.secret_data}

    def delete_credential(
        self,
        host: str,
        purpose: str,
        deleted_by: str | None = None,
        *,
        reason: str | None = None,
    ) -> bool:
        """Take a credential out of what is served; False if there is none."""
        command = parse(Delete, {"host": host, "purpose": purpose})
        return self._record(command, deleted_by, reason).error is None

    def close(self) -> None:
        """Record what waits, then close the connections."""
        if self._loop.is_closed():
            return
        self._run(self._writer.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _record(self, command: Command, actor: str | None, reason: str | None) -> Outcome:
        context = Context(
            actor=_checked("actor", actor, _actor_problem),
            authn="library",
            reason=_checked("reason", reason, _reason_problem),
        )
        outcome = self._run(self._writer.submit(command, context))
        if outcome.error == DECRYPT_FAILED:
            raise CredentialUndisclosableError("Failed to decrypt credential")
        assert outcome.error in (None, NOT_FOUND, EXPIRED)  # noqa: S101 - there is no other
        return outcome

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _actor_problem(text: str) -> str | None:
    return label_problem(text, MAX_NAME) or name_problem(text)


def _reason_problem(text: str) -> str | None:
    return label_problem(text, MAX_REASON)


def _checked(field: str, text: str | None, problem_of: Callable[[str], str | None]) -> str | None:
    problem = problem_of(text) if text else None
    if problem:
        raise InvalidCommandError(FieldError(field, problem))
    return text or None
