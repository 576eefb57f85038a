"""What a database is asked once its events are checked: erased data keys, and the projection.

With the keys at hand the rows of secrets.host_credentials are compared byte for byte with a table
that is rebuilt beside them; without, each row must name the last change of its credential.
"""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from secrets_broker.keys import loaded_keyring
from secrets_broker.ledger.audit.checker import Checker
from secrets_broker.ledger.audit.findings import MAX_PROBLEMS, Findings
from secrets_broker.ledger.errors import LedgerError
from secrets_broker.ledger.events import IS_CHANGE
from secrets_broker.projections.rebuild import Comparison, rebuild
from secrets_broker.settings import Settings
from secrets_broker.tools.common import operator
from secrets_broker.tools.progress import Tell
from secrets_broker.tools.verify.database import DatabaseSource

KEYS_AT_ONCE: Final = 5_000

_STILL_THERE: Final = "SELECT id FROM ledger.data_keys WHERE id = ANY (%s) ORDER BY id"
_ERASED_SINCE: Final = """
    SELECT jsonb_array_elements_text(details -> 'data_keys') FROM ledger.events
    WHERE position >= %s AND ok AND type = 'credential.erased'
      AND jsonb_typeof(details -> 'data_keys') = 'array'
"""
_ROWS: Final = "SELECT count(*) FROM secrets.host_credentials"
# In one statement, so that events and rows are of the same moment.
_MISMATCHES: Final = """
    WITH last AS (
        SELECT DISTINCT ON (host, purpose)
               host, purpose, position, credential_id, version, body ->> 'key' AS key
        FROM ledger.events
        WHERE __is_change__ AND host IS NOT NULL AND purpose IS NOT NULL
        ORDER BY host, purpose, position DESC)
    SELECT last.position, live.position,
           CASE WHEN live.id IS NULL THEN 'has no row'
                WHEN last.key IS NULL THEN 'has a row, and is not live'
                ELSE 'has a row of another change' END
    FROM last FULL JOIN secrets.host_credentials AS live USING (host, purpose)
    WHERE CASE WHEN last.key IS NULL THEN live.id IS NOT NULL
               ELSE (live.id, live.version, live.position, live.data_key) IS DISTINCT FROM
                    (last.credential_id, last.version, last.position, last.key) END
    ORDER BY 1, 2 LIMIT %s
""".replace("__is_change__", IS_CHANGE)
_LAST_CHANGE: Final = """
    SELECT max(position) FROM ledger.events WHERE __is_change__ AND host = %s AND purpose = %s
""".replace("__is_change__", IS_CHANGE)


def erased_since(source: DatabaseSource, size: int) -> frozenset[str]:
    """The data keys that were erased while the ledger was read."""
    return frozenset(key for (key,) in source.fetch(_ERASED_SINCE, size))


def still_there(source: DatabaseSource, keys: Iterable[str]) -> Iterator[str]:
    """Those of these data keys that the database has."""
    rest = iter(keys)
    while some := list(islice(rest, KEYS_AT_ONCE)):
        yield from (key for (key,) in source.fetch(_STILL_THERE, some))


def check_erased(source: DatabaseSource, checker: Checker) -> None:
    """No data key may be there that an event says was destroyed."""
    erased = ((key, at) for key, at in checker.lives.erased())
    while some := dict(islice(erased, KEYS_AT_ONCE)):
        checker.findings.checked["erased data keys"] += len(some)
        for key in still_there(source, some):
            detail = "a data key is there that this erasure says was destroyed"
            checker.findings.wrong(some[key], "erasure", detail)


def check_rows(source: DatabaseSource, findings: Findings, settings: Settings, tell: Tell) -> None:
    """Hold secrets.host_credentials to the events."""
    if not source.may_read_rows:
        return
    why_not = _why_not_all(source, settings)
    if why_not is None:
        _byte_for_byte(source, findings, settings, tell)
        return
    findings.left_out(f"the contents of host_credentials, byte for byte: {why_not}")
    ((count,),) = source.fetch(_ROWS)
    findings.checked["rows of host_credentials"] += count
    for position, claimed, what in source.fetch(_MISMATCHES, MAX_PROBLEMS):
        at = claimed if position is None else position
        findings.follows(at, "projection", f"host_credentials: a name {what}")


def _why_not_all(source: DatabaseSource, settings: Settings) -> str | None:
    if not (settings.get("SECRETS_KMS_KEY") or settings.kms_url):
        return "no SECRETS_KMS_KEY"
    if not (source.may_read_keys and source.may_read_bodies):
        return "this login may not read bodies and data keys"
    return "this is a standby, which takes no temporary table" if source.is_standby else None


def _byte_for_byte(
    source: DatabaseSource, findings: Findings, settings: Settings, tell: Tell
) -> None:
    url = settings.database_url

    async def compare() -> Comparison:
        keys = await loaded_keyring(settings, url)
        return await rebuild(
            url,
            keys,
            operator(),
            check_only=True,
            progress=lambda done: tell("credentials compared", done, None),
        )

    try:
        found = asyncio.run(compare())
    except LedgerError as error:
        findings.wrong(None, "projection", f"host_credentials could not be compared: {error}")
        return
    findings.checked["rows of host_credentials, byte for byte"] += found.rows
    for one in found.differences:
        columns = f" ({', '.join(one.columns)})" if one.columns else ""
        at = _last_change(source, one.host, one.purpose)
        findings.follows(at, "projection", f"host_credentials: a row is {one.kind}{columns}")
    for bad in found.unreadable:
        findings.follows(bad.position, "projection", f"host_credentials: {bad.why}")


def _last_change(source: DatabaseSource, host: str, purpose: str) -> int | None:
    ((position,),) = source.fetch(_LAST_CHANGE, host, purpose)
    return None if position is None else int(position)
