"""Which live credentials need attention, and since or until when.

It reads secrets.host_credentials as it is, without any key. A row that was edited by hand is shown
as edited; `rebuild --check` finds such rows.

Lines are ordered by kind (expiry, rotation, unchanged), then by time, then by the credential's
id. None of these changes as time passes, so a page can begin where another one ended.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta
from psycopg import AsyncConnection

from secrets_broker.ledger.database.name_pattern import ANY, like
from secrets_broker.ledger.encoding import rfc3339
from secrets_broker.projections.paging import cursor as cursors
from secrets_broker.projections.parameters.duration import parse_duration

What = Literal["expired", "expires", "overdue", "due", "unchanged"]

DEFAULT_WITHIN: Final = timedelta(days=30)

# 24 hours, not a day: in some time zones a day may have 23.
_PAGE: Final = """
    SELECT kind, moment, id, what, host, purpose, updated_at, updated_by FROM (
        SELECT 0 AS kind, expires_at AS moment,
               CASE WHEN expires_at <= now() THEN 'expired' ELSE 'expires' END AS what, live.*
        FROM secrets.host_credentials AS live
        WHERE expires_at <= now() + %(within)s::interval
      UNION ALL
        SELECT 1, updated_at + rotate_after * interval '24 hours',
               CASE WHEN updated_at + rotate_after * interval '24 hours' <= now() THEN 'overdue'
                    ELSE 'due' END, live.*
        FROM secrets.host_credentials AS live
        WHERE rotate_after IS NOT NULL
          AND updated_at + rotate_after * interval '24 hours' <= now() + %(within)s::interval
      UNION ALL
        SELECT 2, updated_at, 'unchanged', live.*
        FROM secrets.host_credentials AS live
        WHERE updated_at <= now() - %(unchanged_for)s::interval
    ) AS found
    WHERE host LIKE %(host)s ESCAPE '\\' AND purpose LIKE %(purpose)s ESCAPE '\\'
      AND (kind, moment, id) > (%(kind)s, %(moment)s, %(id)s)
    ORDER BY kind, moment, id LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class DueFilter:
    """Which lines are asked for; patterns are as LIKE takes them."""

    within: timedelta = DEFAULT_WITHIN
    unchanged_for: timedelta | None = None
    host: str = "%"
    purpose: str = "%"

    @classmethod
    def parse(
        cls,
        within: str | None = None,
        unchanged_for: str | None = None,
        host: str | None = None,
        purpose: str | None = None,
    ) -> "DueFilter":
        """Read what a user wrote; raises InvalidCommandError, which names the field."""
        return cls(
            DEFAULT_WITHIN if within is None else parse_duration("within", within),
            None if unchanged_for is None else parse_duration("unchanged_for", unchanged_for),
            like("host", ANY if host is None else host),
            like("purpose", ANY if purpose is None else purpose),
        )


class DueLine(msgspec.Struct, frozen=True, kw_only=True):
    """One credential, and why it is listed; times are RFC 3339 in UTC.

    `at` is when it expires or expired, when its next rotation is or was due, or for `unchanged`,
    when it last changed.
    """

    host: str
    purpose: str
    what: What
    at: str
    changed_at: str
    changed_by: str | None


class DueCursor(cursors.Cursor, frozen=True):
    """The line that a page ended with."""

    question: ClassVar[str] = "due"

    kind: Annotated[int, Meta(ge=-1, le=2)]
    moment: Annotated[datetime, Meta(tz=True)]
    id: cursors.Position

    def __post_init__(self) -> None:
        """Raise OverflowError for a time that is none in UTC."""
        self.moment.astimezone(UTC)


BEGINNING: Final = DueCursor(-1, datetime(1, 1, 1, tzinfo=UTC), 0)


async def page(
    connection: "AsyncConnection[Any]", wanted: DueFilter, limit: int, after: DueCursor = BEGINNING
) -> tuple[list[DueLine], DueCursor | None]:
    """At most `limit` lines after the cursor, and the next page's; None where there is none."""
    answer = await connection.execute(
        _PAGE,
        {
            "within": wanted.within,
            "unchanged_for": wanted.unchanged_for,
            "host": wanted.host,
            "purpose": wanted.purpose,
            **msgspec.structs.asdict(after),
            "limit": limit + 1,  # one more tells whether there is a next page
        },
    )
    records = await answer.fetchall()
    shown = records[:limit]
    following = DueCursor(*shown[-1][:3]) if len(records) > limit else None
    return [_line(record) for record in shown], following


def _line(record: tuple[Any, ...]) -> DueLine:
    _, moment, _, what, host, purpose, changed_at, changed_by = record
    return DueLine(
        host=host,
        purpose=purpose,
        what=what,
        at=rfc3339(moment),
        changed_at=rfc3339(changed_at),
        changed_by=changed_by,
    )
