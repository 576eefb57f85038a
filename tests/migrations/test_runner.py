"""Applying, rolling back, and what the database remembers of it."""

import shutil
from pathlib import Path

import pytest

from secrets_broker.migrations import manifest
from secrets_broker.migrations.errors import (
    HandAppliedError,
    HistoryError,
    ManifestError,
    StatementError,
)
from secrets_broker.migrations.manifest import FOLDER
from secrets_broker.migrations.runner import apply, count_events, pending, rollback
from tests import earlier
from tests.migrations.conftest import Databases, dump, execute, psql, roles
from tests.migrations.migration_files import FORWARD, NAMES, quiet

BACKWARD = [FOLDER / f"{path.stem}.rollback.sql" for path in reversed(FORWARD)]
OURS = ("-n", "ledger", "-n", "secrets")
EVENT = """
INSERT INTO ledger.events (position, at, v, ok, leaf_hash, mac, type, authn)
VALUES (0, now(), 1, true, decode(repeat('00', 32), 'hex'), sha256(''), 'ledger.authenticated',
        'test')
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the SQL files that a test may change."""
    for path in [*FOLDER.glob("*.sql"), FOLDER / manifest.LIST_NAME]:
        shutil.copy(path, tmp_path)
    return tmp_path


def test_apply_makes_all_once(empty_database: str) -> None:
    """Each file is applied once, in order and said so; a second run has nothing to do."""
    said: list[str] = []
    assert pending(empty_database) == NAMES
    assert apply(empty_database, said.append) == NAMES
    assert said == [f"applied {name}" for name in NAMES]
    assert pending(empty_database) == []
    assert apply(empty_database, quiet) == []


def test_rollback_leaves_nothing(empty_database: str) -> None:
    """What apply made goes, newest first, with the record of it; and it can be made again."""
    before = dump(empty_database)
    apply(empty_database, quiet)
    assert rollback(empty_database, quiet) == NAMES[::-1]
    assert dump(empty_database) == before
    assert roles(empty_database) == set()
    assert rollback(empty_database, quiet) == []
    assert apply(empty_database, quiet) == NAMES


def test_nothing_lands_in_public(empty_database: str) -> None:
    """The schema public may be absent: neither yoyo nor the files need it."""
    execute(empty_database, "DROP SCHEMA public")
    apply(empty_database, quiet)
    rows = execute(empty_database, "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'")
    names = {"information_schema", "ledger", "secrets", "secrets_broker_migrations"}
    assert {row[0] for row in rows} == names


def test_files_by_hand_make_the_same(databases: Databases) -> None:
    """The psql program and the runner leave the same schema, and both undo it fully."""
    by_hand, by_us = databases.make(), databases.make()
    before = dump(by_hand)
    psql(by_hand, *FORWARD)
    apply(by_us, quiet)
    assert dump(by_hand, *OURS) == dump(by_us, *OURS)
    psql(by_hand, *BACKWARD)
    rollback(by_us, quiet)
    assert dump(by_hand) == dump(by_us) == before


def test_files_applied_by_hand_are_recorded(empty_database: str) -> None:
    """A schema that is there in full is taken on, not made again; a rollback then works."""
    said: list[str] = []
    psql(empty_database, *FORWARD)
    assert pending(empty_database) == []
    assert apply(empty_database, said.append) == []
    assert said == [f"{name} was applied by hand: recorded" for name in NAMES]
    assert execute(
        empty_database, "SELECT DISTINCT by_hand FROM secrets_broker_migrations.applied"
    ) == [(True,)]
    assert rollback(empty_database, quiet) == NAMES[::-1]


def test_rollback_after_files_by_hand(empty_database: str) -> None:
    """A rollback needs no record by an earlier apply."""
    psql(empty_database, *FORWARD)
    assert rollback(empty_database, quiet) == NAMES[::-1]
    assert roles(empty_database) == set()


def test_a_schema_taken_back_by_hand_is_noticed(empty_database: str) -> None:
    """A record without its schema is an error that says how to forget it, never all is well."""
    apply(empty_database, quiet)
    psql(empty_database, *BACKWARD)
    with pytest.raises(HistoryError, match="schema ledger is gone"):
        pending(empty_database)
    with pytest.raises(HistoryError, match="schema ledger is gone"):
        apply(empty_database, quiet)
    execute(empty_database, "DROP SCHEMA secrets_broker_migrations CASCADE")
    assert apply(empty_database, quiet) == NAMES


def test_a_first_file_by_hand_does_no_harm(empty_database: str) -> None:
    """The first file makes nothing that another run of it could trip over."""
    execute(empty_database, earlier.TABLES)
    psql(empty_database, FORWARD[0])
    assert apply(empty_database, quiet) == NAMES


