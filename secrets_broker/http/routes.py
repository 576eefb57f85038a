"""The one table of routes: which endpoints there are, and who may use them. Pure.

The router, the keys that open a path, the rights that a grant needs, the operations in the log, the
labels of the metrics and the bounds of bodies all follow from it. A request matches a route only if
its target is the route's path byte for byte, followed by nothing but a query. No other spelling is
tried, so no two readers can take one target for two routes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from secrets_broker.ledger.access.rights import ADMIN, AUDIT, DELETE, READ, WRITE
from secrets_broker.ledger.transparency_log.add_checkpoint import PATH as ADD_CHECKPOINT
from secrets_broker.ledger.transparency_log.tile import Tile

# A password of 8 KiB and 32 KiB of data, each byte escaped as six, and room for the rest.
MAX_BODY_BYTES: Final = 256 * 1024
# 500 items of 8 KiB each; a batch of larger ones has fewer.
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024

INTERNAL_KEY: Final = "internal_key"
AUDITOR_KEY: Final = "auditor_key"

NONE: Final = "none"
"""The operation of a request that has no route."""

TABLE: Final = "secrets_broker.routes"
"""The key in the lifespan's state (ASGI) under which the application hands over its table."""
MATCH: Final = "secrets_broker.match"
"""The key in the scope's state under which the protocol puts a request's route."""

_SERVICES: Final = frozenset({INTERNAL_KEY})
_AUDITORS: Final = frozenset({AUDITOR_KEY})
_BOTH: Final = frozenset({INTERNAL_KEY, AUDITOR_KEY})
_NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Route:
    """A path, and all that follows from it."""

    path: str
    """Ends with a name in braces where `grammar` says what may stand there."""
    method: str
    """GET implies HEAD (RFC 9110, section 9.3.2)."""
    operation: str
    """Its name in the log."""
    right: str | None = None
    """The right that a grant needs; None where the route is open to everybody."""
    keys: frozenset[str] = _NOBODY
    """The shared keys that open it."""
    names: bool = False
    """Whether a request names credentials: then its caller is judged with each name."""
    recheck: bool = False
    """Whether the answer is only read: then the caller is judged again before it is sent."""
    item: str | None = None
    """The operation of each item of a batch."""
    max_body: int = MAX_BODY_BYTES
    grammar: Callable[[str], bool] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods that it takes, as in the Allow header."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def label(self) -> str:
        """Its label in the metrics: the operation, or one label for all of audit and of admin."""
        return self.right if self.right in (AUDIT, ADMIN) else self.operation

    @property
    def counted_as(self) -> str:
        """The operation that each item is counted as; a batch refused as a whole counts as one."""
        return self.item or self.operation

    @property
    def prefix(self) -> str:
        """The path up to the name in braces."""
        return self.path.partition("{")[0]


@dataclass(frozen=True, slots=True)
class Match:
    """The route of one request."""

    route: Route
    rest: str | None = None
    """The text in the place of the name in braces."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the responder."""
        return (
            {}
            if self.rest is None
            else {self.route.path[len(self.route.prefix) + 1 : -1]: self.rest}
        )


