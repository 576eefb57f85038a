"""Which rows of secrets.host_credentials do not name the last change of their credential.

Found without any key: each live name has one row, of the id, version, position and data key that
its last change says, and no other name has one.
"""

from typing import Any, Final

from psycopg import AsyncConnection

from secrets_broker.ledger.events import IS_CHANGE

# In one statement, so that events and rows are of the same moment.
MISMATCHES: Final = """
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
"""The last change's position, the one that the row names, what is wrong; takes how many at most."""

_MAY_READ: Final = "SELECT has_table_privilege('secrets.host_credentials', 'SELECT')"


async def may_read(connection: "AsyncConnection[Any]") -> bool:
    """Whether this login may read the rows; an auditor's may not."""
    ((may,),) = await (await connection.execute(_MAY_READ)).fetchall()
    return bool(may)


async def mismatches(connection: "AsyncConnection[Any]", most: int) -> list[int]:
    """Their positions, at most so many: of the last change, or what a row names that has none."""
    cursor = await connection.execute(MISMATCHES.encode(), (most,))
    return [claimed if last is None else last for last, claimed, _ in await cursor.fetchall()]
