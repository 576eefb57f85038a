"""Lets a tool run once at a time, by an advisory lock that ends with the session."""

import getpass
import os
import socket
from typing import Any, Final
from zlib import crc32

from psycopg import AsyncConnection

from secrets_broker.ledger.errors import BusyError

_MAX_APPLICATION_NAME: Final = 63  # PostgreSQL cuts a longer one

_TRY: Final = "SELECT pg_try_advisory_lock(%s, %s)"
_INTRODUCE: Final = "SELECT set_config('application_name', %s, false)"
_WHO: Final = """
    SELECT activity.application_name, activity.client_addr, activity.backend_start
    FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
    WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND granted
      AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_CLASS: Final = 0x5EC7  # any number; this program's tools agree on it


async def take_advisory_lock(connection: AsyncConnection[Any], tool: str) -> None:
    """Take the tool's lock for this session; raises BusyError, whose text names the holder."""
    lock = (_CLASS, crc32(tool.encode()) >> 1)  # 31 bits: the lock's halves are signed
    await connection.execute(_INTRODUCE, (_introduction(tool),))
    cursor = await connection.execute(_TRY, lock)
    if (await cursor.fetchone()) == (True,):
        return
    cursor = await connection.execute(_WHO, lock)
    raise BusyError(f"{tool} is already running: {_named(await cursor.fetchone())}")


def user_name() -> str:
    """The user that runs this process, as the operating system knows it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _introduction(tool: str) -> str:
    who = f"{tool} by {user_name()} on {socket.gethostname()}, process {os.getpid()}"
    return who.encode("ascii", "replace").decode()[:_MAX_APPLICATION_NAME]


def _named(holder: tuple[Any, ...] | None) -> str:
    if holder is None:
        return "its session has just ended; run this again"
    name, address, since = holder
    origin = f" from {address}" if address else ""
    return f"{name}{origin}, since {since:%Y-%m-%d %H:%M:%S %Z}"
