"""Falcon's router, which is the table of routes and nothing else.

Which route a request is for was found out once, by the protocol, from the target as it was sent;
here it is only taken from the request. No path is split, decoded or compared again.
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
    """Leads requests to the resources that stand behind the routes of a table."""

    def __init__(self, routes: Routes, behind: Mapping[str, object]) -> None:
        assert {route.operation for route in routes.all} == behind.keys()  # noqa: S101 - both ours
        self._behind = {
            route.path: (behind[route.operation], _methods(route, behind[route.operation]))
            for route in routes.all
        }

    def find(self, uri: str, req: falcon.asgi.Request | None = None) -> _Found | None:
        """What is behind the request's route; falcon knows this name and these parameters."""
        match = matched(req) if req is not None else None
        if match is None:
            return None
        resource, methods = self._behind[match.route.path]
        return resource, methods, match.parameters, match.route.path


class _Methods(dict[str, Responder]):
    """A responder for each method, whatever it is called."""

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
    """Tells the protocol, when the server begins, which routes there are."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Hand the table on; without it no request is for anything."""
        scope["state"][TABLE] = self._routes


def table_app(routes: Routes, behind: Mapping[str, object]) -> HeadFirstApp:
    """An application that has these routes, each with the resource of its operation behind it."""
    # falcon names the type of its own router, and uses `find` of it.
    found = HeadFirstApp(router=cast(CompiledRouter, TableRouter(routes, behind)))
    found.add_middleware(Lifespan(routes))
    return found


def matched(req: falcon.asgi.Request) -> Match | None:
    """The route that a request is for, as the protocol found it."""
    match: Match | None = req.scope["state"].get(MATCH)
    return match
