"""What a witness keeps, when it dies and when many ask at once."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest

from secrets_broker.ledger.transparency_log.add_checkpoint import (
    AddCheckpoint,
    CosignedHead,
    Misbehaviour,
)
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, SigningKey
from secrets_broker.ledger.transparency_log.witness_state import (
    MAX_EVIDENCE,
    WitnessState,
    WitnessStateError,
)
from tests.ledger.checkpoints import KEY as LOG
from tests.ledger.transparency_log.witness_requests import HONEST, LOGS, fork, head, request
from tests.repository import ROOT

ROUNDS = 20
KEY = SigningKey("witness.example", bytes(32), COSIGNATURE)

# A process that adds a checkpoint, and dies where the first argument says.
DYING = """
import os, signal, sqlite3, sys
from pathlib import Path
from secrets_broker.ledger.transparency_log import witness_state
from secrets_broker.ledger.transparency_log.note import SigningKey
from tests.ledger.transparency_log.witness_requests import HONEST, LOGS, request
from tests.ledger.transparency_log.test_witness_state import KEY

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

real = witness_state._open
def opened(path):
    database = real(path)
    database.set_trace_callback(lambda line: die() if line.startswith("COMMIT") else None)
    return database

if sys.argv[1] == "before":
    witness_state._open = opened
else:
    SigningKey.cosign = die
state = witness_state.WitnessState(Path(sys.argv[2]))
state.add(LOGS, request(HONEST[:5], 2), KEY, lambda: 1)
"""


@pytest.fixture
def state(tmp_path: Path) -> WitnessState:
    """A state that has cosigned two leaves."""
    made = WitnessState(tmp_path / "state")
    made.create()
    assert add(made, request(HONEST[:2], 0)) == 200
    return made


def add(state: WitnessState, asked: AddCheckpoint) -> int:
    """The status; a cosignature comes with 200, and with nothing else."""
    decision, line = state.add(LOGS, asked, KEY, lambda: 1_700_000_000)
    assert (line is not None) == (decision.status == 200)
    if line is not None:
        assert KEY.verifier.verifies(asked.signed.note.text, line.signature)
    return decision.status


@pytest.mark.parametrize(("died", "size"), [("before", 2), ("after", 5)])
def test_a_witness_that_dies_has_signed_nothing_that_it_forgets(
    state: WitnessState, tmp_path: Path, died: str, size: int
) -> None:
    """Killed before the head is kept, the old one holds; killed after, the new one; it goes on."""
    line = [sys.executable, "-c", DYING, died, str(tmp_path / "state")]
    done = subprocess.run(line, cwd=ROOT, timeout=60, check=False, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL
    assert state.heads() == {LOG.name: head(HONEST[:size])}
    assert add(state, request(HONEST[:5], size)) == 200


@pytest.mark.parametrize("tree", [HONEST, fork(3)])
def test_of_many_at_once_one_history_is_cosigned(tmp_path: Path, tree: Sequence[bytes]) -> None:
    """Two histories race from the same size; the ones that lose are told the size."""
    asked = [request(leaves[:size], 0) for size in (4, 5, 6, 7) for leaves in (tree, fork(2))]
    with ThreadPoolExecutor(len(asked)) as pool:
        for number in range(ROUNDS):
            state = WitnessState(tmp_path / str(number))
            state.create()
            together = Barrier(len(asked))
            answers = list(pool.map(partial(_race, state, together), asked))
            assert sorted(answers) == [200] + [409] * (len(asked) - 1)
            won = asked[answers.index(200)].signed.checkpoint
            assert state.heads() == {LOG.name: CosignedHead(won.size, won.root)}


def _race(state: WitnessState, together: Barrier, asked: AddCheckpoint) -> int:
    together.wait()
    return add(state, asked)


def test_evidence_is_kept_once_with_what_it_contradicts(
    state: WitnessState, tmp_path: Path
) -> None:
    """As files of its owner; a request that proves nothing leaves none."""
    folder = tmp_path / "state/evidence"
    assert add(state, request(HONEST[:5], 0)) == 409
    assert not folder.exists()
    asked = request(fork(1)[:2], 2)
    assert [add(state, asked) for _ in range(2)] == [409, 409]
    (cosigned,), (submitted,) = folder.glob("*.cosigned"), folder.glob("*.request")
    assert submitted.name.startswith(Misbehaviour.CONTRADICTION.value)
    assert AddCheckpoint.parse(submitted.read_bytes()) == asked
    assert cosigned.read_text() == str(request(HONEST[:2], 0).signed)
    assert submitted.stat().st_mode & 0o077 == 0


def test_evidence_is_bounded(state: WitnessState, tmp_path: Path) -> None:
    """Anybody can send what a log signed once more, with a proof that is none."""
    folder = tmp_path / "state/evidence"
    folder.mkdir()
    for number in range(MAX_EVIDENCE):
        (folder / f"inconsistent-{number}.request").touch()
    assert add(state, request(fork(1)[:5], 2)) == 422
    assert len(list(folder.iterdir())) == MAX_EVIDENCE
    assert add(state, request(fork(1)[:2], 2)) == 409  # of another kind there is room
    assert len(list(folder.iterdir())) == MAX_EVIDENCE + 2


def test_a_head_that_is_gone_is_not_made_anew(state: WitnessState, tmp_path: Path) -> None:
    """A missing or broken file is an error: nothing is cosigned."""
    path = tmp_path / "state/heads.sqlite"
    path.unlink()
    with pytest.raises(WitnessStateError):
        add(state, request(HONEST[:5], 0))
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(WitnessStateError):
        add(state, request(HONEST[:5], 0))
    with pytest.raises(WitnessStateError):
        state.heads()
