"""Who received a version of a credential: the lookups that disclosed it, and the replays.

A line of an earlier installation's access log says that somebody read the credential, but not
which content: that installation counted no versions. Such lines are listed, with `version` null,
for version 1 of an imported credential: it is the only one that they can have received, and nobody
can tell whether they did.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec
from psycopg import AsyncConnection

from secrets_broker.ledger.encoding import rfc3339, rfc3339_or_none
from secrets_broker.ledger.event_types import ACCESS_IMPORTED, IMPORTED, READ
from secrets_broker.ledger.events import IS_DISOWNED
from secrets_broker.projections.paging import cursor as cursors
from secrets_broker.projections.paging.position_walk import (
    PAGE_BUDGET,
    Filter,
    PageBudget,
    Stretch,
    size,
    walk,
)
from secrets_broker.projections.parameters.credential_name import CredentialName, number
from secrets_broker.projections.parameters.times import parse_moment
from secrets_broker.projections.queries.answer_fields import COLUMNS, happening
from secrets_broker.projections.queries.credential_versions import ENDED, MAKES, OF_NAME

_VERSION: Final = f"""
    WITH newest AS (
        SELECT credential_id FROM ledger.effective_events WHERE {OF_NAME} AND {MAKES}
        ORDER BY position DESC LIMIT 1
    ), made AS (
        SELECT * FROM ledger.effective_events WHERE {OF_NAME} AND {MAKES}
          -- "+ 0": a name has few changes, but a credential may have millions of events.
          AND credential_id + 0 = coalesce(%(credential_id)s, (SELECT credential_id FROM newest))
          AND version = coalesce(%(version)s, version)
        ORDER BY position DESC LIMIT 1
    )
    SELECT made.credential_id, made.version, made.type, made.position, made.at,
           ended.position, ended.at, ended.type
    FROM made {ENDED}
"""  # noqa: S608 - our own words

_COLUMNS: Final = ", ".join((*COLUMNS, "version"))
_OF_CREDENTIAL: Final = f"credential_id = %(credential_id)s AND NOT {IS_DISOWNED}"
_DISCLOSES: Final = f"{_OF_CREDENTIAL} AND ok AND type = '{READ}' AND version = %(version)s"
_DISCLOSES_OR_DID: Final = f"""{_OF_CREDENTIAL} AND ok AND (
    type = '{READ}' AND version = %(version)s
    OR type = '{ACCESS_IMPORTED}' AND details ->> 'access_type' = 'read')"""


class Exposed(msgspec.Struct, frozen=True, kw_only=True):
    """The version that was asked for; times are RFC 3339 in UTC."""

    host: str
    purpose: str
    credential_id: int
    version: int
    live: bool
    made_at: str
    made_position: int
    ended_at: str | None
    ended_by: str | None
    ended_position: int | None
    imported: bool


class Disclosure(msgspec.Struct, frozen=True, kw_only=True):
    """One receipt of the version; `version` is None where an earlier installation disclosed it."""

    host: str
    purpose: str
    credential_id: int
    version: int | None
    live: bool
    position: int
    type: str
    at: str
    occurred_at: str | None
    actor: str | None
    authn: str
    ip: str | None
    request_id: str | None
    reason: str | None

    @property
    def received_at(self) -> str:
        """When it was received, as far as is known."""
        return self.occurred_at or self.at


class ExposureCursor(cursors.Cursor, frozen=True):
    """The version, so that a later one does not replace it, and the next page's position."""

    question: ClassVar[str] = "exposure"

    credential_id: cursors.Position
    version: cursors.Version
    position: cursors.Position


@dataclass(frozen=True, slots=True)
class Which:
    """Which version; by default the last one of the name's newest credential, live or not."""

    credential_id: int | None = None
    version: int | None = None

    @classmethod
    def parse(cls, credential_id: str | None, version: str | None) -> "Which":
        """Read what a user wrote; raises InvalidCommandError, which names the field."""
        return cls(
            None if credential_id is None else number("credential_id", credential_id, 1),
            None if version is None else number("version", version, 1, 2**31 - 1),
        )

    def continued(self, after: ExposureCursor) -> "Which":
        """The cursor's version; raises InvalidCommandError where another one is requested."""
        if self.credential_id not in (None, after.credential_id):
            raise cursors.refused()
        if self.version not in (None, after.version):
            raise cursors.refused()
        return Which(after.credential_id, after.version)


@dataclass(frozen=True, slots=True)
class Span:
    """When the version was received, as far as is known: from `since` on, before `until`."""

    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def parse(cls, since: str | None, until: str | None) -> "Span":
        """Read what a user wrote; raises InvalidCommandError, which names the field."""
        return cls(
            None if since is None else parse_moment("since", since),
            None if until is None else parse_moment("until", until),
        )

    @property
    def condition(self) -> str:
        """The same as SQL, with the parameters `since` and `until`."""
        # An event cannot be recorded before it occurred: a later `occurred_at` is of another clock.
        limits = (("since", self.since, ">="), ("until", self.until, "<"))
        return "".join(
            f" AND least(occurred_at, at) {comparison} %({name})s"
            for name, moment, comparison in limits
            if moment is not None
        )


LATEST: Final = Which()
ALWAYS: Final = Span()


async def find(
    connection: "AsyncConnection[Any]", name: CredentialName, which: Which = LATEST
) -> Exposed | None:
    """The requested version; None where there never was one."""
    values = {
        "host": name.host,
        "purpose": name.purpose,
        "credential_id": which.credential_id,
        "version": which.version,
    }
    answer = await connection.execute(_VERSION.encode(), values)
    record = await answer.fetchone()
    return _exposed(name, record) if record else None


async def page(
    connection: "AsyncConnection[Any]",
    exposed: Exposed,
    limit: int,
    after: ExposureCursor | None = None,
    budget: PageBudget = PAGE_BUDGET,
    span: Span = ALWAYS,
) -> tuple[list[Disclosure], ExposureCursor | None]:
    """At most `limit` lines by position; a short or empty page may have a next one."""
    # To the ledger's end, even where the version ended long ago: it can be replayed later, and
    # lines of an earlier installation are imported at any time after their credential.
    stop = await size(connection) - 1
    start = after.position if after else exposed.made_position
    condition = (_DISCLOSES_OR_DID if exposed.imported else _DISCLOSES) + span.condition
    values: dict[str, Any] = {"credential_id": exposed.credential_id, "version": exposed.version}
    values |= {"since": span.since, "until": span.until}
    wanted = Filter(_COLUMNS, condition, values, narrow=_OF_CREDENTIAL)
    records, following = await walk(connection, wanted, Stretch(start, stop), limit, budget)
    lines = [_receipt(exposed, record) for record in records]
    if following is None:
        return lines, None
    return lines, ExposureCursor(exposed.credential_id, exposed.version, following)


def _exposed(name: CredentialName, record: tuple[Any, ...]) -> Exposed:
    credential_id, version, made_by, made, made_at, ended, ended_at, ended_by = record
    return Exposed(
        host=name.host,
        purpose=name.purpose,
        credential_id=credential_id,
        version=version,
        live=ended is None,
        made_at=rfc3339(made_at),
        made_position=made,
        ended_at=rfc3339_or_none(ended_at),
        ended_by=ended_by,
        ended_position=ended,
        imported=made_by == IMPORTED,
    )


def _receipt(exposed: Exposed, record: tuple[Any, ...]) -> Disclosure:
    *told, version = record
    return Disclosure(
        host=exposed.host,
        purpose=exposed.purpose,
        credential_id=exposed.credential_id,
        version=version,
        live=exposed.live,
        **happening(tuple(told)),
    )
