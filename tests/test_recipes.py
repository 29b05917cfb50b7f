"""The recipes of deploy/: that what they name exists. `tests/recipes/run` has the programs."""

from __future__ import annotations

import fnmatch
import importlib
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from node.plot.series import Moment
from node.reading import AlarmOf, Layout, Reading
from node.store.consumer import Counts
from node.store.metrics import StoreCollector
from node.topics import Topics, history_payload, state_payload
from node.web.metrics import metrics_text
from node.web.view import NodeView
from node.web.watcher import Known

RECIPES = Path(__file__).parents[1] / "deploy/recipes"
README = (RECIPES / "README.md").read_text()

sys.path.append(str(RECIPES / "homeassistant"))
fill_hours = importlib.import_module("fill_hours")


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


# -- hours for Home Assistant

HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("readings", "valid_s", "hours"),
    [
        # One each half hour, each of which holds until the next.
        ([(0, 10.0), (1800, 20.0)], 1800, {0: (15.0, 10.0, 20.0, 3600)}),
        # A value that goes on for a quarter of an hour, and one for three.
        ([(0, 10.0), (900, 20.0)], 2700, {0: (17.5, 10.0, 20.0, 3600)}),
        # One that expires: it does not count for the time without a value.
        ([(0, 10.0), (1800, 20.0)], 600, {0: (15.0, 10.0, 20.0, 1200)}),
        # One that holds a little into an hour without any, and one that holds for all of it.
        ([(3000, 10.0)], 900, {0: (10.0, 10.0, 10.0, 600)}),
        (
            [(0, 10.0)],
            2 * HOUR_S,
            {0: (10.0, 10.0, 10.0, 3600), 3600: (10.0, 10.0, 10.0, 3600)},
        ),
        # One that holds into the next hour.
        (
            [(3000, 10.0), (4200, 20.0)],
            1200,
            {0: (10.0, 10.0, 10.0, 600), 3600: (50 / 3, 10.0, 20.0, 1800)},
        ),
        ([], 60, {}),
    ],
)
def test_an_hour_is_weighed_by_how_long_its_values_held(readings, valid_s, hours):
    found = fill_hours.hours_of(readings, valid_s)
    assert {start_s: tuple(hour) for start_s, hour in found.items()} == hours


values = st.floats(-50, 150, allow_nan=False)
moments = st.floats(0, 5 * HOUR_S).map(lambda at_s: round(at_s, 3))


@given(st.dictionaries(moments, values, min_size=1), st.floats(1, 2 * HOUR_S))
def test_an_hour_is_within_its_values_and_no_longer_than_an_hour(readings, valid_s):
    for start_s, hour in fill_hours.hours_of(readings.items(), valid_s).items():
        assert start_s % HOUR_S == 0
        assert 0 < hour.covered_s <= HOUR_S + 1e-6
        assert hour.low - 1e-9 <= hour.mean <= hour.high + 1e-9
        held = {v for at_s, v in readings.items() if at_s < start_s + HOUR_S}
        assert {hour.low, hour.high} <= held


@pytest.mark.parametrize(
    ("ours", "theirs", "better"),
    [
        ((20.5, 20, 21, 60), None, True),
        ((20.5, 20, 21, 3600), (20.5, 20, 21), False),
        ((20.5, 20, 21, 3600), (20.51, 20, 21), False),  # the way of the messages
        ((20.5, 20, 21, 3600), (20.1, 20, 20.2), True),  # it saw the beginning
        ((20.5, 20, 21, 3600), (20.9, 20, 21), True),  # it saw both ends
        ((20.5, 20, 21, 3000), (20.1, 20, 20.2), False),  # we did not see all either
        ((20.5, 20, 21, 3600), (20.5, 19, 21), False),  # it saw what we did not
        ((20.5, 20, 21, 3600), (20.1, 20 + 1e-12, 20.2), True),
    ],
)
def test_an_hour_is_replaced_only_by_one_that_has_more(ours, theirs, better):
    hour = fill_hours.Hour
    assert fill_hours.is_better(hour(*ours), theirs and hour(*theirs)) is better


def test_values_are_converted_to_the_unit_of_the_statistics():
    assert fill_hours.converted(68, "°F", "°C") == pytest.approx(20)
    assert fill_hours.converted(20, "°C", "K") == pytest.approx(293.15)
    assert fill_hours.converted(29.92, "inHg", "hPa") == pytest.approx(1013.2, abs=0.1)
    assert fill_hours.converted(45, "%", "%") == 45
    with pytest.raises(fill_hours.WrongUnit, match="in psi, and hPa cannot be converted"):
        fill_hours.converted(1013, "hPa", "psi")


