"""The recipes of deploy/: that what they name exists. `tests/recipes/run` has the programs."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from node.plot.series import Moment
from node.store.consumer import Counts
from node.store.metrics import StoreCollector
from node.web.metrics import metrics_text
from node.web.view import NodeView
from node.web.watcher import Known

RECIPES = Path(__file__).parents[1] / "deploy/recipes"
README = (RECIPES / "README.md").read_text()


def metric_names() -> set[str]:
    """The metrics of the page and of `store`, by their own words."""
    node = NodeView("", "running", Known(Moment(0, 0, "")), None, (), (), "")
    registry = CollectorRegistry()
    registry.register(StoreCollector(Counts()))
    said = metrics_text(node) + generate_latest(registry).decode()
    return set(re.findall(r"(?m)^# TYPE (\S+)", said))


@pytest.mark.parametrize(
    "file", ["prometheus/rules.yml", "grafana/dashboards/sensor-node-prometheus.json"]
)
def test_each_metric_of_a_recipe_exists(file):
    used = set(re.findall(r"\bsensor_node_\w+", (RECIPES / file).read_text()))
    assert used
    assert used - metric_names() == set()


def test_the_readme_has_each_alert_and_the_time_that_it_takes():
    rules = yaml.safe_load((RECIPES / "prometheus/rules.yml").read_text())
    ours = {
        rule["alert"]: rule.get("for", "at once").replace("m", " min")
        for group in rules["groups"]
        for rule in group["rules"]
    }
    rows = re.findall(r"(?m)^\| (`S\w+`.*?) \|.*\| (.*?) \|$", README)
    told = {name: after for names, after in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == ours


DASHBOARDS = sorted((RECIPES / "grafana/dashboards").glob("*.json"))


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_the_panels_of_a_dashboard_do_not_overlap(file):
    panels = json.loads(file.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        for at in (panel["gridPos"] for panel in panels)
    ]
    assert sum(map(len, cells)) == len(set().union(*cells))
    assert all(x < 24 for x, _ in set().union(*cells))


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_finds_the_source_that_is_provisioned(file):
    provisioned = (RECIPES / "grafana/provisioning/datasources/sensor-node.yaml").read_text()
    sources = {(s["type"], s["uid"], s["name"]) for s in yaml.safe_load(provisioned)["datasources"]}
    variable = json.loads(file.read_text())["templating"]["list"][0]
    current = variable["current"]
    assert (variable["query"], current["value"], current["text"]) in sources
