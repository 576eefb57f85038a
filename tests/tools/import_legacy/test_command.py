"""The command: exit status, report, and that nothing it prints holds a secret."""

import json
from pathlib import Path

import pytest

from tests.conftest import KMS_KEY
from tests.tools.import_legacy.earlier import LOST_KEY, Earlier, sealed
from tests.tools.import_legacy.helpers import environment, finished, start

SECRET = "s3cret-that-nobody-may-see"


def test_all_imported(earlier: Earlier, tmp_path: Path) -> None:
    """0 and the counts, where everything that was there is imported now."""
    earlier.credential("a", SECRET)
    earlier.access("a")
    status, out, err = finished(start(environment(earlier.database), tmp_path))
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "credentials: 1 imported, 0 were imported before, 0 not imported",
        "access log lines: 1 imported, 0 were imported before, 0 not imported",
    ]


def test_a_row_failed(earlier: Earlier, tmp_path: Path) -> None:
    """1 where a row is not imported; it is named, in JSON too, and no secret is printed."""
    earlier.credential("good", SECRET, additional_data={"note": SECRET})
    earlier.credential("bad\x1b[2J", password_encrypted=sealed(SECRET, LOST_KEY))
    earlier.credential("NUL", SECRET + "\x00")
    env = environment(earlier.database)
    status, out, err = finished(start(env, tmp_path, "--json"))
    assert status == 1
    report = json.loads(out)
    assert report["credentials"]["imported"] == 1
    failures = report["credentials"]["failures"]
    assert [(f["host"], f["purpose"]) for f in failures] == [("bad\x1b[2J", "ssh"), ("NUL", "ssh")]
    again, text, more = finished(start(env, tmp_path))
    assert again == 1
    assert "not imported: 'bad\\x1b[2J' 'ssh'" in text
    printed = out + err + text + more
    assert "\x1b" not in printed
    assert not [s for s in (SECRET, KMS_KEY, LOST_KEY) if s in printed]


@pytest.mark.parametrize("name", ["SECRETS_KMS_KEY", "DATABASE_URL"])
def test_missing_setting(earlier: Earlier, tmp_path: Path, name: str) -> None:
    """2 and the setting's name, where one is missing."""
    env = {n: v for n, v in environment(earlier.database).items() if n != name}
    env.pop("MIGRATION_DATABASE_URL")
    status, out, err = finished(start(env, tmp_path))
    assert (status, out) == (2, "")
    assert f"{name} not set" in err


def test_unusable_setting(earlier: Earlier, tmp_path: Path) -> None:
    """2 and a reason without the password, where a URL leads nowhere."""
    for name in ("MIGRATION_DATABASE_URL", "DATABASE_URL"):
        env = environment(earlier.database) | {name: f"postgresql://me:{SECRET}@127.0.0.1:1/none"}
        status, out, err = finished(start(env, tmp_path))
        assert (status, out) == (2, "")
        assert "cannot connect" in err
        assert SECRET not in err


def test_data_dir(earlier: Earlier, tmp_path: Path) -> None:
    """The settings may come from a data folder's .env."""
    lines = [f"{name}={value}\n" for name, value in environment(earlier.database).items()]
    (tmp_path / ".env").write_text("".join(lines))
    env = {"PYTHONPATH": environment(earlier.database)["PYTHONPATH"]}
    status, _, err = finished(start(env, Path("/"), "--data-dir", str(tmp_path)))
    assert (status, err) == (0, "")
