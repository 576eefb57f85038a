"""`secrets-broker access`, as a user types it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.access.access_key import digest, is_well_formed
from secrets_broker.ledger.access.grant_commands import Grant
from secrets_broker.ledger.access.grants import Grants, judge
from secrets_broker.ledger.access.rights import Request, Rights, Rule
from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.events import Subject
from secrets_broker.projections.queries.what_if import refused_by
from secrets_broker.tools.postgres import Cluster
from tests.conftest import KMS_KEY, Database
from tests.ledger.access.grant_history import apply, at
from tests.ledger.access.rule_strategies import addresses, hosts, purposes, rules
from tests.ledger.helpers import BEGUN, lookup, record, upsert
from tests.projections.asking import auditor
from tests.tools.command_line import run, settings

GRANT = ("access", "grant", "deploy", "--allow", "read", "--host", "web-*", "--purpose", "ssh")


def test_a_key_is_shown_once_and_kept_as_a_hash(database: Database, tmp_path: Path) -> None:
    """Standard output has the key and nothing else; the database has it nowhere."""
    done = run(*GRANT, cwd=tmp_path, env=settings(database))
    key = done.stdout.strip()
    assert (done.returncode, is_well_formed(key)) == (0, True)
    assert key not in done.stderr
    ((details, actor, authn),) = database.fetch(
        "SELECT details, actor, authn FROM ledger.events WHERE position >= %s", BEGUN
    )
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
    events = database.fetch("SELECT type, reason FROM ledger.events OFFSET 1")
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
        (("access", "grant", "x", "--allow", "read"), 2, "hosts and purposes are required"),
        (("access", "grant", "x", "--allow", "fly"), 2, "rules"),
        (("access", "grant", "x"), 2, "--allow is required"),
        ((*GRANT[:2], "x", *GRANT[3:], "--network", "10.0.0.1/8"), 2, "CIDR"),
        ((*GRANT[:2], "x", *GRANT[3:], "--expires", "2020-01-01T00:00:00Z"), 2, "future"),
        ((*GRANT[:2], "x", *GRANT[3:], "--rate", "often"), 2, "600/m"),
        ((*GRANT[:2], "x\u202e", *GRANT[3:]), 2, "control or format"),
        (("access", "grant", "x", "--rules", "/nowhere"), 2, "cannot be read as JSON"),
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
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(2,)]


def test_rules_come_from_a_file_in_their_order(database: Database, tmp_path: Path) -> None:
    """Several of them, each with its own networks and its own demand for a reason."""
    written = [
        {"allow": ["read"], "hosts": ["prod-*"], "purposes": ["*"], "reason": True},
        {"allow": ["read", "write"], "hosts": ["*"], "purposes": ["ssh"]},
    ]
    (tmp_path / "rules.json").write_text(json.dumps(written))
    granted = ("access", "grant", "x", "--rules", "rules.json", "--rate", "600/m")
    more = ("--host-limit", "100/h", "--expires", "90d", "--certificate")
    done = run(*granted, *more, cwd=tmp_path, env=settings(database))
    assert (done.returncode, done.stdout) == (0, "")
    ((details,),) = database.fetch("SELECT details FROM ledger.events OFFSET 1")
    assert [rule["hosts"] for rule in details["rules"]] == [["prod-*"], ["*"]]
    assert (details["requests"], details["hosts"]) == ([600, 60], [100, 3600])
    assert (details["certificate"], "sha256" in details) == (True, False)


EXPLAINED = [
    (("read", "web-1", "ssh", "--ip", "10.0.0.1"), 0, "allowed by rule 2"),
    (("read", "web-1", "rdp", "--ip", "10.0.0.1"), 1, "forbidden: no rule fits; the nearest one"),
    (("write", "web-1", "ssh"), 1, "fails at the operation"),
    (("read", "db-1", "ssh", "--ip", "10.0.0.1"), 1, "fails at the host"),
    (("read", "web-1", "ssh", "--ip", "192.0.2.1"), 1, "fails at the network"),
    (("read", "prod-1", "ssh"), 1, "needs an X-Access-Reason, by rule 1"),
    (("read", "prod-1", "ssh", "--reason", "CHG"), 0, "allowed by rule 1"),
]


def test_explain_says_by_which_rule(database: Database, tmp_path: Path) -> None:
    """The judgement is the service's own; nothing is recorded."""
    env = settings(database)
    written = [
        {"allow": ["read"], "hosts": ["prod-*"], "purposes": ["*"], "reason": True},
        {"allow": ["read"], "hosts": ["web-*"], "purposes": ["ssh"], "networks": ["10.0.0.0/8"]},
    ]
    (tmp_path / "rules.json").write_text(json.dumps(written))
    run("access", "grant", "deploy", "--rules", "rules.json", cwd=tmp_path, env=env)
    for arguments, status, text in EXPLAINED:
        done = run("access", "explain", "deploy", *arguments, cwd=tmp_path, env=env)
        assert (done.returncode, text in done.stdout) == (status, True), done
    done = run("access", "explain", "deploy", "read", "--ip", "10.1.2", cwd=tmp_path, env=env)
    assert (done.returncode, "must be an address" in done.stderr) == (2, True)
    run("access", "revoke", "deploy", cwd=tmp_path, env=env)
    asked = ("access", "explain", "deploy", "read", "web-1", "ssh", "--json")
    found = json.loads(run(*asked, cwd=tmp_path, env=env).stdout)
    assert (found["allowed"], found["refused_by"], found["rule"]) == (False, "revoked", None)
    assert (
        "never granted" in run("access", "explain", "nobody", "read", cwd=tmp_path, env=env).stderr
    )
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(3,)]


