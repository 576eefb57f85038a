"""The Grafana dashboard: it can be imported, and its panels ask for what there is."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from tests.monitoring.expressions import MONITORING, Served, for_prometheus, promtool

DASHBOARD: Final[dict[str, Any]] = json.loads(
    (MONITORING / "grafana" / "secrets-broker.json").read_text()
)
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS: Final = [
    for_prometheus(target["expr"]) for panel in PANELS for target in panel["targets"]
]
DATA_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def test_the_data_source_is_chosen_by_who_imports_it() -> None:
    """No uid of somebody's own Grafana is in it, and it has no number of one there."""
    first, *others = DASHBOARD["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    asking = [*others, *PANELS, *(target for panel in PANELS for target in panel["targets"])]
    assert all(one["datasource"] == DATA_SOURCE for one in asking)
    assert "id" not in DASHBOARD
    assert DASHBOARD["uid"] == "secrets-broker"
    assert DASHBOARD["schemaVersion"] == 39  # what Grafana 10.4 writes; later ones migrate it


def test_panels_stand_side_by_side_and_say_what_they_show() -> None:
    """Each has a number, a title and a description of its own, and none lies over another."""
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)
    assert all(panel["description"] and panel["targets"] for panel in PANELS)
    places = [panel["gridPos"] for panel in everything]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not [pair for pair in combinations(places, 2) if _overlap(*pair)]


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "w"), ("y", "h"))
    )


def test_prometheus_can_read_each_expression(tmp_path: Path) -> None:
    """As a rule that records it."""
    recording = [
        {"record": f"panel:number_{number}", "expr": expression}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    rules = tmp_path / "panels.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recording}]}))
    done = promtool("check", "rules", str(rules))
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_ask_for_metrics_and_labels_that_are_served(served: Served) -> None:
    """One that asks for a misspelt name would stay empty."""
    assert served.problems(EXPRESSIONS) == set()


def test_each_metric_has_a_panel(served: Served) -> None:
    """What is worth measuring is worth looking at; a 403 is in more detail among the refusals."""
    asked = " ".join(EXPRESSIONS)
    assert {name for name in served.families if name not in asked} == {
        "secrets_requests_forbidden_total"
    }
