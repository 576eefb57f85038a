"""The commands that pages show: which are followed by tests, and which say that they are not.

- ``sh``: steps of a page that has a test of its own, in order.
- ``bash``: steps that are followed on a fresh `secrets-broker dev`, in order, by test_pages.py.
- Either after the line ``<!-- not followed by a test: why -->``, unseen by readers: shown, not run.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.repository import ROOT

OWN_TEST, FOLLOWED, PYTHON = "sh", "bash", "python"

_BLOCK = re.compile(
    r"(?P<why>^ *<!-- not followed by a test: [^\n]+ -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
# What a terminal would be given, indented as Markdown's other way to show code.
_INDENTED = re.compile(
    r"\n\n {4}(?:secrets-broker|make|docker|curl|pip|python3?|psql|systemctl|export |\.venv/)[^\n]*"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    is_followed: bool


def pages() -> list[Path]:
    """Every page of this project."""
    return [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks, in order."""
    return [
        Block(
            found["language"],
            re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
            found["why"] is None,
        )
        for found in _BLOCK.finditer(page.read_text())
    ]


def indented_commands(page: Path) -> list[str]:
    """Commands that are in no fenced block, and so in no test."""
    return _INDENTED.findall(_BLOCK.sub("", page.read_text()))
