"""A falcon application that judges a request by its head, before its body is there.

Falcon waits for the first piece of a body before it looks at anything. Then who has no key, or asks
for what does not exist, would be told so only after he sent what nobody reads; and he would be told
to go on where he asked before he sends it (RFC 9110, section 10.1.1).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import falcon.asgi

Event = Mapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class HeadFirstApp(falcon.asgi.App[Any, Any]):
    """The same, but that the first piece of a body is an empty one."""

    # falcon narrows WSGI's type in the same way.
    async def __call__(  # type: ignore[override]
        self, scope: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        """Take a request, or the beginning and end of the server."""
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
