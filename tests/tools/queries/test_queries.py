"""`history`, `exposure`, `events` and `unused`, as an auditor runs them."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secrets_broker import SecretsManager
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.queries.asking import PAGE_LINES
from tests.conftest import KMS_KEY, Database
from tests.ledger.helpers import imported, lookup, record, upsert
from tests.projections.asking import auditor
from tests.repository import ROOT
from tests.tools.command_line import run

NASTY = "=a\x1b[2J\n\u202e[red]"
COMMANDS = (
    "history a.example ssh",
    "exposure a.example ssh",
    "events",
    "unused --since 2120-01-01T00:00:00Z",
)


@pytest.fixture
def env(cluster: Cluster, database: Database) -> dict[str, str]:
    """An auditor's login is enough, and no key is needed."""
    with SecretsManager(KMS_KEY, database.service_url) as manager:
        manager.upsert_credential("a.example", "ssh", password="p4ssword", created_by="setup")
        manager.lookup_credential("a.example", "ssh", accessed_by="deploy", reason="CHG 42")
        manager.lookup_credential("a.example", "ssh", accessed_by=None)
        manager.upsert_credential("a.example", "ssh", password="p4ssword", created_by="rotate")
        manager.lookup_credential("a.example", "ssh", accessed_by="deploy")
        manager.lookup_credential("a.example", "ssh", accessed_by="deploy")
        manager.upsert_credential("b.example", "http", password="p4ssword")
        record(database, Keyring.from_kms_keys(KMS_KEY), imported(NASTY))
        manager.delete_credential(NASTY, "ssh", deleted_by="setup")
        manager.lookup_credential(NASTY, "ssh")
    return {"DATABASE_URL": auditor(cluster, database)}


