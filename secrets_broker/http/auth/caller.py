"""Who calls: the shared key is checked before anything else of a request is read.

The key proves that the caller is one of ours, not which one: X-Service-Name is what the caller
calls itself, and the event says how far that is known (`authn`).
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
"""Headers that say who asks, why and for what."""


class KeyCheck:
    """Compares a presented key with the configured one in constant time."""

    def __init__(self, internal_key: str) -> None:
        self._expected = _digest(internal_key)

    def admits(self, presented: str | None) -> bool:
        """Tell whether the key is right; the time does not depend on where it differs."""
        # Digests have one length, so not even the key's length shows (compare_digest gives
        # away a difference in length).
        return compare_digest(_digest(presented or ""), self._expected) and presented is not None


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def stranger(
    req: falcon.asgi.Request, authn: str, granted: Granted | None, subject: Subject
) -> Context:
    """A caller who is still to be judged; of what he sends, only what is well-formed is kept.

    Where he has no grant, the name in his certificate is his claim.
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

    Where a grant proves who he is, what he calls himself is kept beside it, as his claim.
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
    """The id that a request came with; None where it has none that is fit for the record.

    A proxy may make one of any kind, or add its own beside the client's. Neither is a reason to
    refuse what is asked for: it only goes by an id of ours then.
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
    """A header's text in UTF-8, which is to be told from others by people.

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

    Many a client sends what fits into ISO 8859-1 in that, and all else in UTF-8; no text of more
    than ASCII in the one is likely to be a text in the other.
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

    Nobody could say which one a proxy before us went by.
    """
    found = values(req, header)
    if len(found) > 1:
        raise InvalidRequestError(FieldError(header, "must be given once"))
    return found[0] if found else b""


def values(req: falcon.asgi.Request, name: str) -> list[bytes]:
    """Every line of one of IDENTIFYING, in order; falcon joins them, so that two look like one.

    White space around a value is none of it (RFC 9110, section 5.5); the parser leaves it there.
    """
    sent = getattr(req.context, "identifying", None)
    if sent is None:  # one pass for all of them: there are five, and most requests have ten headers
        sent = req.context.identifying = {name: [] for name in IDENTIFYING.values()}
        for header_name, value in req.scope["headers"]:
            if header_name in sent:
                sent[header_name].append(value.strip(b" \t"))
    found: list[bytes] = sent[IDENTIFYING[name]]
    return found