def test_replay_lists_what_would_have_been_refused(database: Database, tmp_path: Path) -> None:
    """Of what was asked over HTTP, by whoever it was; and says so by its exit status."""
    env = settings(database)
    record(
        database,
        Keyring.from_kms_keys(KMS_KEY),
        *(upsert("web-1"), lookup("web-1"), lookup("web-1"), lookup("db-1")),
    )
    rights = ("--allow", "read,write", "--host", "web-*", "--purpose", "ssh")
    narrow = ("access", "replay", "tester", *rights, "--json")
    done = run(*narrow, cwd=tmp_path, env=env)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, "1 of 4 requests" in done.stderr) == (1, True)
    assert (line["host"], line["rule"], line["count"], line["operation"]) == (
        "db-1",
        "host",
        1,
        "read",
    )
    assert line["last_position"] == 4
    wide = run("access", "replay", "tester", *rights, "--host", "db-*", cwd=tmp_path, env=env)
    assert (wide.returncode, "of 4 requests" in wide.stdout) == (0, True)
    (tmp_path / "set.json").write_text(json.dumps({"other": {"rules": [{"allow": ["audit"]}]}}))
    nobody = run("access", "replay", "--grants", "set.json", "--json", cwd=tmp_path, env=env)
    assert {json.loads(text)["rule"] for text in nobody.stdout.splitlines()} == {"no_grant"}
    run("access", "grant", "tester", *rights, cwd=tmp_path, env=env)
    now = run("access", "replay", "--json", cwd=tmp_path, env=env)
    assert [json.loads(text)["host"] for text in now.stdout.splitlines()] == ["db-1"]


@given(
    st.lists(st.tuples(hosts, purposes, addresses, st.booleans()), min_size=1, max_size=8),
    st.lists(rules, min_size=1, max_size=3).map(tuple),
)
def test_replay_judges_as_the_service_does(
    asked: list[tuple[str, str, str | None, bool]], given_rules: tuple[Rule, ...]
) -> None:
    """Whatever a grant with these rules would have refused, and nothing else."""
    rights = Rights(rules=given_rules)
    grants = apply(Grants(), Grant(grantee="x", id="0" * 16, sha256="0" * 64, rights=rights), 0, 0)
    for host, purpose, ip, has_reason in asked:
        reason = "why" if has_reason else None
        request = Request("read", at(1), host, purpose, ip, reason)
        refusal = judge(grants, Subject(sha256="0" * 64), request)
        assert refused_by(rights, request) == (refusal.rule if refusal else None)


def test_who_could_read_this_now(database: Database, tmp_path: Path) -> None:
    """Every grant whose rules fit, and whether the shared key is on; table and JSON."""
    env = settings(database)
    many = ("--allow", "read,write", "--host", "*", "--purpose", "*", "--network", "10.0.0.0/8")
    run(*GRANT, cwd=tmp_path, env=env)
    run(
        "access", "grant", "ops", *many, "--expires", "9d", "--rate", "600/m", cwd=tmp_path, env=env
    )
    run("access", "grant", "gone", *many, cwd=tmp_path, env=env)
    run("access", "revoke", "gone", cwd=tmp_path, env=env)
    ask = ("access", "who", "web-1", "ssh")
    found = json.loads(run(*ask, "--json", cwd=tmp_path, env=env).stdout)
    assert (found["host"], found["purpose"], found["internal_key"]) == ("web-1", "ssh", True)
    assert [(line["name"], line["allow"], line["rule"]) for line in found["items"]] == [
        ("deploy", ["read"], 1),
        ("ops", ["read", "write"], 1),
    ]
    assert found["items"][1]["networks"] == ["10.0.0.0/8"]
    assert found["items"][1]["requests"] == [600, 60]
    done = run(*ask, cwd=tmp_path, env={**env, "INTERNAL_KEY_OFF": "true"})
    assert done.returncode == 0
    assert "deploy" in done.stdout
    assert "INTERNAL_KEY is off" in done.stdout
    assert "as of position 4 of 2" in done.stderr
    nobody = run("access", "who", "db-1", "x", cwd=tmp_path, env={**env, "INTERNAL_KEY": ""})
    assert "ops" in nobody.stdout
    assert "these settings do not say" in nobody.stdout
    other = json.loads(run("access", "who", "db-1", "ssh", "--json", cwd=tmp_path, env=env).stdout)
    assert [line["name"] for line in other["items"]] == ["ops"]


def test_who_needs_an_auditors_login_alone(
    cluster: Cluster, database: Database, tmp_path: Path
) -> None:
    """And records nothing; a name that there cannot be is refused."""
    run(*GRANT, cwd=tmp_path, env=settings(database))
    env = {"DATABASE_URL": auditor(cluster, database)}
    found = json.loads(run("access", "who", "web-1", "ssh", "--json", cwd=tmp_path, env=env).stdout)
    assert (found["internal_key"], len(found["items"])) == (None, 1)
    assert database.fetch("SELECT count(*) FROM ledger.events") == [(BEGUN + 1,)]
    refused = run("access", "who", "", "ssh", cwd=tmp_path, env=env)
    assert refused.returncode != 0
    assert "host: " in refused.stderr
