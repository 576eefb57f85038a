"""A list of erasures, kept outside the database, held against the ledger.

An old backup brings back what was erased since it was made, and forgets that it was: only a list
that was kept elsewhere can tell.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from secrets_broker.ledger.operations.erasure import Erasure
from secrets_broker.tools.erase import erasure_list
from secrets_broker.tools.verify.checks.checker import Checker
from secrets_broker.tools.verify.side_data.stored_data_keys import still_there
from secrets_broker.tools.verify.sources.database import DatabaseSource
from secrets_broker.tools.verify.sources.source_protocol import Source


def check_list(path: Path, source: Source, checker: Checker, later: Collection[str]) -> None:
    """Every data key of the list must be erased in this ledger too; raises ErasureListError."""
    listed = erasure_list.read(path)
    checker.findings.checked["listed erasures"] += len(listed)
    unknown = [
        one
        for one in listed
        if checker.histories.erased_at(one.data_key) is None and one.data_key not in later
    ]
    there = set(_there(source, checker, unknown))
    for one in unknown:
        if one.data_key in there:
            checker.findings.wrong(
                min(one.position, checker.size),
                "erasure",
                f"{path} says that a data key was erased at position {one.position}, and this "
                "ledger does not: an older backup was restored. "
                f"Run: secrets-broker erase --again {path}",
            )
    if gone := len(unknown) - len(there):
        checker.findings.remark(
            f"{gone} erasures of {path} are of data keys that this ledger does not have"
        )


def _there(source: Source, checker: Checker, unknown: list[Erasure]) -> Iterator[str]:
    keys = [one.data_key for one in unknown]
    # A key that an event names, or whose body is there, counts where keys cannot be looked at.
    if isinstance(source, DatabaseSource) and source.may_read_keys:
        yield from still_there(source, keys)
        yield from (key for key in keys if checker.has_body(key))
    else:
        yield from (key for key in keys if checker.histories.knows(key))
