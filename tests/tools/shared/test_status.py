"""Exit statuses, held over all commands: 0 it is so, 1 it is not so, 2 it could not be asked."""

import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner, Result

from secrets_broker import SecretsManager
from secrets_broker.ledger.errors import FoundError
from secrets_broker.ledger.transparency_log.note import COSIGNATURE, VerifierKey
from secrets_broker.session import RoleMissingError
from secrets_broker.tools.cli import main
from secrets_broker.tools.postgres import Cluster
from secrets_broker.tools.shared import status
from secrets_broker.tools.shared.command_line import FORESEEN, clear_errors
from secrets_broker.tools.shared.status import ANOTHER_LEDGER, NOT_ASKED, NOT_SO, SO, Commands
from tests.conftest import AUDITOR_KEY, INTERNAL_KEY, KMS_KEY, SIGNING_KEY, Database, fresh_database
from tests.everything_raised import errors
from tests.pages.commands import ROOT

CLOSED = "http://127.0.0.1:1"
WITNESS = f"{CLOSED} {VerifierKey('w', COSIGNATURE, bytes(32))}"
NO_RIGHTS = "login_without_rights"
KEYS = {
    "SECRETS_KMS_KEY": KMS_KEY,
    "INTERNAL_KEY": INTERNAL_KEY,
    "AUDITOR_KEY": AUDITOR_KEY,
    "LEDGER_SIGNING_KEY": SIGNING_KEY,
    "LEDGER_WITNESSES": WITNESS,
}
# What each command needs at least; commands that ask the database, and those that do not.
ASKING = [
    "serve", "migrate", "rebuild", "rebuild --check", "rotate-key --check",
    "rotate-key --data-keys", "rotate-key --new-key another-key-of-the-tests-0001",
    "erase h p --reason r --yes", "erase h p --dry-run", "erase --list", "due", "due --fail",
    "verify", "replay --at 0 --no-keys", "replay --diff 0 1", "proof 0", "history h p",
    "exposure h p", "events", "unused --since 1d", "export out --no-parquet", "witness",
    "access grant n --allow audit", "access list", "access revoke n",
    "access rotate n", "access change n --allow audit", "access explain n read h p",
    "access replay", "access who h p", "authenticate --yes",
    "disown 3 --reason r", "watch --once", "import-legacy", "restored --reason r",
]  # fmt: skip
OTHERS = ["dev", "keygen", "health", "witness serve", "witness keygen"]
STARTS_ALL_THE_SAME = {"serve"}
"""Without its database it begins all the same, and answers 503 until it is there."""


def leaves(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*before, name))
        else:
            yield (*before, name)


def run(
    words: str | Sequence[str], env: Mapping[str, str], folder: Path, monkeypatch: Any
) -> Result:
    """Run a command in this process, with nothing but these settings."""
    monkeypatch.chdir(folder)
    with monkeypatch.context() as patched:
        for name in (*KEYS, "DATABASE_URL", "MIGRATION_DATABASE_URL", "SECRETS_BROKER_DATA_DIR"):
            patched.delenv(name, raising=False)
        line = words.split() if isinstance(words, str) else list(words)
        return CliRunner(env=dict(env)).invoke(main, line)


def not_asked(done: Result) -> None:
    """It says in a line why, reports nothing, and ends with 2."""
    assert (done.exit_code, done.stdout) == (NOT_ASKED, ""), done.output
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_no_command_is_left_out() -> None:
    """What is tried here is all that there is."""
    tried = {tuple(line.split()) for line in (*ASKING, *OTHERS)}
    for leaf in leaves(main):
        words = tuple(word for word in leaf if word != "submit")
        assert any(line[: len(words)] == words for line in tried), leaf


