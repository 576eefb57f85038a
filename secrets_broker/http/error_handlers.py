"""Errors as answers: each exception becomes a problem, and the problem fills the answer."""

from typing import Any, get_args

import falcon
import falcon.asgi
import msgspec
import structlog

from secrets_broker.http import problems
from secrets_broker.http.auth.admission import RefusedError
from secrets_broker.http.metrics import counters
from secrets_broker.http.problems import Problem
from secrets_broker.ledger.errors import FieldError, InvalidCommandError, LedgerUnavailableError
from secrets_broker.ledger.transparency_log.checkpoint_store import NotPublishedError

_log = structlog.get_logger(__name__)


class InvalidRequestError(Exception):
    """A request that breaks a rule of the interface; nothing was recorded."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = errors


Foreseen = (
    InvalidRequestError
    | InvalidCommandError
    | NotPublishedError
    | LedgerUnavailableError
    | RefusedError
)
"""Errors that are raised on purpose; of any other, only its type is logged."""


def write(resp: falcon.asgi.Response, problem: Problem) -> None:
    """Fill an answer that says what went wrong."""
    resp.status = problem.status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(problem.body)
    resp.context.outcome = problem.reason
    if problem.retry_after is not None:
        resp.set_header("Retry-After", str(problem.retry_after))


def install(app: "falcon.asgi.App[Any, Any]") -> None:
    """Make this module handle every exception of the application."""
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _http_error)
    for kind in get_args(Foreseen):
        app.add_error_handler(kind, _foreseen)


def answer(resp: falcon.asgi.Response, error: Foreseen) -> None:
    """Fill the answer for an error, in place of any earlier content."""
    match error:
        case InvalidRequestError() | InvalidCommandError():
            write(resp, problems.of_rules(error.errors))
        case NotPublishedError():
            write(resp, problems.not_published(str(error)))
        case LedgerUnavailableError():
            counters.unavailable(error)
            write(resp, problems.of_ledger(error).problem)
        case RefusedError():
            _refuse(resp, error)


def _refuse(resp: falcon.asgi.Response, error: RefusedError) -> None:
    refusal = error.refusal
    resp.context.rule = refusal.rule
    resp.context.counted = error.position is None
    if error.position is not None and refusal.authn:
        resp.set_header("X-Ledger-Position", str(error.position))
    resp.context.position = error.position
    write(resp, problems.of_refusal(refusal))


async def _foreseen(
    _req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Foreseen, _params: dict[str, Any]
) -> None:
    answer(resp, error)


async def _http_error(
    _req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: falcon.HTTPError,
    _params: dict[str, Any],
) -> None:
    if error.headers:
        resp.set_headers(error.headers)
    write(resp, problems.OF_HTTP.get(error.status_code, problems.MALFORMED))


async def _unexpected(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: Exception,
    _params: dict[str, Any],
) -> None:
    # The text of an unforeseen exception may quote a value: only its type and place are logged.
    _log.error(
        "unexpected_error",
        kind=type(error).__qualname__,
        where=_where(error),
        path=req.uri_template,
    )
    write(resp, problems.UNEXPECTED)


def _where(error: BaseException) -> list[str]:
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames[-8:]
