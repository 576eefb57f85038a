"""docs/deploy.md, "systemd", followed to the letter, but for systemd itself."""

import re
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.deploy.asking import ask
from tests.deploy.production import DEPLOY, Production
from tests.pages.commands import FOLLOWED, blocks
from tests.ports import free_port
from tests.repository import ROOT


class Machine:
    """Where the page is followed: its paths are below a folder, its ports are free ones."""

    def __init__(self, production: Production) -> None:
        self.production = production
        self.root = production.folder / "machine"
        self.port = free_port()
        for path in ("opt/secrets-broker/bin", "etc/systemd/system", "var/lib", "run"):
            (self.root / path).mkdir(parents=True)
        program = self.root / "opt/secrets-broker/bin/secrets-broker"
        program.symlink_to(production.tools / "secrets-broker")

    def here(self, text: str) -> str:
        """A text of the page, or of a unit, as it is on this machine."""
        text = re.sub(r"(?<![\w/.])/(opt|etc|var)/", rf"{self.root}/\1/", text)
        text = text.replace("@127.0.0.1/", f"@127.0.0.1:{self.production.port}/")
        text = text.replace("--port 3003", f"--port {self.port}")
        url = f"http://127.0.0.1:{self.port}"
        return text.replace("secrets-broker health\n", f"secrets-broker health --url {url}\n")

    def follow(self, script: str) -> str:
        """Run a block, with the passwords that an administrator has at hand."""
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", self.here(script)],
            cwd=ROOT,
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "APP_PASSWORD": self.production.secret("app_password"),
                "OWNER_PASSWORD": self.production.secret("owner_password"),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{self.here(script)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def unit(self, name: str) -> tuple[list[str], dict[str, str]]:
        """What the installed unit has systemd run, and with which environment."""
        text = self.here((self.root / "etc/systemd/system" / name).read_text())
        credentials, state = self.root / "run" / name, self.root / "var/lib"
        credentials.mkdir()
        for made, source in re.findall(r"^LoadCredential=([^:]+):(.*)$", text, re.MULTILINE):
            (credentials / made).write_bytes(Path(source).read_bytes())
        text = text.replace("%d", str(credentials)).replace("%S", str(state))
        environment = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))
        for folder in re.findall(r"^StateDirectory=(.*)$", text, re.MULTILINE):
            (state / folder).mkdir(exist_ok=True)
        (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
        return shlex.split(command), {"PATH": "/usr/bin:/bin", **environment}

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The service, as its unit has it run."""
        command, environment = self.unit("secrets-broker.service")
        with (self.root / "log").open("w") as log:
            process = subprocess.Popen(
                command, env=environment, cwd="/", stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait(process)
            yield
            process.terminate()
            process.wait(30)
        finally:
            process.kill()
            process.wait()

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up and process.poll() is None:
            url = f"http://127.0.0.1:{self.port}/health/ready"
            with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise AssertionError((self.root / "log").read_text())


def test_the_page(production: Production) -> None:
    """The settings it makes are whole, the units serve with them, and commands run beside them."""
    machine = Machine(production)
    followed = [b.text for b in blocks(ROOT / "docs" / "deploy.md") if b.is_followed]
    settings, beside = [text for text in followed if "/etc/secrets-broker/env" in text]
    assert {b.language for b in blocks(ROOT / "docs" / "deploy.md") if b.text in followed} >= {
        FOLLOWED
    }
    machine.follow(settings)
    for name in ("env", "migrate.env"):
        made = machine.root / "etc/secrets-broker" / name
        assert made.stat().st_mode & 0o077 == 0
        assert made.read_text().startswith(("SECRETS_KMS_KEY=", "MIGRATION_DATABASE_URL="))
    installed = {path.name for path in (machine.root / "etc/systemd/system").iterdir()}
    assert installed == {path.name for path in (DEPLOY / "systemd").glob("*.service")}
    command, environment = machine.unit("secrets-broker-migrate.service")
    subprocess.run(command, env=environment, cwd="/", check=True, capture_output=True, timeout=60)
    with machine.serving():
        lines = (machine.root / "etc/secrets-broker/env").read_text().splitlines()
        key = dict(line.split("=", 1) for line in lines)["INTERNAL_KEY"]
        url = f"http://127.0.0.1:{machine.port}"
        ask(url, key, "upsert", host="db1.example", purpose="ssh", password="p")
        said = machine.follow(beside)
    assert said.startswith("ready\n")
    assert "OK" in said
    assert "db1.example" in said
