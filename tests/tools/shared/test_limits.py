"""Every limit of every tool, crossed with real content: past it, the answer is the same.

What one is good for is memory or the length of a transaction, never what comes out. Each is made
so small that a ledger of some hundred events crosses it many times.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.operations import erasure, rekey, rotation
from secrets_broker.projections import rebuild
from secrets_broker.projections.paging import position_walk
from secrets_broker.projections.queries import event_list, exposure, replay, replay_diff, unused
from secrets_broker.tools.cli import main
from secrets_broker.tools.export import checkpoint_list, copy, parquet
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.queries import asking
from secrets_broker.tools.queries import due as due_command
from secrets_broker.tools.replay import reveal
from secrets_broker.tools.verify.checks import credential_histories
from secrets_broker.tools.verify.checks.checker import Checker
from secrets_broker.tools.verify.checks.credential_history import NOBODY
from secrets_broker.tools.verify.checks.disk_mapping import Spill
from secrets_broker.tools.verify.checks.facts import Fact
from secrets_broker.tools.verify.side_data import stored_data_keys
from secrets_broker.tools.verify.sources import checkpoint_shelf, database, web
from tests.conftest import KMS_KEY, TEMPLATE, Database, fresh_database
from tests.ledger.helpers import lookup, record, upsert
from tests.tools.static_broker import static_broker
from tests.tools.verify.changing import KEY, checkpoints, history

NEW_KEY: Final = "the key that comes after the rotation"
NAMES: Final = 40
# Whatever a tool's module calls so, of how many it takes at once or keeps in memory.
CONSTANTS: Final[list[tuple[Any, str, int]]] = [
    (checkpoint_shelf, "_AT_ONCE", 2),
    (stored_data_keys, "KEYS_AT_ONCE", 3),
    (web, "AT_ONCE", 2),
    (web, "_PAGE", 2),
    (checkpoint_list, "_AT_ONCE", 2),
    (copy, "EVENTS_AT_ONCE", 256),
    (parquet, "_GROUP_ROWS", 7),
    (parquet, "_GROUP_BYTES", 900),
    (asking, "PAGE_LINES", 3),
    (due_command, "PAGE_LINES", 3),
    (rebuild, "CHUNK", 3),
    (rekey, "BATCH", 3),
    (reveal, "BATCH", 3),
    (erasure, "KEYS_PER_EVENT", 2),
]
PAGE_BUDGET: Final = position_walk.PageBudget(positions=5, few=2, seconds=0.0)


@pytest.fixture(scope="module")
def ledger(cluster: Cluster, keyring: Keyring) -> Iterator[Database]:
    """Forty names and more data keys, read, changed, erased and rekeyed; many checkpoints."""
    with fresh_database(cluster, TEMPLATE) as made:
        filled(made, keyring)
        yield made


def filled(made: Database, keyring: Keyring) -> None:
    """Fill it."""
    history(made, keyring)
    soon = datetime.now(UTC) + timedelta(days=10)
    expiring = [timedelta(minutes=n) + soon if n % 3 == 0 else None for n in range(NAMES)]
    record(made, keyring, *(upsert(f"n{n}", expires_at=at) for n, at in enumerate(expiring)))
    record(
        made,
        keyring,
        *(upsert(f"n{number}", "another", expires_at=soon) for number in range(0, NAMES, 2)),
    )
    for number in range(6):
        record(made, keyring, upsert("h05", f"p{number}"), lookup("h05"), lookup("n1"))
    record(made, keyring, *(lookup("h05") for _ in range(5)))
    ((size,),) = made.fetch("SELECT max(position) + 1 FROM ledger.events")
    checkpoints(made, [*range(1, size, 90), size])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make every limit small; until then they are as shipped."""

    def make() -> None:
        for module, name, value in CONSTANTS:
            assert getattr(module, name) > value, (module, name)
            monkeypatch.setattr(module, name, value)
        for method in (
            Spill.__init__,
            credential_histories.CredentialHistories.__init__,
            Checker.__init__,
        ):
            monkeypatch.setattr(method, "__defaults__", (3,))
        for page in (replay.page, replay_diff.page):
            _default(monkeypatch, page, replay.PAGE_NAMES, 3)
        _default(monkeypatch, rotation.rotate, rotation.CHUNK, 3)
        for question in (event_list.page, exposure.page, unused.page):
            _default(monkeypatch, question, position_walk.PAGE_BUDGET, PAGE_BUDGET)

    return make


def _default(monkeypatch: pytest.MonkeyPatch, function: Any, old: Any, new: Any) -> None:
    found = 0
    if function.__defaults__:
        changed = tuple(new if value == old else value for value in function.__defaults__)
        found += changed != function.__defaults__
        monkeypatch.setattr(function, "__defaults__", changed)
    if function.__kwdefaults__:
        named = {k: new if v == old else v for k, v in function.__kwdefaults__.items()}
        found += named != function.__kwdefaults__
        monkeypatch.setattr(function, "__kwdefaults__", named)
    assert found, function


def command(made: Database, *arguments: str, **more: str) -> Any:
    """Run it in this process; gives what it printed, and stops where it failed."""
    env = {
        "DATABASE_URL": made.service_url,
        "MIGRATION_DATABASE_URL": made.owner_url,
        "SECRETS_KMS_KEY": KMS_KEY,
        "LEDGER_VERIFIER_KEY": str(KEY.verifier),
        "AUDITOR_KEY": "an-auditors-key-of-tests",
        **more,
    }
    done = CliRunner().invoke(main, [*arguments], env=env)
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout


