"""Proofs and published checkpoints for auditors; receipts also for services."""

from base64 import b64encode
from datetime import datetime
from typing import Annotated, ClassVar

import falcon
import falcon.asgi
import msgspec
from msgspec import Meta

from secrets_broker.http.error_handlers import InvalidRequestError
from secrets_broker.http.query_string import known_fields, page_limit
from secrets_broker.http.resources.tiles import ask
from secrets_broker.ledger.errors import FieldError
from secrets_broker.ledger.transparency_log import published_log, stored_receipts
from secrets_broker.ledger.transparency_log.checkpoint import NUMBER
from secrets_broker.projections.paging.cursor import Cursor, Position
from secrets_broker.projections.paging.reading_session import Reader


class ProofOfInclusion:
    """GET /internal/audit/proof: an event's receipt."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer a C2SP tlog-proof; 404 with Retry-After where no checkpoint covers it yet."""
        fields = known_fields(req.query_string, ("position", "size"))
        position, size = _required(fields, "position"), _optional(fields, "size")
        made = await ask(self._reader, lambda c: stored_receipts.receipt(c, position, size))
        resp.content_type = "text/plain; charset=utf-8"
        resp.data = str(made).encode()


class ProofOfConsistency:
    """GET /internal/audit/consistency: that a later tree extends an earlier one."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer both sizes, their roots, and the proof between them, in base64."""
        fields = known_fields(req.query_string, ("from", "to"))
        old, size = _required(fields, "from"), _optional(fields, "to")
        made = await ask(self._reader, lambda c: published_log.consistency(c, old, size))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(
            {
                "from": made.old,
                "to": made.size,
                "from_root": b64encode(made.old_root).decode(),
                "to_root": b64encode(made.root).decode(),
                "proof": [b64encode(hash_).decode() for hash_ in made.proof],
            }
        )


class CheckpointsCursor(Cursor, frozen=True):
    """The checkpoint that a page ended with."""

    question: ClassVar[str] = "checkpoints"

    signed_at: Annotated[datetime, Meta(tz=True)]
    origin: str
    size: Position

    @property
    def place(self) -> published_log.Place:
        """Where the next page continues."""
        return self.signed_at, self.origin, self.size


class Checkpoints:
    """GET /internal/audit/checkpoints: every published checkpoint."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer a page, oldest first, with cosignatures and the next page's cursor."""
        fields = known_fields(req.query_string, ("limit", "cursor"))
        limit = page_limit(fields.get("limit"))
        after = CheckpointsCursor.decode(fields["cursor"]).place if "cursor" in fields else None
        found = await ask(
            self._reader, lambda c: published_log.kept_checkpoints(c, limit + 1, after)
        )
        items = [
            {
                "origin": signed.checkpoint.origin,
                "size": signed.checkpoint.size,
                "note": str(signed),
            }
            for _, signed in found[:limit]
        ]
        more = len(found) > limit
        following = CheckpointsCursor(*found[limit - 1][0]).encode() if more else None
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode({"items": items, "next": following})


def _required(fields: dict[str, str], name: str) -> int:
    number = _optional(fields, name)
    if number is None:
        raise InvalidRequestError(FieldError(name, "is required"))
    return number


def _optional(fields: dict[str, str], name: str) -> int | None:
    text = fields.get(name)
    if text is not None and not NUMBER.fullmatch(text):
        raise InvalidRequestError(FieldError(name, "must be a whole number, without a sign"))
    return None if text is None else int(text)
