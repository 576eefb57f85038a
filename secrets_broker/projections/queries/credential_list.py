"""Live credentials by name, without secrets: what a caller may look up.

It reads secrets.host_credentials as it is, without any key. A caller with rules sees only the
credentials that these let it read, and not even how many others there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.access.rights import Request, Rule, fit
from secrets_broker.ledger.content import kept
from secrets_broker.ledger.database.name_pattern import ANY, like
from secrets_broker.projections.paging import cursor as cursors


@dataclass(frozen=True, slots=True)
class CredentialFilter:
    """Which names are asked for; patterns are as LIKE takes them."""

    host: str = "%"
    purpose: str = "%"

    @classmethod
    def parse(cls, host: str | None = None, purpose: str | None = None) -> "CredentialFilter":
        """Read what a user wrote; raises InvalidCommandError, which names the field."""
        return cls(like("host", host or ANY), like("purpose", purpose or ANY))


class CredentialLine(msgspec.Struct, frozen=True, kw_only=True):
    """One live credential; times are RFC 3339 in UTC, `rotate_after` is in days."""

    credential_id: int
    host: str
    purpose: str
    username: str | None
    domain: str | None
    version: int
    created_at: str
    created_by: str | None
    updated_at: str
    updated_by: str | None
    expires_at: str | None
    rotate_after: int | None


_COLUMNS: Final = ", ".join(CredentialLine.__struct_fields__).replace("credential_id", "id")
# SQL applies the patterns of the rules, so that pages are full. LIKE's escape is a backslash.
_PAGE: Final = r"""
    SELECT __columns__
    FROM secrets.host_credentials
    WHERE (host, purpose) > (%(after_host)s, %(after_purpose)s)
      AND host LIKE %(host)s AND purpose LIKE %(purpose)s
      AND (%(rules)s::jsonb IS NULL OR EXISTS (
          SELECT FROM jsonb_to_recordset(%(rules)s::jsonb) AS rule (hosts text[], purposes text[])
          WHERE host LIKE ANY (rule.hosts) AND purpose LIKE ANY (rule.purposes)))
    ORDER BY host, purpose LIMIT %(limit)s
""".replace("__columns__", _COLUMNS)


class CredentialCursor(cursors.Cursor, frozen=True):
    """The name that a page ended with."""

    question: ClassVar[str] = "credentials"

    host: str
    purpose: str


BEGINNING: Final = CredentialCursor("", "")


async def page(
    connection: "AsyncConnection[Any]",
    wanted: CredentialFilter,
    rules: Sequence[Rule] | None,
    limit: int,
    after: CredentialCursor = BEGINNING,
) -> tuple[list[CredentialLine], CredentialCursor | None]:
    """At most `limit` lines after the cursor, and the next page's; None where there is none.

    `rules` are those that let the caller read from its address; None lets it read everything.
    """
    answer = await connection.execute(
        _PAGE,
        {
            "host": wanted.host,
            "purpose": wanted.purpose,
            "after_host": after.host,
            "after_purpose": after.purpose,
            "rules": None if rules is None else _patterns(rules),
            "limit": limit + 1,  # one more tells whether there is a next page
        },
    )
    lines = [_line(record) for record in await answer.fetchall()]
    shown = lines[:limit]
    following = CredentialCursor(shown[-1].host, shown[-1].purpose) if len(lines) > limit else None
    return shown, following


def allowed(
    lines: Sequence[CredentialLine], rules: tuple[Rule, ...], request: Request
) -> list[CredentialLine]:
    """The lines that the caller may read, by the rules themselves."""

    def may_read(line: CredentialLine) -> bool:
        named = msgspec.structs.replace(request, host=line.host, purpose=line.purpose)
        decided = fit(rules, named)
        return decided.rule is not None and (request.reason is not None or not decided.reason)

    return list(filter(may_read, lines))


def _patterns(rules: Sequence[Rule]) -> str:
    return msgspec.json.encode(
        [
            {
                "hosts": [like("hosts", pattern) for pattern in rule.hosts],
                "purposes": [like("purposes", pattern) for pattern in rule.purposes],
            }
            for rule in rules
        ]
    ).decode()


def _line(record: tuple[Any, ...]) -> CredentialLine:
    fields = zip(CredentialLine.__struct_fields__, record, strict=True)
    return CredentialLine(**{name: kept(value) for name, value in fields})
