"""The dashboard and the alerts ask for what is exported, by names and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from easyproxy.admin.metrics import METRICS, RELOADS, STATES

PACKAGING = Path(__file__).parents[3] / "packaging"
DASHBOARD = json.loads((PACKAGING / "grafana" / "easyproxy.json").read_text())
RULES = yaml.safe_load((PACKAGING / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
LABELS = {
    name: {*metric.labels, "instance", "job"} | ({"le"} if metric.kind == "histogram" else set())
    for metric in METRICS
    for name in (
        (f"{metric.name}_bucket", f"{metric.name}_sum", f"{metric.name}_count")
        if metric.kind == "histogram"
        else (metric.name,)
    )
}
SELECTOR = re.compile(r"(easyproxy_\w+)(?:\{([^}]*)\})?")
VALUES = {"state": set(STATES), "outcome": set(RELOADS), "source": {"client", "backend"}}


def texts(node: object) -> Iterator[str]:
    """Give every text of the document; a query may stand in a panel, a variable or an annotation."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            if key not in {"uid", "title"}:
                yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)


def selectors() -> Iterator[tuple[str, str]]:
    for text in [*texts(DASHBOARD), *(rule["expr"] for rule in RULES)]:
        yield from SELECTOR.findall(text)


def test_every_query_asks_for_a_metric_that_is_exported():
    asked = {name for name, _ in selectors()}
    assert len(asked) > 25
    assert asked <= LABELS.keys()


def test_every_query_uses_labels_and_values_that_exist():
    for name, inside in selectors():
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', inside):
            assert label in LABELS[name], (name, label)
            if label in VALUES:
                assert set(value.split("|")) <= VALUES[label], (name, value)


def panels() -> list[dict]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_grouping_and_legends_name_labels_of_their_metric():
    for panel in panels():
        for target in panel["targets"]:
            known = set.union(*(LABELS[name] for name, _ in SELECTOR.findall(target["expr"])))
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            assert {label.strip() for each in grouped for label in each.split(",")} <= known, target
            kept = {label.strip() for each in grouped for label in each.split(",")} - {"le"} or known
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, target
    for rule in RULES:
        known = set.union(*(LABELS[name] for name, _ in SELECTOR.findall(rule["expr"])), {"instance"})
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= known, rule


def test_counters_are_asked_for_their_rate_and_gauges_are_not():
    kinds = {metric.name: metric.kind for metric in METRICS}
    for text in [*texts(DASHBOARD), *(rule["expr"] for rule in RULES)]:
        for function, name in re.findall(r"\b(\w+)\((easyproxy_\w+)", text):
            if function in {"rate", "increase"}:
                assert kinds.get(name, "histogram") != "gauge", text
        for name, _ in SELECTOR.findall(text):
            if kinds.get(name) == "counter" and "(" in text:
                assert re.search(rf"(rate|increase)\({name}\b", text), text


def test_panels_have_their_own_places_and_numbers():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_dashboard_belongs_to_no_data_source_of_its_maker():
    """It is imported elsewhere: a fixed uid would show nothing there."""
    found = re.findall(r'"uid": "([^"]*)"', json.dumps(DASHBOARD))
    assert set(found) == {"${datasource}", "easyproxy"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_is_tested_and_says_what_to_do(rule):
    tests = (PACKAGING / "prometheus" / "alerts_test.yml").read_text()
    assert f"alertname: {rule['alert']}\n" in tests
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
