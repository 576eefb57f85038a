"""Rotations, whole and killed, for the tests of whatever they must not disturb."""

from secrets_broker.ledger.database.ledger_session import TOOL_SESSION
from secrets_broker.ledger.encryption.keks import NewKek
from secrets_broker.ledger.encryption.keyring import Kek, Keyring
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.operations.rotation import Progress, RotationReport, rotate
from secrets_broker.ledger.store import Store
from secrets_broker.projections.host_credentials import HostCredentials
from tests.conftest import Database

OPERATOR = Context(actor="operator", authn="cli")


def fresh_kek() -> Kek:
    """A KEK that no ledger knows."""
    return Kek.random("environment")[0]


async def rotated(
    database: Database,
    old: Keyring,
    new: Kek,
    progress: Progress = lambda _done, _total: None,
) -> RotationReport:
    """Rotate in chunks of three, as the owner."""
    held = Keyring([*old, new])
    store = await Store.connect(database.owner_url, HostCredentials(), held, TOOL_SESSION)
    try:
        return await rotate(store, held, NewKek(new), OPERATOR, progress=progress, chunk=3)
    finally:
        await store.close()


def wraps(database: Database) -> dict[str, int]:
    """How many data keys each KEK wraps."""
    return dict(database.fetch("SELECT kek, count(*) FROM ledger.data_keys GROUP BY kek"))


class DiedError(Exception):
    """Stands for the death of the process."""


def die_after(count: int) -> Progress:
    """A progress that ends the run once so many keys are re-wrapped."""

    def progress(done: int, _total: int) -> None:
        if done >= count:
            raise DiedError

    return progress
