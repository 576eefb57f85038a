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

from secrets_broker.http import metrics
from secrets_broker.http.desk import RefusedError
from secrets_broker.ledger.errors import (
    FieldError,
    InvalidCommandError,
    LedgerUnavailableError,
    OutcomeUnknownError,
)
from secrets_broker.ledger.evidence import NotPublishedError
from secrets_broker.ledger.rights import RATE_LIMITED, REASON_REQUIRED, Refusal

_log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS: Final = "1"

NOT_FOUND: Final = b'{"reason":"not_found"}'
EXPIRED: Final = b'{"reason":"expired"}'
FORBIDDEN: Final = "Invalid or missing X-Internal-Key header"
_NOT_ALLOWED: Final = (
    "The key does not allow this request; the event at X-Ledger-Position says which rule."
)
_REASON_REQUIRED: Final = "This request needs a reason: send it in the header X-Access-Reason."
_RATE_LIMITED: Final = "The key allows no more requests for now; see Retry-After."

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
    app.add_error_handler(RefusedError, _refused)
    app.add_error_handler(NotPublishedError, _not_published)


async def answer(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: RefusedError | LedgerUnavailableError,
) -> None:
    """Fill an answer in place of the one that was there."""
    if isinstance(error, RefusedError):
        await _refused(req, resp, error, {})
    else:
        await _unavailable(req, resp, error, {})


async def _invalid(
    _req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: InvalidRequestError | InvalidCommandError,
    _params: dict[str, Any],
) -> None:
    write(resp, 400, "invalid_request", "The request breaks a rule.", error.errors)


async def _refused(
    _req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: RefusedError,
    _params: dict[str, Any],
) -> None:
    refusal = error.refusal
    resp.context.rule = refusal.rule
    resp.context.counted = error.position is None
    if error.position is not None and refusal.authn:
        resp.set_header("X-Ledger-Position", str(error.position))
    resp.context.position = error.position
    write(resp, *_refusal(refusal))
    if refusal.retry_after is not None:
        resp.set_header("Retry-After", str(refusal.retry_after))


def _refusal(refusal: Refusal) -> tuple[int, str, str]:
    # One answer for all who are not known, so that nobody learns whether a key once was good.
    if refusal.authn is None:
        return 403, "forbidden", FORBIDDEN
    if refusal.error == REASON_REQUIRED:
        return 403, REASON_REQUIRED, _REASON_REQUIRED
    if refusal.error == RATE_LIMITED:
        return 429, RATE_LIMITED, _RATE_LIMITED
    return 403, "forbidden", _NOT_ALLOWED


async def _unavailable(
    _req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: LedgerUnavailableError,
    _params: dict[str, Any],
) -> None:
    metrics.unavailable(error)
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
