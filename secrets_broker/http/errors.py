"""Errors as answers: the one place that maps what went wrong to a status and a body.

Bodies are `{"reason": word, "detail": sentence, "errors": [{"field", "message"}]}`; a 404 is
`{"reason": "not_found"}` or `{"reason": "expired"}` and no more. No answer holds a value that
the caller sent.
"""

from typing import Any, Final

import falcon
import falcon.asgi
import msgspec
import structlog

from secrets_broker.ledger.errors import (
    FieldError,
    InvalidCommandError,
    LedgerUnavailableError,
    OutcomeUnknownError,
)
from secrets_broker.ledger.evidence import NotPublishedError

_log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS: Final = "1"

NOT_FOUND: Final = b'{"reason":"not_found"}'
EXPIRED: Final = b'{"reason":"expired"}'
FORBIDDEN: Final = "Invalid or missing X-Internal-Key header"

_REASONS: Final = {
    400: ("invalid_request", "The request is malformed."),
    403: ("forbidden", FORBIDDEN),
    405: ("method_not_allowed", "The path knows other methods; see the Allow header."),
    413: ("too_large", "The request's body is too large."),
    415: ("unsupported_media_type", "The request's Content-Type must be application/json."),
}


class InvalidRequestError(Exception):
    """A request that breaks a rule of the interface; nothing was recorded."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = errors


def write(
    resp: falcon.asgi.Response,
    status: int,
    reason: str,
    detail: str,
    errors: tuple[FieldError, ...] = (),
) -> None:
    """Fill an answer that says what went wrong."""
    body: dict[str, Any] = {"reason": reason, "detail": detail}
    if errors:
        body["errors"] = errors
    resp.status = status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)
    resp.context.outcome = reason


def not_found(resp: falcon.asgi.Response) -> None:
    """Fill the answer for what is not there."""
    resp.status = 404
    resp.content_type = falcon.MEDIA_JSON
    resp.data = NOT_FOUND
    resp.context.outcome = "not_found"


def expired(resp: falcon.asgi.Response) -> None:
    """Fill the answer for a credential that is past its time."""
    resp.status = 404
    resp.content_type = falcon.MEDIA_JSON
    resp.data = EXPIRED
    resp.context.outcome = "expired"


def install(app: "falcon.asgi.App[Any, Any]") -> None:
    """Make this module answer for everything that is raised."""
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _http_error)
    app.add_error_handler(InvalidRequestError, _invalid)
    app.add_error_handler(InvalidCommandError, _invalid)
    app.add_error_handler(LedgerUnavailableError, _unavailable)
    app.add_error_handler(NotPublishedError, _not_published)


async def _invalid(
    _req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: InvalidRequestError | InvalidCommandError,
    _params: dict[str, Any],
) -> None:
    write(resp, 400, "invalid_request", "The request breaks a rule.", error.errors)


async def _unavailable(
    _req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: LedgerUnavailableError,
    _params: dict[str, Any],
) -> None:
    resp.set_header("Retry-After", RETRY_AFTER_SECONDS)
    if isinstance(error, OutcomeUnknownError):
        detail = "The ledger may or may not have recorded this request; nothing was disclosed."
        write(resp, 503, "outcome_unknown", detail)
    else:
        detail = "The ledger cannot be used at the moment; nothing was recorded or disclosed."
        write(resp, 503, "ledger_unavailable", detail)


async def _not_published(
    _req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: NotPublishedError,
    _params: dict[str, Any],
) -> None:
    # Soon it may be: a checkpoint follows the ledger's growth.
    resp.set_header("Retry-After", RETRY_AFTER_SECONDS)
    write(resp, 404, "not_found", f"It is not published: {error}.")


async def _http_error(
    _req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: falcon.HTTPError,
    _params: dict[str, Any],
) -> None:
    if error.headers:
        resp.set_headers(error.headers)
    if error.status_code == 404:
        not_found(resp)
        return
    reason, detail = _REASONS.get(error.status_code, _REASONS[400])
    status = error.status_code if error.status_code in _REASONS else 400
    write(resp, status, reason, detail)


async def _unexpected(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: Exception,
    _params: dict[str, Any],
) -> None:
    # The text of an exception that nobody foresaw may quote a value, so it is not logged;
    # where it was raised is.
    _log.error(
        "unexpected_error", kind=type(error).__qualname__, where=_where(error), path=req.path
    )
    write(resp, 500, "internal_error", "The service failed; nothing was disclosed.")


def _where(error: BaseException) -> list[str]:
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames[-8:]
