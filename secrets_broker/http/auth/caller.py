"""The caller of a request, read from its headers: name, reason, request id.

The shared key is checked before any of these is read. It proves that the caller is one of our
services, not which one: X-Service-Name is the caller's claim, and `authn` in the event says what
proves it.
"""

import secrets
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from typing import Final

import falcon.asgi

from secrets_broker.http.error_handlers import InvalidRequestError
from secrets_broker.ledger.access.grants import Granted
from secrets_broker.ledger.encoding import label_problem, name_problem
from secrets_broker.ledger.errors import FieldError
from secrets_broker.ledger.events import MAX_NAME, MAX_REASON, Context, Subject

DEFAULT_ACTOR: Final = "internal"
IDENTIFYING: Final = {
    name: name.lower().encode("ascii")
    for name in (
        *("X-Internal-Key", "Authorization"),
        *("X-Service-Name", "X-Access-Reason", "X-Request-Id"),
    )
}
"""Headers that say who asks, why, and under which request id."""


class KeyCheck:
    """Compares a presented key with the configured one in constant time."""

    def __init__(self, internal_key: str) -> None:
        self._expected = _digest(internal_key)

    def admits(self, presented: str | None) -> bool:
        """Tell whether the key is right; the time does not depend on where it differs."""
        # compare_digest gives away a difference in length; digests have one length.
        return compare_digest(_digest(presented or ""), self._expected) and presented is not None


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def stranger(
    req: falcon.asgi.Request, authn: str, granted: Granted | None, subject: Subject
) -> Context:
    """A caller that is still to be judged; only well-formed headers of it are kept.

    Where it has no grant, the name in its certificate is its claim.
    """
    shown = None if granted else subject.certificate
    return Context(
        actor=None,
        authn=authn,
        ip=req.context.ip,
        request_id=req.context.request_id,
        reason=_lenient(_reason, req, "X-Access-Reason"),
        claim=shown or _lenient(_name, req, "X-Service-Name"),
        subject=subject,
    )


def known(
    req: falcon.asgi.Request, authn: str, granted: Granted | None, subject: Subject | None
) -> Context:
    """Who asks, from where and why; raises InvalidRequestError.

    Where a grant proves the caller's name, X-Service-Name is kept beside it as its claim.
    """
    named = _name(req, "X-Service-Name")
    asserted = (named or DEFAULT_ACTOR) if subject is None else None
    return Context(
        actor=granted.name if granted else asserted,
        authn=authn,
        ip=req.context.ip,
        request_id=req.context.request_id,
        reason=_reason(req, "X-Access-Reason"),
        claim=named if granted else None,
        subject=subject,
    )


def request_id(req: falcon.asgi.Request) -> str | None:
    """The request's X-Request-Id; None where it has none that can be recorded.

    A proxy may send any text, or add its own id beside the client's. That is no reason to refuse
    the request: it gets an id of ours instead.
    """
    return _lenient(_name, req, "X-Request-Id")


def _lenient(
    read: Callable[[falcon.asgi.Request, str], str | None], req: falcon.asgi.Request, header: str
) -> str | None:
    try:
        return read(req, header)
    except InvalidRequestError:
        return None


def new_request_id() -> str:
    """64 random bits: enough to find a request's line in a log again."""
    return secrets.token_hex(8)


def _name(req: falcon.asgi.Request, header: str) -> str | None:
    """A header's text in UTF-8 that people can tell from other names.

    Raises InvalidRequestError.
    """
    value = _once(req, header)
    try:
        text = value.decode("utf-8")
    except UnicodeError:
        raise InvalidRequestError(FieldError(header, "must be UTF-8")) from None
    if problem := label_problem(text, MAX_NAME) or name_problem(text):
        raise InvalidRequestError(FieldError(header, problem))
    return text or None


def _reason(req: falcon.asgi.Request, header: str) -> str | None:
    """A header's text; raises InvalidRequestError.

    Many clients send ISO 8859-1 where a text fits into it, and UTF-8 otherwise. A text beyond
    ASCII in one of the two is hardly ever valid in the other.
    """
    value = _once(req, header)
    try:
        text = value.decode("utf-8")
    except UnicodeError:
        text = value.decode("latin-1")
    if problem := label_problem(text, MAX_REASON):
        raise InvalidRequestError(FieldError(header, problem))
    return text or None


def _once(req: falcon.asgi.Request, header: str) -> bytes:
    """A header's value; raises InvalidRequestError where there are two.

    A proxy before us may have used either of them.
    """
    found = values(req, header)
    if len(found) > 1:
        raise InvalidRequestError(FieldError(header, "must be given once"))
    return found[0] if found else b""


def values(req: falcon.asgi.Request, name: str) -> list[bytes]:
    """Every line of one of IDENTIFYING, in order; falcon would join two lines to one.

    White space around a value is no part of it (RFC 9110, section 5.5); the parser leaves it in.
    """
    sent = getattr(req.context, "identifying", None)
    if sent is None:  # one pass for all of them: there are five, and most requests have ten headers
        sent = req.context.identifying = {name: [] for name in IDENTIFYING.values()}
        for header_name, value in req.scope["headers"]:
            if header_name in sent:
                sent[header_name].append(value.strip(b" \t"))
    found: list[bytes] = sent[IDENTIFYING[name]]
    return found
