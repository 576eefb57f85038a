"""The sources of settings: the one module that reads the environment.

A value is looked for in this order, and the first that is not empty wins:

1. ``<data dir>/.env``, where ``--data-dir`` or ``SECRETS_BROKER_DATA_DIR`` points at what
   ``secrets-broker dev`` made,
2. the process's environment,
3. ``.env`` in the working folder.

In each of them NAME_FILE may stand for a NAME that is a secret (SECRETS): the value is then the
file's content without one line end at its end. Containers and service managers pass secrets this
way, which keeps them out of the environment.

A key is the same from each source. If one source would cut off what another keeps, the key is
refused for all of them when it is used (ledger/access/shared_key.py).
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dotenv.parser import parse_stream

from secrets_broker.settings.declaration import DATA_DIR, SECRETS, SHARED_KEYS, Declared
from secrets_broker.settings.errors import SettingsError, UnreadableSettingsError

_FILE: Final = "_FILE"
# How python-dotenv strips a comment from an unquoted value.
_COMMENT: Final = re.compile(r"\s+#.*")


def colours_are_welcome() -> bool:
    """Whether a terminal may be written to in colours (NO_COLOR, see no-color.org; TERM=dumb)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def named_data_dir() -> Path | None:
    """The data folder that the environment names, for use without the option."""
    name = os.environ.get(DATA_DIR)
    return Path(name) if name else None


def read(data_dir: Path | None) -> Mapping[str, str]:
    """The values from all sources (see the module's docstring); none is empty.

    Raises SettingsError if a source has both NAME and NAME_FILE, and UnreadableSettingsError if a
    file cannot be read.
    """
    merged: dict[str, _Stated] = {}
    for source in _weakest_first(data_dir):
        merged |= _stated(source)
    values = {name: said.read(name) for name, said in merged.items()}
    return {name: value for name, value in values.items() if value}


@dataclass(frozen=True, slots=True)
class _Stated:
    """What a source has for a name: its value, or the file that holds it."""

    text: str = field(repr=False)
    in_file: bool

    def read(self, name: str) -> str:
        if not self.in_file:
            return self.text
        try:
            content = Path(self.text).read_bytes()
            if (
                name == Declared.previous_kms_keys.name
            ):  # of these, all readings without a carriage return are tried
                return content.decode("utf-8").removesuffix("\n")
            return text_of_file(content)
        except (OSError, UnicodeDecodeError) as error:
            # Without the path: it may be the secret itself, put there by mistake.
            raise UnreadableSettingsError(f"the file of {name}{_FILE}", error) from None


def text_of_file(content: bytes) -> str:
    """A file's text without one line end, which editors and `echo` add; all else may be meant.

    Raises UnicodeDecodeError.
    """
    text = content.decode("utf-8")
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


def _stated(source: Mapping[str, str | None]) -> dict[str, _Stated]:
    filled = {name: value for name, value in source.items() if value}
    stated = {}
    for name, value in filled.items():
        secret = name.removesuffix(_FILE)
        in_file = secret != name and secret in SECRETS
        if in_file and secret in filled:
            raise SettingsError(f"{secret} and {name} are both set: keep one of them")
        stated[secret if in_file else name] = _Stated(value, in_file)
    return stated


def _weakest_first(data_dir: Path | None) -> Iterator[Mapping[str, str | None]]:
    yield _env_file(Path(".env"))
    yield os.environ
    if data_dir is not None:
        yield _env_file(data_dir / ".env")


def _env_file(path: Path) -> Mapping[str, str | None]:
    try:
        if not path.is_file():
            return {}
        with path.open(encoding="utf-8") as lines:
            # No interpolation: a key may hold a "$".
            return {
                b.key: _value(b.key, b.value, b.original.string)
                for b in parse_stream(lines)
                if b.key
            }
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableSettingsError(path.absolute(), error) from None


def _value(name: str, value: str | None, line: str) -> str | None:
    """A value of a .env, with the white space around a key, so that its rule refuses it.

    python-dotenv strips white space around an unquoted value; `docker --env-file` does not.
    """
    written = line.strip("\r\n").partition("=")[2]
    if name not in SHARED_KEYS or value is None or written.strip()[:1] in ("'", '"'):
        return value
    kept = _COMMENT.sub("", written)
    return kept if kept.strip() == value else value
