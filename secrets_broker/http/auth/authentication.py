"""Who asks, and what he asks for: which key opens which paths.

The shared keys are compared here. The internal key opens what services ask for; the auditor's
opens what auditors ask for, and no secret: none of its routes reads a ciphertext or holds a key. A
few routes that say nothing about anybody else's secret are open to both, and none to either from
which grants are changed: which ones, the table of routes says. Any other key may be an access key;
what it is worth is judged by the grants, which the ledger has. So is a client's certificate, which
comes from the connection and from no header.
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
        """How the caller is known, and what is still to be judged; None where nothing is."""
        keys, certificate = _keys(req), req.scope.get("state", {}).get(STATE)
        if certificate is not None:
            # Whose request it would be with a key besides, two readers could disagree about.
            return UNKNOWN, Subject(problem=TWO_KEYS) if keys else _named(certificate)
        if len(keys) != 1:
            return UNKNOWN, Subject(problem=TWO_KEYS if keys else NO_KEY)
        key = keys[0]
        # All are computed, whichever it is.
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
    """What is presented; a header that is there twice counts twice, whatever it says."""
    own, authorization = values(req, "X-Internal-Key"), values(req, "Authorization")
    tokens = authorization if len(authorization) > 1 else filter(None, map(_bearer, authorization))
    keys = own if len(own) > 1 else filter(None, own)
    return [key.decode("latin-1") for key in (*keys, *tokens)]


def _bearer(line: bytes) -> bytes | None:
    """The token of `Authorization: Bearer TOKEN` (RFC 6750, section 2.1)."""
    scheme = line[: len(_BEARER)].lower()
    return line[len(_BEARER) :].strip() if scheme == _BEARER else None
