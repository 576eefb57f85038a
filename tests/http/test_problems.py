"""An error and its answer are declared once; what is written of them elsewhere is held to it."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

import secrets_broker
from secrets_broker.http import problems
from secrets_broker.http.error_handlers import Foreseen
from secrets_broker.http.metrics import counters
from secrets_broker.http.problems import OF_LEDGER
from secrets_broker.http.resources.health import DETAILS
from secrets_broker.ledger.access.rights import REFUSALS
from secrets_broker.ledger.errors import LedgerError, LedgerUnavailableError, OutcomeUnknownError
from tests.everything_raised import errors
from tests.http.declared import DECLARED, OF_REFUSALS
from tests.pages.commands import ROOT

PACKAGE = Path(secrets_broker.__file__).parent
API = (ROOT / "docs" / "api.md").read_text()
MONITORING = (ROOT / "docs" / "monitoring.md").read_text()
ROW = re.compile(r"^\| (\d{3}) \| `(\w+)` \|", re.MULTILINE)


def test_every_error_of_a_ledger_that_cannot_be_used_is_declared() -> None:
    """By itself, not by a base: status, label of the metric and sentence of /health/ready."""
    assert set(OF_LEDGER) == {kind for kind in errors() if issubclass(kind, LedgerUnavailableError)}


OF_COMMANDS = {
    *("BusyError", "ChangedMeanwhileError", "DeliveryError", "DisownRefusedError", "ExportError"),
    *("DamagedError", "KmsUrlError", "NothingLostError", "RemoteError", "RewrittenError"),
    *("RotationRefusedError", "SameOriginError", "SourceError", "UnfitKeyError"),
    *("WatchStateError", "WitnessStateError", "WitnessUrlError"),
    # Caught where they are raised: of checkpoints, of witnesses, and of what is stored.
    *("CredentialUndisclosableError", "DecryptionError", "NoteError", "WitnessDisagreesError"),
    *("WitnessError", "WitnessUnreachableError", "FoundError"),
}
"""No request meets them; one that did all the same would be answered with `internal_error`."""


def test_every_other_error_of_the_ledger_is_answered_or_of_commands_alone() -> None:
    """A new one has its answer in http/error_handlers.py, or is named here."""
    others = {kind for kind in errors() if issubclass(kind, LedgerError)} - {LedgerError}
    left = {kind.__name__ for kind in others if not issubclass(kind, get_args(Foreseen))}
    assert left == OF_COMMANDS


def test_one_that_is_not_declared_is_as_its_base() -> None:
    """A subclass of somebody else's is 503 all the same, or says that the outcome is unknown."""

    class OfSomebodyElseError(OutcomeUnknownError):
        pass

    assert problems.of_ledger(OfSomebodyElseError("")).problem == problems.OUTCOME_UNKNOWN


def test_the_table_of_the_pages_is_what_is_declared() -> None:
    """docs/api.md lists each status with its reason, once, in their order."""
    rows = [(int(status), reason) for status, reason in ROW.findall(API.split("\n## Errors\n")[1])]
    assert sorted(rows) == sorted({(one.status, one.reason) for one in DECLARED})
    assert [status for status, _ in rows] == sorted(status for status, _ in rows)


def test_every_cause_is_on_the_page_of_metrics() -> None:
    """docs/monitoring.md lists the values of the label."""
    (listed,) = re.findall(r"^\| `cause` \| ([^(]*)", MONITORING, re.MULTILINE)
    causes = {each.cause for each in OF_LEDGER.values()}
    assert set(re.findall(r"`(\w+)`", listed)) == causes
    assert {labels for (labels,) in counters.UNAVAILABLE._metrics} == causes


def test_every_refusal_has_its_answer() -> None:
    """The words of the events are those of the answers."""
    assert {one.reason for one in OF_REFUSALS} == REFUSALS


def test_sentences_of_health_tell_nothing_but_the_kind() -> None:
    """Anybody may read them, and each of them sends to the log or is the whole story."""
    assert len(DETAILS) == len({*DETAILS})
    assert all(text.endswith(("; see the log.", "wait for the ledger.")) for text in DETAILS)


@pytest.mark.parametrize("name", ["Problem", "Unavailable"])
def test_nothing_is_declared_elsewhere(name: str) -> None:
    """But by the witness, which is another service with answers of its own."""
    made = {
        str(path.relative_to(PACKAGE / "http"))
        for path in (PACKAGE / "http").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name
    }
    assert made - {"witness_app.py"} == {"problems.py"}
