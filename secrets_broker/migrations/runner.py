"""Apply the SQL files, take them back, and say what is missing.

Every run first compares the files with SHA256SUMS, then takes an advisory lock, then compares
what the database records as applied with the files. A file runs in one transaction together
with its record: a kill leaves all of it or nothing, and another run continues from there.

Files that were run by hand (``psql -f``) are not run again: where everything that the files not
yet recorded make is there (schemas, tables, views, indexes, functions, triggers and that these
are ALWAYS enabled), they are recorded as applied. Grants, column types and the bodies of
functions are not compared. Where only a part is there, nothing is done and the error names what
is missing. A table in schema ``secrets`` does not count as a part: an earlier installation has
tables of these names, which the first file sets aside.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.errors import Diagnostic

from secrets_broker.migrations import shared_schemas
from secrets_broker.migrations.catalog import Recorded, made_by, recorded, there
from secrets_broker.migrations.connection import Connection, Say, connect, explained, locked
from secrets_broker.migrations.errors import HandAppliedError, HistoryError
from secrets_broker.migrations.manifest import FOLDER, SqlFile, checked_files
from secrets_broker.migrations.yoyo_backend import SCHEMA, Backend, drop_schema, migrations_of

# Long enough for a schema change that waits for a reader, short enough for an operator.
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Run:
    """One run: under the lock, with the files and the history known to fit."""

    connection: Connection
    files: tuple[SqlFile, ...]
    unrecorded: tuple[SqlFile, ...]
    by_hand: bool
    say: Say


def apply(
    database_url: str, say: Say, *, folder: Path = FOLDER, wait_seconds: float = WAIT_SECONDS
) -> list[str]:
    """Apply what is missing, oldest first; returns the names of what this run applied."""
    with _run(database_url, say, folder, wait_seconds) as run:
        shared_schemas.close(run.connection, say)
        if not run.unrecorded:
            return []
        backend = _prepared(run)
        return [] if run.by_hand else [*_apply_each(run, backend)]


def rollback(
    database_url: str, say: Say, *, folder: Path = FOLDER, wait_seconds: float = WAIT_SECONDS
) -> list[str]:
    """Remove all that was applied, newest first; returns the names. Events go with it."""
    with _run(database_url, say, folder, wait_seconds) as run:
        run.connection.add_notice_handler(lambda notice: _pass_on(notice, say))
        removed = [*_roll_back_each(run, _prepared(run))]
        with explained("removing the record of migrations"):
            drop_schema(run.connection)
        return removed


def pending(database_url: str, *, folder: Path = FOLDER) -> list[str]:
    """The files that this database still needs, oldest first.

    The service's role may ask; what apply would refuse is refused here too, except a half-made
    schema, of which all files count as pending.
    """
    files = checked_files(folder)
    with connect(database_url) as connection, explained("looking at the schema"):
        unrecorded = _unrecorded(connection, files)
        by_hand = _all_by_hand(connection, files, unrecorded)
        return [] if by_hand else [file.name for file in unrecorded]


def count_events(database_url: str) -> int:
    """How many events a rollback would destroy; 0 where there is no ledger."""
    with connect(database_url) as connection, explained("counting the events"):
        if "table ledger.events" not in there(connection):
            return 0
        # Positions start at 0 and have no gap.
        row = connection.execute("SELECT max(position) FROM ledger.events").fetchone()
        return 0 if row is None or row[0] is None else int(row[0]) + 1


@contextmanager
def _run(database_url: str, say: Say, folder: Path, wait_seconds: float) -> Iterator[_Run]:
    files = checked_files(folder)
    with locked(database_url, say, wait_seconds) as connection:
        with explained("looking at the schema"):
            unrecorded = _unrecorded(connection, files)
            by_hand = _all_by_hand(connection, files, unrecorded)
            if not by_hand:
                _refuse_half(connection, files, unrecorded)
        yield _Run(connection, files, unrecorded, by_hand, say)


def _unrecorded(connection: Connection, files: tuple[SqlFile, ...]) -> tuple[SqlFile, ...]:
    digests = {file.name: file.sha256 for file in files}
    known = recorded(connection)
    for entry in known:
        _check_entry(entry, digests.get(entry.name))
    names = {entry.name for entry in known}
    _check_still_there(connection, tuple(file for file in files if file.name in names))
    return tuple(file for file in files if file.name not in names)


def _check_still_there(connection: Connection, applied: tuple[SqlFile, ...]) -> None:
    # Schemas only: a later file may drop what an earlier one made.
    lost = sorted(thing for thing in made_by(applied) - there(connection) if thing[:7] == "schema ")
    if lost:
        raise HistoryError(
            f"{lost[0]} is gone, although the files that make it are recorded as applied: where "
            f"all was taken back by hand, DROP SCHEMA {SCHEMA} CASCADE, then run this again"
        )


def _check_entry(entry: Recorded, digest: str | None) -> None:
    if digest is None:
        raise HistoryError(
            f"{entry.name}.sql was applied to this database, but this version has no such file: "
            "use the version that applied it, or a newer one"
        )
    if entry.sha256 != digest:
        raise HistoryError(
            f"{entry.name}.sql was edited after it was applied to this database: put the file "
            "back as it was, and make the change in a new file"
        )


def _new_with(files: tuple[SqlFile, ...], unrecorded: tuple[SqlFile, ...]) -> frozenset[str]:
    """What only the unrecorded files make: a later file may replace what an earlier one made."""
    return made_by(unrecorded) - made_by(tuple(file for file in files if file not in unrecorded))


def _all_by_hand(
    connection: Connection, files: tuple[SqlFile, ...], unrecorded: tuple[SqlFile, ...]
) -> bool:
    made = _new_with(files, unrecorded)
    return bool(made) and made <= there(connection)


def _refuse_half(
    connection: Connection, files: tuple[SqlFile, ...], unrecorded: tuple[SqlFile, ...]
) -> None:
    present = there(connection)
    # What names schema secrets may be an earlier installation's.
    if not any(_is_ours(thing) for thing in _new_with(files, unrecorded) & present):
        return
    lacking = next(file for file in unrecorded if not made_by((file,)) <= present)
    missing = min(made_by((lacking,)) - present)
    raise HandAppliedError(
        "a part of the schema was made by hand, or by something else: there is no "
        f"{missing}, which {lacking.name}.sql makes. Run the files to their end with "
        "psql -f, or take back what is there with their .rollback.sql files, then run this again"
    )


def _is_ours(thing: str) -> bool:
    return " secrets." not in thing and thing != "schema secrets"


def _prepared(run: _Run) -> Backend:
    with explained("making the record of migrations"):
        backend = Backend(run.connection)
        if run.by_hand:
            backend.mark_files(migrations_of(run.unrecorded), run.unrecorded)
    for file in run.unrecorded if run.by_hand else ():
        run.say(f"{file.name} was applied by hand: recorded")
    return backend


def _apply_each(run: _Run, backend: Backend) -> Iterator[str]:
    by_name = {file.name: file for file in run.files}
    for migration in backend.to_apply(migrations_of(run.files)):
        with explained(f"{migration.id}.sql"):
            backend.apply_file(migration, by_name[migration.id])
        run.say(f"applied {migration.id}")
        yield migration.id


def _roll_back_each(run: _Run, backend: Backend) -> Iterator[str]:
    for migration in backend.to_rollback(migrations_of(run.files)):
        with explained(f"{migration.id}.rollback.sql"):
            backend.roll_back_file(migration)
        run.say(f"rolled back {migration.id}")
        yield migration.id


def _pass_on(notice: Diagnostic, say: Say) -> None:
    # What our files RAISE comes as 00000 from within a block; PostgreSQL's own remarks do not.
    if notice.sqlstate == "00000" and notice.context and notice.message_primary:
        say(notice.message_primary)
