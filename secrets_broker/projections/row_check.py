"""Checks that each row of secrets.host_credentials is of its name's last change, without keys.

The contents of the columns are not compared: `rebuild` does that, with the keys. Each statement has
one snapshot, so a change that is just being recorded is no difference.
"""

from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.event_types import IS_CHANGE
from secrets_broker.projections.host_credentials import STATE

ENTRIES: Final = 10_000
"""The most changes that one page reads: about a tenth of a second."""

# The newest change of a name comes first, so a page has it even where the older ones are cut off.
# The next page begins after the last name. A page that is not full reaches to the end.
_DIFFERING: Final = (
    """
    WITH changes AS (
        SELECT host, purpose, position, credential_id, version, body ->> 'key' AS key
        FROM ledger.effective_events
        WHERE __is_change__ AND host IS NOT NULL AND purpose IS NOT NULL AND {behind}
        ORDER BY host, purpose, position DESC LIMIT %(entries)s),
    final AS (
        SELECT host, purpose FROM changes
        WHERE (SELECT count(*) FROM changes) = %(entries)s
        ORDER BY host DESC, purpose DESC LIMIT 1),
    last AS (
        SELECT DISTINCT ON (host, purpose) * FROM changes
        ORDER BY host, purpose, position DESC),
    live AS (
        SELECT host, purpose, __state__ FROM secrets.host_credentials
        WHERE {behind} AND (host, purpose)
              <= ((SELECT final.host FROM final), (SELECT final.purpose FROM final))
      UNION ALL
        SELECT host, purpose, __state__ FROM secrets.host_credentials
        WHERE {behind} AND NOT EXISTS (SELECT FROM final)),
    differing AS (
        SELECT last.position, live.position AS claimed,
               CASE WHEN live.id IS NULL THEN 'has no row'
                    WHEN last.key IS NULL THEN 'has a row, and is not live'
                    ELSE 'has a row of another change' END AS what
        FROM last FULL JOIN live USING (host, purpose)
        WHERE CASE WHEN last.key IS NULL THEN live.id IS NOT NULL
                   ELSE (__live__) IS DISTINCT FROM
                        (last.credential_id, last.version, last.position, last.key) END)
""".replace("__is_change__", IS_CHANGE)
    .replace("__state__", ", ".join(STATE))
    .replace("__live__", ", ".join(f"live.{name}" for name in STATE))
)
_FIRST: Final = "true"
_NEXT: Final = "(host, purpose) > (%(host)s, %(purpose)s)"

MISMATCHES: Final = """
    __differing__
    SELECT position, claimed, what FROM differing ORDER BY 1, 2 LIMIT %s
""".replace("__differing__", _DIFFERING.format(behind=_FIRST).replace("%(entries)s", "NULL"))
"""All mismatches in one statement, limited: the change's position, the row's, and the text."""
_COUNT: Final = """
    SELECT (SELECT count(*) FROM differing), final.host, final.purpose
    FROM (VALUES (1)) AS one LEFT JOIN final ON true
"""

_MAY_READ: Final = "SELECT has_table_privilege('secrets.host_credentials', 'SELECT')"


@dataclass(frozen=True, slots=True)
class RowCheckPage:
    """The result for a range of names."""

    differing: int
    last: Name | None
    """The last name of the range; None where it reached the end."""


async def page(
    connection: "AsyncConnection[Any]", after: Name | None = None, entries: int = ENTRIES
) -> RowCheckPage:
    """Count the names after `after` whose row is not of their last change."""
    statement = _DIFFERING.format(behind=_FIRST if after is None else _NEXT) + _COUNT
    host, purpose = after or (None, None)
    values = {"entries": entries, "host": host, "purpose": purpose}
    cursor = await connection.execute(statement.encode(), values)
    ((differing, *last),) = await cursor.fetchall()
    return RowCheckPage(differing, (last[0], last[1]) if last[0] is not None else None)


async def may_read(connection: "AsyncConnection[Any]") -> bool:
    """Whether this login may read the rows; an auditor's login may not."""
    ((may,),) = await (await connection.execute(_MAY_READ)).fetchall()
    return bool(may)


async def mismatches(connection: "AsyncConnection[Any]", most: int) -> list[int]:
    """Positions of mismatches, at most `most`: the last change's, or without one, the row's."""
    cursor = await connection.execute(MISMATCHES.encode(), (most,))
    return [claimed if last is None else last for last, claimed, _ in await cursor.fetchall()]
