"""The command line, as a user types it."""

import json
import os
from pathlib import Path

import psycopg
import pytest

from secrets_broker import SecretsManager
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, SigningKey, VerifierKey
from secrets_broker.tools.postgres.account import Account
from tests.conftest import INTERNAL_KEY, KMS_KEY, SIGNING_KEY, Database
from tests.tools.command_line import run, settings
from tests.tools.postgres.helpers import python_of, root_only, run_as

WITNESS_KEY = SigningKey("log.example", bytes(range(32)), COSIGNATURE).private_text()


def test_keygen_prints_lines_for_an_env_file(tmp_path: Path) -> None:
    """Every line is NAME=value, the keys have 256 bits, and no two runs print the same."""
    first, second = run("keygen", cwd=tmp_path), run("keygen", cwd=tmp_path)
    names = [line.partition("=")[0] for line in first.stdout.splitlines()]
    assert {"SECRETS_KMS_KEY", "INTERNAL_KEY", "LEDGER_SIGNING_KEY", "AUDITOR_KEY"} <= set(names)
    assert "WATCH_WEBHOOK_KEY" in names
    assert set(first.stdout.split()) & set(second.stdout.split()) == {
        "SECRETS_KMS_KEY_PREVIOUS=",
        "SECRETS_KMS=",
    }


