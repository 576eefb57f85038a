"""A ledger that was restored from a backup, and lacks events that were published."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.ledger.transparency_log.checkpoint import SignedCheckpoint
from secrets_broker.ledger.transparency_log.note import SigningKey
from tests.conftest import SIGNING_KEY, Database
from tests.ledger.helpers import lookup, record, upsert
from tests.ledger.publishing.checkpointers import make, tamper
from tests.tools.command_line import run, settings

OLD = SigningKey("log.example", bytes(range(32)))
NEW = SigningKey.parse(SIGNING_KEY)


@dataclass(frozen=True, slots=True)
class Ledger:
    """A ledger that published 300 events and was then restored to 250 of them."""

    database: Database
    file: Path

    def command(self, *words: str, key: SigningKey = NEW, **more: str) -> "tuple[int, str, str]":
        """Run a command with these settings."""
        env = {
            **settings(self.database),
            "LEDGER_SIGNING_KEY": key.private_text(),
            "LEDGER_CHECKPOINT_FILE": str(self.file),
            **more,
        }
        done = run(*words, cwd=self.file.parent, env=env)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(params=["with its checkpoints", "without them"])
def ledger(
    request: pytest.FixtureRequest, database: Database, keyring: Keyring, tmp_path: Path
) -> Ledger:
    """Restored with the checkpoints of that time, or only events were lost."""
    record(database, keyring, upsert("a"), *[lookup("a")] * 248)
    file = tmp_path / "checkpoint"
    make(database, OLD)
    record(database, keyring, *[lookup("a")] * 50)
    CheckpointFile(file).replace(None, SignedCheckpoint.sign(make(database, OLD), OLD))
    if request.param == "with its checkpoints":
        tamper(
            database,
            "DELETE FROM ledger.checkpoints WHERE size = 300",
            "UPDATE ledger.published SET size = 250",
        )
    tamper(database, "DELETE FROM ledger.events WHERE position >= 250")
    tamper(database, "DELETE FROM ledger.nodes WHERE (index + 1) * 256 > 250")
    return Ledger(database, file)
