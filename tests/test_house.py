"""How the code is laid out: helpers in files that say so, rooms that say what lives there."""

import ast
from pathlib import Path

import pytest

from tests.repository import ROOT

PACKAGE = ROOT / "secrets_broker"
MOST = 16
"""Modules on one floor: more are not seen at a glance."""
ROOMS = sorted(
    folder.relative_to(ROOT)
    for folder in (PACKAGE, *PACKAGE.rglob("*"))
    if folder.is_dir() and any(folder.glob("*.py"))
)


def modules(text: str) -> set[str]:
    """The modules that a text in Python imports, and those that its scripts in strings do."""
    found = set[str]()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            case ast.Constant(value=str(value)) if "import " in value:
                found |= scripted(value)
            case _:
                pass
    return found


def scripted(text: str) -> set[str]:
    """The same of a string; nothing where it is no script."""
    try:
        return modules(text)
    except SyntaxError:
        return set()


def test_no_test_file_is_imported() -> None:
    """What several tests use lives in a file that is named for it."""
    importers = {}
    for path in (ROOT / "tests").rglob("*.py"):
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        taken = {
            name
            for name in modules(path.read_text())
            if name.startswith("tests.") and not name.startswith(own)
            if any(is_test_file(name, parts) for parts in range(2, name.count(".") + 2))
        }
        if taken:
            importers[own] = taken
    assert importers == {}


def is_test_file(name: str, parts: int) -> bool:
    """Whether the first parts of a dotted name are a file of tests."""
    path = ROOT.joinpath(*name.split(".")[:parts]).with_suffix(".py")
    return path.name.startswith("test_") and path.is_file()


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_a_room_says_what_lives_there(room: Path) -> None:
    """In the docstring of its __init__.py, in words."""
    said = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
    assert said
    assert len(said.split()) >= 5


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_a_floor_has_few_modules(room: Path) -> None:
    """A room that grows past it gets rooms of its own."""
    names = [path.name for path in (ROOT / room).glob("*.py") if path.name != "__init__.py"]
    assert len(names) <= MOST, sorted(names)
