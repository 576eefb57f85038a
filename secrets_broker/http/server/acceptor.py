"""Accepts connections from the listening sockets, and counts them from that moment.

uvicorn lets the event loop accept, which reports a connection only after its TLS handshake, and
never reports one that does not finish it. Here a connection takes its slot before the handshake,
and gives it up however it ends.
"""

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from gunicorn.arbiter import Arbiter
from uvicorn.config import Config
from uvicorn.server import Server

from secrets_broker.http.server.connections import ConnectionLimits, ConnectionSlot
from secrets_broker.http.server.peer import peer_address
from secrets_broker.http.server.protocol import TOO_MANY, CarefulProtocol

_log = structlog.get_logger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
_AT_ONCE: Final = 16  # then other tasks run, and other workers may accept some
_PAUSE_SECONDS: Final = 0.5  # after the system had no descriptor or memory for another one
_SWEEP_SECONDS: Final = 1.0


class BrokerServer(Server):
    """uvicorn's server with an acceptor for each listening socket."""

    def __init__(self, config: Config, connections: ConnectionLimits) -> None:
        super().__init__(config)
        self._taken = connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        acceptors = [
            Acceptor(each, self._protocol, self.config.ssl, self._taken) for each in sockets or ()
        ]
        self.servers = acceptors  # type: ignore[assignment]  # they have what uvicorn uses
        for acceptor in acceptors:
            acceptor.start()
        asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
        self.started = True

    def _protocol(self) -> CarefulProtocol:
        state, app_state = self.server_state, self.lifespan.state
        return CarefulProtocol(config=self.config, server_state=state, app_state=app_state)

    def _sweep(self) -> None:
        self._taken.observe()
        for connection in list(self.server_state.connections):
            if isinstance(connection, CarefulProtocol):
                connection.sweep()
        asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)


class Acceptor:
    """One listening socket; has the methods of asyncio's server that uvicorn uses."""

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], CarefulProtocol],
        context: ssl.SSLContext | None,
        connections: ConnectionLimits,
    ) -> None:
        self._listening, self._protocol = listening, protocol
        self._context, self._connections = context, connections
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._open = True

    def start(self) -> None:
        """Begin to accept connections, also after a pause."""
        if self._open:
            self._listening.setblocking(False)
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more."""
        self._open = False
        self._loop.remove_reader(self._listening.fileno())

    async def wait_closed(self) -> None:
        """Cancel the handshakes that are not finished."""
        for task in self._handshakes:
            task.cancel()
        if self._handshakes:
            await asyncio.wait(self._handshakes)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("cannot_accept", why=error.strerror)
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(_PAUSE_SECONDS, self.start)
                return
            connection.setblocking(False)
            self._take(connection, address)

    def _take(self, connection: socket.socket, address: Any) -> None:
        client = address if isinstance(address, tuple) else None  # a Unix socket's peer has none
        slot = self._connections.admit(peer_address({"client": client}))
        if slot is None:
            self._turn_away(connection)
            return
        task = self._loop.create_task(self._shake_hands(connection, slot))
        if self._context:
            slot.close = lambda: _cancel(task)
        self._handshakes.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._handshakes.discard(task)
            # It failed, took too long, or was cancelled, perhaps before it began.
            if task.cancelled() or task.exception():
                if slot.spare:
                    slot.refuse()
                slot.give_up()
                connection.close()

        task.add_done_callback(over)

    async def _shake_hands(self, connection: socket.socket, slot: ConnectionSlot) -> None:
        protocol = self._protocol()
        protocol.slot = slot
        seconds = protocol.spare_seconds if slot.spare else HANDSHAKE_SECONDS
        await self._loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=self._context,
            ssl_handshake_timeout=(seconds if self._context else None),
        )

    def _turn_away(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._context is None:
                connection.send(TOO_MANY)
                connection.shutdown(socket.SHUT_WR)
        connection.close()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
