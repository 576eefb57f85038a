"""The table of settings in docs/settings.md, made from the declaration.

After a change to a setting, write it again:

    python -m secrets_broker.settings.page
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any, Final

from secrets_broker.settings.declaration import DECLARED
from secrets_broker.settings.setting import Setting

PAGE: Final = Path(__file__).parents[2] / "docs" / "settings.md"
WRITE: Final = "python -m secrets_broker.settings.page"
_HEAD: Final = "| setting | what | needed by | if unset | a file |\n|---|---|---|---|---|\n"
_TABLE: Final = re.compile(re.escape(_HEAD) + r"(?:\|[^\n]*\n)*")


def table() -> str:
    """A row a setting."""
    return _HEAD + "".join(map(_row, DECLARED))


def with_table(page: str) -> str:
    """The page's text, with the table as it is now."""
    return _TABLE.sub(lambda _: table(), page)


def _row(setting: Setting[Any]) -> str:
    unset = f"`{setting.default}`" if setting.default else setting.unset
    cells = (f"`{setting.name}`", _sentence(setting), setting.needed_by, unset)
    return "".join(f"| {cell} " for cell in cells) + f"| {'✓' if setting.secret else ''} |\n"


def _sentence(setting: Setting[Any]) -> str:
    if not setting.see:
        return setting.what
    page = setting.see.partition("#")[0]
    return f"{setting.what}; see [{PurePosixPath(page).stem}]({setting.see})"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
