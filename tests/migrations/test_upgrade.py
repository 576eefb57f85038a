"""From every earlier version to this one."""

import shutil
from pathlib import Path

import pytest

from secrets_broker.migrations import manifest, runner
from secrets_broker.migrations.errors import HandAppliedError
from secrets_broker.migrations.manifest import FOLDER, checked_files
from tests.migrations.conftest import Databases, dump, execute, psql

FILES = [file.name for file in checked_files(FOLDER)]
REPLACES = """-- Replaces a function and makes nothing new.
CREATE OR REPLACE FUNCTION ledger.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN RAISE EXCEPTION 'no'; END
$$;
"""


def version(folder: Path, names: list[str]) -> Path:
    """The files that an earlier version had."""
    folder.mkdir()
    for name in names:
        for ending in (".sql", ".rollback.sql"):
            shutil.copy(FOLDER / f"{name}{ending}", folder)
    manifest.write(folder)
    return folder


@pytest.mark.parametrize("count", range(1, len(FILES)))
def test_an_earlier_version_is_upgraded(databases: Databases, tmp_path: Path, count: int) -> None:
    """What is missing is run, whatever of it replaces what is there; it ends as if new."""
    url = databases.make()
    earlier = version(tmp_path / "earlier", FILES[:count])
    assert runner.apply(url, lambda _: None, folder=earlier) == FILES[:count]
    assert runner.pending(url) == FILES[count:]
    assert runner.apply(url, lambda _: None) == FILES[count:]
    new = databases.make()
    runner.apply(new, lambda _: None)
    ours = ("--schema=ledger", "--schema=secrets")
    assert dump(url, *ours) == dump(new, *ours)


def test_a_file_that_only_replaces_is_run(databases: Databases, tmp_path: Path) -> None:
    """It makes nothing by which it could be taken for one that was run by hand."""
    url = databases.make()
    runner.apply(url, lambda _: None)
    later = version(tmp_path / "later", FILES)
    (later / "9999.replaces.sql").write_text(REPLACES)
    (later / "9999.replaces.rollback.sql").write_text("SELECT 1;")
    manifest.write(later)
    assert runner.apply(url, lambda _: None, folder=later) == ["9999.replaces"]
    source = "SELECT prosrc FROM pg_proc WHERE proname = 'refuse_change'"
    assert "RAISE EXCEPTION 'no'" in str(execute(url, source))


def test_an_upgrade_runs_what_makes_nothing_new(empty_database: str) -> None:
    """A file that only alters functions is run, not taken for one that was run by hand."""
    files = [file.path for file in checked_files(FOLDER)]
    before = [path for path in files if path.name < "0012"]
    psql(empty_database, *before)
    assert runner.pending(empty_database)
    said: list[str] = []
    with pytest.raises(HandAppliedError, match="path pg_catalog, pg_temp of ledger"):
        runner.apply(empty_database, said.append)
    psql(empty_database, *(path for path in files if path.name >= "0012"))
    assert runner.apply(empty_database, said.append) == []
    paths = execute(
        empty_database,
        "SELECT DISTINCT array_to_string(proconfig, ';') FROM pg_proc"
        " WHERE pronamespace = 'ledger'::regnamespace",
    )
    assert paths == [("search_path=pg_catalog, pg_temp",)]
