"""The transparency log for other verifiers, by C2SP tlog-tiles: checkpoint, tiles, entries."""

import asyncio
import gzip
import re
from typing import Final, TypeVar

import falcon
import falcon.asgi
import structlog

from secrets_broker.http import error_handlers, problems
from secrets_broker.ledger.errors import LedgerMismatchError
from secrets_broker.ledger.transparency_log import published_log
from secrets_broker.ledger.transparency_log.tile import Tile
from secrets_broker.projections.paging.reading_session import Question, Reader

T = TypeVar("T")
_log = structlog.get_logger(__name__)

# A key protects them, so no shared cache. A tile never changes; a checkpoint is soon out of date.
_IMMUTABLE: Final = "private, max-age=31536000, immutable"
_BRIEF: Final = "private, max-age=1"
_LEVEL: Final = 6
_REFUSED: Final = re.compile(r"q\s*=\s*0(\.0{0,3})?")


class LogCheckpoint:
    """GET /log/checkpoint: the published checkpoint with its cosignatures."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Answer the signed note; 404 before the first one, 503 from a standby."""
        signed = await ask(self._reader, published_log.published)
        resp.content_type = "text/plain; charset=utf-8"
        resp.set_header("Cache-Control", _BRIEF)
        resp.data = str(signed).encode()


class LogTile:
    """GET /log/tile/…: tiles of hashes, and entry bundles."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, path: str) -> None:
        """Answer its bytes; 404 for any path that is no tile of the published tree."""
        wanted = Tile.parse(f"tile/{path}")
        data = None
        if wanted is not None and not req.query_string:
            data = await ask(self._reader, lambda c: published_log.tile(c, wanted))
        if wanted is None or data is None:
            error_handlers.write(resp, problems.NO_TILE)
            return
        resp.content_type = "application/octet-stream"
        resp.set_header("Cache-Control", _IMMUTABLE)
        if wanted.level is None:  # hashes do not compress
            resp.set_header("Vary", "Accept-Encoding")
            if _takes_gzip(req.get_header("Accept-Encoding") or ""):
                resp.set_header("Content-Encoding", "gzip")
                data = await asyncio.to_thread(gzip.compress, data, _LEVEL, mtime=0)
        resp.data = data


async def ask(reader: Reader, question: Question[T]) -> T:
    """Ask; a ledger that differs from what was signed is also logged as critical."""
    try:
        return await reader.ask(question)
    except LedgerMismatchError as error:
        _log.critical("ledger_mismatch", why=str(error))
        raise


def _takes_gzip(header: str) -> bool:
    """Whether the header accepts gzip (RFC 9110, section 12.5.3); a weight of 0 refuses it."""
    for coding in header.lower().split(","):
        name, _, weight = coding.strip().partition(";")
        if name.strip() in ("gzip", "x-gzip"):
            return not _REFUSED.fullmatch(weight.strip())
    return False
