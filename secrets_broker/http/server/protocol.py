"""The HTTP/1.1 protocol of the worker: uvicorn's on httptools, made stricter.

httptools accepts some requests that RFC 9112 tells a server to refuse, and bounds neither the size
nor the time of a request. Here a request must have one Host, a known version and a head of at most
32 KiB, and must arrive within 15 seconds. A request that breaks a rule gets an answer where the
client can still assign it, and the connection is closed, since its further bytes cannot be
trusted. Each refusal is one log line, which quotes nothing of the request.
"""

import asyncio
from typing import Any, ClassVar, Final, cast

import msgspec
import structlog
from httptools import HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from secrets_broker.http.auth import client_certificate
from secrets_broker.http.auth.client_certificate import ClientCertificate
from secrets_broker.http.metrics import counters
from secrets_broker.http.problems import OF_PROTOCOL, Problem
from secrets_broker.http.request_body import TRUNCATED
from secrets_broker.http.routes import MATCH, MAX_BODY_BYTES, TABLE, Match, Routes
from secrets_broker.http.server.connections import ConnectionSlot
from secrets_broker.http.server.parser import UpgradelessParser
from secrets_broker.http.server.peer import peer_address

_log = structlog.get_logger(__name__)

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
# A refused body is still read up to this many times its bound, then the connection is closed.
PATIENCE: Final = 4

MAX_PIPELINED: Final = 32
"""Requests that wait on a connection for the one before them to be answered."""
KEPT: Final = frozenset({b"/health/live", b"/health/ready", b"/metrics"})
"""Paths that spare connections serve, so that monitoring still gets in."""
_STALE_SWEEPS: Final = 60
NO_ROUTES: Final = Routes(())
NOWHERE: Final = b"/"
"""The path that the application gets for a target without a route."""


def _answer(problem: Problem) -> bytes:
    body = msgspec.json.encode(problem.body)
    again = b"retry-after: %d\r\n" % problem.retry_after if problem.retry_after else b""
    head = b"content-type: application/json\r\n%bconnection: close\r\n" % again
    length = b"content-length: %d\r\n\r\n" % len(body)
    return STATUS_LINE[problem.status] + head + length + body


ANSWERS: Final = {status: _answer(problem) for status, problem in OF_PROTOCOL.items()}
TOO_MANY: Final = ANSWERS[503]
"""The answer on a connection that is closed unread."""


class _RefusedError(Exception):
    """Ends the parsing of a request from within a callback of the parser."""


