"""Before anything is served: what the list of erasures names, and a backup brought back, goes."""

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from secrets_broker.ledger.errors import LedgerUnavailableError
from secrets_broker.ledger.operations.erasure import Erased, erase_again, still_there
from secrets_broker.settings import Settings
from secrets_broker.tools.erase import erasure_list
from secrets_broker.tools.shared.command_line import operator, say
from secrets_broker.tools.shared.status import NotAsked
from secrets_broker.wiring import login_to_append

_REASON: Final = "named in the list of erasures"


def apply_again(settings: Settings, path: Path, reason: str | None) -> list[Erased]:
    """Destroy what this list names and the database has; the settings' own list is completed."""
    named = {erasure.data_key for erasure in erasure_list.read(path)}
    own = settings.erasures
    known = {erasure.data_key for erasure in erasure_list.read(own)} if own else set[str]()

    async def destroy() -> list[Erased]:
        url = settings.migration_database_url
        login = await login_to_append(settings, url)
        found = erase_again(login, operator(reason or _REASON), named)
        return [erased async for erased in found]

    done = asyncio.run(destroy())
    # Died before the next lines: `path` still names these keys, so it can be applied again.
    new = [line for erased in done for line in erased.erasures if line.data_key not in known]
    if own and new:
        erasure_list.append(own, new)
    return done


def check_erasures(settings: Settings) -> None:
    """Let a service start only where nothing that was erased is in the database.

    Raises ErasureListError or NotAsked otherwise, also where it cannot be known.
    """
    path = settings.erasures
    if path is None:
        return
    named = {erasure.data_key for erasure in erasure_list.read(path)}
    there = _still_there(settings, named)
    if not there:
        return
    if settings.owner_database_url is None:
        raise NotAsked(
            f"the database has {len(there)} data keys that {path} names as erased: it was "
            f"restored from an older backup. Run secrets-broker erase --again {path}"
        )
    done = apply_again(settings, path, None)
    if left := _still_there(settings, named):
        raise NotAsked(
            f"{len(left)} data keys that {path} names as erased cannot be destroyed: no event of "
            "this ledger tells whose they are"
        )
    say(f"erased again, as {path} says: {summary(done)}")


def summary(done: Sequence[Erased]) -> str:
    """How much was destroyed, in words."""
    names = len({(erased.host, erased.purpose) for erased in done})
    keys = sum(len(erased.erasures) for erased in done)
    bodies = sum(erased.bodies for erased in done)
    return f"{names} names, {keys} data keys, {bodies} bodies"


def _still_there(settings: Settings, named: Collection[str]) -> list[str]:
    if not named:
        return []
    try:
        return asyncio.run(still_there(settings.database_url, named))
    except LedgerUnavailableError as error:
        raise NotAsked(
            f"{error}; with SECRETS_ERASURES nothing is served before the database was asked"
        ) from None
