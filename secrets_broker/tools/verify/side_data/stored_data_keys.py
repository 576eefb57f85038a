"""Data keys: those that an erasure names are gone, and all others that an event names are there."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from secrets_broker.ledger.encryption.keyring import DataKey, Keyring
from secrets_broker.ledger.errors import DecryptionError
from secrets_broker.ledger.event_types import ROTATIONS, is_one_of
from secrets_broker.tools.verify.checks.checker import Checker
from secrets_broker.tools.verify.checks.kek_states import KekRow
from secrets_broker.tools.verify.sources.database import DatabaseSource

KEYS_AT_ONCE: Final = 5_000

_STILL_THERE: Final = "SELECT id FROM ledger.data_keys WHERE id = ANY (%s) ORDER BY id"
_DATA_KEYS: Final = """
    SELECT id, credential_id, kek, wrapped FROM ledger.data_keys WHERE id = ANY (%s)
"""
_NEXT_KEYS: Final = """
    SELECT id FROM ledger.data_keys WHERE id > %s ORDER BY id LIMIT %s
"""
_USED_SINCE: Final = """
    SELECT DISTINCT body ->> 'key' FROM ledger.events
    WHERE position >= %s AND body ->> 'key' = ANY (%s)
"""
_KEKS: Final = f"""
    SELECT id, provider, state,
           EXISTS (SELECT FROM ledger.events
                   WHERE position >= %s AND {is_one_of(ROTATIONS)})
    FROM ledger.keks
"""  # noqa: S608 - our own words
_ERASED_SINCE: Final = """
    SELECT jsonb_array_elements_text(details -> 'data_keys') FROM ledger.events
    WHERE position >= %s AND ok AND type = 'credential.erased'
      AND jsonb_typeof(details -> 'data_keys') = 'array'
"""


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
    erased = checker.histories.erased()
    while some := dict(islice(erased, KEYS_AT_ONCE)):
        checker.findings.checked["erased data keys"] += len(some)
        for key in still_there(source, some):
            detail = "a data key is there that this erasure says was destroyed"
            checker.findings.wrong(some[key], "erasure", detail)


def check_kept(source: DatabaseSource, checker: Checker, keyring: Keyring | None) -> None:
    """Every other one must be there, of its credential; with the keys, it must open.

    No leaf covers a wrapped data key, since a rotation wraps it again.
    """
    kept = checker.histories.kept()
    while some := list(islice(kept, KEYS_AT_ONCE)):
        rows = source.fetch(_DATA_KEYS, [key for key, _, _ in some])
        found = {row[0]: DataKey(*row) for row in rows}
        gone = [key for key, _, _ in some if key not in found]
        since = erased_since(source, checker.size) if gone else frozenset[str]()
        checker.findings.checked["data keys"] += len(found)
        for key, credential_id, first in some:
            if key not in since and (why := _problem(found.get(key), credential_id, keyring)):
                checker.findings.follows(first, "key", why)


def check_surplus(source: DatabaseSource, checker: Checker) -> None:
    """No data key may be there that no event names."""
    if not checker.is_readable:
        return  # an entry that is missing may name any of them
    after, count = "", 0
    while some := [key for (key,) in source.fetch(_NEXT_KEYS, after, KEYS_AT_ONCE)]:
        unknown = [key for key in some if not checker.histories.knows(key)]
        # What was stored meanwhile came with its event, which is there by now.
        since = source.fetch(_USED_SINCE, checker.size, unknown) if unknown else []
        count += len(unknown) - len(since)
        after = some[-1]
    if count:
        checker.findings.wrong(None, "key", f"{count} data keys are there that no event names")


def check_keks(source: DatabaseSource, checker: Checker) -> None:
    """Each KEK's state is what the rotations say."""
    rows = source.fetch(_KEKS, checker.size)
    if any(rotated_since for *_, rotated_since in rows):
        checker.findings.left_out("the KEKs' states: a rotation continued meanwhile")
        return
    checker.findings.checked["KEKs"] += len(rows)
    known = {kek: KekRow(provider, state) for kek, provider, state, _ in rows}
    for position, why in checker.rotations.problems(known):
        checker.findings.follows(position, "key", why)


def _problem(
    found: DataKey | None, credential_id: int | None, keyring: Keyring | None
) -> str | None:
    if found is None:
        return "its data key is not there, and no erasure says that it was destroyed"
    if found.credential_id != credential_id:
        return "its data key is filed under another credential"
    if keyring is None:
        return None
    try:
        keyring.unwrap(found)
    except DecryptionError as error:
        return f"its data key does not open: {error}"
    return None
