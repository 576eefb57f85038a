"""secrets.host_credentials as it was after any event, from the events and their bodies.

A state is that after the event at a position, which is included. It follows from the last change of
each name at or before the position. Where that leaves a credential, its row is made by the same SQL
as the live one: replayed at the ledger's end, a row equals the live one byte for byte.

Without keys, a row has what the events hold. username, domain, additional_data, the limits and the
sealed password are only in the bodies: they are None without a keyring, and where the body was
erased since.

Names are read in order, a page at a time, each statement in its own transaction: the events at or
before the position never change, and no transaction is long.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secrets_broker.ledger.commands import Name
from secrets_broker.ledger.content import Content, kept
from secrets_broker.ledger.database.name_pattern import ANY, like
from secrets_broker.ledger.database.search_by_time import Fetch
from secrets_broker.ledger.encryption.body import Body, CiphertextPlace, open_body, open_content
from secrets_broker.ledger.encryption.keyring import DataKey, Keyring
from secrets_broker.ledger.errors import DecryptionError
from secrets_broker.ledger.event_types import GONE, IS_CHANGE
from secrets_broker.projections.host_credentials import NAMES, REPLAY, parameters
from secrets_broker.projections.unreadable import Unreadable

PAGE_NAMES: Final = 4_000  # some milliseconds of work for each statement
FIRST: Final[Name] = ("", "")
"""Before every name."""

# The limit is in the same SELECT as DISTINCT ON: else all rows are sorted before the first comes.
_CHANGES: Final = """
    SELECT DISTINCT ON (host, purpose) host, purpose, position, type, credential_id, version
    FROM ledger.effective_events
    WHERE __is_change__
      AND (host, purpose) > (%(after_host)s, %(after_purpose)s) AND position <= %(position)s
      AND host LIKE %(host)s ESCAPE '\\' AND purpose LIKE %(purpose)s ESCAPE '\\'
    ORDER BY host, purpose, position DESC LIMIT %(limit)s
""".replace("__is_change__", IS_CHANGE)
# By the events alone, so a login that may read no key can ask, too. An erasure that left the live
# credential belongs to no name; there are few events without a host, and an index on it.
_ERASED: Final = """
    (last.body ->> 'key' IN (
        SELECT jsonb_array_elements_text(details -> 'data_keys') FROM ledger.effective_events
        WHERE host IS NULL AND ok AND type = 'credential.erased')
     OR EXISTS (
        SELECT FROM ledger.effective_events AS erasure
        WHERE erasure.host = last.host AND erasure.purpose = last.purpose
          AND erasure.position > last.position
          AND __is_change__ AND erasure.type = 'credential.erased'
          AND erasure.details -> 'data_keys' ? (last.body ->> 'key')))
""".replace("__is_change__", IS_CHANGE)
_METADATA: Final = f"""
    SELECT last.position, {_ERASED} FROM ledger.events AS last
    WHERE last.position = ANY (%(positions)s)
"""  # noqa: S608
_STORED: Final = f"""
    SELECT last.position, {_ERASED}, body.ciphertext,
           data_key.id, data_key.credential_id, data_key.kek, data_key.wrapped
    FROM ledger.events AS last
    LEFT JOIN ledger.bodies AS body ON body.position = last.position
    LEFT JOIN ledger.data_keys AS data_key ON data_key.id = last.body ->> 'key'
    WHERE last.position = ANY (%(positions)s)
"""  # noqa: S608
_ROWS: Final = REPLAY.replace("$1", "%(bodies)s")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which state: after the event at a position, of these hosts and purposes (LIKE patterns).

    Position -1 is before the first event; its state is empty.
    """

    position: int
    host: str = "%"
    purpose: str = "%"

    @classmethod
    def parse(cls, position: int, host: str | None, purpose: str | None) -> "Scope":
        """Parse the patterns that a user wrote; raises InvalidCommandError."""
        return cls(
            position,
            like("host", ANY if host is None else host),
            like("purpose", ANY if purpose is None else purpose),
        )

    def values(self, after: Name, limit: int) -> dict[str, Any]:
        """The parameters of a query for a page."""
        return {
            "position": self.position,
            "host": self.host,
            "purpose": self.purpose,
            "after_host": after[0],
            "after_purpose": after[1],
            "limit": limit,
        }


