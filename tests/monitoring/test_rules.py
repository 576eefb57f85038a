"""The alerts: Prometheus takes them, they fire when they should, and ask for what there is."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.monitoring.expressions import DOCS, MONITORING, Served, promtool
from tests.repository import ROOT

PROMETHEUS: Final = MONITORING / "prometheus"
RULES: Final[list[dict[str, Any]]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
TESTS: Final = [PROMETHEUS / "rules_test.yml", PROMETHEUS / "spike_test.yml"]
SEVERITIES: Final = {"critical", "warning", "info"}


def anchors(page: Path) -> set[str]:
    """The headings of a page, as a link names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_prometheus_takes_the_rules() -> None:
    """As `promtool check rules` says."""
    done = promtool("check", "rules", str(PROMETHEUS / "rules.yml"))
    assert (done.returncode, f"{len(RULES)} rules found" in done.stdout) == (0, True), done.stderr


def test_alerts_fire_when_they_should_and_not_else() -> None:
    """As `promtool test rules` says."""
    done = promtool("test", "rules", *map(str, TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_seen_firing_and_quiet() -> None:
    """In the rules' own tests: one in which it fires, and one that is well."""
    expected = "".join(path.read_text() for path in TESTS)
    fired = set(re.findall(r'alertname="(\w+)"', expected))
    fired |= set(re.findall(r"alertname: (\w+)\s+exp_alerts:\s+- exp_labels", expected))
    assert fired == {rule["alert"] for rule in RULES}
    well = yaml.safe_load(TESTS[0].read_text())["tests"][0]
    series = " ".join(one["series"] for one in well["input_series"])
    asked = {name for rule in RULES for name in re.findall(r"secrets_\w+", rule["expr"])}
    assert {name for name in asked if name not in series} == set()


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    """Its severity, two sentences, and the place in the docs that says what to do."""
    assert rule["labels"]["severity"] in SEVERITIES
    annotations = rule["annotations"]
    assert {"summary", "description", "runbook"} <= annotations.keys()
    page, anchor = annotations["runbook"].split("#")
    assert anchor in anchors(ROOT / page)


@pytest.mark.skipif(not (DOCS / "incidents.md").exists(), reason="there is no docs/incidents.md")
def test_incidents_that_alerts_name_are_described() -> None:
    """Each has its heading in docs/incidents.md."""
    named = {rule["annotations"].get("incident") for rule in RULES} - {None}
    known = {f"docs/incidents.md#{anchor}" for anchor in anchors(DOCS / "incidents.md")}
    assert named <= known


def test_alerts_ask_for_metrics_and_labels_that_are_served(served: Served) -> None:
    """One that asks for a misspelt name would never fire."""
    assert served.problems(rule["expr"] for rule in RULES) == set()


def test_a_misspelt_name_would_be_found(served: Served) -> None:
    """The test above can fail: by a metric, by a label's value."""
    assert served.problems(["rate(secrets_lookups_total[5m]) > 0"]) == {"secrets_lookups_total"}
    wrong = 'secrets_refusals_total{rule=~"no_key|nokey", job="x"}'
    assert served.problems([wrong]) == {("rule", "nokey")}


def test_each_metric_is_described_with_its_type(served: Served) -> None:
    """docs/monitoring.md lists what is served, and nothing else."""
    page = (DOCS / "monitoring.md").read_text()
    described = dict(re.findall(r"^\| `(secrets_\w+)`[^|]* \| (\w+) \|", page, re.MULTILINE))
    assert described == served.families
