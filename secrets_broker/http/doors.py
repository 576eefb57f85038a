"""Which key opens which paths.

The internal key opens what services ask for. The auditor's key opens what auditors ask for, and
no secret: none of its paths reads a ciphertext or holds a key. A few paths that say nothing about
anybody else's secret are open to both.
"""

from collections.abc import Iterator
from typing import Final

import falcon.asgi

from secrets_broker.http.caller import KeyCheck

_BEARER: Final = "bearer "  # RFC 9110, section 11.1: the scheme's name has no case

LOG: Final = "/log/"
_INTERNAL: Final = "/internal/"
_AUDIT: Final = "/internal/audit/"
_BOTH: Final = frozenset({"/internal/audit/due", "/internal/audit/proof"})


class Doors:
    """Compares what a request presents with the keys of its path, in constant time."""

    def __init__(self, internal_key: str, auditor_key: str | None = None) -> None:
        self._internal = KeyCheck(internal_key)
        self._auditor = KeyCheck(auditor_key) if auditor_key else None

    def admits(self, req: falcon.asgi.Request) -> bool:
        """Tell whether one of the path's keys was presented; without a key set, none was."""
        presented = req.get_header("X-Internal-Key") or _bearer(req)
        return any(key.admits(presented) for key in self._keys(req.path))

    def _keys(self, path: str) -> Iterator[KeyCheck]:
        auditors = path.startswith((LOG, _AUDIT))
        if not auditors or path in _BOTH:
            yield self._internal
        if auditors and self._auditor:
            yield self._auditor


def is_protected(path: str) -> bool:
    """Tell whether a path needs a key at all."""
    return path.startswith((_INTERNAL, LOG))


def _bearer(req: falcon.asgi.Request) -> str | None:
    """The token of `Authorization: Bearer TOKEN` (RFC 6750, section 2.1)."""
    header = req.get_header("Authorization") or ""
    return header[len(_BEARER) :].strip() if header[: len(_BEARER)].lower() == _BEARER else None
