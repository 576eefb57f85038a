"""What is kept beside the checkpoint: whole or as before, by one process at a time, never less."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.errors import LedgerMismatchError, LedgerUnavailableError
from secrets_broker.ledger.rollback_detection import whole_files
from secrets_broker.ledger.rollback_detection.acknowledged import Acknowledged
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.rollback_detection.halt import Halt
from secrets_broker.ledger.rollback_detection.kept_facts import (
    AuthenticatedFrom,
    KeptFacts,
    Mark,
    Stop,
)
from secrets_broker.ledger.transparency_log.checkpoint import Checkpoint, SignedCheckpoint
from secrets_broker.ledger.transparency_log.merkle import Frontier, leaf_hash
from secrets_broker.ledger.tree_state import TreeState
from tests.ledger.checkpoints import KEY
from tests.ledger.helpers import naive_root
from tests.tools.postgres.helpers import root_only
from tests.tools.test_dev import ROOT

# Holds the lock of the file that is named, says so, and freezes.
_HOLD = """
import sys, time
from pathlib import Path
from secrets_broker.ledger.rollback_detection import whole_files
with whole_files.exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
# Acknowledges as many events as are named, says so, and waits to be killed.
_ACKNOWLEDGE = """
import sys, time
from pathlib import Path
from secrets_broker.ledger.rollback_detection.acknowledged import Acknowledged
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.tree_state import TreeState
mine = Acknowledged(CheckpointFile(Path(sys.argv[1])), "log.example")
for size in range(1, int(sys.argv[2]) + 1):
    mine.keep(TreeState().extend([bytes([n]) * 32 for n in range(size)]))
print("kept", flush=True)
time.sleep(600)
"""


def tree(size: int) -> TreeState:
    """What a process has seen of that many events."""
    return TreeState().extend([bytes([n]) * 32 for n in range(size)])


def other(program: str, *words: object) -> "subprocess.Popen[str]":
    """Another process, once it has said its word."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() in ("held", "kept")
    return process


def end(process: "subprocess.Popen[str]") -> None:
    """As a crash would."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    """One that is not there yet."""
    return CheckpointFile(tmp_path / "checkpoint")


marks = st.builds(
    Mark,
    origin=st.none() | st.text(max_size=20),
    size=st.integers(1, 2**62),
    leaf=st.binary(min_size=32, max_size=32),
    hashes=st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
)
stops = st.builds(
    Stop,
    why=st.text(max_size=80),
    at=st.text(max_size=20),
    size=st.none() | st.integers(0, 2**62),
    leaf=st.none() | st.binary(min_size=32, max_size=32),
)
facts = st.builds(
    KeptFacts,
    seen=st.none() | marks,
    stopped=st.none() | stops,
    authenticated_from=st.none()
    | st.builds(AuthenticatedFrom, position=st.integers(0, 2**62), ledger_id=st.text(max_size=40)),
)


@given(wanted=facts)
def test_what_is_kept_is_read(tmp_path_factory: pytest.TempPathFactory, wanted: KeptFacts) -> None:
    """Every fact, to the byte; and one that is changed leaves the others as they are."""
    kept = CheckpointFile(tmp_path_factory.mktemp("kept") / "c").facts
    kept.change(lambda _: wanted)
    assert kept.read() == wanted
    kept.change(lambda before: before.with_stop(Stop("why", "now")))
    assert kept.read() == KeptFacts(wanted.seen, Stop("why", "now"), wanted.authenticated_from)


@given(leaves=st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=300))
def test_a_mark_knows_the_root(leaves: list[bytes]) -> None:
    """Of what was acknowledged, so that a loss can be named as a checkpoint names a tree."""
    hashes = [leaf_hash(leaf) for leaf in leaves]
    mark = Mark.of(TreeState(Frontier().extend(hashes)[0], hashes[-1]), None)
    assert mark is not None
    assert mark.root == naive_root(hashes)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\xff", b"[]", b'{"stopped": 1}', b'{"unheard_of": {}}', b'{"seen": {"size": 3}}'],
)
def test_facts_that_cannot_be_read_are_refused(file: CheckpointFile, content: bytes) -> None:
    """They may say to stop; and of a newer program's facts none is dropped."""
    file.facts.path.write_bytes(content)
    with pytest.raises(LedgerUnavailableError, match="cannot be read"):
        file.facts.read()
    with pytest.raises(LedgerUnavailableError, match="cannot be read"):
        file.facts.change(lambda before: before.with_stop(None))
    with pytest.raises(LedgerUnavailableError, match="cannot be read"):
        Halt(file).check()
    assert file.facts.path.read_bytes() == content


def test_a_process_that_is_killed_is_remembered(file: CheckpointFile) -> None:
    """What it acknowledged last is read by whoever comes, and kept once it is gathered."""
    processes = [other(_ACKNOWLEDGE, file.path, size) for size in (3, 5, 4)]
    assert file.facts.in_use()
    for process in processes:
        end(process)
    seen = file.facts.read().seen
    assert seen == Mark.of(tree(5), "log.example")
    assert not file.facts.in_use()
    file.facts.gather()
    assert file.facts.read().seen == seen
    assert not list(file.path.parent.glob("*.seen-*"))


