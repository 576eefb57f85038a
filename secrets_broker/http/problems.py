"""Problems: which error is answered with which status and body.

Each problem is a constant here. openapi.yaml and the table in docs/api.md list their statuses and
reasons, and a test compares them.

Bodies are `{"reason": word, "detail": sentence, "errors": [{"field", "message"}]}`; a credential's
404 is only `{"reason": "not_found"}` or `{"reason": "expired"}`. No body repeats a value that the
caller sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from secrets_broker.ledger.access.rights import RATE_LIMITED, REASON_REQUIRED, WIDER, Refusal
from secrets_broker.ledger.credential import DECRYPT_FAILED
from secrets_broker.ledger.credential import EXPIRED as CREDENTIAL_EXPIRED
from secrets_broker.ledger.credential import NOT_FOUND as CREDENTIAL_NOT_FOUND
from secrets_broker.ledger.errors import (
    FieldError,
    KmsError,
    LedgerAheadError,
    LedgerMismatchError,
    LedgerUnavailableError,
    NotGrantedError,
    OutcomeUnknownError,
    QueueFullError,
    RowsMissingError,
    UnauthenticEventError,
    WrongKeyError,
)

RETRY_AFTER_SECONDS: Final = 1
OTHER: Final = "other"


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
        """The body of the answer."""
        body: dict[str, Any] = {"reason": self.reason}
        if self.detail is not None:
            body["detail"] = self.detail
        if self.errors:
            body["errors"] = self.errors
        return body


INVALID: Final = Problem(400, "invalid_request", "The request breaks a rule.")
MALFORMED: Final = Problem(400, "invalid_request", "The request is malformed.")
NOT_HTTP: Final = Problem(400, "invalid_request", "The request is not valid HTTP/1.1.")
FORBIDDEN: Final = Problem(403, "forbidden", "Invalid or missing X-Internal-Key header")
NOT_ALLOWED: Final = replace(
    FORBIDDEN, detail="The key does not allow this request; its event says which rule."
)
TOO_WIDE: Final = replace(
    FORBIDDEN,
    detail="The key may grant nothing wider than what it has itself; see docs/access.md.",
)
NO_REASON: Final = Problem(
    403, REASON_REQUIRED, "This request needs a reason: send it in the header X-Access-Reason."
)
NOT_FOUND: Final = Problem(404, "not_found")
EXPIRED: Final = Problem(404, "expired")
NOT_PUBLISHED: Final = Problem(404, "not_found", retry_after=RETRY_AFTER_SECONDS)
NO_TILE: Final = Problem(404, "not_found", "The published log has no such tile.")
NO_SUCH_PATH: Final = Problem(
    404, "no_such_path", "There is no such path; a path must be as documented, byte for byte."
)
OTHER_METHODS: Final = Problem(
    405, "method_not_allowed", "The path does not take this method; see the Allow header."
)
TOO_SLOW: Final = Problem(408, "timeout", "The request did not arrive in time.")
TOO_LARGE: Final = Problem(413, "too_large", "The request's body is too large.")
NOT_JSON: Final = Problem(
    415,
    "unsupported_media_type",
    "The request's Content-Type must be application/json, without a Content-Encoding.",
)
NOT_EXPECTED: Final = Problem(417, "expectation_failed", "Only 100-continue can be expected.")
TOO_MANY_REQUESTS: Final = Problem(
    429, RATE_LIMITED, "The key allows no more requests for now; try again later."
)
HEAD_TOO_LARGE: Final = Problem(431, "headers_too_large", "The request's headers are too large.")
UNDISCLOSABLE: Final = Problem(
    500,
    DECRYPT_FAILED,
    "Failed to decrypt credential: what is stored does not follow from the ledger.",
)
UNEXPECTED: Final = Problem(500, "internal_error", "The service failed; nothing was disclosed.")
METRICS_OFF: Final = Problem(
    503, "metrics_off", "This process could not create its metric files; see the log."
)
TOO_MANY_CONNECTIONS: Final = Problem(
    503,
    "too_many_connections",
    "Too many connections are open; close some, or try again later.",
    retry_after=RETRY_AFTER_SECONDS,
)
UNAVAILABLE: Final = Problem(
    503,
    "ledger_unavailable",
    "The ledger cannot be used at the moment; nothing was recorded or disclosed.",
    retry_after=RETRY_AFTER_SECONDS,
)
OUTCOME_UNKNOWN: Final = Problem(
    503,
    "outcome_unknown",
    "The ledger may or may not have recorded this request; nothing was disclosed.",
    retry_after=RETRY_AFTER_SECONDS,
)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """How HTTP reports that the ledger cannot be used: in /metrics, /health/ready and answers."""

    cause: str = OTHER
    """The label under which /metrics counts the requests that fail."""
    not_ready: str = "The database does not answer, or is not fit for the ledger; see the log."
    """What /health/ready answers to everybody; the error's own text names hosts and keys."""
    problem: Problem = UNAVAILABLE


