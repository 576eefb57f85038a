"""The systemd units: systemd itself takes them, and finds little that is exposed."""

import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from secrets_broker.ledger.committer import BATCH_SECONDS
from tests.deploy.production import DEPLOY

SERVICE = "secrets-broker.service"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
LARGEST_EXPOSURE = 1.0
"""Of ten, by `systemd-analyze security`; 0.9 where it was written."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="needs systemd-analyze (apt-get install systemd)",
)


def analyze(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run systemd-analyze; it needs no running systemd for what is asked here."""
    command = ["systemd-analyze", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    """No line is unknown or wrong; the program is put where this machine has one."""
    program = shutil.which("true")
    text = re.sub(r"/opt/secrets-broker/bin/secrets-broker", str(program), unit.read_text())
    (tmp_path / unit.name).write_text(text)
    done = analyze("verify", "--man=no", str(tmp_path / unit.name))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_little_is_exposed(unit: Path) -> None:
    """At most LARGEST_EXPOSURE of ten."""
    words = ("security", "--offline=true", "--no-pager", str(unit))
    threshold = f"--threshold={int(LARGEST_EXPOSURE * 10)}"
    done = analyze(*words, threshold)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_no_secret_is_in_a_unit_or_an_environment(unit: Path) -> None:
    """Everybody may read units; secrets come as credentials, which only the service sees."""
    text = unit.read_text()
    assert not re.search(
        r"^Environment=(?!SECRETS_BROKER_DATA_DIR).*(KEY|URL|TOKEN|PIN)", text, re.M
    )
    if unit.name != "secrets-broker-witness.service":
        assert re.search(r"^LoadCredential=\.env:/etc/secrets-broker/", text, re.M)


def test_what_confines_is_the_same_in_all() -> None:
    """A line that one unit has and another lacks would be an oversight."""

    def confining(unit: Path) -> list[tuple[str, str]]:
        parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(unit)
        items = list(parser["Service"].items())
        return items[[name for name, _ in items].index("ProtectSystem") :]

    first, *others = map(confining, UNITS)
    assert all(other == first for other in others)


def _graceful_timeout() -> int:
    # In a process of its own: it makes a folder, and says so in the environment.
    told = "from secrets_broker.http.server import gunicorn_conf as it; print(it.graceful_timeout)"
    command = [sys.executable, "-c", f"{told}; it.on_exit(None)"]
    done = subprocess.run(command, capture_output=True, check=True, cwd="/", timeout=60)
    return int(done.stdout)


def test_the_service_is_given_the_time_to_answer_what_it_has_begun() -> None:
    """Else it would be killed while callers wait, and they be cut off without a word."""
    found = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "systemd" / SERVICE).read_text(), re.M)
    assert found is not None
    assert int(found[1]) > _graceful_timeout() > 2 * BATCH_SECONDS
    compose = (DEPLOY.parent / "compose.yaml").read_text()
    assert f"    stop_grace_period: {found[1]}s\n" in compose