ASKED: Final[Mapping[str, tuple[str, ...]]] = {
    "verify": ("verify", "--json"),
    "replay": ("replay", "--at", "650", "--json"),
    "differences": ("replay", "--diff", "20", "660", "--json"),
    "unused": ("unused", "--since", "2120-01-01T00:00:00Z", "--json"),
    "events": ("events", "--json"),
    "exposure": ("exposure", "h05", "ssh", "--json"),
    "history": ("history", "h05", "ssh", "--json"),
    "due": ("due", "--within", "9999d", "--json"),
    "rebuild": ("rebuild", "--check", "--json"),
    "rotate-key": ("rotate-key", "--check", "--json"),
    "erase": ("erase", "*", "*", "--dry-run", "--json"),
}


@pytest.mark.parametrize("asked", ASKED)
def test_the_answer_is_the_same(
    ledger: Database, tiny: Callable[[], None], asked: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Byte for byte, whatever the limits are."""
    monkeypatch.chdir(tmp_path)
    wide = command(ledger, *ASKED[asked])
    tiny()
    assert command(ledger, *ASKED[asked]) == wide
    assert wide.count("{") > 3 or asked in ("verify", "rebuild", "rotate-key")


def test_an_export_is_the_same(
    ledger: Database, tiny: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files, and what verify says of them, from the folder and over HTTP."""
    monkeypatch.chdir(tmp_path)
    command(ledger, "export", "wide", "--with-bodies", "--json")
    verified = json.loads(command(ledger, "verify", "--export", "wide", "--json"))
    tiny()
    command(ledger, "export", "tiny", "--with-bodies", "--json")
    shutil.rmtree(tmp_path / "wide/parquet")  # other row groups, so other bytes: see verify
    assert contents(tmp_path / "wide") == {
        name: content
        for name, content in contents(tmp_path / "tiny").items()
        if not name.startswith("parquet/")
    }
    again = json.loads(command(ledger, "verify", "--export", "tiny", "--json"))
    assert {**again, "source": None} == {**verified, "source": None}
    with static_broker(tmp_path / "tiny") as url:
        assert json.loads(command(ledger, "verify", "--url", url, "--json"))["ok"]


def contents(place: Path) -> dict[str, bytes]:
    """Every file."""
    files = (path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


def test_what_changes_a_ledger(
    database: Database, keyring: Keyring, tiny: Callable[[], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A rotation, new data keys, a rebuild, and an erasure of all: each is whole, and verifies."""
    monkeypatch.chdir(tmp_path)
    filled(database, keyring)
    tiny()
    live = database.fetch("SELECT host, purpose FROM secrets.host_credentials")
    assert len(live) > NAMES
    keys = {"SECRETS_KMS_KEY": NEW_KEY, "SECRETS_KMS_KEY_PREVIOUS": KMS_KEY}
    command(database, "rotate-key", "--json", **keys)
    command(database, "rotate-key", "--data-keys", "--json", **keys)
    command(database, "rebuild", "--json", **keys)
    reveal_all = ("replay", "--at", "0m", "--reveal", "--reason", "r", "--yes", "--json")
    told = command(database, *reveal_all, **keys)
    assert told.count('"host"') == len(live)
    assert json.loads(command(database, "verify", "--json", **keys))["ok"]
    ((before,),) = database.fetch("SELECT count(*) FROM ledger.data_keys")
    command(database, "erase", "*", "*", "--reason", "all of it", "--yes", "--json", **keys)
    assert before > len(live)
    assert database.fetch("SELECT count(*) FROM ledger.data_keys") == [(0,)]
    assert database.fetch("SELECT count(*) FROM secrets.host_credentials") == [(0,)]
    assert json.loads(command(database, "verify", "--json", **keys))["ok"]


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 200])
def test_what_goes_on_in_a_file_is_what_is_put_there(limit: int) -> None:
    """With the very values that a verification keeps: lives and data keys, not plain tuples."""
    spill = Spill(limit)
    put: dict[str, Any] = {}
    life = NOBODY
    for number in range(60):
        fact = Fact(number, "credential.created", "h", "p", number + 1, 1, True, None, "k", None)
        life = life.after(fact)
        for key, value in (
            (f"life {number % 20}", life),
            (f"key {number}", credential_histories._Key(number, None, number, 2**62)),
            (f"plain {number}", (number,)),
        ):
            spill.put(key, value)
            put[key] = tuple(value)
            assert tuple(spill.get(key) or ()) == put[key]
    assert {key: tuple(value) for key, value in spill.items()} == put
    assert spill.get("none") is None
    spill.close()


def test_problems_past_the_limit_are_counted(
    ledger: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not all are kept, all are counted, and the first of all is among them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secrets_broker.tools.verify.checks.findings.MAX_PROBLEMS", 5)
    monkeypatch.setattr(database, "MAX_HOLES", 3)
    command(ledger, "export", "place", "--no-parquet")
    for name in ("000", "001"):
        (tmp_path / "place/tile/entries" / name).write_bytes(b"\x00\x02{}" * 256)
    env = {"LEDGER_VERIFIER_KEY": str(KEY.verifier)}
    done = CliRunner().invoke(main, ["verify", "--export", "place", "--json"], env=env)
    found = json.loads(done.stdout)
    assert (done.exit_code, len(found["problems"]), found["first_bad"]) == (1, 5, 0)
    assert found["problem_count"] >= 1_024
