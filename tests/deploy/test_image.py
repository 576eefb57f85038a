"""Dockerfile and compose.yaml: what they promise, and that the service can live with it."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from secrets_broker.settings import SECRETS
from secrets_broker.tools.postgres.account import Account
from tests.deploy.asking import ask
from tests.deploy.confined import UID, serving, status
from tests.deploy.production import DEPLOY, Production
from tests.ports import free_port
from tests.repository import ROOT
from tests.tools.postgres.helpers import linux_only, python_of, root_only
from tests.waiting import until

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def instructions(word: str) -> list[str]:
    """The arguments of each such instruction, with lines that go on put together."""
    joined = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return re.findall(rf"^{word} +(.*)$", joined, re.MULTILINE)


def has_compose() -> bool:
    """Whether `docker compose` is there; it needs no engine to read a file."""
    command = ["docker", "compose", "version"]
    return bool(shutil.which("docker")) and not subprocess.call(command, stderr=subprocess.DEVNULL)


def test_the_image_is_what_the_lock_files_say() -> None:
    """Each base has a patch version; what is fetched has a hash; the user is a number, not root."""
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-[a-z]+", instructions("ARG")[0])
    assert [base.split()[0] for base in instructions("FROM")] == ["python:${PYTHON}"] * 2
    fetching = [run for run in instructions("RUN") if re.search(r"pip\b.*\binstall\b", run)]
    assert fetching
    for run in fetching:
        for part in run.split("&&"):
            if " install " in part:
                assert "--require-hashes" in part or "--no-index" in part
    assert instructions("USER") == ["10001:10001"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(instructions("HEALTHCHECK")[0].split("CMD", 1)[1])[1:] == ["health", "--live"]


def test_nothing_but_the_program_reaches_the_image() -> None:
    """No instruction names a secret, and the context holds only what is copied."""
    for word in ("ENV", "ARG"):
        assert not any(name in text for text in instructions(word) for name in SECRETS)
    allowed = {
        line[1:].rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for text in instructions("COPY")
        if not text.startswith("--from")
        for source in text.split()[:-1]
    }
    assert copied == allowed


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_container_is_confined(name: str) -> None:
    """Read-only, no capability or new privilege, an ordinary user's number, nothing published."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert "ports" not in service
    assert service.get("network_mode") is None
    for network in service["networks"]:
        assert COMPOSE["networks"][network]["internal"] is True
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])


def test_who_is_given_what() -> None:
    """The service has not the owner's login; callers do not see PostgreSQL; no secret is inline."""
    assert "migration_database_url" not in SERVICES["broker"]["secrets"]
    assert SERVICES["migrate"]["secrets"] == ["migration_database_url"]
    assert SERVICES["database"]["networks"] == ["ledger"]
    assert SERVICES["broker"]["depends_on"] == {
        "database": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }
    assert re.fullmatch(r"postgres:\d+-[a-z]+", SERVICES["database"]["image"])
    for service in SERVICES.values():
        for variable, value in service["environment"].items():
            assert variable not in SECRETS
            if value.startswith("/run/secrets/"):
                assert value.removeprefix("/run/secrets/") in service["secrets"]
        assert set(service["secrets"]) <= set(COMPOSE["secrets"])


def test_a_port_is_published_for_this_machine_only() -> None:
    """And only by who adds that file."""
    added = yaml.safe_load((DEPLOY / "compose.publish.yaml").read_text())
    assert added["services"]["broker"]["ports"] == ["127.0.0.1:3003:3003"]


@pytest.mark.skipif(not has_compose(), reason="needs docker compose")
def test_compose_takes_it(tmp_path: Path) -> None:
    """`docker compose config`, with the file that publishes and without."""
    for more in ([], ["-f", str(DEPLOY / "compose.publish.yaml")]):
        words = ["docker", "compose", "-f", str(ROOT / "compose.yaml"), *more, "config", "--quiet"]
        subprocess.run(words, cwd=tmp_path, check=True)


def test_every_secret_file_is_made(production: Production) -> None:
    """compose-secrets makes what compose.yaml names, in a folder that is closed to others."""
    named = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert {path.name for path in production.secrets.iterdir()} == named
    assert production.secrets.stat().st_mode & 0o777 == 0o700
    again = subprocess.run(
        [DEPLOY / "compose-secrets", production.secrets],
        input="",
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert "may be in use" in again.stderr


def test_without_keys_no_folder_is_made(tmp_path: Path) -> None:
    """Half a set of keys would be taken for a whole one."""
    done = subprocess.run(
        [DEPLOY / "compose-secrets", tmp_path / "made"],
        input="INTERNAL_KEY=x\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


@root_only
@linux_only
def test_the_service_lives_with_that(production: Production) -> None:
    """With compose.yaml's settings it serves, writing nowhere but to its tmpfs and its volume."""
    nameless = Account(str(UID), UID, UID)
    python, path = python_of(nameless)
    shown = production.folder / "shown"  # what compose mounts, each file as it is
    shutil.copytree(production.secrets, shown)
    shown.chmod(0o755)
    places = {"/run/secrets": shown, "/var/lib/secrets-broker": production.folder / "volume"}
    environment = dict(SERVICES["broker"]["environment"])
    for inside, place in places.items():
        environment = {n: value.replace(inside, str(place)) for n, value in environment.items()}
    with serving(production, python, path, {**environment, "PORT": free_port()}) as url:
        key = production.secret("internal_key")
        ask(url, key, "upsert", host="h", purpose="ssh", password="a-password-of-the-image")
        found = ask(url, key, "lookup", host="h", purpose="ssh")
        assert found["password"] == "a-password-of-the-image"
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            assert b"secrets_credential_lookups_total 1.0" in answer.read()
        servers = [
            int(place.name)
            for place in Path("/proc").glob("[0-9]*")
            if place.stat().st_uid == UID and b"gunicorn" in (place / "cmdline").read_bytes()
        ]
        assert len(servers) == 3
        kept = Path(f"/proc/{servers[0]}/root{environment['LEDGER_CHECKPOINT_FILE']}")
        until(kept.exists, "no checkpoint is kept")
        for server in servers:
            found_status = status(server)
            assert (found_status["CapEff"], found_status["NoNewPrivs"]) == ("0" * 16, "1")
            assert key.encode() not in Path(f"/proc/{server}/environ").read_bytes()
    assert "Traceback" not in (production.folder / "serve.log").read_text()
