"""What went wrong, as a status and a body: the one place that says which error is which answer.

Bodies are `{"reason": word, "detail": sentence, "errors": [{"field", "message"}]}`; a credential's
404 is `{"reason": "not_found"}` or `{"reason": "expired"}` and no more. No body holds a value that
the caller sent.
"""

from dataclasses import dataclass
from typing import Any, Final

from secrets_broker.ledger.credential import DECRYPT_FAILED
from secrets_broker.ledger.credential import EXPIRED as CREDENTIAL_EXPIRED
from secrets_broker.ledger.credential import NOT_FOUND as CREDENTIAL_NOT_FOUND
from secrets_broker.ledger.errors import (
    FieldError,
    LedgerUnavailableError,
    OutcomeUnknownError,
)
from secrets_broker.ledger.rights import RATE_LIMITED, REASON_REQUIRED, WIDER, Refusal

RETRY_AFTER_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an answer is not a 200."""

    status: int
    reason: str
    detail: str | None = None
    errors: tuple[FieldError, ...] = ()
    retry_after: int | None = None
    """Whole seconds."""

    @property
    def body(self) -> dict[str, Any]:
        """What the caller is told."""
        body: dict[str, Any] = {"reason": self.reason}
        if self.detail is not None:
            body["detail"] = self.detail
        if self.errors:
            body["errors"] = self.errors
        return body


NOT_FOUND: Final = Problem(404, "not_found")
NO_SUCH_PATH: Final = Problem(
    404, "no_such_path", "There is no such path here: it has to be as documented, byte for byte."
)
EXPIRED: Final = Problem(404, "expired")
FORBIDDEN: Final = Problem(403, "forbidden", "Invalid or missing X-Internal-Key header")
_NOT_ALLOWED: Final = "The key does not allow this request; its event says which rule."
_WIDER: Final = "The key may grant nothing wider than what it has itself; see docs/access.md."
_REASON_REQUIRED: Final = "This request needs a reason: send it in the header X-Access-Reason."
_RATE_LIMITED: Final = "The key allows no more requests for now; try again later."
_UNDISCLOSABLE: Final = Problem(
    500,
    DECRYPT_FAILED,
    "Failed to decrypt credential: what is stored does not follow from the ledger.",
)
_OUTCOME_UNKNOWN: Final = Problem(
    503,
    "outcome_unknown",
    "The ledger may or may not have recorded this request; nothing was disclosed.",
    retry_after=RETRY_AFTER_SECONDS,
)
_UNAVAILABLE: Final = Problem(
    503,
    "ledger_unavailable",
    "The ledger cannot be used at the moment; nothing was recorded or disclosed.",
    retry_after=RETRY_AFTER_SECONDS,
)
METRICS_OFF: Final = Problem(
    503, "metrics_off", "This process could not make the files that it counts in; see the log."
)
UNEXPECTED: Final = Problem(500, "internal_error", "The service failed; nothing was disclosed.")

OF_HTTP: Final = {
    400: Problem(400, "invalid_request", "The request is malformed."),
    403: FORBIDDEN,
    404: NO_SUCH_PATH,
    405: Problem(405, "method_not_allowed", "The path knows other methods; see the Allow header."),
    413: Problem(413, "too_large", "The request's body is too large."),
    415: Problem(
        415,
        "unsupported_media_type",
        "The request's Content-Type must be application/json, without a Content-Encoding.",
    ),
}
"""What falcon itself refuses, by its status; any other is a 400."""

_OF_OUTCOMES: Final = {
    CREDENTIAL_NOT_FOUND: NOT_FOUND,
    CREDENTIAL_EXPIRED: EXPIRED,
    DECRYPT_FAILED: _UNDISCLOSABLE,
}


def of_outcome(error: str) -> Problem:
    """A command that was recorded and came to nothing, by its event's error."""
    return _OF_OUTCOMES[error]


def of_rules(errors: tuple[FieldError, ...]) -> Problem:
    """A request that breaks rules of the interface; nothing was recorded."""
    return Problem(400, "invalid_request", "The request breaks a rule.", errors)


def of_refusal(refusal: Refusal) -> Problem:
    """A caller who may not do what he asks for."""
    # One answer for all who are not known, so that nobody learns whether a key once was good.
    if refusal.authn is None:
        return FORBIDDEN
    if refusal.error == REASON_REQUIRED:
        return Problem(403, REASON_REQUIRED, _REASON_REQUIRED)
    if refusal.error == RATE_LIMITED:
        return Problem(429, RATE_LIMITED, _RATE_LIMITED, retry_after=refusal.retry_after)
    return Problem(403, "forbidden", _WIDER if refusal.rule == WIDER else _NOT_ALLOWED)


def of_ledger(error: LedgerUnavailableError) -> Problem:
    """A ledger that cannot be written, or did not say whether it was."""
    return _OUTCOME_UNKNOWN if isinstance(error, OutcomeUnknownError) else _UNAVAILABLE


def not_published(why: str) -> Problem:
    """Nothing that is published has it; soon it may, since a checkpoint follows the growth."""
    detail = f"It is not published: {why}."
    return Problem(404, "not_found", detail, retry_after=RETRY_AFTER_SECONDS)