class Routes:
    """Finds the route of a target."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = tuple(routes)
        self._exact: Mapping[bytes, Match] = {
            route.path.encode("ascii"): Match(route) for route in self.all if route.grammar is None
        }
        self._others = [
            (route.prefix.encode("ascii"), route, route.grammar)
            for route in self.all
            if route.grammar is not None
        ]
        assert len({route.path for route in self.all}) == len(self.all)  # noqa: S101 - a path, a route

    def match(self, target: bytes) -> Match | None:
        """The route whose path the target is, byte for byte; None where there is none."""
        path, _, query = target.partition(b"?")
        if b"#" in query:  # no part of a target (RFC 9112, section 3.2), and parsers differ over it
            return None
        return self._exact.get(path) or self._by_grammar(path)

    def _by_grammar(self, path: bytes) -> Match | None:
        for prefix, route, grammar in self._others:
            rest = path[len(prefix) :].decode("latin-1")
            if path.startswith(prefix) and grammar(rest):
                return Match(route, rest)
        return None


def _is_tile(rest: str) -> bool:
    return Tile.parse(f"tile/{rest}") is not None


SERVICE: Final = Routes(
    (
        Route(
            "/internal/secrets/credential-upsert", "POST", "upsert", WRITE, _SERVICES, names=True
        ),
        Route("/internal/secrets/credential-lookup", "POST", "lookup", READ, _SERVICES, names=True),
        Route(
            "/internal/secrets/credential-delete", "DELETE", "delete", DELETE, _SERVICES, names=True
        ),
        Route(
            "/internal/secrets/credential-upsert-batch",
            "POST",
            "upsert_batch",
            WRITE,
            _SERVICES,
            names=True,
            item="upsert",
            max_body=MAX_BATCH_BYTES,
        ),
        Route(
            "/internal/secrets/credential-lookup-batch",
            "POST",
            "lookup_batch",
            READ,
            _SERVICES,
            names=True,
            item="lookup",
            max_body=MAX_BATCH_BYTES,
        ),
        # This resource judges its caller again itself, line by line.
        Route("/internal/secrets/credentials", "GET", "credentials", READ, _SERVICES),
        # No shared key: with a leaked one, somebody could make a key that outlives it.
        Route("/internal/access/keys", "GET", "access_keys", ADMIN, recheck=True),
        Route("/internal/access/key-grant", "POST", "access_key_grant", ADMIN),
        Route("/internal/access/key-change", "POST", "access_key_change", ADMIN),
        Route("/internal/access/key-rotate", "POST", "access_key_rotate", ADMIN),
        Route("/internal/access/key-revoke", "POST", "access_key_revoke", ADMIN),
        # These disclose nothing about another caller's secret.
        Route("/internal/audit/due", "GET", "due", AUDIT, _BOTH, recheck=True),
        Route("/internal/audit/proof", "GET", "proof", AUDIT, _BOTH, recheck=True),
        Route("/internal/audit/consistency", "GET", "consistency", AUDIT, _AUDITORS, recheck=True),
        Route("/internal/audit/checkpoints", "GET", "checkpoints", AUDIT, _AUDITORS, recheck=True),
        Route("/internal/audit/replay", "GET", "replay", AUDIT, _AUDITORS, recheck=True),
        Route("/internal/audit/replay/diff", "GET", "replay_diff", AUDIT, _AUDITORS, recheck=True),
        Route("/internal/audit/history", "GET", "history", AUDIT, _AUDITORS, recheck=True),
        Route("/internal/audit/exposure", "GET", "exposure", AUDIT, _AUDITORS, recheck=True),
        Route("/internal/audit/events", "GET", "events", AUDIT, _AUDITORS, recheck=True),
        Route("/internal/audit/who", "GET", "who", AUDIT, _AUDITORS, recheck=True),
        Route("/internal/audit/unused", "GET", "unused", AUDIT, _AUDITORS, recheck=True),
        Route("/log/checkpoint", "GET", "log_checkpoint", AUDIT, _AUDITORS, recheck=True),
        Route(
            "/log/tile/{path}",
            "GET",
            "log_tile",
            AUDIT,
            _AUDITORS,
            recheck=True,
            grammar=_is_tile,
        ),
        Route("/health/live", "GET", "live"),
        Route("/health/ready", "GET", "ready"),
        Route("/metrics", "GET", "metrics"),
        Route("/openapi.yaml", "GET", "openapi"),
    )
)
"""The routes of the service."""

WITNESS: Final = Routes(
    (
        Route(ADD_CHECKPOINT, "POST", "add_checkpoint"),
        Route("/", "GET", "about"),
    )
)
"""The routes of a witness; none needs a key."""
