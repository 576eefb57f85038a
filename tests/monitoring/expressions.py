"""What rules and panels ask for, and whether there is such a thing."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.http.client import Service

ROOT: Final = Path(__file__).parents[2]
MONITORING: Final = ROOT / "monitoring"
DOCS: Final = ROOT / "docs"

_NAME: Final = re.compile(r"\b(?:secrets_\w+|up)\b")
_MATCHER: Final = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GRAFANAS: Final = {"$__rate_interval": "5m", "$job": ".*"}
PROMETHEUS_OWN: Final = frozenset({"up"})
_TARGETS: Final = frozenset({"job", "instance"})


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run it; the test is skipped where it is not installed."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return subprocess.run([found, *arguments], check=False, capture_output=True, text=True)


def names(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    return set(_NAME.findall(_MATCHER.sub("", expression)))


def unknown_words(expression: str, known: Mapping[str, Set[str]]) -> set[tuple[str, str]]:
    """The values that it compares labels with, and that no label has."""
    found: set[tuple[str, str]] = set()
    for label, how, value in _MATCHER.findall(expression):
        words = value.split("|") if "~" in how else [value]
        if label not in _TARGETS:
            found |= {(label, word) for word in words if word not in known.get(label, set())}
    return found


def for_prometheus(expression: str) -> str:
    """A panel's expression with what Grafana would put in."""
    for variable, text in _GRAFANAS.items():
        expression = expression.replace(variable, text)
    return expression


class Served:
    """The metrics and labels that a running service has."""

    def __init__(self, service: Service) -> None:
        text = service.get("/metrics").body.decode()
        self.names: set[str] = set()
        self.families: dict[str, str] = {}
        self.words: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(text):
            # The parser takes the ending off, and a page names it.
            ending = "_total" if family.type == "counter" else ""
            self.families[family.name + ending] = family.type
            for sample in family.samples:
                self.names.add(sample.name)
                for label, value in sample.labels.items():
                    self.words.setdefault(label, set()).add(value)

    def problems(self, expressions: Iterable[str]) -> set[object]:
        """What is asked for and not there."""
        missing: set[object] = set()
        for expression in expressions:
            missing |= names(expression) - self.names - PROMETHEUS_OWN
            missing |= unknown_words(expression, self.words)
        return missing
