"""The one table of routes: what there is over HTTP, and who may have it. Pure.

The router, the keys that open a path, the rights that a grant needs, the operations in the log, the
labels of the metrics and the bounds of bodies all follow from here. A request is for a route only
where its target is that route's path byte for byte, with nothing behind it but a query: no other
spelling is looked for, so that no two readers can take one target for two routes. What is not in
the table does not exist.
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
"""The operation of a request for what does not exist."""

TABLE: Final = "secrets_broker.routes"
"""Where the application hands its table to the protocol: in the state of its lifespan (ASGI)."""
MATCH: Final = "secrets_broker.match"
"""Where the protocol says which route a request is for: in the state of its scope."""

_SERVICES: Final = frozenset({INTERNAL_KEY})
_AUDITORS: Final = frozenset({AUDITOR_KEY})
_BOTH: Final = frozenset({INTERNAL_KEY, AUDITOR_KEY})
_NOBODY: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Route:
    """A path, and all that follows from it."""

    path: str
    """With a name in braces at its end where `grammar` says what may stand there."""
    method: str
    """GET has HEAD beside it (RFC 9110, section 9.3.2)."""
    operation: str
    """As the log has it."""
    right: str | None = None
    """What a grant needs; None where it is open to everybody."""
    keys: frozenset[str] = _NOBODY
    """The shared keys that open it."""
    names: bool = False
    """Whether what is asked for names credentials: then its caller is judged with each name."""
    leaves: bool = False
    """Whether the answer is only read: then its caller is judged again before it goes out."""
    item: str | None = None
    """The operation of each item, where there may be several."""
    max_body: int = MAX_BODY_BYTES
    grammar: Callable[[str], bool] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """All that it takes, as the Allow header has them."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def label(self) -> str:
        """The operation as metrics have it: by itself, or by the right where there are many."""
        return self.right if self.right in (AUDIT, ADMIN) else self.operation

    @property
    def counted_as(self) -> str:
        """What each item is counted as; what is refused as a whole counts as one."""
        return self.item or self.operation

    @property
    def prefix(self) -> str:
        """The path up to what its grammar is about."""
        return self.path.partition("{")[0]


@dataclass(frozen=True, slots=True)
class Match:
    """The route of one request."""

    route: Route
    rest: str | None = None
    """What stands in the place of the name in braces."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What a responder is called with."""
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
        if b"#" in query:  # no part of a target (RFC 9112, section 3.2), and readers differ over it
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
        # It judges its caller again by itself, and line by line.
        Route("/internal/secrets/credentials", "GET", "credentials", READ, _SERVICES),
        # No shared key: whoever finds one could make a key that outlives it.
        Route("/internal/access/keys", "GET", "access_keys", ADMIN, leaves=True),
        Route("/internal/access/key-grant", "POST", "access_key_grant", ADMIN),
        Route("/internal/access/key-change", "POST", "access_key_change", ADMIN),
        Route("/internal/access/key-rotate", "POST", "access_key_rotate", ADMIN),
        Route("/internal/access/key-revoke", "POST", "access_key_revoke", ADMIN),
        # They say nothing about anybody else's secret.
        Route("/internal/audit/due", "GET", "due", AUDIT, _BOTH, leaves=True),
        Route("/internal/audit/proof", "GET", "proof", AUDIT, _BOTH, leaves=True),
        Route("/internal/audit/consistency", "GET", "consistency", AUDIT, _AUDITORS, leaves=True),
        Route("/internal/audit/checkpoints", "GET", "checkpoints", AUDIT, _AUDITORS, leaves=True),
        Route("/internal/audit/replay", "GET", "replay", AUDIT, _AUDITORS, leaves=True),
        Route("/internal/audit/replay/diff", "GET", "replay_diff", AUDIT, _AUDITORS, leaves=True),
        Route("/internal/audit/history", "GET", "history", AUDIT, _AUDITORS, leaves=True),
        Route("/internal/audit/exposure", "GET", "exposure", AUDIT, _AUDITORS, leaves=True),
        Route("/internal/audit/events", "GET", "events", AUDIT, _AUDITORS, leaves=True),
        Route("/internal/audit/who", "GET", "who", AUDIT, _AUDITORS, leaves=True),
        Route("/internal/audit/unused", "GET", "unused", AUDIT, _AUDITORS, leaves=True),
        Route("/log/checkpoint", "GET", "log_checkpoint", AUDIT, _AUDITORS, leaves=True),
        Route(
            "/log/tile/{path}",
            "GET",
            "log_tile",
            AUDIT,
            _AUDITORS,
            leaves=True,
            grammar=_is_tile,
        ),
        Route("/health/live", "GET", "live"),
        Route("/health/ready", "GET", "ready"),
        Route("/metrics", "GET", "metrics"),
        Route("/openapi.yaml", "GET", "openapi"),
    )
)
"""What the service has."""

WITNESS: Final = Routes(
    (
        Route(ADD_CHECKPOINT, "POST", "add_checkpoint"),
        Route("/", "GET", "about"),
    )
)
"""What a witness has; it has no keys."""