def test_a_signing_key_can_be_renewed_under_its_name(tmp_path: Path) -> None:
    """--origin names the log; the verifier key is the signing key's, and both are of that name."""
    lines = run("keygen", "--origin", "log.example", cwd=tmp_path).stdout.splitlines()
    made = dict(line.split("=", 1) for line in lines)
    key = SigningKey.parse(made["LEDGER_SIGNING_KEY"])
    assert (key.name, made["LEDGER_ORIGIN"]) == ("log.example", "log.example")
    assert VerifierKey.parse(made["LEDGER_VERIFIER_KEY"]) == key.verifier
    assert run("keygen", "--origin", "a b", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"LEDGER_SIGNING_KEY": SIGNING_KEY[:-3] + "abc"}, "LEDGER_SIGNING_KEY: "),
        ({"LEDGER_SIGNING_KEY": SIGNING_KEY, "LEDGER_ORIGIN": "other"}, "LEDGER_ORIGIN"),
        ({"LEDGER_SIGNING_KEY": WITNESS_KEY}, "LEDGER_SIGNING_KEY is the key of a witness"),
        ({"LEDGER_VERIFIER_KEY": "rubbish"}, "LEDGER_VERIFIER_KEY: "),
        ({"LEDGER_CHECKPOINT_SECONDS": "soon"}, "LEDGER_CHECKPOINT_SECONDS"),
        ({"LEDGER_CHECKPOINT_SECONDS": "nan"}, "LEDGER_CHECKPOINT_SECONDS"),
        ({"METRICS_SECONDS": "0"}, "METRICS_SECONDS must be a number from 0.05 to 3600"),
        ({"LEDGER_CHECKPOINT_FILE": "/nonexistent/checkpoint"}, "LEDGER_CHECKPOINT_FILE"),
        ({"AUDITOR_KEY": INTERNAL_KEY}, "AUDITOR_KEY"),
    ],
)
def test_serve_refuses_settings_of_checkpoints_that_are_wrong(
    database: Database, tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    """At the start, by name, and without the value, which may be nearly a key."""
    done = run("serve", cwd=tmp_path, env={**settings(database), **changed})
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "AYEK" not in done.stderr


@pytest.mark.parametrize("kind", ["empty", "rubbish", "folder", "pipe", "link", "facts"])
def test_serve_refuses_a_checkpoint_file_that_is_none(
    database: Database, tmp_path: Path, kind: str
) -> None:
    """At once, by its path: it was meant to vouch for something."""
    path = tmp_path / "checkpoint"
    match kind:
        case "empty" | "rubbish":
            path.write_text("" if kind == "empty" else "rubbish\n")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(path)
        case _:
            path.with_name("checkpoint.state").write_text('{"stopped": true}')
    env = {**settings(database), "LEDGER_CHECKPOINT_FILE": str(path)}
    done = run("serve", cwd=tmp_path, env=env)
    assert done.returncode != 0
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_warns_without_a_checkpoint_file(
    empty_database: str, database: Database, tmp_path: Path
) -> None:
    """A restart would forget what was lost."""
    env = {**settings(database), "DATABASE_URL": empty_database}
    assert "LEDGER_CHECKPOINT_FILE is not set" in run("serve", cwd=tmp_path, env=env).stderr


@pytest.mark.parametrize("missing", ["SECRETS_KMS_KEY", "INTERNAL_KEY", "DATABASE_URL"])
def test_serve_names_the_setting_that_is_missing(
    database: Database, tmp_path: Path, missing: str
) -> None:
    """An unset or empty setting is an error that names it; the service does not start."""
    done = run("serve", cwd=tmp_path, env={**settings(database), missing: ""})
    assert done.returncode == 2
    assert f"{missing} not set" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("serve", "rebuild", "proof 0", "restored --reason r", "witness", "export out", "verify"),
        "watch",
    ],
)
def test_a_database_without_the_schema_is_refused(
    empty_database: str, database: Database, tmp_path: Path, command: str
) -> None:
    """It says which command makes the schema."""
    urls = dict.fromkeys(["DATABASE_URL", "MIGRATION_DATABASE_URL"], empty_database)
    env = {
        **settings(database),
        **urls,
        "LEDGER_SIGNING_KEY": SIGNING_KEY,
        "LEDGER_WITNESSES": f"http://w {VerifierKey('w', COSIGNATURE, bytes(32))}",
    }
    done = run(*command.split(), cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "secrets-broker migrate" in done.stderr


def test_serve_refuses_another_ledgers_key(database: Database, tmp_path: Path) -> None:
    """A wrong SECRETS_KMS_KEY is told at the start, and not repeated."""
    SecretsManager(KMS_KEY, database.service_url).close()
    wrong = "not-the-key-of-this-ledger"
    done = run("serve", cwd=tmp_path, env={**settings(database), "SECRETS_KMS_KEY": wrong})
    assert done.returncode == 2
    assert "SECRETS_KMS_KEY is not the key of this ledger" in done.stderr
    assert wrong not in done.stderr + done.stdout


def test_migrate_and_roll_back(empty_database: str, tmp_path: Path) -> None:
    """Applied once, up to date after; taken back without a question where nothing is recorded."""
    env = {"DATABASE_URL": empty_database}
    assert "applied 0003.events" in run("migrate", cwd=tmp_path, env=env).stderr
    assert "up to date" in run("migrate", cwd=tmp_path, env=env).stderr
    assert run("migrate", "--rollback", cwd=tmp_path, env=env).returncode == 0
    with psycopg.connect(empty_database) as connection:
        (left,) = connection.execute("SELECT to_regclass('ledger.events')").fetchone() or ("?",)
    assert left is None


def test_migrate_reports_in_json(empty_database: str, tmp_path: Path) -> None:
    """What was applied or taken back, by name, is all that stands on standard output."""
    env = {"DATABASE_URL": empty_database}
    applied, again, removed = (
        json.loads(run("migrate", "--json", *options, cwd=tmp_path, env=env).stdout)
        for options in ([], [], ["--rollback"])
    )
    assert applied["applied"][0] == "0001.legacy"
    assert again == {"applied": []}
    assert removed == {"rolled_back": applied["applied"][::-1]}


def test_a_ledger_with_events_is_not_removed_unasked(database: Database, tmp_path: Path) -> None:
    """The answer no leaves everything; --yes removes it."""
    with SecretsManager(KMS_KEY, database.service_url) as manager:
        manager.upsert_credential("h", "ssh", password="p")
    env = settings(database)
    refused = run("migrate", "--rollback", "--json", cwd=tmp_path, env=env, answer="n\n")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "its 2 events" in refused.stderr
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(2,)]
    assert run("migrate", "--rollback", "--yes", cwd=tmp_path, env=env).returncode == 0
    assert database.fetch("SELECT to_regclass('ledger.events')") == [(None,)]


def test_rebuild_check_tells_whether_anything_differs(database: Database, tmp_path: Path) -> None:
    """Exit 0 where the table follows from the ledger, 1 where a value was changed by hand."""
    with SecretsManager(KMS_KEY, database.service_url) as manager:
        manager.upsert_credential("h", "ssh", username="right", password="p")
    env = settings(database)
    assert run("rebuild", "--check", cwd=tmp_path, env=env).returncode == 0
    database.execute("UPDATE secrets.host_credentials SET username = 'changed-by-hand'")
    found = run("rebuild", "--check", "--json", cwd=tmp_path, env=env)
    assert found.returncode == 1
    (difference,) = json.loads(found.stdout)["differences"]
    assert difference == {
        "host": "h",
        "purpose": "ssh",
        "kind": "different",
        "columns": ["username"],
    }
    assert run("rebuild", cwd=tmp_path, env=env).returncode == 0
    assert run("rebuild", "--check", cwd=tmp_path, env=env).returncode == 0
    assert database.fetch("SELECT username FROM secrets.host_credentials") == [("right",)]
    assert database.fetch("SELECT type FROM ledger.events ORDER BY position DESC LIMIT 1") == [
        ("projection.rebuilt",)
    ]


