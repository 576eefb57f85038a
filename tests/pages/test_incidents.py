"""docs/incidents.md, followed to the letter, each incident on a fresh `secrets-broker dev`."""

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from secrets_broker.tools.postgres.binaries import find_binaries
from tests.pages.shell import Shell
from tests.repository import ROOT
from tests.tools.dev_process import Start, folder, start

__all__ = ["folder", "start"]  # fixtures

PAGE = (ROOT / "docs" / "incidents.md").read_text()
SINCE = "2020-01-01T00:00:00Z"


def steps(heading: str) -> list[str]:
    """The blocks below one heading."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@pytest.fixture
def shell(start: Start, folder: Path, bin_dir: Path | None) -> Shell:
    """A shell in the folder of a fresh `secrets-broker dev`, with the page's settings."""
    made = Shell(start(), folder, find_binaries(bin_dir))
    settings = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0]
    (folder / "settings").write_text(settings)
    return made


def follow(shell: Shell, step: str, **variables: str) -> str:
    """Run a step with the page's variables."""
    given = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
    return shell.run(given + step)


def lookup(shell: Shell, key: str, host: str, actor: str = "deploy") -> int:
    """The status of a lookup."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{shell.dev.port}/internal/secrets/credential-lookup",
        f'{{"host": "{host}", "purpose": "ssh"}}'.encode(),
        {"X-Internal-Key": key, "Content-Type": "application/json", "X-Service-Name": actor},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


def store(shell: Shell, *hosts: str) -> None:
    """Store a password for each; again is the next version."""
    for host in hosts:
        shell.dev.post("upsert", host=host, purpose="ssh", password=f"secret-of-{host}")


def test_a_leaked_internal_key(shell: Shell, folder: Path) -> None:
    """Shut, what was taken is listed until it is changed, and attempts afterwards are on record."""
    rotate, off, see, who, taken, denied = steps("A leaked internal key")
    leaked = shell.dev.settings["INTERNAL_KEY"]
    store(shell, "db1", "db2", "db3")
    assert lookup(shell, leaked, "db1", "mallory") == 200
    assert lookup(shell, leaked, "db2", "mallory") == 200
    follow(shell, rotate)
    assert shell.dev.settings["INTERNAL_KEY"] != leaked
    follow(shell, see, LEAKED=leaked)
    assert lookup(shell, leaked, "db3", "mallory") == 403
    said = follow(shell, who, SINCE=SINCE)
    assert re.search(r"127\.0\.0\.1 +\| mallory +\| +2 \| +2 \| +0", said)
    given = {"SINCE": SINCE, "SOURCE": "127.0.0.0/8"}
    assert "db1,ssh,1\ndb2,ssh,1\n" in follow(shell, taken, **given)
    assert "db3,ssh" not in (folder / "exposed.csv").read_text()
    assert "db1,ssh" not in follow(shell, taken, SINCE=SINCE, SOURCE="192.0.2.0/24")
    store(shell, "db1", "db2")  # as changed on the hosts
    follow(shell, taken, SINCE=SINCE, SOURCE="")
    assert (folder / "exposed.csv").read_text() == "host,purpose,version\n"
    assert "unknown_key" in follow(shell, denied + "secrets-broker events --json", SINCE=SINCE)
    follow(shell, off)
    follow(shell, see, LEAKED=shell.dev.settings["INTERNAL_KEY"])


def grant(shell: Shell, name: str, *words: str) -> str:
    """A key for a name."""
    printed = shell.run(
        f". ./settings\nsecrets-broker access grant {name} {' '.join(words)} --json"
    )
    (key,) = re.findall(r"sbk_[0-9A-Za-z]{49}", printed)
    return str(key)


def test_a_leaked_access_key(shell: Shell, folder: Path) -> None:
    """Found by its hash, shut by either way, and what it read is listed until it is changed."""
    whose, rotate, revoke, used, made = steps("A leaked access key")
    store(shell, "web-1", "web-2")
    leaked = grant(shell, "deploy", "--allow read --host 'web-*' --purpose ssh")
    other = grant(shell, "other", "--allow read --host '*' --purpose ssh")
    assert lookup(shell, leaked, "web-1") == 200
    assert lookup(shell, other, "web-2") == 200
    assert follow(shell, whose, LEAKED=leaked).strip().endswith("|deploy")
    (fresh,) = re.findall(r"sbk_[0-9A-Za-z]{49}", follow(shell, rotate))
    assert lookup(shell, leaked, "web-1") == 403
    assert lookup(shell, str(fresh), "web-1") == 200
    follow(shell, whose, LEAKED=str(fresh))
    follow(shell, revoke)
    assert lookup(shell, str(fresh), "web-1") == 403
    follow(shell, used, SINCE=SINCE)
    assert (folder / "exposed.csv").read_text() == "host,purpose,version\nweb-1,ssh,1\n"
    store(shell, "web-1")
    follow(shell, used, SINCE=SINCE)
    assert (folder / "exposed.csv").read_text() == "host,purpose,version\n"
    assert "(0 rows)" in follow(shell, made)
    assert follow(shell, whose, LEAKED="sbk_" + "0" * 49) == ""
    log = "SELECT error_message FROM secrets.credential_access_log WHERE NOT success ORDER BY id"
    with psycopg.connect(shell.dev.settings["DATABASE_URL"]) as connection:
        said = [text for (text,) in connection.execute(log)]
    assert said == ["forbidden: expired", "forbidden: revoked"]


def test_an_unknown_reader(shell: Shell) -> None:
    """The new ones are named with how far they are proven, and who else received the same."""
    new, everything, whole = steps("An unknown reader")
    key = shell.dev.settings["INTERNAL_KEY"]
    store(shell, "db1", "db2")
    for host, actor in (("db1", "mallory"), ("db1", "backup"), ("db2", "backup")):
        assert lookup(shell, key, host, actor) == 200
    said = follow(shell, new, DAYS="7")
    assert re.search(r"mallory +\| internal_key \| 127\.0\.0\.1 +\| +1 \| +1", said)
    said = follow(shell, everything, READER="mallory")
    assert "backup" in said
    assert "db2" not in said
    assert "OK" in follow(shell, whole)


TAMPERED: Mapping[str, str] = {
    "an event": "UPDATE ledger.events SET actor = 'nobody' WHERE position = 1",
    "a row": "UPDATE secrets.host_credentials SET username = 'root' WHERE host = 'db2'",
}


@pytest.mark.parametrize("what", sorted(TAMPERED))
def test_the_ledger_does_not_verify(shell: Shell, folder: Path, what: str) -> None:
    """The evidence is kept, the position is named, and rebuild puts only an edited row right."""
    evidence, where, kept, rebuild = steps("The ledger does not verify")
    store(shell, "db1", "db2", "db3")
    shell.run(
        '. ./settings\nuntil curl -sSf -H "Authorization: Bearer $AUDITOR_KEY"'
        ' "$URL/log/checkpoint" -o kept && sed -n 2p kept | grep -qx 4; do sleep 0.2; done'
    )
    with psycopg.connect(shell.dev.settings["MIGRATION_DATABASE_URL"], autocommit=True) as owner:
        if what == "an event":
            owner.execute("ALTER TABLE ledger.events DISABLE TRIGGER ALL")
        owner.execute(TAMPERED[what].encode())
    follow(shell, evidence)
    assert (folder / "evidence" / "ledger.dump").stat().st_size > 1000
    said = follow(shell, where)
    assert "not OK" in follow(shell, kept, KEPT="kept")
    if what == "an event":
        assert "first wrong position: 1" in said
        with pytest.raises(AssertionError, match="first wrong position 1"):
            follow(shell, rebuild)
    else:
        assert "projection" in said
        assert "OK" in follow(shell, rebuild)
        assert "not OK" not in follow(shell, kept, KEPT="kept")
