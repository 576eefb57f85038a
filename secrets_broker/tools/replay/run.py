"""What `replay` does once it is clear what is asked: ask the ledger, and print what it says."""

import sys
from dataclasses import dataclass
from typing import Final

from secrets_broker.ledger.database.search_by_time import Fetch, asking
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import FieldError, InvalidCommandError, LedgerUnavailableError
from secrets_broker.projections.paging.reading_session import READ_SESSION
from secrets_broker.projections.parameters.ledger_point import BEFORE_THE_FIRST, Point
from secrets_broker.projections.queries import replay as states
from secrets_broker.projections.queries.replay import Scope
from secrets_broker.projections.queries.replay_diff import differences
from secrets_broker.projections.unreadable import Unreadable
from secrets_broker.settings import Settings
from secrets_broker.tools.replay.report import (
    difference_lines,
    revealed_line,
    revealed_lines,
    say_unreadable,
    state_lines,
)
from secrets_broker.tools.replay.reveal import Revealed, reveal
from secrets_broker.tools.shared.command_line import operator, say
from secrets_broker.tools.shared.output import Form
from secrets_broker.tools.shared.read_only_connection import reading
from secrets_broker.tools.shared.status import NotAsked, confirm
from secrets_broker.wiring import loaded_keyring, login_to_append

# A page of a large table may take longer than a request may.
_SESSION: Final = {**READ_SESSION, "statement_timeout": "0"}
_MAY_OPEN: Final = """
    SELECT has_table_privilege('ledger.bodies', 'SELECT')
       AND has_table_privilege('ledger.data_keys', 'SELECT')
       AND has_column_privilege('ledger.keks', 'canary', 'SELECT')
"""
_MAY_NOT: Final = "this login may not read what is encrypted"
_LEFT_OUT: Final = "username, domain, additional_data and what else is encrypted are left out"


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What the options say."""

    at: Point
    since: Point | None
    """Set for a difference, which then goes up to `at`."""
    host: str | None
    purpose: str | None
    form: Form
    no_keys: bool
    reason: str | None
    """Set where secrets are to be shown."""
    yes: bool

    def scope(self, position: int) -> Scope:
        """The state at a position, of these names; raises InvalidCommandError."""
        return Scope.parse(position, self.host, self.purpose)


async def run(settings: Settings, asked: ReplayOptions) -> bool:
    """Print what is asked; tells whether all of it opened. Raises LedgerError."""
    async with reading(settings.database_url, _SESSION) as connection:
        fetch = asking(connection)
        position = await asked.at.resolve(fetch)
        if asked.since is None:
            say(f"the state {_after(position)}")
            if asked.reason is not None and position != BEFORE_THE_FIRST:
                return await _reveal(settings, asked, fetch, position)
            keyring = await _keyring(settings, asked, fetch, position)
            return await _state(fetch, keyring, asked, position)
        since = await asked.since.resolve(fetch)
        if since > position:
            raise InvalidCommandError(FieldError("--diff", "A must not be behind B"))
        say(f"from the state {_after(since)} to that {_after(position)}")
        keyring = await _keyring(settings, asked, fetch, position)
        return await _difference(fetch, keyring, asked, since, position)


def _after(position: int) -> str:
    if position == BEFORE_THE_FIRST:
        return "before the first event"
    return f"after the event at position {position}"


async def _keyring(
    settings: Settings, asked: ReplayOptions, fetch: Fetch, position: int
) -> Keyring | None:
    """The keys, where there is something to open and nothing speaks against it."""
    if asked.no_keys or position == BEFORE_THE_FIRST:
        return None
    if not settings.kms_key_is_set and settings.kms_url is None:
        say(f"no SECRETS_KMS_KEY is set: {_LEFT_OUT}")
        return None
    if not await _may_open(fetch):
        say(f"{_MAY_NOT}: {_LEFT_OUT}")
        return None
    return await loaded_keyring(settings, settings.database_url)


async def _may_open(fetch: Fetch) -> bool:
    return await fetch(_MAY_OPEN, {}) == [(True,)]


async def _state(
    fetch: Fetch, keyring: Keyring | None, asked: ReplayOptions, position: int
) -> bool:
    complete = True
    with state_lines(asked.form) as lines:
        async for page in states.state(fetch, keyring, asked.scope(position)):
            lines.write(page.credentials)
            say_unreadable(page.unreadable)
            complete = complete and not page.unreadable
    return complete


async def _difference(
    fetch: Fetch, keyring: Keyring | None, asked: ReplayOptions, since: int, position: int
) -> bool:
    complete = True
    with difference_lines(asked.form) as lines:
        async for page in differences(fetch, keyring, since, asked.scope(position)):
            lines.write(page.differences)
            say_unreadable(page.unreadable)
            complete = complete and not page.unreadable
    return complete


async def _reveal(settings: Settings, asked: ReplayOptions, fetch: Fetch, position: int) -> bool:
    if not await _may_open(fetch):
        raise LedgerUnavailableError(f"{_MAY_NOT}: --reveal needs the service's, in DATABASE_URL")
    scope, complete = asked.scope(position), True
    if not asked.yes:
        _confirm(await _count(fetch, scope), position)
    login = await login_to_append(settings, settings.database_url)
    context = operator(asked.reason)
    with revealed_lines(asked.form) as lines:
        # What comes here is committed: on record first, then shown.
        async for batch in reveal(login, context, scope):
            lines.write([revealed_line(one) for one in batch])
            unreadable = [_unreadable(one, one.why) for one in batch if one.why]
            say_unreadable(unreadable)
            complete = complete and not unreadable
    return complete


async def _count(fetch: Fetch, scope: Scope) -> int:
    count = 0
    async for page in states.state(fetch, None, scope):
        count += sum(not one.erased for one in page.credentials)
    return count


def _confirm(count: int, position: int) -> None:
    what = f"{count} credentials as they were {_after(position)}"
    if not sys.stdin.isatty():
        raise NotAsked(
            f"this would show the passwords of {what}, and there is no terminal to ask on: "
            "say --yes"
        )
    confirm(f"Record and show the passwords of {what}?")


def _unreadable(one: Revealed, why: str) -> Unreadable:
    return Unreadable(one.credential.host, one.credential.purpose, one.credential.position, why)
