"""Gives live credentials new data keys: encrypts their content again, and changes nothing else.

Each credential gets a `credential.rekeyed` event with a body under its own new key. Id, version and
content stay. The event names the change that set the content, so the row keeps its times and names.
The old data key stays too, because bodies of the history are under it.

Credentials are taken in the order of their names, one transaction for each batch. `since` is a
position: a credential whose data key was made there or later is left out. By default it is the size
of the ledger when the run starts. A second run with the same `since` continues a killed one. A run
without it takes every credential, including those that an earlier run has done.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from secrets_broker.ledger.commands import Name, Rekey
from secrets_broker.ledger.database.name_pattern import like
from secrets_broker.ledger.event_types import GONE, IS_CHANGE, REKEYED, STORES, UPDATED, is_one_of
from secrets_broker.ledger.events import Context
from secrets_broker.ledger.fold import Fold
from secrets_broker.ledger.transactions import Login, Transactions

BATCH: Final = 100  # some ten milliseconds of the ledger's lock

_SIZE: Final = "SELECT coalesce(max(position) + 1, 0) FROM ledger.effective_events"
_NEXT_NAMES: Final = """
    SELECT last.host, last.purpose FROM (
        SELECT DISTINCT ON (host, purpose) host, purpose, type FROM ledger.effective_events
        WHERE __is_change__
          AND (host, purpose) > (%(after_host)s, %(after_purpose)s)
          AND host LIKE %(host)s AND purpose LIKE %(purpose)s
        ORDER BY host, purpose, position DESC
    ) AS last
    WHERE NOT __is_gone__
    ORDER BY last.host, last.purpose LIMIT %(limit)s
""".replace("__is_change__", IS_CHANGE).replace("__is_gone__", is_one_of(GONE))
# Where the credential's content was set, and where its data key was made.
_ORIGINS: Final = f"""
    SELECT host, purpose, max(position) FILTER (WHERE type <> '{REKEYED}'),
           max(position) FILTER (WHERE type <> '{UPDATED}')
    FROM unnest(%(hosts)s::text[], %(purposes)s::text[], %(ids)s::bigint[])
        AS live (host, purpose, credential_id)
    JOIN ledger.effective_events AS event USING (host, purpose, credential_id)
    WHERE ok AND {is_one_of(STORES)}
    GROUP BY host, purpose
"""  # noqa: S608 - our own words

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """The result of a run; a second run with this `since` continues a killed one."""

    since: int
    rekeyed: int = 0
    left_out: int = 0
    failures: tuple[Name, ...] = ()
    """Names whose content does not open; each has a failed event in the ledger."""


async def rekey(
    login: Login,
    context: Context,
    host: str = "*",
    purpose: str = "*",
    progress: Progress = lambda _: None,
    *,
    since: int | None = None,
    begun: Progress = lambda _: None,
) -> Rekeyed:
    """Give every live credential that matches a new data key.

    `begun` is called with `since` before the first change, `progress` with the number done so far.
    Raises LedgerUnavailableError; what was done before stays.
    """
    async with login.transactions() as work:
        if since is None:
            ((since,),) = await work.fetch(_SIZE, {})
            await _begin_event_key(work, context)
        begun(since)
        run = _Run(work, context, since)
        after: Name = ("", "")
        while names := await _next(work, host, purpose, after):
            await run.batch(names)
            after = names[-1]
            progress(run.result.rekeyed)
        return run.result


async def _begin_event_key(work: Transactions, context: Context) -> None:
    """Replace the event key too: a leak of the data keys may include it."""
    fold = await work.begin([])
    if fold.authenticity.begun is None:
        await work.give_up()
        return
    fold.authenticate(context)
    # Died before this commits: the old event key is in force. Died after: the new one is, and
    # another run of the whole begins one more.
    await work.commit(fold)


class _Run:
    def __init__(self, work: Transactions, context: Context, since: int) -> None:
        self._work = work
        self._context = context
        self.result = Rekeyed(since)

    async def batch(self, names: list[Name]) -> None:
        """One transaction: read these names under the lock, encrypt again, commit."""
        fold = await self._work.begin(names)
        result = self.result
        for name, content, key_made in await self._origins(names, fold):
            if key_made >= result.since:
                result = replace(result, left_out=result.left_out + 1)
                continue
            command = Rekey(host=name[0], purpose=name[1], content=content)
            if fold.take(command, self._context).error:
                result = replace(result, failures=(*result.failures, name))
            else:
                result = replace(result, rekeyed=result.rekeyed + 1)
        if not fold.append.entries:
            await self._work.give_up()
        else:
            # Died before this commits: these credentials are under their old data keys, and
            # are taken by the next run. Died after: they are under their new ones, and a run
            # with the same `since` leaves them out.
            await self._work.commit(fold)
        self.result = result

    async def _origins(self, names: list[Name], fold: Fold) -> list[tuple[Name, int, int]]:
        # Leaves out names that were deleted or erased since they were read.
        live = {name: state.id for name in names if (state := fold.state(name))}
        hosts, purposes = [host for host, _ in live], [purpose for _, purpose in live]
        values = {"hosts": hosts, "purposes": purposes, "ids": list(live.values())}
        rows = await self._work.fetch(_ORIGINS, values)
        return [((host, purpose), *positions) for host, purpose, *positions in sorted(rows)]


async def _next(work: Transactions, host: str, purpose: str, after: Name) -> list[Name]:
    values: dict[str, Any] = {
        "host": like("host", host),
        "purpose": like("purpose", purpose),
        "limit": BATCH,
    }
    values |= {"after_host": after[0], "after_purpose": after[1]}
    return await work.fetch(_NEXT_NAMES, values)
