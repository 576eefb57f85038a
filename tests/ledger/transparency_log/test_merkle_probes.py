"""The 196 probes of github.com/transparency-dev/merkle: which proofs must pass, and which must not.

`data/merkle_probes.json` has what its cmd/proofgen writes into testdata/inclusion and
testdata/consistency (Apache-2.0), under the names of its files.
"""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any, Final

import pytest

from secrets_broker.ledger.transparency_log.merkle import EMPTY_ROOT
from secrets_broker.ledger.transparency_log.proof import (
    ProofError,
    verify_consistency,
    verify_extension,
    verify_inclusion,
)

PROBES: Final = json.loads(
    (Path(__file__).parent / "data" / "merkle_probes.json").read_text(encoding="utf-8")
)


def name_of(probe: dict[str, Any]) -> str:
    """What it is called there."""
    return str(probe["name"])


def test_all_of_them_are_here() -> None:
    """None was lost, and each has a name of its own."""
    names = {name_of(probe) for kind in PROBES.values() for probe in kind}
    assert (len(PROBES["inclusion"]), len(PROBES["consistency"]), len(names)) == (98, 98, 196)


@pytest.mark.parametrize("probe", PROBES["inclusion"], ids=name_of)
def test_inclusion(probe: dict[str, Any]) -> None:
    """Exactly what passes there passes here."""

    def verify() -> None:
        leaf, root = b64decode(probe["leafHash"]), b64decode(probe["root"])
        proof = [*map(b64decode, probe["proof"])]
        verify_inclusion(probe["leafIdx"], probe["treeSize"], leaf, proof, root)

    _decided(verify, refused=probe["wantErr"])


@pytest.mark.parametrize("probe", PROBES["consistency"], ids=name_of)
def test_consistency(probe: dict[str, Any]) -> None:
    """Exactly what passes there passes here."""

    def verify() -> None:
        roots = b64decode(probe["root1"]), b64decode(probe["root2"])
        proof = [*map(b64decode, probe["proof"])]
        verify_consistency(probe["size1"], probe["size2"], *roots, proof)

    _decided(verify, refused=probe["wantErr"])


def _decided(verify: Any, *, refused: bool) -> None:
    if not refused:
        verify()
        return
    with pytest.raises(ProofError):
        verify()


@pytest.mark.parametrize("size", [0, 1, 2, 300])
def test_nothing_is_proven_from_an_empty_tree(size: int) -> None:
    """As a proof it is refused; that a log may begin is another question, with another answer."""
    root = EMPTY_ROOT if size == 0 else bytes(32)
    with pytest.raises(ProofError):
        verify_consistency(0, size, EMPTY_ROOT, root, [])
    verify_extension(0, size, EMPTY_ROOT, root, [])
    for roots, proof in (((bytes(32), root), []), ((EMPTY_ROOT, root), [bytes(32)])):
        with pytest.raises(ProofError):
            verify_extension(0, size, *roots, proof)
