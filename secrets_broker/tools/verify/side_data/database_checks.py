"""What a database is asked once its events are checked: its data keys, and the projection.

With the keys at hand every data key is opened, and the rows of secrets.host_credentials are
compared byte for byte with a table that is rebuilt beside them; without, each row must name the
last change of its credential.
"""

import asyncio
from typing import Final

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import DecryptionError, LedgerError, WrongKeyError
from secrets_broker.ledger.event_types import IS_CHANGE
from secrets_broker.projections.rebuild import Comparison, rebuild
from secrets_broker.projections.row_check import MISMATCHES
from secrets_broker.settings import Settings
from secrets_broker.tools.shared.command_line import operator
from secrets_broker.tools.shared.progress import Tell
from secrets_broker.tools.verify.checks.checker import Checker
from secrets_broker.tools.verify.checks.findings import MAX_PROBLEMS, Findings
from secrets_broker.tools.verify.side_data.event_macs import check_macs
from secrets_broker.tools.verify.side_data.stored_data_keys import (
    check_erased,
    check_keks,
    check_kept,
    check_surplus,
)
from secrets_broker.tools.verify.sources.database import DatabaseSource
from secrets_broker.tools.verify.sources.source_protocol import SourceError
from secrets_broker.wiring import loaded_keyring

_ROWS: Final = "SELECT count(*) FROM secrets.host_credentials"
_LAST_CHANGE: Final = """
    SELECT max(position) FROM ledger.events WHERE __is_change__ AND host = %s AND purpose = %s
""".replace("__is_change__", IS_CHANGE)


def check_database(
    source: DatabaseSource, checker: Checker, settings: Settings, tell: Tell
) -> None:
    """Hold what stands beside the events to them, as far as the login may."""
    check_keks(source, checker)
    keyring = _keyring(source, checker, settings)
    check_macs(source, checker.size, keyring, checker.findings, tell)
    if source.may_read_keys:
        check_surplus(source, checker)
        check_erased(source, checker)
        check_kept(source, checker, keyring)
    if source.may_read_rows:
        _check_rows(source, checker.findings, settings, keyring, tell)


def _keyring(source: DatabaseSource, checker: Checker, settings: Settings) -> Keyring | None:
    if checker.size == 0:
        return None  # nothing is to be opened; and an empty ledger would take the key for its own
    if why_not := _why_no_keys(source, settings):
        checker.findings.left_out(
            f"whether data keys open, and host_credentials byte for byte: {why_not}"
        )
        return None
    try:
        return asyncio.run(loaded_keyring(settings, settings.database_url))
    except (WrongKeyError, DecryptionError) as error:
        checker.findings.wrong(None, "key", f"the keys at hand are not this ledger's: {error}")
        return None


def _why_no_keys(source: DatabaseSource, settings: Settings) -> str | None:
    if not (settings.kms_key_is_set or settings.kms_url):
        return "no SECRETS_KMS_KEY"
    if not (source.may_read_keys and source.may_read_bodies):
        return "this login may not read bodies and data keys"
    return None


def _check_rows(
    source: DatabaseSource,
    findings: Findings,
    settings: Settings,
    keyring: Keyring | None,
    tell: Tell,
) -> None:
    """Hold secrets.host_credentials to the events."""
    if keyring is not None and not source.is_standby:
        _byte_for_byte(source, findings, settings, keyring, tell)
        return
    if keyring is not None:
        findings.left_out(
            "host_credentials byte for byte: this is a standby, which takes no temporary table"
        )
    ((count,),) = source.fetch(_ROWS)
    findings.checked["rows of host_credentials"] += count
    for position, claimed, what in source.fetch(MISMATCHES, MAX_PROBLEMS):
        at = claimed if position is None else position
        findings.follows(at, "projection", f"host_credentials: a name {what}")


def _byte_for_byte(
    source: DatabaseSource, findings: Findings, settings: Settings, keyring: Keyring, tell: Tell
) -> None:
    async def compare() -> Comparison:
        return await rebuild(
            settings.database_url,
            keyring,
            operator(),
            check_only=True,
            progress=lambda done: tell("credentials compared", done, None),
        )

    try:
        found = asyncio.run(compare())
    except LedgerError as error:
        # Not a finding: what it could not ask says nothing of what is there.
        raise SourceError(f"host_credentials could not be compared: {error}") from None
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