OF_LEDGER: Final[Mapping[type[LedgerUnavailableError], Unavailable]] = {
    LedgerUnavailableError: Unavailable(),
    NotGrantedError: Unavailable(),
    OutcomeUnknownError: Unavailable("outcome_unknown", problem=OUTCOME_UNKNOWN),
    WrongKeyError: Unavailable(
        "wrong_key", "SECRETS_KMS_KEY is not the key of this ledger; see the log."
    ),
    KmsError: Unavailable(
        "kms", "The key management service does not give the ledger's key; see the log."
    ),
    LedgerMismatchError: Unavailable(
        "mismatch", "The ledger does not continue what this process has seen; see the log."
    ),
    UnauthenticEventError: Unavailable(
        not_ready="The ledger has an event that was not made with its keys; see the log."
    ),
    RowsMissingError: Unavailable(
        not_ready="The database does not store what it is given; see the log."
    ),
    LedgerAheadError: Unavailable(
        not_ready="The last event is far ahead of the database's clock; see the log."
    ),
    QueueFullError: Unavailable("queue_full", "Too many requests wait for the ledger."),
}
"""Each type of the error; a test fails for one that is missing here."""

OF_HTTP: Final = {
    400: MALFORMED,
    403: FORBIDDEN,
    404: NO_SUCH_PATH,
    405: OTHER_METHODS,
    413: TOO_LARGE,
    415: NOT_JSON,
}
"""Errors that falcon itself raises, by status; any other is a 400."""

OF_PROTOCOL: Final = {
    problem.status: problem
    for problem in (
        *(NOT_HTTP, TOO_SLOW, TOO_LARGE, NOT_EXPECTED, HEAD_TOO_LARGE, TOO_MANY_CONNECTIONS),
    )
}
"""What the protocol refuses before falcon sees a request, by status."""

OF_OUTCOMES: Final = {
    CREDENTIAL_NOT_FOUND: NOT_FOUND,
    CREDENTIAL_EXPIRED: EXPIRED,
    DECRYPT_FAILED: UNDISCLOSABLE,
}
"""Commands that were recorded and failed, by the error of their event."""


def of_rules(errors: tuple[FieldError, ...]) -> Problem:
    """The answer to a request that breaks rules of the interface; nothing was recorded."""
    return replace(INVALID, errors=errors)


def of_refusal(refusal: Refusal) -> Problem:
    """The answer to a caller that may not do what it asks for."""
    # One answer for every unknown caller, so that nobody learns whether a key was valid once.
    if refusal.authn is None:
        return FORBIDDEN
    if refusal.error == REASON_REQUIRED:
        return NO_REASON
    if refusal.error == RATE_LIMITED:
        return replace(TOO_MANY_REQUESTS, retry_after=refusal.retry_after)
    return TOO_WIDE if refusal.rule == WIDER else NOT_ALLOWED


def of_ledger(error: LedgerUnavailableError) -> Unavailable:
    """How to report this error: the entry of its type, or of the nearest base class."""
    return next(OF_LEDGER[kind] for kind in type(error).__mro__ if kind in OF_LEDGER)


def not_published(why: str) -> Problem:
    """No published checkpoint covers it yet; the next one may, hence Retry-After."""
    return replace(NOT_PUBLISHED, detail=f"It is not published: {why}.")