@pytest.mark.parametrize("command", [*ASKING, *OTHERS])
def test_an_unknown_option(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Usage is no finding."""
    not_asked(run(f"{command} --no-such-option", KEYS, tmp_path, monkeypatch))


@pytest.mark.parametrize("command", ASKING)
def test_without_settings(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing one is named."""
    done = run(command, {}, tmp_path, monkeypatch)
    not_asked(done)
    assert "not set" in done.stderr


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("command", [*ASKING, "witness serve"])
def test_a_data_dir_that_is_none(
    command: str, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the command and after it, it is the same option."""
    option = "--data-dir misspelt"
    line = f"{option} {command}" if before else f"{command} {option}"
    done = run(line, KEYS, tmp_path, monkeypatch)
    not_asked(done)
    assert "misspelt has no .env" in done.stderr


@pytest.mark.parametrize("command", [line for line in ASKING if line not in STARTS_ALL_THE_SAME])
def test_a_database_that_is_not_there(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreachable is not different."""
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    env = {**KEYS, "DATABASE_URL": nowhere, "MIGRATION_DATABASE_URL": nowhere}
    not_asked(run(command, env, tmp_path, monkeypatch))


@pytest.fixture(scope="module")
def without_rights(cluster: Cluster) -> Iterator[str]:
    """The URL of a login that may do nothing, of a database with the schema."""
    cluster.ensure_login(NO_RIGHTS)
    with fresh_database(cluster, "migrated") as made:
        yield cluster.url(NO_RIGHTS, made.name)


# `migrate` finds the schema as it should be, which anybody may see.
@pytest.mark.parametrize("command", [line for line in ASKING if line != "migrate"])
def test_a_login_without_rights(
    command: str, without_rights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may not be seen is not taken for what is not there."""
    env = {**KEYS, "DATABASE_URL": without_rights, "MIGRATION_DATABASE_URL": without_rights}
    not_asked(run(command, env, tmp_path, monkeypatch))


@pytest.fixture(scope="module")
def no_schema(cluster: Cluster) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    with fresh_database(cluster, "template0") as made:
        yield made.owner_url


@pytest.mark.parametrize("command", [line for line in ASKING if line != "migrate"])
def test_a_schema_that_is_behind(
    command: str, no_schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which command brings it up to date."""
    env = {**KEYS, "DATABASE_URL": no_schema, "MIGRATION_DATABASE_URL": no_schema}
    done = run(command, env, tmp_path, monkeypatch)
    not_asked(done)
    assert "secrets-broker migrate" in done.stderr


def test_others_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need no database have other reasons."""
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for line in (
            f"dev --port {port}",
            f"health --url {CLOSED}",
            "health --url ftp://h",
            "witness serve",
            "witness serve --log rubbish",
            "keygen --origin a+b",
            "witness keygen a+b",
            f"witness {WITNESS.replace(' ', ' --key ')}",
            "verify --since file",
            "history h p --data-dir file",
        ):
            not_asked(run(line, {}, tmp_path, monkeypatch))


NOT_THERE = [
    "history h p", "exposure h p", "exposure there ssh --version 7", "proof 99",
    "access revoke n", "access rotate n", "access change n --allow audit",
    "access explain n read h p", "erase h p --reason r --yes", "erase h p --dry-run",
    "restored --reason r",
]  # fmt: skip


@pytest.fixture(scope="module")
def stored(cluster: Cluster) -> Iterator[Database]:
    """A ledger with one credential."""
    with fresh_database(cluster, "migrated") as made:
        with SecretsManager(KMS_KEY, made.service_url) as manager:
            manager.upsert_credential("there", "ssh", password="p")
        yield made


@pytest.mark.parametrize("command", NOT_THERE)
def test_what_is_not_there_is_a_finding(
    command: str, stored: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked, and it is not so."""
    env = {
        **KEYS,
        "DATABASE_URL": stored.service_url,
        "MIGRATION_DATABASE_URL": stored.owner_url,
    }
    done = run(command, env, tmp_path, monkeypatch)
    assert (done.exit_code, done.stdout) == (NOT_SO, ""), done.output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("a mistake of ours"), "Traceback"),
        (psycopg.errors.RaiseException("a row's value"), "Error: the database: RaiseException"),
        (PermissionError(13, "Permission denied", "file"), "Error: file: Permission denied"),
        (KeyboardInterrupt(), "Aborted!"),
        (click.Abort(), "Aborted!"),
        (BrokenPipeError(32, "Broken pipe"), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_nobody_expected_is_no_finding(
    error: BaseException, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug, an interruption, a reader that has gone: 2, and no value of a row is repeated."""
    monkeypatch.setattr("os.dup2", lambda *_: None)  # these are the test's own descriptors

    def fail() -> None:
        raise error

    group = Commands("group", commands={"fail": click.Command("fail", callback=fail)})
    done = CliRunner().invoke(group, ["fail"])
    assert done.exit_code == NOT_ASKED
    assert said in done.stderr
    assert "row's value" not in done.output


FOUND = {
    "CredentialUndisclosableError",
    "DecryptionError",
    "LedgerMismatchError",
    "NothingLostError",
    "RewrittenError",
    "UnauthenticEventError",
}
"""What a command found out about the ledger: 1. All else that is foreseen kept it from that: 2."""
WITHIN = {
    # Over HTTP alone, where tests/http/test_problems.py looks at them.
    *("RefusedError", "InvalidRequestError", "MoreMembersError"),
    # Of one module, which is asked for them, or tells of them in words of another error.
    *("BundleError", "DatabaseUrlError", "HttpUrlError", "ImportRefusedError", "NotPublishedError"),
    *("ProofError", "ReceiptError", "RequestError", "RowError", "SessionError"),
    *("SyslogAddressError", "TooLongError", "UnreachableError"),
}
"""What no command sees raised, or each that does says itself what it comes to."""


def test_every_error_has_a_status() -> None:
    """A new error is below one that clear_errors knows, or is named here; a new finding is too."""
    public = {kind for kind in errors() if not kind.__name__.startswith("_")}
    undeclared = {
        kind.__name__
        for kind in public
        if not issubclass(kind, (*FORESEEN, click.ClickException, RoleMissingError))
    }
    assert undeclared == WITHIN
    found = {kind.__name__ for kind in public if issubclass(kind, FoundError)}
    assert found == FOUND | {"FoundError"}


@pytest.mark.parametrize(
    "kind", [*FORESEEN, *FoundError.__subclasses__()], ids=lambda k: k.__name__
)
def test_an_error_comes_to_its_status(kind: type[Exception]) -> None:
    """Of the table in tools/shared/status.py, and with its own text."""
    with pytest.raises(click.ClickException, match="the error's text") as caught, clear_errors():
        raise kind("the error's text")
    assert caught.value.exit_code == (NOT_SO if issubclass(kind, FoundError) else NOT_ASKED)


def test_the_statuses_are_on_the_page() -> None:
    """docs/operations.md has the table that tools/shared/status.py has."""
    page = (ROOT / "docs" / "operations.md").read_text().split("**The exit status**")[1]
    listed = re.findall(r"^\| (\d) \|", page.split("\n## ")[0], re.MULTILINE)
    ours = re.findall(r"^\| (\d) \|", status.__doc__ or "", re.MULTILINE)
    assert [*map(int, listed)] == [SO, NOT_SO, NOT_ASKED, ANOTHER_LEDGER]
    assert listed == ours


def test_help_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sentence of a list of commands is cut, no line is wider than a terminal."""
    for group in ([], ["access"], ["witness"]):
        said = run([*group, "--help"], {"COLUMNS": "80"}, tmp_path, monkeypatch).stdout
        assert "..." not in said.replace("]...", "")
        assert max(map(len, said.splitlines())) <= 80
