"""`secrets-broker verify` of a ledger that was restored to less than it had published."""

import json

from secrets_broker.ledger.encryption.keyring import Keyring
from tests.ledger.helpers import lookup, record
from tests.ledger.publishing.checkpointers import make
from tests.tools.restored_ledger import NEW, OLD, Ledger, ledger

__all__ = ["ledger"]  # the fixture

KEYS = ("--verifier-key", str(OLD.verifier), "--verifier-key", str(NEW.verifier))


def test_before_anybody_decided_it_is_not_ok(ledger: Ledger) -> None:
    """The checkpoint in the file knows of more events than there are."""
    code, out, _ = ledger.command("verify", "--json", *KEYS)
    found = json.loads(out)
    assert (code, found["ok"], found["first_bad"]) == (1, False, 250)
    assert "50 of the newest are missing" in out


def test_afterwards_it_goes_on_under_two_keys(ledger: Ledger, keyring: Keyring) -> None:
    """The old origin's checkpoints fit up to there, the new one's after; both keys are needed."""
    kept = ledger.file.read_text()
    assert ledger.command("restored", "--reason", "r")[0] == 0
    record(ledger.database, keyring, lookup("a"), lookup("nobody"))
    make(ledger.database, NEW)
    code, out, _ = ledger.command("verify", "--json", *KEYS)
    found = json.loads(out)
    assert (code, found["ok"], found["size"], found["problems"]) == (0, True, 253, [])
    assert found["checked"]["signatures"] == 4  # one of the old origin, two of the new, the file
    code, out, _ = ledger.command("verify", "--json")
    assert code == 1
    assert "no key that was given signed this checkpoint of log.example" in out
    ledger.file.with_name("kept").write_text(kept)
    code, out, _ = ledger.command("verify", "--json", "--since", "kept", *KEYS)
    found = json.loads(out)
    assert (code, found["first_bad"]) == (1, 250)
    assert found["problems"][0]["check"] == "since"
