"""A raw socket to a service: bytes in pieces out, and what came of them.

An outcome is the statuses that came back, in order, and what became of the connection: `closed`,
or `open` where nothing more happened within the time that a case allows.
"""

import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SILENCE_SECONDS: Final = 1.5
_STATUS: Final = re.compile(rb"(?:^|\n|\})HTTP/1\.[01] (\d{3})")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The statuses that were answered, and whether the connection was closed then."""

    statuses: tuple[int, ...]
    closed: bool
    seconds: float = 0.0

    def __str__(self) -> str:
        """As the table shows it."""
        said = ", ".join(map(str, self.statuses)) or "nothing"
        return f"{said}; {'closed' if self.closed else 'open'}"


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, in pieces a pause apart, and what a careful server does."""

    name: str
    pieces: tuple[bytes, ...]
    careful: Callable[[Outcome], bool]
    pause: float = 0.0
    half_close: bool = False


def send(port: int, case: Case) -> Outcome:
    """Send a case's pieces and collect what comes back."""
    started = time.monotonic()
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=SILENCE_SECONDS) as sock:
        closed = _send_pieces(sock, case, received) or _read(sock, received, SILENCE_SECONDS)
    statuses = tuple(int(found) for found in _STATUS.findall(bytes(received)))
    return Outcome(statuses, closed, time.monotonic() - started)


def _send_pieces(sock: socket.socket, case: Case, received: bytearray) -> bool:
    for number, piece in enumerate(case.pieces):
        try:
            sock.sendall(piece)
        except OSError:  # it was cut off while we sent; an answer may still wait to be read
            _read(sock, received, SILENCE_SECONDS)
            return True
        if number < len(case.pieces) - 1 and _read(sock, received, case.pause):
            return True
    if case.half_close:
        sock.shutdown(socket.SHUT_WR)
    return False


def _read(sock: socket.socket, received: bytearray, seconds: float) -> bool:
    """Read until that much time has passed without a byte; True where the other end closed."""
    sock.settimeout(max(seconds, 0.01))
    try:
        while data := sock.recv(65_536):
            received += data
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
