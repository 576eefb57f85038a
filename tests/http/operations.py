"""The operations of the OpenAPI document, and which key opens each."""

from importlib.resources import files
from typing import Any

import falcon.testing
import schemathesis

from secrets_broker.http.auth.authentication import Authentication
from secrets_broker.http.routes import MATCH, SERVICE, Route


def found(app: Any, target: bytes) -> Any:
    """What the application's router leads to."""
    request = falcon.testing.create_asgi_req(path="/")
    request.scope["state"] = {MATCH: SERVICE.match(target)}
    return app._router_search("/", req=request)


def opens(doors: Authentication, route: Route, key: str) -> bool:
    """Whether a key opens a route."""
    request = falcon.testing.create_asgi_req(path=route.path)
    # falcon's own would be read up by now; a server's are a list.
    request.scope["headers"] = [(b"x-internal-key", key.encode())]
    _, to_be_judged = doors.identify(request, route)
    return to_be_judged is None


# Not by schemathesis's own pytest plugin, so that pytest may be of any version.
_text = files("secrets_broker.http").joinpath("openapi.yaml").read_text()
OPERATIONS = {
    operation.label: operation
    for found in schemathesis.openapi.from_file(_text).get_all_operations()
    for operation in [found.ok()]  # type: ignore[union-attr]  # an invalid one fails here
}
