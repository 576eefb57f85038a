"""Who calls: the shared key is checked before anything else of a request is read.

The key proves that the caller is one of ours, not which one: X-Service-Name is what the caller
calls itself, and the event says how far that is known (`authn`).
"""

import secrets
from hashlib import sha256
from hmac import compare_digest
from typing import Final

import falcon.asgi

from secrets_broker.http.errors import InvalidRequestError
from secrets_broker.ledger.encoding import label_problem
from secrets_broker.ledger.errors import FieldError
from secrets_broker.ledger.events import MAX_NAME, MAX_REASON, Context, Subject
from secrets_broker.ledger.grants import Granted

DEFAULT_ACTOR: Final = "internal"
INTERNAL_KEY: Final = "internal_key"
IDENTIFYING: Final = {
    name: name.lower().encode("ascii")
    for name in (
        *("X-Internal-Key", "Authorization"),
        *("X-Service-Name", "X-Access-Reason", "X-Request-Id"),
    )
}
"""Headers that say who asks, why and for what; each may be there once."""


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
        claim=shown or _lenient(req, "X-Service-Name"),
        subject=subject,
    )


def known(
    req: falcon.asgi.Request, authn: str, granted: Granted | None, subject: Subject | None
) -> Context:
    """Who asks, from where and why; raises InvalidRequestError.

    Where a grant proves who he is, what he calls himself is kept beside it, as his claim.
    """
    named = header(req, "X-Service-Name", MAX_NAME)
    asserted = (named or DEFAULT_ACTOR) if subject is None else None
    return Context(
        actor=granted.name if granted else asserted,
        authn=authn,
        ip=req.context.ip,
        request_id=req.context.request_id,
        reason=header(req, "X-Access-Reason", MAX_REASON),
        claim=named if granted else None,
        subject=subject,
    )


def _lenient(req: falcon.asgi.Request, name: str) -> str | None:
    try:
        return header(req, name, MAX_NAME)
    except InvalidRequestError:
        return None


def new_request_id() -> str:
    """64 random bits: enough to find a request's line in a log again."""
    return secrets.token_hex(8)


def header(req: falcon.asgi.Request, name: str, limit: int) -> str | None:
    """A header's text in UTF-8; raises InvalidRequestError past the limit or with controls.

    It may be there once: of two, nobody could say which one a proxy before us went by.
    """
    found = values(req, name)
    if len(found) > 1:
        raise InvalidRequestError(FieldError(name, "must be given once"))
    if not found or not found[0]:
        return None
    try:
        text = found[0].decode("utf-8")
    except UnicodeError:
        raise InvalidRequestError(FieldError(name, "must be UTF-8")) from None
    if problem := label_problem(text, limit):
        raise InvalidRequestError(FieldError(name, problem))
    return text


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
