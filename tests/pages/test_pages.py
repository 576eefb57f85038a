"""Every page that shows commands is followed as it stands, or says where not and why."""

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secrets_broker.tools.postgres.account import Account
from secrets_broker.tools.postgres.binaries import find_binaries
from tests.pages.commands import FOLLOWED, OWN_TEST, PYTHON, blocks, indented_commands, pages
from tests.repository import ROOT
from tests.tools.dev_process import Dev, folder
from tests.tools.postgres.helpers import python_of

__all__ = ["folder"]  # a fixture

HAVE_A_TEST = {"audit.md", "backup.md", "incidents.md", "keys.md"}
FOLLOWED_PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in pages()
    if any(block.language == FOLLOWED and block.is_followed for block in blocks(page))
    and page.name != "deploy.md"
)
# What the pages speak of: a credential of three versions that was read, and others.
BEFORE = """
set -a; . .secrets-broker/.env; set +a
export SECRETS_BROKER_DATA_DIR=$PWD/.secrets-broker
for n in 1 2 3; do
    curl -sS -o /dev/null http://127.0.0.1:3003/internal/secrets/credential-upsert \
        -H "X-Internal-Key: $INTERNAL_KEY" -H "Content-Type: application/json" \
        -d "{\\"host\\": \\"db1.example\\", \\"purpose\\": \\"ssh\\", \\"password\\": \\"p$n\\"}"
done
curl -sS -o /dev/null http://127.0.0.1:3003/internal/secrets/credential-upsert \
    -H "X-Internal-Key: $INTERNAL_KEY" -H "Content-Type: application/json" \
    -d '{"host": "db2.example", "purpose": "ssh", "password": "p"}'
until curl -sS -o /dev/null -H "Authorization: Bearer $AUDITOR_KEY" http://127.0.0.1:3003/log/checkpoint
do sleep 0.2; done
"""


def test_every_command_is_followed_or_says_why_not() -> None:
    """No page has a block of commands that nobody runs, and none hides one by its indentation."""
    for page in pages():
        if page.name == "CHANGELOG.md":
            continue
        assert indented_commands(page) == [], page
        for block in blocks(page):
            assert block.language not in {"shell", "console", "zsh"}, page
            if block.language == OWN_TEST:
                assert page.name in HAVE_A_TEST, page


def test_every_link_leads_somewhere() -> None:
    """A page names files that are there, and headings as Markdown makes them into names."""
    for page in pages():
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for path, part in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name}: {path}"
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if part else ()
            named = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
            assert not part or part in named, f"{page.name}: {path}#{part}"


def ordinary() -> Account | None:
    """Somebody who is not root: ourselves (None), or else `nobody`."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


@pytest.fixture(params=["root", "ordinary"])
def who(request: pytest.FixtureRequest) -> Account | None:
    """Who follows the page; None is who runs the tests."""
    if request.param == "ordinary":
        return ordinary()
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return None


class Reader:
    """Follows pages in the folder of a checkout, as far as its commands are concerned."""

    def __init__(self, folder: Path, bin_dir: Path | None, who: Account | None) -> None:
        self.folder, self.who = folder, who
        python, path = python_of(who) if who else (sys.executable, str(ROOT))
        self._make_venv(python, path)
        if who:
            for made in (folder, *folder.rglob("*")):
                os.chown(made, who.uid, who.gid)
        self.dev = Dev(folder, bin_dir, name=".secrets-broker", who=who, python=python, path=path)
        self.path = f"{folder}/.venv/bin:{find_binaries(bin_dir)}:{os.defpath}"

    def _make_venv(self, python: str, path: str) -> None:
        """The commands that `make run` installs, and a curl that takes no error for an answer."""
        tools = self.folder / ".venv" / "bin"
        tools.mkdir(parents=True)
        curl = shutil.which("curl")
        for name, command in (
            ("python", python),
            ("secrets-broker", f"{python} -m secrets_broker"),
            ("curl", f"{curl} --fail-with-body"),
        ):
            script = tools / name
            script.write_text(f'#!/bin/sh\nexport PYTHONPATH={path}\nexec {command} "$@"\n')
            script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def follow(self, script: str) -> str:
        """Run it with bash; every command has to succeed. Returns what it printed."""
        # The port alone is another one: others may listen there, or run the same test.
        script = script.replace("127.0.0.1:3003", f"127.0.0.1:{self.dev.port}")
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env={"PATH": self.path, "HOME": str(self.folder), "LANG": "C.UTF-8"},
            user=self.who.uid if self.who else None,
            group=self.who.gid if self.who else None,
            extra_groups=[] if self.who else None,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def reader(folder: Path, bin_dir: Path | None, who: Account | None) -> Iterator[Reader]:
    """Somebody with a fresh `secrets-broker dev`."""
    made = Reader(folder, bin_dir, who)
    try:
        yield made
    finally:
        made.dev.kill()


def steps(page: str) -> str:
    """What a page has one do, as one script."""
    followed = [b for b in blocks(ROOT / page) if b.language == FOLLOWED and b.is_followed]
    return "\n".join(block.text for block in followed)


def test_the_readme(reader: Reader) -> None:
    """A newcomer stores, looks up and deletes, asks who did what, and does the same in Python."""
    (example,) = [b.text for b in blocks(ROOT / "README.md") if b.language == PYTHON]
    (reader.folder / "example.py").write_text(example)
    said = reader.follow(steps("README.md"))
    assert '"password":"correct-horse-7"' in said
    assert "CHG-42" in said
    assert re.search(r"^\d+ 1\nsvc-backup\nTrue$", said, re.MULTILINE)
    assert re.search(r"files1\.example +winrm", said) or "files1.example" in said


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in FOLLOWED_PAGES if page != "README.md"])
@pytest.mark.parametrize("who", ["ordinary"], indirect=True)
def test_the_page(reader: Reader, page: str) -> None:
    """Each of its steps does what it is there for, or at least succeeds."""
    reader.follow(f"{BEFORE}\n{steps(page)}")
