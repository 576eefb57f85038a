"""What the shipped files say that guards a ledger: triggers, functions, primary keys, and views.

Functions are known by their source, which PostgreSQL keeps as it was written; triggers in a form
that is the same for a file's words and for pg_get_triggerdef's; views as queries.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from secrets_broker.migrations.manifest import SqlFile

_TRIGGER = r"""CREATE\ TRIGGER\ (?P<trigger>\w+)\s+(?P<timing>BEFORE|AFTER)\s+
    (?P<events>\w+(?:\s+OR\s+\w+)*)\s+ON\s+(?P<table>[\w.]+)\s+
    (?:REFERENCING\s+(?P<referencing>\w+\s+TABLE\s+AS\s+\w+)\s+)?
    FOR\s+EACH\s+(?P<each>ROW|STATEMENT)\s+(?:WHEN\s+(?P<when>\(.*?\))\s+)?
    EXECUTE\s+FUNCTION\s+(?P<executes>[\w.]+)\(\)"""
_FUNCTION = r"""CREATE\ (?:OR\ REPLACE\ )?FUNCTION\ (?P<function>[\w.]+)\s*\([^)]*\)\s+RETURNS\s
    (?P<options>[^$]*?)\sAS\ \$\$(?P<body>.*?)\$\$"""
_VIEW = r"CREATE\ (?:OR\ REPLACE\ )?VIEW\ (?P<view>[\w.]+)\ AS\s+(?P<query>[^;]+);"
_TABLE = r"CREATE\ TABLE\ (?P<created>[\w.]+)\ \((?P<columns>.*?)\)[^;()]*;"
_DROP = r"""DROP\ (?:TRIGGER\ (?P<lost_trigger>\w+)\ ON\ (?P<lost_table>[\w.]+)
    |FUNCTION\ (?P<lost_function>[\w.]+)|VIEW\ (?P<lost_view>[\w.]+))"""
_FLAGS = re.VERBOSE | re.DOTALL | re.MULTILINE
_ALTER = r"ALTER\ FUNCTION\ (?P<altered>[\w.]+)\ SET\ search_path\ =\ (?P<path>[\w,\ ]+);"
_ANY = re.compile(rf"^(?:{_TRIGGER}|{_FUNCTION}|{_VIEW}|{_TABLE}|{_DROP}|{_ALTER})", _FLAGS)
_ONE_TRIGGER = re.compile(_TRIGGER, _FLAGS)
_KEY = re.compile(
    r"^ *(?:PRIMARY KEY \((?P<several>[^)]*)\)|(?P<one>\w+) [^\n,]*PRIMARY KEY)", re.MULTILINE
)
_SEARCH_PATH = re.compile(r"SET search_path = (\w+(?:, \w+)*)")


class Trigger(NamedTuple):
    """What a trigger does, and when."""

    timing: str
    events: tuple[str, ...]
    referencing: str
    each: str
    when: str
    executes: str


class Function(NamedTuple):
    """What a function does, and as whom."""

    body: str
    is_definers: bool
    search_path: str


@dataclass(slots=True)
class Definitions:
    """By qualified name; a trigger by its table and its own name."""

    triggers: dict[tuple[str, str], Trigger] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    primary_keys: dict[str, str] = field(default_factory=dict)
    """A table's columns, with a comma and a space between."""


def definitions(files: Iterable[SqlFile]) -> Definitions:
    """What there is once these files were run, in their order."""
    found = Definitions()
    for file in files:
        for match in _ANY.finditer(file.path.read_text(encoding="utf-8")):
            _take(found, match)
    return found


def read_trigger(text: str) -> Trigger | None:
    """A trigger in pg_get_triggerdef's words; None where ours are never like that."""
    match = _ONE_TRIGGER.fullmatch(text)
    return None if match is None else _trigger(match)


def _take(found: Definitions, match: re.Match[str]) -> None:
    if match["trigger"]:
        found.triggers[match["table"], match["trigger"]] = _trigger(match)
    elif match["function"]:
        options = match["options"]
        path = _SEARCH_PATH.search(options)
        found.functions[match["function"]] = Function(
            match["body"], "SECURITY DEFINER" in options, path[1] if path else ""
        )
    elif match["altered"]:
        altered = found.functions[match["altered"]]
        found.functions[match["altered"]] = altered._replace(search_path=match["path"])
    elif match["created"]:
        if key := _KEY.search(match["columns"]):
            found.primary_keys[match["created"]] = key["several"] or key["one"]
    elif match["view"]:
        found.views[match["view"]] = match["query"]
    else:
        found.triggers.pop((match["lost_table"], match["lost_trigger"]), None)
        found.functions.pop(match["lost_function"], None)
        found.views.pop(match["lost_view"], None)


def _trigger(match: re.Match[str]) -> Trigger:
    return Trigger(
        match["timing"],
        tuple(sorted(re.split(r"\s+OR\s+", match["events"]))),
        " ".join((match["referencing"] or "").split()),
        match["each"],
        # PostgreSQL writes a condition in small letters, and with more parentheses.
        re.sub(r"[\s()]", "", match["when"] or "").lower(),
        match["executes"],
    )
