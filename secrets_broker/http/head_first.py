"""A falcon application that judges a request by its head, before its body is there.

Falcon waits for the first piece of a body before it looks at anything. A caller without a key, or
with a path that does not exist, would get its answer only after it sent a body that nobody reads.
With `Expect: 100-continue` it would even be told to send it (RFC 9110, section 10.1.1).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import falcon.asgi

Event = Mapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class HeadFirstApp(falcon.asgi.App[Any, Any]):
    """Falcon's application, given an empty first piece of each body."""

    # falcon narrows WSGI's type in the same way.
    async def __call__(  # type: ignore[override]
        self, scope: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        """Handle a request, or the start and end of the server."""
        if scope["type"] == "http":
            receive = _at_once(receive)
        await super().__call__(scope, receive, send)


def _at_once(receive: Receive) -> Receive:
    began = False

    async def first_empty() -> Event:
        nonlocal began
        if began:
            return await receive()
        began = True
        return {"type": "http.request", "body": b"", "more_body": True}

    return first_empty