@pytest.mark.parametrize(
    ("spoil", "missing"),
    [
        ("DROP VIEW secrets.credential_access_log", "view secrets.credential_access_log"),
        ("DROP TRIGGER append_only ON ledger.events", "trigger append_only on ledger.events"),
        (
            "ALTER TABLE ledger.bodies ENABLE TRIGGER append_only",
            "ALWAYS trigger append_only on ledger.bodies, which 0004.keys.sql makes",
        ),
    ],
)
def test_a_half_made_schema_is_refused(empty_database: str, spoil: str, missing: str) -> None:
    """By hand but not in full: the error says what is missing, and nothing is changed."""
    psql(empty_database, *FORWARD)
    execute(empty_database, spoil)
    before = dump(empty_database)
    assert pending(empty_database) == NAMES
    for run in (apply, rollback):
        with pytest.raises(HandAppliedError, match=f"there is no .*{missing}"):
            run(empty_database, quiet)
    assert dump(empty_database) == before


def test_a_file_added_later_is_applied_alone(empty_database: str, folder: Path) -> None:
    """An older schema lacks only what is new."""
    apply(empty_database, quiet)
    (folder / "0099.more.sql").write_text("-- depends: 0005.projections\nCREATE TABLE ledger.x ();")
    (folder / "0099.more.rollback.sql").write_text("DROP TABLE ledger.x;")
    manifest.write(folder)
    assert pending(empty_database, folder=folder) == ["0099.more"]
    assert apply(empty_database, quiet, folder=folder) == ["0099.more"]
    with pytest.raises(HistoryError, match=r"0099\.more\.sql was applied .* no such file"):
        apply(empty_database, quiet)
    with pytest.raises(HistoryError, match="use the version that applied it"):
        rollback(empty_database, quiet)


def test_an_applied_file_that_was_edited_is_refused(empty_database: str, folder: Path) -> None:
    """A new manifest does not hide the edit: the database remembers what it was given."""
    apply(empty_database, quiet, folder=folder)
    with (folder / "0003.events.sql").open("a") as file:
        file.write("-- edited\n")
    with pytest.raises(ManifestError, match=r"0003\.events\.sql: edited"):
        apply(empty_database, quiet, folder=folder)
    manifest.write(folder)
    with pytest.raises(HistoryError, match=r"0003\.events\.sql was edited after"):
        apply(empty_database, quiet, folder=folder)


def test_a_statement_that_fails_takes_its_whole_file_back(
    empty_database: str, folder: Path
) -> None:
    """The files before it stay, the error names the file, and a repaired one goes on."""
    original = (folder / "0004.keys.sql").read_text()
    (folder / "0004.keys.sql").write_text(original + "\nSELECT 1 / 0;\n")
    manifest.write(folder)
    with pytest.raises(StatementError, match=r"0004\.keys\.sql: division by zero"):
        apply(empty_database, quiet, folder=folder)
    assert pending(empty_database) == NAMES[3:]
    assert apply(empty_database, quiet) == NAMES[3:]


def test_an_earlier_installation_survives_both_ways(empty_database: str) -> None:
    """Its tables are set aside with their content, and come back under all their names."""
    execute(empty_database, earlier.TABLES, earlier.UPSERT, earlier.RECORD)
    before = dump(empty_database)
    assert apply(empty_database, quiet) == NAMES
    aside = "SELECT username FROM secrets.legacy_host_credentials"
    assert execute(empty_database, aside) == [("u",)]
    rollback(empty_database, quiet)
    assert dump(empty_database) == before
    execute(empty_database, earlier.UPSERT, earlier.RECORD)
    assert execute(empty_database, earlier.CONTENT) == [(1, "u2", "read"), (1, "u2", "read")]


def test_the_first_file_never_sets_our_own_tables_aside(empty_database: str) -> None:
    """Run by hand a second time, it stops."""
    apply(empty_database, quiet)
    with pytest.raises(AssertionError, match="is in use"):
        psql(empty_database, FORWARD[0])


def test_events_are_counted(empty_database: str) -> None:
    """What a rollback would destroy: 0 without a ledger or without events."""
    assert count_events(empty_database) == 0
    apply(empty_database, quiet)
    assert count_events(empty_database) == 0
    execute(empty_database, EVENT)
    assert count_events(empty_database) == 1


def test_counting_without_the_right_to_is_an_error(databases: Databases) -> None:
    """No right to read is never taken for no events."""
    url = databases.make()
    apply(url, quiet)
    execute(url, EVENT, "CREATE ROLE stranger LOGIN")
    try:
        with pytest.raises(StatementError, match="permission denied"):
            count_events(url.replace("postgres@", "stranger@"))
    finally:
        execute(url, "DROP ROLE stranger")


def test_the_service_may_ask_what_is_pending(databases: Databases, folder: Path) -> None:
    """Asked by the service's login at its start: an older schema, a whole one, one by hand."""
    url, by_hand = databases.make(), databases.make()
    apply(url, quiet)
    psql(by_hand, *FORWARD)
    execute(url, "CREATE ROLE svc LOGIN IN ROLE secrets_broker_service")
    try:
        assert pending(url.replace("postgres@", "svc@")) == []
        assert pending(by_hand.replace("postgres@", "svc@")) == []
        assert pending(databases.make().replace("postgres@", "svc@")) == NAMES
    finally:
        execute(url, "DROP ROLE svc")
