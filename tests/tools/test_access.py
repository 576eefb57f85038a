"""`secrets-broker access`, as a user types it."""

import json
from pathlib import Path

import pytest

from secrets_broker.ledger.access_key import digest, is_well_formed
from tests.conftest import Database
from tests.tools.test_commands import run, settings

GRANT = ("access", "grant", "deploy", "--allow", "read", "--host", "web-*", "--purpose", "ssh")


def test_a_key_is_shown_once_and_kept_as_a_hash(database: Database, tmp_path: Path) -> None:
    """Standard output has the key and nothing else; the database has it nowhere."""
    done = run(*GRANT, cwd=tmp_path, env=settings(database))
    key = done.stdout.strip()
    assert (done.returncode, is_well_formed(key)) == (0, True)
    assert key not in done.stderr
    ((details, actor, authn),) = database.fetch("SELECT details, actor, authn FROM ledger.events")
    assert (details["name"], details["sha256"], authn) == ("deploy", digest(key), "cli")
    assert actor
    listed = run("access", "list", "--json", cwd=tmp_path, env=settings(database))
    assert key not in listed.stdout + str(database.fetch("SELECT e::text FROM ledger.events AS e"))
    line = json.loads(listed.stdout)
    assert (line["name"], line["state"], line["proof"]) == ("deploy", "valid", "key")
    assert line["rules"][0] | {"networks": []} == {
        "allow": ["read"],
        "hosts": ["web-*"],
        "purposes": ["ssh"],
        "networks": [],
        "reason": False,
    }


def test_json_of_a_grant_has_id_name_and_key(database: Database, tmp_path: Path) -> None:
    """For a program that hands it on."""
    made = json.loads(run(*GRANT, "--json", cwd=tmp_path, env=settings(database)).stdout)
    assert made["name"] == "deploy"
    assert is_well_formed(made["key"])
    query = "SELECT id, name, revoked_at FROM secrets.access_keys"
    assert database.fetch(query) == [(made["id"], "deploy", None)]


def test_a_life_of_a_key(database: Database, tmp_path: Path) -> None:
    """Granted, changed, rotated, revoked: each an event, by whom and why; then free again."""
    env = settings(database)
    steps = [
        GRANT,
        ("access", "change", "deploy", "--allow", "read", "--host", "*", "--purpose", "*"),
        ("access", "rotate", "deploy", "--until", "12h"),
        ("access", "revoke", "deploy"),
        GRANT,
    ]
    for step in steps:
        assert run(*step, "--reason", "CHG-1", cwd=tmp_path, env=env).returncode == 0, step
    events = database.fetch("SELECT type, reason FROM ledger.events ORDER BY position")
    words = ("granted", "changed", "rotated", "revoked", "granted")
    assert events == [(f"access_key.{word}", "CHG-1") for word in words]
    everything = run("access", "list", "--all", "--json", cwd=tmp_path, env=env).stdout
    assert [json.loads(line)["state"] for line in everything.splitlines()] == ["revoked", "valid"]
    assert run("access", "list", "--json", cwd=tmp_path, env=env).stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (GRANT, 1, "has a grant already"),
        (("access", "revoke", "nobody"), 1, "has no grant"),
        (("access", "rotate", "nobody"), 1, "has no grant"),
        (("access", "grant", "x", "--allow", "read"), 1, "hosts and purposes are required"),
        (("access", "grant", "x", "--allow", "fly"), 1, "rules"),
        (("access", "grant", "x"), 2, "--allow is required"),
        ((*GRANT[:2], "x", *GRANT[3:], "--network", "10.0.0.1/8"), 1, "CIDR"),
        ((*GRANT[:2], "x", *GRANT[3:], "--expires", "2020-01-01T00:00:00Z"), 1, "future"),
        ((*GRANT[:2], "x", *GRANT[3:], "--rate", "often"), 1, "600/m"),
        ((*GRANT[:2], "x\u202e", *GRANT[3:]), 1, "control or format"),
        (("access", "grant", "x", "--rules", "/nowhere"), 1, "cannot be read as JSON"),
        ((*GRANT, "--rules", "/nowhere"), 2, "stands for itself"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    database: Database, tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    """In one line that says what to do; nothing is recorded, and no key is shown."""
    env = settings(database)
    assert run(*GRANT, cwd=tmp_path, env=env).returncode == 0
    done = run(*arguments, cwd=tmp_path, env=env)
    assert done.returncode == status
    assert message in done.stderr
    assert "sbk_" not in done.stdout
    assert "Traceback" not in done.stderr
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(1,)]


def test_rules_come_from_a_file_in_their_order(database: Database, tmp_path: Path) -> None:
    """Several of them, each with its own networks and its own demand for a reason."""
    rules = [
        {"allow": ["read"], "hosts": ["prod-*"], "purposes": ["*"], "reason": True},
        {"allow": ["read", "write"], "hosts": ["*"], "purposes": ["ssh"]},
    ]
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    given = ("access", "grant", "x", "--rules", "rules.json", "--rate", "600/m")
    more = ("--host-limit", "100/h", "--expires", "90d", "--certificate")
    done = run(*given, *more, cwd=tmp_path, env=settings(database))
    assert (done.returncode, done.stdout) == (0, "")
    ((details,),) = database.fetch("SELECT details FROM ledger.events")
    assert [rule["hosts"] for rule in details["rules"]] == [["prod-*"], ["*"]]
    assert (details["requests"], details["hosts"]) == ([600, 60], [100, 3600])
    assert (details["certificate"], "sha256" in details) == (True, False)