class CarefulProtocol(HttpToolsProtocol):
    """One connection."""

    receive_seconds: ClassVar[float] = 15.0
    # Closing with unread bytes resets the connection, and the client may lose its answer.
    linger_seconds: ClassVar[float] = 1.0
    # A worker that ends may have accepted a connection whose first request is still on its way.
    parting_seconds: ClassVar[float] = 0.3
    # A spare connection is open for a moment, so that a few are enough for all monitoring.
    spare_seconds: ClassVar[float] = 1.0
    spare_linger_seconds: ClassVar[float] = 0.1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = cast(HttpRequestParser, UpgradelessParser(self))
        self._receiving = False  # a request has begun and is not complete
        self._in_head = False
        self._received = 0  # bytes of this request after its first piece
        self._most = MAX_HEAD_BYTES  # the bound of these bytes
        self._too_long = False  # its Content-Length is over the bound
        self._refusal = 400
        self._lingering = False
        self._answering: RequestResponseCycle | None = None  # uvicorn's `cycle` is the newest
        self._deadline: asyncio.TimerHandle | None = None
        self._certificate: ClientCertificate | None = None
        self.slot: ConnectionSlot | None = None
        """The slot of the connection; None where connections are not counted."""
        self._unsent, self._stale = 0, 0
        self._routes: Routes = self.app_state.get(TABLE, NO_ROUTES)

    # uvicorn narrows the type in the same way, which the base class of asyncio does not allow.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the client's certificate, and start the first request's deadline."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        # None where the client showed no certificate.
        der = tls.getpeercert(binary_form=True) if tls else None
        self._certificate = client_certificate.read(der) if der else None
        self._set_deadline()
        if self.slot:
            self.slot.close = self._give_way
            if not self.slot.is_taken:  # it was cleared before the connection was made
                self._give_way()

    def connection_lost(self, exc: Exception | None) -> None:
        """Mark an incomplete body as truncated, and give up the slot."""
        self._drop_deadline()
        self._mark_truncated()
        self._abandon()
        if self.slot:
            self.slot.give_up()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, within the bounds of size and time."""
        if self._lingering:
            return
        if self._receiving:
            self._received += len(data)
            if self._received > self._most:
                self._refuse(431 if self._in_head else 413)
                return
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if self._deadline is None and (self._receiving or idle) and not self._lingering:
            self._set_deadline()  # most requests come in one piece and need none

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(400)
        self.scope["state"][client_certificate.STATE] = self._certificate
        self._receiving = self._in_head = True
        self._received, self._most = 0, MAX_HEAD_BYTES

    def on_headers_complete(self) -> None:
        """Check the complete head before the application sees the request."""
        self._in_head = False
        match = self._routes.match(self.url)
        self._check_head(match)
        self._check_place()
        self.scope["state"][MATCH] = match
        if match is None:
            # A target without a route is not parsed, decoded or passed on. It need not even have
            # a path (RFC 9112, sections 3.2.3 and 3.2.4).
            self.url = NOWHERE
        super().on_headers_complete()
        if self._is_spare:
            self.cycle.keep_alive = False
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # the next bytes are meant for a tunnel

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        super().on_message_complete()
        self._receiving = False
        self._drop_deadline()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """Answer requests that are here or arriving, then close: a reload must fail none."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self.transport.is_closing():
            self.loop.call_later(self.parting_seconds, self._part)
        else:
            super().shutdown()

    def _part(self) -> None:
        super().shutdown()
        if self.scheme == "https" and self.transport.is_closing():
            self.loop.call_later(self.parting_seconds, self._abort_if_sent)

    def _abort_if_sent(self) -> None:
        # Our close_notify is sent (RFC 8446, section 6.1). An idle client may never send its own,
        # and the worker would wait for it until it is killed.
        if not self.transport.get_write_buffer_size():
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Close a connection whose client is still sending a body that is too large."""
        super().on_response_complete()
        if self.slot:
            self.slot.end()
        cycle = self.cycle
        if self._receiving and not self._in_head and cycle.response_complete and self._too_long:
            self._linger()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that the parser, or a check in its callbacks, refused."""
        self._refuse(self._refusal)

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: a CONNECT has a log line like every request."""

    def _check_head(self, match: Match | None) -> None:
        size, hosts, announced, coded, expects = len(self.url), 0, 0, False, False
        for name, value in self.headers:
            size += len(name) + len(value) + len(": \r\n")
            match name:
                case b"host":
                    hosts += 1
                case b"content-length":
                    announced = int(value)
                case b"transfer-encoding":
                    coded = True
                case b"expect":
                    expects = True
        limit = match.route.max_body if match else MAX_BODY_BYTES
        self._too_long = announced > limit
        self._most = MAX_HEAD_BYTES + PATIENCE * limit
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._stop(431)
        version = self.parser.get_http_version()
        careful = hosts == 1 if version == "1.1" else version == "1.0" and hosts <= 1 and not coded
        if not careful:
            self._stop(400)
        if expects and not self.expect_100_continue:
            self._stop(417)

    @property
    def _is_spare(self) -> bool:
        return self.slot is not None and self.slot.spare

    def _check_place(self) -> None:
        if self.slot is None:
            return
        if self.url.partition(b"?")[0] in KEPT:
            self.slot.begin(None)
        elif self._is_spare or not self.slot.begin(self.scope):
            self._stop(503)

    def sweep(self) -> None:
        """Each second: abort a connection whose client has read nothing of its answer for long.

        A closed connection would otherwise stay until all is sent.
        """
        unsent = self.transport.get_write_buffer_size()
        self._stale = self._stale + 1 if unsent and unsent == self._unsent else 0
        self._unsent = unsent
        if self._stale >= _STALE_SWEEPS:
            self.transport.abort()

    def _stop(self, status: int) -> None:
        self._refusal = status
        raise _RefusedError

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing() or self._lingering:
            return
        answered = self._may_answer()
        self._note(status, answered=answered)
        if answered:
            self.transport.write(ANSWERS[status])
        self._linger()

    def _note(self, status: int, *, answered: bool) -> None:
        if status == 503 and self.slot:
            self.slot.refuse()
            return
        counters.REFUSED.inc()
        ip = peer_address({"client": self.client})
        _log.warning("request_refused", status=status, ip=ip, answered=answered)

    def _may_answer(self) -> bool:
        # Not while an earlier request waits for its answer: the client would take ours for it.
        if not self._receiving or self.pipeline:
            return False
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:  # refused before it became a cycle
            return cycle is None or cycle.response_complete
        return not cycle.response_started

    def _linger(self) -> None:
        """Close our side, drop what the client still sends for a moment, then close."""
        self._lingering = True
        self._drop_deadline()
        self._unset_keepalive_if_required()
        self._mark_truncated()
        self._abandon()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        seconds = self.spare_linger_seconds if self._is_spare else self.linger_seconds
        self.loop.call_later(seconds, self.transport.close)

    def _abandon(self) -> None:
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _mark_truncated(self) -> None:
        if self._receiving and self.scope is not None:
            self.scope["state"][TRUNCATED] = True

    def _set_deadline(self) -> None:
        seconds = self.spare_seconds if self._is_spare else self.receive_seconds
        self._deadline = self.loop.call_later(seconds, self._out_of_time)

    def _out_of_time(self) -> None:
        if self.pipeline:  # reading is paused while earlier requests are answered
            self._set_deadline()
        elif self._is_spare and not self.transport.is_closing():
            self._give_way()
        elif self._receiving:
            self._refuse(408)
        else:
            self.transport.close()

    def _give_way(self) -> None:
        """Answer 503 on a spare connection that has sent no request, and close it."""
        self._drop_deadline()
        unanswered = self.cycle is None
        if unanswered and not self._lingering:
            self._note(503, answered=True)
            self.transport.write(TOO_MANY)
        self.transport.close()

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
