"""Changing grants from a command: a change is an event like any other."""

from secrets_broker.ledger.access.grant_commands import GrantCommand
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.transactions import Login


async def change(login: Login, command: GrantCommand, context: Context) -> int:
    """Record the change, and return the position of its event.

    Raises InvalidCommandError if the grant does not allow the change, or LedgerUnavailableError.
    """
    async with login.transactions() as work:
        fold = await work.begin([])
        outcome = fold.take(command, context)
        # Died before the COMMIT: nothing has changed, and the key that was made opens nothing.
        # Died after it: it is so for every batch that begins from now on, though a key that was
        # never shown is of no use; `access rotate` makes another.
        await work.commit(fold)
    return outcome.position
