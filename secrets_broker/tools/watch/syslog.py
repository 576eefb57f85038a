"""Syslog: over the network as RFC 5424, to the machine's own as syslog(3) writes it.

Nobody acknowledges a line of syslog: what the operating system took counts as told. Over UDP lines
can be lost; over TCP those that were on their way when a connection broke.
"""

import asyncio
import errno
import os
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import SysLogHandler
from typing import Any, Final

from secrets_broker.projections.conditions import Condition
from secrets_broker.tools.watch.sink import DeliveryError, line

FACILITIES: Final = SysLogHandler.facility_names
PORT: Final = 514

_APP: Final = "secrets-broker"
_LEVELS: Final = {"critical": 2, "warning": 4, "notice": 5}  # RFC 5424, section 6.2.1
_SECONDS: Final = 5.0
_ADDRESS: Final = re.compile(
    r"(?:(?P<kind>udp|tcp)://)?(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s/:\[\]]+))(?::(?P<port>[0-9]{1,5}))?"
)


class SyslogAddressError(ValueError):
    """An address that cannot be read."""


@dataclass(frozen=True, slots=True)
class SyslogAddress:
    """A path of a socket, or a host and a port."""

    path: str | None = None
    host: str = ""
    port: int = PORT
    tcp: bool = False

    @classmethod
    def parse(cls, text: str) -> "SyslogAddress":
        """Read /dev/log, HOST, HOST:PORT, udp://… or tcp://…; raises SyslogAddressError."""
        if text.startswith("/"):
            return cls(path=text)
        found = _ADDRESS.fullmatch(text)
        port = int(found["port"] or PORT) if found else 0
        if found is None or not 1 <= port <= 65_535:
            raise SyslogAddressError(
                "must be a path as /dev/log, or HOST:PORT, udp://HOST:PORT or tcp://HOST:PORT"
            )
        return cls(None, found["v6"] or found["host"], port, found["kind"] == "tcp")

    def __str__(self) -> str:
        """As a user writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{'tcp' if self.tcp else 'udp'}://{host}:{self.port}"


class Syslog:
    """Sends each condition as a message, over a connection that is made when it is needed."""

    def __init__(self, address: SyslogAddress, facility: str) -> None:
        self._address = address
        self._facility = FACILITIES[facility]
        self._socket: socket.socket | None = None

    async def send(self, condition: Condition) -> None:
        """Hand it to the operating system; raises DeliveryError."""
        priority = self._facility * 8 + _LEVELS[condition.severity]
        try:
            async with asyncio.timeout(_SECONDS):
                connected = self._open() or await self._connect()
                message = self._framed(priority, condition, connected.type == socket.SOCK_STREAM)
                await asyncio.get_running_loop().sock_sendall(connected, message)
        except TimeoutError:
            self.close()
            raise DeliveryError(f"{self._address}: it takes nothing") from None
        except OSError as error:
            self.close()
            why = error.strerror or type(error).__name__
            raise DeliveryError(f"{self._address}: {why}") from None

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket | None:
        """The connection, unless the other side has closed it: what is sent then is lost."""
        if self._socket is not None and self._socket.type == socket.SOCK_STREAM:
            try:
                if not self._socket.recv(1, socket.MSG_PEEK):
                    self.close()
            except BlockingIOError:
                pass
        return self._socket

    async def _connect(self) -> socket.socket:
        if self._address.path:
            try:
                return await self._to(socket.AF_UNIX, socket.SOCK_DGRAM, self._address.path)
            except OSError as error:
                if error.errno != errno.EPROTOTYPE:
                    raise
            return await self._to(socket.AF_UNIX, socket.SOCK_STREAM, self._address.path)
        kind = socket.SOCK_STREAM if self._address.tcp else socket.SOCK_DGRAM
        found = await asyncio.get_running_loop().getaddrinfo(
            self._address.host, self._address.port, type=kind
        )
        return await self._to(found[0][0], kind, found[0][4])

    async def _to(self, family: int, kind: int, target: Any) -> socket.socket:
        self.close()
        self._socket = connecting = socket.socket(family, kind)
        connecting.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connecting, target)
        return connecting

    def _framed(self, priority: int, condition: Condition, stream: bool) -> bytes:
        if self._address.path:
            # What glibc's syslog(3) writes, and all local daemons read; not all read RFC 5424.
            now = datetime.now(UTC).astimezone()
            stamp = f"{now:%b} {now.day:2} {now:%H:%M:%S}"
            end = "\0" if stream else ""  # as glibc ends it
            return f"<{priority}>{stamp} {_APP}[{os.getpid()}]: {line(condition)}{end}".encode()
        header = f"<{priority}>1 {condition.at} {socket.gethostname()} {_APP} {os.getpid()}"
        message = f"{header} {condition.condition} - {line(condition)}".encode()
        if not stream:
            return message
        return f"{len(message)} ".encode() + message  # octet counting: RFC 6587, section 3.4.1
