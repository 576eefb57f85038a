"""`secrets-broker due`, as a user or cron runs it."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secrets_broker import SecretsManager
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Context
from tests.conftest import KMS_KEY, Database
from tests.ledger.helpers import imported, record, upsert
from tests.tools.command_line import run

PAST = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
SETUP = Context(actor="setup", authn="library")


@pytest.fixture
def env(database: Database, keyring: Keyring) -> dict[str, str]:
    """The service's login is enough, and no key is needed."""
    record(database, keyring, upsert("old.example", "p4ssword", expires_at=PAST), context=SETUP)
    with SecretsManager(KMS_KEY, database.service_url) as manager:
        manager.upsert_credential("plain.example", "ssh", password="p4ssword")
        manager.upsert_credential("soon.example", "http", password="p4ssword", rotate_after=7)
    return {"DATABASE_URL": database.service_url}


def test_due_lists_what_wants_attention(env: dict[str, str], tmp_path: Path) -> None:
    """Why, which, when and who; exit 0 although something is, and no secret in it."""
    done = run("due", cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert done.stderr.startswith("as of ")
    for word in ("expired", "'old.example'", "'setup'", "due", "'soon.example'"):
        assert word in done.stdout
    assert "plain.example" not in done.stdout
    assert "p4ssword" not in done.stdout


def test_due_as_json_is_a_list(env: dict[str, str], tmp_path: Path) -> None:
    """One JSON value, of the same items as over HTTP; options choose."""
    done = run("due", "--json", "--unchanged-for", "0m", cwd=tmp_path, env=env)
    lines = json.loads(done.stdout)
    assert [(line["what"], line["host"]) for line in lines] == [
        ("expired", "old.example"),
        ("due", "soon.example"),
        ("unchanged", "old.example"),
        ("unchanged", "plain.example"),
        ("unchanged", "soon.example"),
    ]
    assert lines[0] == {
        "host": "old.example",
        "purpose": "ssh",
        "what": "expired",
        "at": "2020-01-02T03:04:05.000000Z",
        "changed_at": lines[2]["at"],
        "changed_by": "setup",
    }
    done = run("due", "--json", "--within", "6d", "--purpose", "h*", cwd=tmp_path, env=env)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_due_fails_where_cron_should_tell(env: dict[str, str], tmp_path: Path) -> None:
    """--fail: 1 where anything is expired or overdue, 0 where it merely will be."""
    assert run("due", "--fail", cwd=tmp_path, env=env).returncode == 1
    assert run("due", "--fail", "--host", "soon*", cwd=tmp_path, env=env).returncode == 0
    assert run("due", "--fail", "--host", "nobody", cwd=tmp_path, env=env).returncode == 0


def test_a_name_cannot_steer_a_terminal(
    env: dict[str, str], database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Control characters, markup and directions of others' texts are shown, not obeyed."""
    command = imported("a\x1b[2Jb\n\u202e[red]x", "\x9b31m", "[b]:x:", expires_at=PAST)
    record(database, keyring, command)
    done = run("due", cwd=tmp_path, env={**env, "FORCE_COLOR": "1"})
    assert done.returncode == 0
    assert r"'a\x1b[2Jb\n\u202e[red]x'" in done.stdout
    assert r"'\x9b31m'" in done.stdout
    assert "'[b]:x:'" in done.stdout
    assert not set("\x9b\u202e") & set(done.stdout)
    as_json = run("due", "--json", cwd=tmp_path, env=env).stdout
    assert as_json.isascii()
    assert as_json.rstrip().isprintable()


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--within", "soon"], "within: must be a whole number"),
        (["--unchanged-for", "1y"], "unchanged_for: must be a whole number"),
        (["--host", "h" * 256], "host: must have at most 255 characters"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    env: dict[str, str], tmp_path: Path, arguments: list[str], rule: str
) -> None:
    """The option and the rule, and exit 1."""
    done = run("due", *arguments, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert rule in done.stderr
    assert "Traceback" not in done.stderr


def test_a_schema_that_is_behind_is_said(empty_database: str, tmp_path: Path) -> None:
    """No traceback, and the command that helps."""
    done = run("due", cwd=tmp_path, env={"DATABASE_URL": empty_database})
    assert done.returncode == 2
    assert "secrets-broker migrate" in done.stderr
    assert "Traceback" not in done.stderr