def test_settings_of_a_data_dir_win(database: Database, tmp_path: Path) -> None:
    """--data-dir's .env is stronger than the environment, which is stronger than ./.env."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://nobody@127.0.0.1:1/from_folder\n")
    env = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/from_environment"}
    assert "127.0.0.1" in run("migrate", cwd=tmp_path, env=env).stderr
    lines = f"DATABASE_URL={database.owner_url}\nMIGRATION_DATABASE_URL=\n"
    (data_dir / ".env").write_text(lines)
    done = run("migrate", "--data-dir", str(data_dir), cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr.strip()) == (0, "the schema is up to date")


@pytest.mark.parametrize(
    "command",
    [
        *("serve", "migrate", "rebuild", "import-legacy", "rotate-key", "due", "witness"),
        *("witness serve", "replay --at 0"),
        *("rotate-key --data-keys", "erase * * --reason r --yes", "erase --list"),
        *("proof 0", "restored --reason r", "export out", "verify"),
        *("history h p", "exposure h p", "events", "unused --since 1d", "watch"),
    ],
)
def test_a_data_dir_without_settings_is_refused(
    database: Database, tmp_path: Path, command: str
) -> None:
    """A misspelt folder is an error, never a command on what the environment names instead."""
    done = run(*command.split(), "--data-dir", "misspelt", cwd=tmp_path, env=settings(database))
    assert done.returncode == 2
    assert "misspelt has no .env" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("dev", "serve", "migrate", "rebuild", "import-legacy", "witness", "export out", "verify"),
        "watch",
    ],
)
def test_settings_that_cannot_be_read_are_told(tmp_path: Path, command: str) -> None:
    """A file of settings that cannot be read is named in a line, without what is in it."""
    (tmp_path / ".env").write_bytes(b"SECRETS_KMS_KEY=mArKeR\xff\n")
    done = run(*command.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path}/.env cannot be read (it is not UTF-8)" in done.stderr
    assert "mArKeR" not in done.stderr


@root_only
def test_an_operator_without_a_name_is_recorded_by_number() -> None:
    """A container's user may be in no user database: the record then has the uid."""
    who = Account("nameless", 54_321, 54_321)
    python, path = python_of(who)
    code = "from secrets_broker.tools.shared.command_line import operator; print(operator().actor)"
    done = run_as(who, [python, "-c", code], PYTHONPATH=path)
    assert (done.stdout, done.stderr) == ("uid 54321\n", "")


@pytest.mark.parametrize("name", ["SECRETS_KMS_KEY", "INTERNAL_KEY", "AUDITOR_KEY"])
@pytest.mark.parametrize("unfit", ["winter2026", f"{INTERNAL_KEY} ", f"{KMS_KEY}\n", "a"])
def test_serve_refuses_a_key_that_is_unfit(
    database: Database, tmp_path: Path, name: str, unfit: str
) -> None:
    """Short, or with what some ways of giving it cut off: one sentence, and what to run."""
    done = run("serve", cwd=tmp_path, env={**settings(database), name: unfit})
    assert done.returncode != 0
    assert f"{name} has " in done.stderr
    assert f"secrets-broker keygen | grep '^{name}='" in done.stderr
    assert "Traceback" not in done.stderr
    assert database.fetch("SELECT count(*) FROM ledger.keks") == [(0,)]


@pytest.mark.parametrize(
    "command", ["rebuild --check", "access grant a --allow audit", "rotate-key --data-keys"]
)
def test_tools_refuse_it_too(database: Database, tmp_path: Path, command: str) -> None:
    """Whatever opens the ledger begins none under it, either."""
    env = {**settings(database), "SECRETS_KMS_KEY": "winter2026"}
    done = run(*command.split(), cwd=tmp_path, env=env)
    assert done.returncode != 0
    assert "SECRETS_KMS_KEY has 10 bytes" in done.stderr
    assert database.fetch("SELECT count(*) FROM ledger.keks") == [(0,)]