# -- Telegraf

TELEGRAF = tomllib.loads((RECIPES / "telegraf/sensor-node.conf").read_text())
# https://docs.influxdata.com/telegraf/v1/: input-plugins/mqtt_consumer, data_formats/input/json,
# configuration/filtering, output-plugins/influxdb_v2
OF_TELEGRAF = {
    *("servers", "topics", "topic_tag", "qos", "client_id", "persistent_session"),
    *("max_undelivered_messages", "topic_parsing", "data_format", "json_query", "tag_keys"),
    *("json_string_fields", "json_time_key", "json_time_format", "name_override"),
    *("fieldexclude", "tagexclude", "tagpass", "namepass"),
    *("urls", "token", "organization", "bucket"),
}


def points(settings: dict[str, Any], topic: str, payload: bytes) -> list[tuple[Any, ...]]:
    """(tags, fields, time) that Telegraf makes of a message, as its documents have it.

    Numbers become fields; texts and truth values are left out unless they are named; null is left
    out; the keys of an object inside are joined by "_".
    """
    parsing = settings["topic_parsing"][0]
    levels = topic.split("/")
    assert len(levels) == len(parsing["topic"].split("/"))
    found = json.loads(payload)
    items = found[settings["json_query"]] if "json_query" in settings else [found]
    made = []
    for item in items:
        flat = dict(flattened(item))
        time = flat.pop(settings["json_time_key"])
        names = zip(parsing["tags"].split("/"), levels, strict=True)
        tags = {name: level for name, level in names if name != "_"}
        tags |= {key: flat.pop(key) for key in settings["tag_keys"] if key in flat}
        if any(tags.get(key) not in values for key, values in settings.get("tagpass", {}).items()):
            continue
        fields = {
            key: value
            for key, value in flat.items()
            if (type(value) in (int, float) or key in settings.get("json_string_fields", ()))
            and not any(fnmatch.fnmatchcase(key, glob) for glob in settings.get("fieldexclude", ()))
        }
        tags = {key: tag for key, tag in tags.items() if key not in settings.get("tagexclude", ())}
        made.append((tags, fields, time))
    return made


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flattened(inner, f"{name}_{key}" if name else key)
    else:
        yield name, value


def test_telegraf_is_told_only_what_it_documents():
    tables = [*TELEGRAF["inputs"]["mqtt_consumer"], *TELEGRAF["outputs"]["influxdb_v2"]]
    assert {key for table in tables for key in table} <= OF_TELEGRAF
    for table in TELEGRAF["inputs"]["mqtt_consumer"]:
        assert [parsing["topic"] for parsing in table["topic_parsing"]] == table["topics"]
        # How Go writes the form of a time; parsing accepts digits after the second.
        assert table["json_time_format"] == "2006-01-02T15:04:05Z07:00"


def test_telegraf_makes_the_same_point_of_a_state_and_of_its_reading():
    topics = Topics("sensors", "greenhouse")
    of_history, of_state = TELEGRAF["inputs"]["mqtt_consumer"]
    air = Layout("air", ("temperature", "humidity"), ("°C", "%"))
    alarm = Layout("air", ("", "limit", "value"), ("", "°C", "°C"), AlarmOf("warm", "t", "above"))
    at: dict[str, Any] = {"boot_id": "b", "boot_ms": 1, "utc_ms": 1_795_489_983_123}
    reading = Reading(7, air, (21.5, 45.0), synced=True, **at)
    changed = Reading(8, alarm, (1, 8.0, 9.1), synced=True, **at)
    accuracy = {"air": {"temperature": 0.5}}
    batch = history_payload("s", [reading, changed], accuracy=accuracy, simulated=True)
    first, second = points(of_history, topics.history, batch)
    tags = {"node": "greenhouse", "sensor": "air"}
    values = {"temperature": 21.5, "humidity": 45.0, "seq": 7}
    assert first == (tags, {**values, "clock": "synced"}, "2026-11-24T03:13:03.123Z")
    assert second == (tags, {"seq": 8, "clock": "synced"}, "2026-11-24T03:13:03.123Z")
    state = state_payload(reading, "s", missing=["pressure"])
    assert points(of_state, topics.state("air"), state) == [(tags, values, first[2])]
    unsure = state_payload(Reading(7, air, (21.5, 45.0), synced=False, **at), "s")
    assert points(of_state, topics.state("air"), unsure) == []
