"""Ports for servers under test."""

import secrets
import socket
from typing import Final

# Below what Linux gives to connections that go out (ip_local_port_range begins at 32768): no
# client, nor one that connects to a port where nobody listens yet, is given one of these.
_LOWEST: Final = 20_000
_HIGHEST: Final = 32_000


def free_port() -> int:
    """A port that nobody listens on; drawn by chance, since several tests ask at once."""
    while True:
        # Not by `random`: Hypothesis has it draw the same in every process.
        port = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST)
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
