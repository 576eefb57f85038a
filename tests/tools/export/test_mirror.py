"""`export --url`: the same folder as from the database, of what a service publishes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.tools.postgres import Cluster
from tests.conftest import AUDITOR_KEY, TEMPLATE, VERIFIER_KEY, fresh_database
from tests.http.client import LOOKUP, Service
from tests.http.conftest import folder, serving
from tests.tools.command_line import run
from tests.waiting import until

BATCH = f"{LOOKUP}-batch"
ENV = {"AUDITOR_KEY": AUDITOR_KEY, "LEDGER_VERIFIER_KEY": VERIFIER_KEY}


@pytest.fixture(scope="module")
def service(cluster: Cluster) -> Iterator[Service]:
    """A service of its own, so that nothing grows in between."""
    with (
        fresh_database(cluster, TEMPLATE) as database,
        folder() as place,
        serving(database.service_url, place / "log") as running,
    ):
        running.database = database
        yield running


def grow(service: Service, count: int) -> None:
    """So many more events, under a checkpoint."""
    items = {"items": [{"host": "nobody", "purpose": "ssh"}] * count}
    assert service.send("POST", BATCH, items).status == 200
    ((size,),) = service.database.fetch("SELECT count(*) FROM ledger.events")
    line = f"\n{size}\n"
    until(lambda: line in service.audit("/log/checkpoint").body.decode(), "no checkpoint")


def content(place: Path) -> dict[str, bytes]:
    """Every file but the tables, whose bytes may differ, by its path."""
    found = (path for path in place.rglob("*") if path.is_file() and path.suffix != ".parquet")
    return {str(path.relative_to(place)): path.read_bytes() for path in found}


def test_a_service_gives_what_its_database_gives(service: Service, tmp_path: Path) -> None:
    """File by file; again when the ledger has grown; and it verifies."""
    for count in (300, 1, 400):
        grow(service, count)
        done = run("export", "web", "--url", service.url, cwd=tmp_path, env=ENV)
        assert done.returncode == 0, done.stderr
        database = {**ENV, "DATABASE_URL": service.database.service_url}
        assert run("export", "own", cwd=tmp_path, env=database).returncode == 0
        assert content(tmp_path / "web") == content(tmp_path / "own")
    tables = [*(tmp_path / "web").rglob("*.parquet")]
    assert len(tables) == len([*(tmp_path / "own").rglob("*.parquet")]) > 0
    done = run("verify", "--export", "web", cwd=tmp_path, env=ENV)
    assert done.returncode == 0, done.stdout


def test_what_is_not_the_same_log_is_refused(service: Service, tmp_path: Path) -> None:
    """Ciphertexts, a folder that was changed, a signature of nobody: nothing is taken over."""
    grow(service, 300)
    export = ("export", "web", "--no-parquet", "--url", service.url)
    refused = run(*export, "--with-bodies", cwd=tmp_path, env=ENV)
    assert refused.returncode != 0
    assert "not to be had over HTTP" in refused.stderr
    other = "w+3b1c1b1a+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert run(*export, cwd=tmp_path, env={**ENV, "LEDGER_VERIFIER_KEY": other}).returncode != 0
    assert run(*export, cwd=tmp_path, env=ENV).returncode == 0
    bundle = tmp_path / "web" / "tile" / "entries" / "000"
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"?")
    kept = content(tmp_path / "web")
    grow(service, 10)
    changed = run(*export, cwd=tmp_path, env=ENV)
    assert changed.returncode != 0
    assert "is not what the ledger has there" in changed.stderr
    # What is past its checkpoint may be left by an export that ended early; all else is as it was.
    assert kept.items() <= content(tmp_path / "web").items()