def as_json(env: dict[str, str], cwd: Path, *arguments: str) -> list[dict[str, Any]]:
    """JSON lines, each an object."""
    done = run(*arguments, "--json", cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    return [json.loads(line) for line in done.stdout.splitlines()]


def as_csv(env: dict[str, str], cwd: Path, *arguments: str) -> list[dict[str, str]]:
    """CSV with a line of names."""
    command = [sys.executable, "-m", "secrets_broker", *arguments, "--csv"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=True)
    return list(csv.DictReader(io.StringIO(done.stdout.decode(), newline="")))


def words(text: str) -> list[list[str]]:
    """A table's lines in words."""
    return [line.split() for line in text.splitlines() if line.strip(" ─")]


def test_history(env: dict[str, str], tmp_path: Path) -> None:
    """Each version, oldest first: in a table, as JSON lines and as CSV."""
    lines = as_json(env, tmp_path, "history", "a.example", "ssh")
    assert [(line["version"], line["actor"], line["live"]) for line in lines] == [
        (1, "setup", False),
        (2, "rotate", True),
    ]
    assert (lines[0]["ended_by"], lines[0]["ended_by_actor"]) == ("credential.updated", "rotate")
    table = words(run("history", "a.example", "ssh", cwd=tmp_path, env=env).stdout)
    assert table[1][:4] == ["2", "1", "credential.created", "1"]
    assert table[2][:4] == ["2", "2", "credential.updated", "4"]
    records = as_csv(env, tmp_path, "history", "a.example", "ssh")
    assert [list(record) for record in records] == [list(line) for line in lines]
    assert [(r["version"], r["live"], r["ended_position"]) for r in records] == [
        ("1", "false", "4"),
        ("2", "true", ""),
    ]


def test_exposure_of_the_live_version(env: dict[str, str], tmp_path: Path) -> None:
    """Who received it, which version that is, and at the foot each actor once."""
    done = run("exposure", "a.example", "ssh", cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert "credential 2, version 2: live since 2" in done.stderr
    table = words(done.stdout)
    assert [line[0] for line in table] == ["position", "5", "6", "actor", "deploy"]
    assert table[-1][:3] == ["deploy", "library", "2"]
    assert table[-1][-1] == "2"


def test_exposure_of_an_earlier_version(env: dict[str, str], tmp_path: Path) -> None:
    """By its number; the reason is there, and whether it is still live."""
    one = ("exposure", "a.example", "ssh", "--version", "1")
    lines = as_json(env, tmp_path, *one)
    assert [(line["position"], line["actor"], line["reason"]) for line in lines] == [
        (2, "deploy", "CHG 42"),
        (3, None, None),
    ]
    assert {(line["live"], line["credential_id"], line["version"]) for line in lines} == {
        (False, 2, 1)
    }
    done = run(*one, cwd=tmp_path, env=env)
    assert "version 1: not live; from 2" in done.stderr
    assert "until it was updated at 2" in done.stderr
    assert "'CHG 42'" in done.stdout
    summary = as_json(env, tmp_path, *one, "--summary")
    assert [(line["actor"], line["count"], line["first_at"]) for line in summary] == [
        ("deploy", 1, lines[0]["at"]),
        (None, 1, lines[1]["at"]),
    ]
    assert [r["actor"] for r in as_csv(env, tmp_path, *one, "--summary")] == ["deploy", ""]


def test_exposure_of_what_is_not_live(env: dict[str, str], tmp_path: Path) -> None:
    """It says so, takes the last version, and that nobody received it is a sentence."""
    done = run("exposure", NASTY, "ssh", cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert "credential 9, version 1: not live; from 2" in done.stderr
    assert "until it was deleted at 2" in done.stderr
    assert "nobody received it" in done.stdout
    for options in [], ["--summary"]:
        assert as_json(env, tmp_path, "exposure", NASTY, "ssh", *options) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["history", "A.example", "ssh"],
        ["exposure", "a.example", "ssh "],
        ["exposure", "a.example", "ssh", "--version", "3"],
        ["exposure", "a.example", "ssh", "--credential-id", "7"],
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_misspelt_name_is_no_answer(
    env: dict[str, str], tmp_path: Path, arguments: list[str], form: list[str]
) -> None:
    """That nobody received it must not be read from a name that never was: exit 1."""
    done = run(*arguments, *form, cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there never was a credential of this name" in done.stderr


def test_events(env: dict[str, str], tmp_path: Path) -> None:
    """Filters, either order, and a limit; JSON has every column."""

    def positions(*options: str) -> list[int]:
        return [line["position"] for line in as_json(env, tmp_path, "events", *options)]

    assert positions() == [*range(11)]
    assert positions("--newest-first", "--limit", "3") == [10, 9, 8]
    assert positions("--type", "credential.cr*", "--type", "credential.deleted") == [1, 7, 9]
    assert positions("--failed") == positions("--error", "not_found") == [10]
    assert positions("--ok", "--actor", "dep*", "--host", "a*") == [2, 5, 6]
    assert positions("--reason", "CHG*") == [2]
    assert positions("--purpose", "http", "--since", "1d") == [7]
    assert positions("--until", "1d") == []
    assert positions("--after", "8") == [9, 10]
    (line,) = as_json(env, tmp_path, "events", "--after", "9")
    assert {"details", "body", "leaf_hash", "v", "authn", "request_id"} <= line.keys()
    (line,) = as_csv(env, tmp_path, "events", "--after", "6", "--limit", "1")
    assert json.loads(line["body"]).keys() == {"key", "sha256"}


def test_unused(env: dict[str, str], tmp_path: Path) -> None:
    """What nobody read, ever or since then."""
    assert as_json(env, tmp_path, "unused", "--since", "90d") == []  # all were made just now
    lines = as_json(env, tmp_path, "unused", "--since", "2120-01-01T00:00:00Z")
    assert [(line["host"], line["last_read_by"], line["last_read_position"]) for line in lines] == [
        ("a.example", "deploy", 6),
        ("b.example", None, None),
    ]
    table = words(run("unused", "--since", "0m", cwd=tmp_path, env=env).stdout)
    assert [row[0] for row in table[1:]] == ["a.example", "b.example"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_no_command_shows_a_secret_or_records(
    env: dict[str, str], database: Database, tmp_path: Path, command: str, form: list[str]
) -> None:
    """Nor needs it more than an auditor's login; no text of others steers a terminal."""
    done = run(*command.split(), *form, cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert "p4ssword" not in done.stdout + done.stderr
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(11,)]
    if form != ["--csv"]:
        assert not set("\x1b\u202e") & set(done.stdout + done.stderr)


def test_a_name_is_harmless_in_each_form(env: dict[str, str], tmp_path: Path) -> None:
    """Escaped in a table, exact in JSON, and no formula in CSV."""
    arguments = ("events", "--host", "=*", "--limit", "1")
    assert repr(NASTY) in run(*arguments, cwd=tmp_path, env=env).stdout
    assert as_json(env, tmp_path, *arguments)[0]["host"] == NASTY
    assert as_csv(env, tmp_path, *arguments)[0]["host"] == f"'{NASTY}"


@pytest.mark.parametrize(
    ("arguments", "sentence", "names"),
    [
        (["events", "--host", "nobody"], "there are no such events", "position,v,type"),
        (["unused", "--since", "9999w"], "every live credential has been read", "host,purpose"),
    ],
)
def test_nothing_found_is_no_failure(
    env: dict[str, str],
    database: Database,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
    names: str,
) -> None:
    """A sentence, no line, or the names of the columns."""
    with SecretsManager(KMS_KEY, database.service_url) as manager:
        manager.lookup_credential("b.example", "http")
    done = run(*arguments, cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert done.stderr.startswith("as of position 11 of 2")
    assert done.stdout.startswith(sentence)
    assert as_json(env, tmp_path, *arguments) == []
    done = run(*arguments, "--csv", cwd=tmp_path, env=env)
    assert done.stdout.startswith(names)
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["events", "--since", "soon"], "since: must be a time with an offset"),
        (["events", "--host", "h" * 256], "host: must have at most 255 characters"),
        (["events", "--type", ""], "type: must have 1 to 64 characters"),
        (["events", "--after", "-1"], "after: must be a number"),
        (["unused", "--since", "1y"], "since: must be a time with an offset"),
        (["exposure", "a", "b", "--version", "0"], "version: must be a number"),
        (["exposure", "a", "b", "--credential-id", "x"], "credential_id: must be a number"),
        (["history", "", "ssh"], "host: expected `str` of length >= 1"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    env: dict[str, str], tmp_path: Path, arguments: list[str], rule: str
) -> None:
    """The option and the rule, and exit 1."""
    done = run(*arguments, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert rule in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_more_than_a_page_comes_whole(
    env: dict[str, str], database: Database, keyring: Keyring, tmp_path: Path, form: list[str]
) -> None:
    """Every line once, and whoever reads only the first ones is left in peace."""
    reads = [lookup("many")] * (PAGE_LINES + 5)
    record(database, keyring, upsert("many"), *reads)
    done = run("exposure", "many", "ssh", *form, cwd=tmp_path, env=env)
    assert done.returncode == 0
    lines = [
        line for line in done.stdout.splitlines() if "credential.read" in line or "tester" in line
    ]
    assert len(lines) == len(reads) + (not form)  # a table has a foot, of one actor
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env}
    command = [sys.executable, "-m", "secrets_broker", "events", *form]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        assert reading.stdout.readline()
        reading.stdout.close()
        assert reading.stderr.read() == b""
        assert reading.wait() == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_schema_that_is_behind_is_said(empty_database: str, tmp_path: Path, command: str) -> None:
    """No traceback, and the command that helps."""
    done = run(*command.split(), cwd=tmp_path, env={"DATABASE_URL": empty_database})
    assert done.returncode == 2
    assert "secrets-broker migrate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["history", "exposure", "events", "unused"])
def test_help_has_an_example(tmp_path: Path, command: str) -> None:
    """One that can be typed."""
    done = run(command, "--help", cwd=tmp_path)
    assert f"  secrets-broker {command}" in done.stdout
    assert "--table" not in done.stdout
