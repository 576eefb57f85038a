"""Request bodies: bounded, whole, and of the one media type that there is."""

from typing import Any, Final

import falcon
import falcon.asgi

from secrets_broker.http.errors import InvalidRequestError
from secrets_broker.http.strict_json import decode
from secrets_broker.ledger.errors import FieldError

# A password of 8 KiB and 32 KiB of data, each byte escaped as six, and room for the rest.
MAX_BODY_BYTES: Final = 256 * 1024
# 500 items of 8 KiB each; a batch of larger ones has fewer.
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
_BATCH: Final = "-batch"
TRUNCATED: Final = "truncated"
"""Set in the scope's state by the protocol where the connection ended before the body did."""


async def read_json(req: falcon.asgi.Request) -> Any:
    """Read and decode the body; raises InvalidRequestError, or falcon's 413 and 415."""
    return decode(await read_typed(req))


async def read_typed(req: falcon.asgi.Request) -> bytes:
    """Read the body, which says that it is JSON; raises as `read_json` does."""
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise falcon.HTTPUnsupportedMediaType
    return await read_bounded(req)


def max_bytes(path: str) -> int:
    """How long the body of a request may be."""
    return MAX_BATCH_BYTES if path.endswith(_BATCH) else MAX_BODY_BYTES


async def read_bounded(req: falcon.asgi.Request) -> bytes:
    """Read the body; raises InvalidRequestError, or falcon's 413."""
    limit = max_bytes(req.path)
    if (req.content_length or 0) > limit:
        raise falcon.HTTPContentTooLarge
    data = await req.stream.read(limit + 1)
    if req.scope["state"].get(TRUNCATED):  # what did arrive may be JSON, but is not what was meant
        raise InvalidRequestError(FieldError("", "the body ended early"))
    if len(data) > limit:  # sent in chunks, with no length to refuse it by
        raise falcon.HTTPContentTooLarge
    return data