def test_a_process_that_runs_keeps_its_own(file: CheckpointFile) -> None:
    """Another one that starts takes over nothing of it."""
    running = other(_ACKNOWLEDGE, file.path, 5)
    try:
        mine = Acknowledged(file, "log.example")
        mine.keep(tree(2))
        mine.close()
        assert file.facts.in_use()
        assert file.facts.read().seen == Mark.of(tree(5), "log.example")
    finally:
        end(running)
    assert file.facts.read().seen == Mark.of(tree(5), "log.example")


def test_a_mark_of_a_machine_that_died_is_none(file: CheckpointFile) -> None:
    """Made, and not on disk: empty, or zeros. The checkpoint has what is older."""
    for name, content in (("a", b""), ("b", b"\0" * 4096), ("c", b" " * 4096), ("d", b'{"size"')):
        file.path.with_name(f"checkpoint.seen-{name}").write_bytes(content)
    assert file.facts.read() == KeptFacts()
    file.facts.gather()
    assert file.facts.read() == KeptFacts()


def test_a_stop_is_seen_by_every_process_and_outlives_them(file: CheckpointFile) -> None:
    """The first one is kept, with size and leaf; the checkpoint that did not fit lies beside."""
    first, second, third = Halt(file), Halt(file), Halt(file)
    first.check()
    second.check()
    first.durable = tree(3)
    first.stop(LedgerMismatchError("the newest ones are gone", "a note"))
    with pytest.raises(LedgerMismatchError, match="secrets-broker restored: the newest ones"):
        second.check()
    third.stop(LedgerMismatchError("something else"))
    stopped = file.facts.read().stopped
    assert stopped is not None
    assert (stopped.why, stopped.size) == ("the newest ones are gone", 3)
    assert stopped.leaf == bytes([2]) * 32
    (evidence,) = file.path.parent.glob("checkpoint.refused-*")
    assert evidence.read_text() == "a note"
    with pytest.raises(LedgerMismatchError, match="the newest ones are gone"):
        Halt(file).check()


def test_a_frozen_process_holds_nobody_up_for_long(
    file: CheckpointFile, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the files are locked: the process stops all the same, and it is said."""
    holder = other(_HOLD, file.path)
    try:
        halt = Halt(file)
        halt.stop(LedgerMismatchError("why"))
        assert halt.is_stopped
        assert "stop_not_kept" in capsys.readouterr().out
    finally:
        end(holder)
    Halt(file).check()


def signed(size: int) -> SignedCheckpoint:
    """A checkpoint."""
    return SignedCheckpoint.sign(Checkpoint(KEY.name, size, bytes(32)), KEY)


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    """What it leads to is replaced, and what is kept beside is kept there."""
    elsewhere = tmp_path / "other-disk"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere / "checkpoint")
    file = CheckpointFile.at(tmp_path / "link")
    for before, after in ((None, signed(1)), (signed(1), signed(2))):
        assert file.replace(before, after)
    assert (tmp_path / "link").is_symlink()
    assert CheckpointFile(elsewhere / "checkpoint").read() == signed(2)
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(LedgerUnavailableError):
        CheckpointFile.at(tmp_path / "round").read()


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "huge"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    """At once: a pipe would have its reader wait for ever."""
    path = tmp_path / "checkpoint"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case _:
            path.write_bytes(b"x" * (whole_files.MAX_BYTES + 7))
    with pytest.raises(LedgerUnavailableError, match=str(path)):
        CheckpointFile(path).read()


@pytest.mark.parametrize("name", ["checkpoint.new", "checkpoint.state.new", "checkpoint.lock"])
def test_no_link_beside_it_is_followed(tmp_path: Path, name: str) -> None:
    """Who owns the folder cannot have root write, or give away, what is elsewhere."""
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    before = victim.stat()
    (tmp_path / name).symlink_to(victim)
    file = CheckpointFile(tmp_path / "checkpoint")
    with suppress(OSError):
        file.check_writable()
        file.replace(None, signed(1))
        file.facts.change(lambda facts: facts.with_stop(Stop("why", "now")))
    assert victim.read_text() == "as it was"
    assert (victim.stat().st_uid, victim.stat().st_ino) == (before.st_uid, before.st_ino)


@root_only
def test_root_leaves_the_files_to_the_folders_owner(tmp_path: Path) -> None:
    """A command of root's beside a service: the service can go on with what it wrote."""
    os.chown(tmp_path, 12_345, 12_346)
    file = CheckpointFile(tmp_path / "checkpoint")
    assert file.replace(None, signed(1))
    file.facts.change(lambda before: before.with_stop(Stop("why", "now")))
    Acknowledged(file).keep(tree(1))
    owners = {(found.stat().st_uid, found.stat().st_gid) for found in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 4
    assert owners == {(12_345, 12_346)}
