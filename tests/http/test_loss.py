"""A ledger that lost events: the service stops, stays stopped and says so, until `restored`."""

import os
import signal
from pathlib import Path

from secrets_broker.ledger.rollback_detection.checkpoint_file import CheckpointFile
from secrets_broker.tools.postgres import Cluster
from tests.conftest import SIGNING_KEY, TEMPLATE, VERIFIER_KEY, Database, fresh_database
from tests.http.client import Service
from tests.http.conftest import WORKERS, serving
from tests.http.server.raw_requests import logged
from tests.ledger.checkpoints import KEY
from tests.ledger.publishing.checkpointers import tamper
from tests.tools.command_line import run as command
from tests.tools.command_line import settings
from tests.waiting import until

NAME = {"host": "db1", "purpose": "ssh"}
STOPPED = "The ledger does not continue what this process has seen; see the log."


def lose(database: Database) -> None:
    """As an asynchronous failover does: the newest are gone, and no checkpoint knew of them."""
    tamper(database, "DELETE FROM ledger.events WHERE position >= 4")


def until_mentioned(service: Service, word: str) -> None:
    """Until each worker has said it, once."""

    def mentions() -> int:
        return sum(word in line for line in service.log.read_text().splitlines())

    until(lambda: mentions() >= WORKERS)
    assert mentions() == WORKERS


def test_a_loss_that_no_checkpoint_knows_of(cluster: Cluster, tmp_path: Path) -> None:
    """Killed and started again: 503 on every worker. Restored: all but what was lost."""
    file = CheckpointFile(tmp_path / "checkpoint")
    kept = {
        "LEDGER_CHECKPOINT_FILE": str(file.path),
        "LEDGER_CHECKPOINT_SECONDS": "3600",
        "LEDGER_SIGNING_KEY": KEY.private_text(),
    }
    with fresh_database(cluster, TEMPLATE) as database:
        url = database.service_url
        with serving(url, tmp_path / "first", settings=kept) as service:
            assert service.upsert(**NAME, password="p").status == 200
            for _ in range(5):
                assert service.lookup(**NAME).status == 200
            for pid in (service.pid, *service.workers()):
                os.kill(pid, signal.SIGKILL)
        assert file.read() is None  # its checkpoints are an hour apart
        lose(database)
        for name in ("second", "third"):
            with serving(url, tmp_path / name, settings=kept, until=503) as service:
                assert [service.lookup(**NAME).status for _ in range(8)] == [503] * 8
                assert service.get("/health/ready").json["detail"] == STOPPED
                until_mentioned(service, "ledger_mismatch")
        assert database.fetch("SELECT count(*) FROM ledger.events") == [(4,)]

        env = {
            **settings(database),
            "LEDGER_CHECKPOINT_FILE": str(file.path),
            "LEDGER_SIGNING_KEY": SIGNING_KEY,
            "LEDGER_VERIFIER_KEY": f"{VERIFIER_KEY} {KEY.verifier}",
        }
        done = command("restored", "--reason", "failover of noon", cwd=tmp_path, env=env)
        assert "Lost are the positions 4 to 6." in done.stdout
        with serving(
            url, tmp_path / "fourth", settings={"LEDGER_CHECKPOINT_FILE": str(file.path)}
        ) as service:
            assert service.lookup(**NAME).status == 200
            said = logged(service, "event", "events_were_lost")
            assert {(line["first"], line["last"]) for line in said} == {(4, 6)}


def test_one_worker_finds_out_and_all_stop(cluster: Cluster, tmp_path: Path) -> None:
    """The others before their next batch, though their own connections would serve them."""
    file = CheckpointFile(tmp_path / "checkpoint")
    with fresh_database(cluster, TEMPLATE) as database:
        kept = {"LEDGER_CHECKPOINT_FILE": str(file.path)}
        with serving(database.service_url, tmp_path / "log", settings=kept) as service:
            service.upsert(**NAME, password="p")
            until(file.path.exists)
            tamper(database, "UPDATE ledger.events SET leaf_hash = sha256('x') WHERE position = 0")
            until(lambda: service.lookup(**NAME).status == 503)
            before = file.path.read_bytes()
            until_mentioned(service, "ledger_mismatch")
            ((size,),) = database.fetch("SELECT count(*) FROM ledger.events")
            assert {service.lookup(**NAME).status for _ in range(8)} == {503}
            until(lambda: service.get("/health/ready").status == 503)  # it is asked once a second
            assert database.fetch("SELECT count(*) FROM ledger.events") == [(size,)]
            assert file.path.read_bytes() == before
