"""The lines of an env file that we write: every reader of such files reads the same values."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from secrets_broker.tools.keygen import env_lines, fresh_settings, is_plain
from secrets_broker.tools.postgres.cluster import socket_url
from tests.tools.command_line import run

# What a folder or a role may be called; two separators of libpq's are never in a socket's folder.
names = st.text(st.characters(codec="utf-8", exclude_characters='\0,"'), min_size=1, max_size=20)


def read_by_a_shell(text: str, folder: Path, shell: str) -> dict[str, str]:
    """What it sets: `set -a; . ./env`, and nothing on standard error."""
    (folder / "env").write_text(text)
    done = subprocess.run(
        [*shell.split(), "-c", "set -aeu; . ./env; exec env -0"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": "/a/home", "DATABASE": "not this"},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    return dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if "=" in line)


def read_literally(text: str) -> dict[str, str]:
    """As `docker run --env-file` does: what stands behind the first =, to the line's end."""
    return dict(line.split("=", 1) for line in text.splitlines())


def read_by_all(values: Mapping[str, str], folder: Path) -> None:
    """Each reader has to come to these values."""
    text = env_lines(dict(values))
    assert all(map(is_plain, values.values()))
    assert read_literally(text) == values
    (folder / "env").write_text(text)
    for interpolate in (True, False):  # compose puts variables in, we do not
        assert dotenv_values(folder / "env", interpolate=interpolate) == values
    for shell in ("sh", "bash", "bash --posix"):
        found = read_by_a_shell(text, folder, shell)
        assert {name: found.get(name) for name in values} == values


@settings(max_examples=30)
@given(parts=st.lists(st.tuples(names, names, names), min_size=1, max_size=10))
def test_a_database_url_needs_no_quotes(
    parts: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever the data folder is; and libpq finds the very folder, user and database in it."""
    urls = [socket_url(Path("/") / folder, role, name) for folder, role, name in parts]
    for url, (folder, role, name) in zip(urls, parts, strict=True):
        found = conninfo_to_dict(url)
        assert found == {
            "host": str(Path("/") / folder),
            "port": "5432",
            "user": role,
            "dbname": name,
        }
    values = {f"URL_{number}": url for number, url in enumerate(urls)}
    read_by_all(values, tmp_path_factory.getbasetemp())


def test_fresh_settings_need_no_quotes(tmp_path: Path) -> None:
    """Whatever was drawn."""
    for _ in range(20):
        read_by_all(fresh_settings(), tmp_path)


@pytest.mark.parametrize(
    "name", ["a b", "a+b", "", "a&b", "a$b", "a;b", "`id`", "~root", "a#b", "ü"]
)
@pytest.mark.parametrize("command", [["keygen", "--origin"], ["witness", "keygen"]])
def test_a_name_that_needs_quotes_is_refused(name: str, command: list[str], tmp_path: Path) -> None:
    """What cannot be written plainly is not made; the status says that it was not asked well."""
    done = run(*command, name, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
