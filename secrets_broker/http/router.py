"""Falcon's router, made from the table of routes.

The protocol has found the route once, from the target as it was sent. The router takes it from the
request: no path is split, decoded or compared again.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import falcon.asgi
from falcon.responders import create_method_not_allowed
from falcon.routing import CompiledRouter

from secrets_broker.http.head_first import HeadFirstApp
from secrets_broker.http.routes import MATCH, TABLE, Match, Route, Routes

Responder = Callable[..., Awaitable[None]]
_Found = tuple[object, Mapping[str, Responder], dict[str, Any], str]


class TableRouter:
    """Gives falcon the resource of a request's route."""

    def __init__(self, routes: Routes, resources: Mapping[str, object]) -> None:
        assert {route.operation for route in routes.all} == resources.keys()  # noqa: S101 - both ours
        self._resources = {
            route.path: (resources[route.operation], _methods(route, resources[route.operation]))
            for route in routes.all
        }

    def find(self, uri: str, req: falcon.asgi.Request | None = None) -> _Found | None:
        """The resource of the request's route; falcon calls this method by this name."""
        match = matched(req) if req is not None else None
        if match is None:
            return None
        resource, methods = self._resources[match.route.path]
        return resource, methods, match.parameters, match.route.path


class _Methods(dict[str, Responder]):
    """Responders by method; any other method has the one that answers 405."""

    def __init__(self, others: Responder, known: Mapping[str, Responder]) -> None:
        super().__init__(known)
        self._others = others

    def __missing__(self, method: str) -> Responder:
        return self._others


def _methods(route: Route, resource: object) -> Mapping[str, Responder]:
    responder: Responder = getattr(resource, f"on_{route.method.lower()}")
    others = cast(Responder, create_method_not_allowed(route.methods, asgi=True))
    return _Methods(others, dict.fromkeys(route.methods, responder))


class Lifespan:
    """Hands the table of routes to the protocol when the server starts."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Put the table into the state; without it no request has a route."""
        scope["state"][TABLE] = self._routes


def table_app(routes: Routes, resources: Mapping[str, object]) -> HeadFirstApp:
    """An application with these routes, each answered by the resource of its operation."""
    # falcon's type is its own router; of it, it uses only `find`.
    found = HeadFirstApp(router=cast(CompiledRouter, TableRouter(routes, resources)))
    found.add_middleware(Lifespan(routes))
    return found


def matched(req: falcon.asgi.Request) -> Match | None:
    """The request's route, as the protocol found it."""
    match: Match | None = req.scope["state"].get(MATCH)
    return match
