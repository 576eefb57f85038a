"""Authentication: how a caller proves who it is.

The two shared keys are compared here. The internal key opens the routes of services. The auditor
key opens the routes of auditors, and none of those reads a ciphertext or holds a key. A few routes
that disclose nothing about another caller's secret accept both keys; the routes that change grants
accept neither. The table of routes says which. Any other key may be an access key: the grants in
the ledger decide. They decide about a client certificate, too, which comes from the connection and
never from a header.
"""

from typing import Final

import falcon.asgi

from secrets_broker.http.auth.caller import KeyCheck, values
from secrets_broker.http.auth.client_certificate import STATE, ClientCertificate
from secrets_broker.http.routes import AUDITOR_KEY, INTERNAL_KEY, Route
from secrets_broker.ledger.access.access_key import digest, is_well_formed
from secrets_broker.ledger.access.judgement import UNKNOWN
from secrets_broker.ledger.events import CERTIFICATE, NO_KEY, TWO_KEYS, Subject

_BEARER: Final = b"bearer "  # RFC 9110, section 11.1: the scheme's name has no case


class Authentication:
    """Compares what a request presents with the shared keys of its route, in constant time."""

    def __init__(self, internal_key: str | None, auditor_key: str | None = None) -> None:
        self._internal = KeyCheck(internal_key) if internal_key else None
        self._auditor = KeyCheck(auditor_key) if auditor_key else None

    @property
    def internal_key_is_on(self) -> bool:
        """Whether the shared key opens anything."""
        return self._internal is not None

    def identify(self, req: falcon.asgi.Request, route: Route) -> tuple[str, Subject | None]:
        """How the caller is known, and the subject still to be judged; None where none is."""
        keys, certificate = _keys(req), req.scope.get("state", {}).get(STATE)
        if certificate is not None:
            # With a key besides, two readers could disagree about whose request it is.
            return UNKNOWN, Subject(problem=TWO_KEYS) if keys else _named(certificate)
        if len(keys) != 1:
            return UNKNOWN, Subject(problem=TWO_KEYS if keys else NO_KEY)
        key = keys[0]
        # Both are computed, so that time does not tell which key it is.
        internal = self._internal is not None and self._internal.admits(key)
        auditor = self._auditor is not None and self._auditor.admits(key)
        subject = Subject(sha256=digest(key), well_formed=is_well_formed(key))
        if internal or auditor:
            how = INTERNAL_KEY if internal else AUDITOR_KEY
            return how, None if how in route.keys else Subject(problem="operation")
        return UNKNOWN, subject


def _named(certificate: ClientCertificate) -> Subject:
    if certificate.name is None:
        return Subject(problem=CERTIFICATE)
    return Subject(
        certificate=certificate.name,
        fingerprint=certificate.fingerprint,
        not_after=certificate.not_after,
    )


def _keys(req: falcon.asgi.Request) -> list[str]:
    """The presented keys; a header that is there twice counts twice, even if it is empty."""
    own, authorization = values(req, "X-Internal-Key"), values(req, "Authorization")
    tokens = authorization if len(authorization) > 1 else filter(None, map(_bearer, authorization))
    keys = own if len(own) > 1 else filter(None, own)
    return [key.decode("latin-1") for key in (*keys, *tokens)]


def _bearer(line: bytes) -> bytes | None:
    """The token of `Authorization: Bearer TOKEN` (RFC 6750, section 2.1)."""
    scheme = line[: len(_BEARER)].lower()
    return line[len(_BEARER) :].strip() if scheme == _BEARER else None
