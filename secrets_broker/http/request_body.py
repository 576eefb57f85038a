"""Request bodies: bounded in size, complete, and JSON."""

from typing import Any, Final

import falcon
import falcon.asgi

from secrets_broker.http.error_handlers import InvalidRequestError
from secrets_broker.http.router import matched
from secrets_broker.http.strict_json import decode
from secrets_broker.ledger.errors import FieldError

TRUNCATED: Final = "truncated"
"""Set in the scope's state by the protocol where the connection ended before the body did."""


async def read_json(req: falcon.asgi.Request) -> Any:
    """Read and decode the body; raises InvalidRequestError, or falcon's 413 and 415."""
    return decode(await read_typed(req))


async def read_typed(req: falcon.asgi.Request) -> bytes:
    """Read a body whose headers say that it is JSON; raises as `read_json` does."""
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    coding = (req.get_header("Content-Encoding") or "identity").strip().lower()
    if media_type != "application/json" or coding != "identity":
        # The header says which coding is accepted (RFC 9110, section 15.5.16).
        raise falcon.HTTPUnsupportedMediaType(headers={"Accept-Encoding": "identity"})
    return await read_bounded(req)


async def read_bounded(req: falcon.asgi.Request) -> bytes:
    """Read the body; raises InvalidRequestError, or falcon's 413."""
    match = matched(req)
    limit = match.route.max_body if match else 0
    if (req.content_length or 0) > limit:
        raise falcon.HTTPContentTooLarge
    data = await req.stream.read(limit + 1)
    if req.scope["state"].get(TRUNCATED):  # a part may be valid JSON, but is not what was sent
        raise InvalidRequestError(FieldError("", "the body ended early"))
    if len(data) > limit:  # sent in chunks, without a Content-Length
        raise falcon.HTTPContentTooLarge
    return data
