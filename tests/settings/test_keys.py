"""Keys in the settings: the same whichever way they come, refused where they are unfit."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secrets_broker.ledger.encryption.keyring import Keyring
from secrets_broker.ledger.errors import UnfitKeyError
from secrets_broker.settings import SHARED_KEYS, Settings
from secrets_broker.wiring import keyring

KEY = "Zx1/wq0Bq8ZrJ5mUkT3vYp9sL2dHfG7cNeA4iOoK6tE="
READ: dict[str, Callable[[Settings], object]] = {
    "SECRETS_KMS_KEY": lambda settings: settings.kms_key,
    "INTERNAL_KEY": lambda settings: settings.internal_key,
    "AUDITOR_KEY": lambda settings: settings.auditor_key,
}
WAYS = ("environment", ".env", "quoted .env", "file", "file of .env")
PRINT = "from secrets_broker.settings import Settings; s = Settings.load(); print(s.{})"


def given_by(way: str, name: str, key: str, folder: Path) -> Settings:
    """The settings of a process that gets the key this way and no other."""
    (folder / "key").write_bytes(key.encode() + b"\n")
    lines = {
        ".env": f"{name}={key}\n",
        "quoted .env": f"{name}='{key}'\n",
        "file of .env": f"{name}_FILE={folder / 'key'}\n",
    }
    (folder / ".env").write_bytes(lines.get(way, "").encode())
    environment = {
        "environment": {name: key},
        "file": {f"{name}_FILE": str(folder / "key")},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for one in SHARED_KEYS:
            patch.delenv(one, raising=False)
            patch.delenv(f"{one}_FILE", raising=False)
        patch.delenv("SECRETS_BROKER_DATA_DIR", raising=False)
        for variable, value in environment.get(way, {}).items():
            patch.setenv(variable, value)
        return Settings.load()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SHARED_KEYS)
def test_a_key_is_the_same_whichever_way_it_comes(name: str, way: str, tmp_path: Path) -> None:
    """To the byte, spaces within included."""
    for key in (KEY, f"{KEY} $HOME {KEY}", "#" + KEY):
        assert READ[name](given_by(way, name, key, tmp_path)) == key


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SHARED_KEYS)
@pytest.mark.parametrize(
    "unfit",
    [
        *(f"{KEY} ", f" {KEY}", f"{KEY}\t", f"{KEY}\u00a0", f"\ufeff{KEY}", f"{KEY}\u200b"),
        *("winter2026", "a", KEY[:15], f"{KEY}\u00e9", f"\u20ac{KEY}", f"{KEY}\x07{KEY}"),
    ],
)
def test_what_is_unfit_is_refused_whichever_way_it_comes(
    name: str, way: str, unfit: str, tmp_path: Path
) -> None:
    """Where it is asked for, by its name, and without repeating it."""
    settings = given_by(way, name, unfit, tmp_path)
    with pytest.raises(UnfitKeyError, match=f"^{name} has .*secrets-broker keygen") as caught:
        READ[name](settings)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_a_lines_end_in_the_environment_is_refused(end: str, tmp_path: Path) -> None:
    """`$(cat key; echo x)` and the like: a file's one is cut off, and there is none elsewhere."""
    with pytest.raises(UnfitKeyError):
        READ["SECRETS_KMS_KEY"](given_by("environment", "SECRETS_KMS_KEY", KEY + end, tmp_path))
    with pytest.raises(UnfitKeyError):
        READ["SECRETS_KMS_KEY"](given_by("file", "SECRETS_KMS_KEY", KEY + end, tmp_path))


def test_lines_of_an_env_file_are_read_as_before(tmp_path: Path) -> None:
    """Comments, quotes, `export` and a line's end of Windows are none of a key."""
    for line in (
        f"INTERNAL_KEY={KEY}\r\n",
        f"export INTERNAL_KEY={KEY}\n",
        f"INTERNAL_KEY={KEY} # made by keygen\n",
        f"\n\nINTERNAL_KEY='{KEY}' # made by keygen\n",
        f'INTERNAL_KEY="{KEY}"',
    ):
        (tmp_path / ".env").write_bytes(line.encode())
        assert Settings.load(tmp_path).internal_key == KEY


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1))
def test_a_previous_key_may_be_any_text(text: str) -> None:
    """To the byte: what is ruled out now may be what a ledger was made under."""
    assert text in Settings({"SECRETS_KMS_KEY_PREVIOUS": text}).previous_kms_keys


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\x00,\n", exclude_categories=["Cs"]), min_size=1),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([",", ", ", "\n"]),
)
def test_several_stand_between_commas_or_on_lines(keys: list[str], between: str) -> None:
    """As they are, and without the white space around them."""
    found = Settings({"SECRETS_KMS_KEY_PREVIOUS": between.join(keys)}).previous_kms_keys
    assert {key.strip() for key in keys} - {""} <= set(found)
    if between != ", ":
        assert set(keys) <= set(found)
    assert "" not in found


@pytest.mark.parametrize("old", ["winter2026", " a ", "a,b", "\u00e9\n", "a\r"])
def test_a_ledger_under_an_unfit_key_is_not_locked_out(old: str, tmp_path: Path) -> None:
    """Its KEK is at hand as soon as its key is a previous one, from a file too."""
    kek = Keyring.from_kms_keys(old).first.id
    settings = {"SECRETS_KMS_KEY": KEY, "SECRETS_KMS_KEY_PREVIOUS": old}
    assert keyring(Settings(settings)).get(kek) is not None
    (tmp_path / "old").write_bytes(old.encode() + b"\n")
    (tmp_path / ".env").write_text(
        f"SECRETS_KMS_KEY={KEY}\nSECRETS_KMS_KEY_PREVIOUS_FILE={tmp_path / 'old'}\n"
    )
    assert keyring(Settings.load(tmp_path)).get(kek) is not None


def test_warnings_name_the_setting_and_no_key() -> None:
    """And none where the key is one of keygen's, or switched off."""
    weak = "correct-horse-battery-staple-now"
    found = Settings({"SECRETS_KMS_KEY": weak, "INTERNAL_KEY": KEY[:20], "AUDITOR_KEY": KEY})
    assert [text.split()[0] for text in found.key_warnings] == ["SECRETS_KMS_KEY", "INTERNAL_KEY"]
    assert not any(weak in text or KEY[:20] in text for text in found.key_warnings)
    off = Settings({"INTERNAL_KEY": KEY[:20], "INTERNAL_KEY_OFF": "true"})
    assert off.key_warnings == ()


def test_an_environment_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """Its bytes are no text that any header carries."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT.format("internal_key")],
        env={b"INTERNAL_KEY": b"\xff" * 20, b"PYTHONUTF8": b"1"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert b"UnfitKeyError: INTERNAL_KEY has a character that is not ASCII" in done.stderr
