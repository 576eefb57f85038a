"""NAME_FILE: a secret that a file holds, as containers and service managers hand it over."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.settings import SECRETS, Settings, SettingsError, UnreadableSettingsError

Environment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    """Set the environment to nothing but the given; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    for name in [*SECRETS, *(f"{secret}_FILE" for secret in SECRETS), "SECRETS_BROKER_DATA_DIR"]:
        monkeypatch.delenv(name, raising=False)

    def set_to(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_to


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_every_secret_may_come_from_a_file(
    name: str, environment: Environment, tmp_path: Path
) -> None:
    """The value is what the file holds, without the line's end that editors add."""
    (tmp_path / "secret").write_text("a value\n")
    environment(**{f"{name}_FILE": tmp_path / "secret"})
    assert Settings.load().get(name) == "a value"
    assert Settings.load().get(f"{name}_FILE") is None


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), end=st.booleans())
def test_nothing_but_one_lines_end_is_taken_away(
    text: str, end: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Spaces at either side, and whatever else it holds, are the secret's own."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "secret").write_text(text + "\n" * end, "utf-8")
    (folder / ".env").write_text(f"INTERNAL_KEY_FILE={folder / 'secret'}\n")
    assert Settings.load(folder).get("INTERNAL_KEY") == text


def test_both_is_an_error(environment: Environment, tmp_path: Path) -> None:
    """Of two values in one place nobody knows which is meant; neither is shown."""
    (tmp_path / "secret").write_text("mArKeR-1")
    environment(INTERNAL_KEY="mArKeR-2", INTERNAL_KEY_FILE=tmp_path / "secret")
    with pytest.raises(SettingsError, match="INTERNAL_KEY and INTERNAL_KEY_FILE are both") as found:
        Settings.load()
    assert "mArKeR" not in str(found.value)


def test_the_stronger_source_wins_in_either_form(environment: Environment, tmp_path: Path) -> None:
    """The environment is stronger than ./.env, whichever of them names a file."""
    (tmp_path / "secret").write_text("of the file, as it is")
    (tmp_path / ".env").write_text("INTERNAL_KEY=of .env\nAUDITOR_KEY_FILE=/nonexistent\n")
    environment(INTERNAL_KEY_FILE=tmp_path / "secret", AUDITOR_KEY="of the environment")
    found = Settings.load()
    assert (found.internal_key, found.auditor_key) == (
        "of the file, as it is",
        "of the environment",
    )


def test_an_unreadable_file_is_an_error(environment: Environment, tmp_path: Path) -> None:
    """It is never taken for unset; and the message holds no secret that was put there instead."""
    environment(SECRETS_KMS_KEY_FILE="mArKeR-the-secret-itself")
    with pytest.raises(UnreadableSettingsError, match="SECRETS_KMS_KEY_FILE cannot") as found:
        Settings.load()
    assert "mArKeR" not in str(found.value)
    (tmp_path / "secret").write_bytes(b"mArKeR\xff")
    environment(SECRETS_KMS_KEY_FILE=tmp_path / "secret")
    with pytest.raises(UnreadableSettingsError, match="not UTF-8"):
        Settings.load()


def test_an_empty_file_is_unset(environment: Environment, tmp_path: Path) -> None:
    """As an empty value is: what needs it says so by its name."""
    (tmp_path / "secret").write_text("\n")
    environment(INTERNAL_KEY_FILE=tmp_path / "secret")
    with pytest.raises(SettingsError, match="INTERNAL_KEY not set"):
        _ = Settings.load().internal_key


def test_other_names_are_what_they_were(environment: Environment, tmp_path: Path) -> None:
    """LEDGER_CHECKPOINT_FILE is a setting of its own, and no file of LEDGER_CHECKPOINT."""
    environment(LEDGER_CHECKPOINT_FILE=tmp_path / "absent")
    assert Settings.load().checkpoint_file == tmp_path / "absent"