@dataclass(frozen=True, slots=True)
class LastChange:
    """The event that left a credential as it was."""

    host: str
    purpose: str
    position: int
    type: str
    credential_id: int
    version: int

    @property
    def name(self) -> Name:
        """The credential's name."""
        return self.host, self.purpose

    @property
    def place(self) -> CiphertextPlace:
        """The place that its ciphertexts are bound to."""
        return CiphertextPlace(self.host, self.purpose, self.credential_id, self.version)


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored of a change; `body` is None where it was not or cannot be decrypted."""

    place: CiphertextPlace
    erased: bool
    body: Body | None = field(default=None, repr=False)
    cipher: AESGCM | None = field(default=None, repr=False)
    why: str | None = None
    """Why the body cannot be decrypted, although it was not erased."""

    def content(self) -> Content:
        """Decrypt the secrets in it too; raises DecryptionError."""
        if self.body is None or self.cipher is None:
            raise DecryptionError(self.why or "the body is not there")
        return open_content(self.cipher, self.place, self.body)


if TYPE_CHECKING:

    class Credential(msgspec.Struct, frozen=True):
        """For the type checker: the fields are the table's columns, which it cannot know."""

        erased: bool

        def __init__(self, **columns: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    Credential = msgspec.defstruct(
        "Credential",
        [*((name, Any) for name in NAMES), ("erased", bool)],
        namespace={
            "__doc__": "A row of secrets.host_credentials as it was, by its columns; times are "
            "RFC 3339 in UTC. `erased` tells that its body was destroyed since."
        },
        module=__name__,
        frozen=True,
        kw_only=True,
    )


@dataclass(frozen=True, slots=True)
class StatePage:
    """A part of a state, in the order of the names."""

    credentials: tuple[Credential, ...]
    unreadable: tuple[Unreadable, ...]
    following: Name | None
    """The name after which the next page begins; None after the last page."""


async def state(fetch: Fetch, keyring: Keyring | None, scope: Scope) -> AsyncIterator[StatePage]:
    """The whole state, page by page."""
    after: Name | None = FIRST
    while after is not None:
        found = await page(fetch, keyring, scope, after)
        yield found
        after = found.following


async def page(
    fetch: Fetch,
    keyring: Keyring | None,
    scope: Scope,
    after: Name = FIRST,
    limit: int = PAGE_NAMES,
) -> StatePage:
    """At most `limit` credentials after a name; without a keyring, without body columns."""
    found = await changes(fetch, scope, after, limit + 1)  # one more tells of a next page
    shown = found[:limit]
    stored = await bodies(fetch, keyring, shown)
    return StatePage(
        tuple(await rows(fetch, shown, stored)),
        tuple(_unreadable(shown, stored)),
        shown[-1].name if len(found) > limit else None,
    )


async def changes(fetch: Fetch, scope: Scope, after: Name, limit: int) -> list[LastChange]:
    """The last changes of at most `limit` credentials of the state after a name."""
    found: list[LastChange] = []
    wanted = limit
    while True:
        records = await fetch(_CHANGES, scope.values(after, wanted))
        found += [LastChange(*record) for record in records if record[3] not in GONE]
        if len(records) < wanted or len(found) >= limit:
            return found[:limit]
        after, wanted = records[-1][:2], PAGE_NAMES  # after names without a live credential


async def bodies(
    fetch: Fetch, keyring: Keyring | None, found: Sequence[LastChange]
) -> dict[int, Stored]:
    """What is stored of these changes, by position; without keys, no body is read."""
    positions = [change.position for change in found]
    query = _METADATA if keyring is None else _STORED
    records = {record[0]: record[1:] for record in await fetch(query, {"positions": positions})}
    return {
        change.position: _stored(keyring, change, *records[change.position]) for change in found
    }


async def rows(
    fetch: Fetch, found: Sequence[LastChange], stored: Mapping[int, Stored]
) -> list[Credential]:
    """The rows of these changes, in their order."""
    given = [_given(change.position, stored[change.position].body) for change in found]
    records = await fetch(_ROWS, {"bodies": msgspec.json.encode(given).decode()})
    made = (_credential(record, stored) for record in records)
    by_position = {credential.position: credential for credential in made}
    return [by_position[change.position] for change in found]


def _stored(
    keyring: Keyring | None,
    change: LastChange,
    erased: bool,
    ciphertext: bytes | None = None,
    *key: Any,
) -> Stored:
    if keyring is None or erased:
        return Stored(change.place, erased)
    try:
        if ciphertext is None or key[0] is None:
            raise DecryptionError("the body or its data key is not there")
        cipher = keyring.unwrap(DataKey(*key))
        body = open_body(cipher, change.type, change.place, ciphertext)
    except DecryptionError as error:
        return Stored(change.place, erased, why=str(error))
    return Stored(change.place, erased, body, cipher)


def _given(position: int, body: Body | None) -> dict[str, Any]:
    return parameters(position, body) if body else {"position": position}


def _credential(record: Sequence[Any], stored: Mapping[int, Stored]) -> Credential:
    columns = {name: kept(value) for name, value in zip(NAMES, record, strict=True)}
    return Credential(**columns, erased=stored[columns["position"]].erased)


def _unreadable(found: Sequence[LastChange], stored: Mapping[int, Stored]) -> list[Unreadable]:
    return [
        Unreadable(*change.name, change.position, why)
        for change in found
        if (why := stored[change.position].why)
    ]
