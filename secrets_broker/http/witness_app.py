"""A witness of our own (C2SP tlog-witness): POST /add-checkpoint, and GET / for people."""

import asyncio
import time
from typing import Any, Final

import falcon
import falcon.asgi
import structlog

from secrets_broker import logging_setup
from secrets_broker.http import error_handlers
from secrets_broker.http.problems import RETRY_AFTER_SECONDS, Problem
from secrets_broker.http.request_body import read_bounded
from secrets_broker.http.router import table_app
from secrets_broker.http.routes import WITNESS
from secrets_broker.http.server.peer import peer_address
from secrets_broker.ledger.errors import FieldError
from secrets_broker.ledger.transparency_log.add_checkpoint import (
    PATH,
    SIZE_TYPE,
    AddCheckpoint,
    CosignDecision,
    RequestError,
)
from secrets_broker.ledger.transparency_log.note import Signature, SigningKey
from secrets_broker.ledger.transparency_log.witness_state import (
    Logs,
    WitnessState,
    WitnessStateError,
)
from secrets_broker.settings import Settings
from secrets_broker.wiring import witness_key, witness_logs

_log = structlog.get_logger(__name__)

_TEXT: Final = "text/plain; charset=utf-8"
_UNUSABLE: Final = Problem(
    503,
    "unavailable",
    "The witness's state cannot be used; see its log.",
    retry_after=RETRY_AFTER_SECONDS,
)


class Add:
    """POST /add-checkpoint."""

    def __init__(self, state: WitnessState, key: SigningKey, known: Logs) -> None:
        self._state = state
        self._key = key
        self._logs = known

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Cosign the checkpoint, or answer why not."""
        try:
            request = AddCheckpoint.parse(await read_bounded(req))
        except RequestError as error:
            raise error_handlers.InvalidRequestError(FieldError("", str(error))) from None
        decision, line = await asyncio.to_thread(
            self._state.add, self._logs, request, self._key, time.time
        )
        self._tell(req, request, decision)
        _fill(resp, decision, line)

    def _tell(
        self, req: falcon.asgi.Request, request: AddCheckpoint, decision: CosignDecision
    ) -> None:
        checkpoint = request.signed.checkpoint
        # An unknown log's name is not logged: it may be any text.
        known = {"origin": checkpoint.origin} if checkpoint.origin in self._logs else {}
        tell = _log.info if decision.finding is None else _log.warning
        tell(
            "add_checkpoint",
            status=decision.status,
            reason=decision.reason,
            old=request.old,
            size=checkpoint.size,
            finding=decision.finding.value if decision.finding else None,
            ip=peer_address(req.scope),
            **known,
        )


def _fill(resp: falcon.asgi.Response, decision: CosignDecision, line: Signature | None) -> None:
    resp.status = decision.status
    resp.content_type = _TEXT
    resp.text = str(line) if line else f"{decision.reason}\n"
    if decision.status == 409 and decision.head is not None:
        resp.content_type = SIZE_TYPE
        resp.text = f"{decision.head.size}\n"


class About:
    """GET /: what this is, for people."""

    def __init__(self, state: WitnessState, key: SigningKey, known: Logs) -> None:
        self._state = state
        self._key = key
        self._logs = known

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer the witness's key, its logs, and the size that it cosigned last of each."""
        heads = await asyncio.to_thread(self._state.heads)
        sizes = {origin: head.size for origin, head in heads.items()}
        lines = [
            "A witness of transparency logs (https://c2sp.org/tlog-witness).",
            f"It cosigns at {PATH} with the key",
            f"  {self._key.verifier}",
            "the checkpoints of these logs; beside each, the size that it cosigned last:",
            *(f"  {origin} {sizes.get(origin, 0)}" for origin in self._logs),
        ]
        resp.content_type = _TEXT
        resp.text = "\n".join(lines) + "\n"


async def _unusable(
    _req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: WitnessStateError,
    _params: dict[str, Any],
) -> None:
    _log.error("witness_state_unusable", why=str(error))
    error_handlers.write(resp, _UNUSABLE)


def create_app(state: WitnessState, key: SigningKey, known: Logs) -> "falcon.asgi.App[Any, Any]":
    """Assemble the application of a witness."""
    resources = {"add_checkpoint": Add(state, key, known), "about": About(state, key, known)}
    app = table_app(WITNESS, resources)
    error_handlers.install(app)
    app.add_error_handler(WitnessStateError, _unusable)
    return app


def from_settings() -> "falcon.asgi.App[Any, Any]":
    """The witness as gunicorn starts it, from the environment."""
    settings = Settings.load()
    logging_setup.configure(readable=settings.readable_logs)
    state = WitnessState(settings.witness_state)
    return create_app(state, witness_key(settings), witness_logs(settings))
