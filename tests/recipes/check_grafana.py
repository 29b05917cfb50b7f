"""The dashboards for Grafana: each query on its real source, and their form by Grafana's types.

There is no Grafana here. What it would do with a query before it sends it, these tests do: its
variables, and the macros of its PostgreSQL source (`macros.go` there).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import Postgres
from servers import RECIPES, Installation
from store_support import StoreProcess
from support import Mosquitto, Subscriber, open_folder, replaced, wait_until

FOLDER = RECIPES / "grafana"
DASHBOARDS = sorted((FOLDER / "dashboards").glob("*.json"))
NPM = Path(os.environ["SENSOR_NODE_TEST_NPM"])
"""The folder with the packages of npm that `run` has installed."""


def dashboard(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (FOLDER / f"dashboards/sensor-node-{name}.json").read_text()
    )
    return content


# -- the form


def faults(tmp_path: Path, text: str) -> str:
    """What TypeScript finds wrong with the text of a dashboard, by Grafana's types."""
    (tmp_path / "node_modules").symlink_to(NPM / "node_modules")
    types = Path(__file__).with_name("dashboard.ts").read_text()
    (tmp_path / "dashboard.ts").write_text(types + text)
    command = [str(NPM / "node_modules/.bin/tsc"), "--noEmit", "--strict", "--skipLibCheck"]
    command += ["--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"]
    done = subprocess.run(
        [*command, "dashboard.ts"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_has_the_form_that_grafana_documents(file, tmp_path):
    assert faults(tmp_path, file.read_text()) == ""


@pytest.mark.parametrize(
    "change",
    [
        ('"insertNulls"', '"insertNull"'),
        ('"decimals": 2', '"decimals": "2"'),
        ('"schemaVersion": 39', '"schema": 39'),
    ],
)
def test_a_mistake_in_the_form_would_be_found(change, tmp_path):
    """The control of the test above."""
    text = (FOLDER / "dashboards/sensor-node-postgresql.json").read_text()
    assert faults(tmp_path, replaced(text, change)) != ""


# -- PostgreSQL


def expanded(sql: str, channels: list[str]) -> str:
    """A query as Grafana sends it, of the last seven days."""
    now = datetime.now(UTC)
    since, until = (moment.isoformat() for moment in (now - timedelta(days=7), now))

    def group(match: re.Match[str]) -> str:
        seconds = 3600 if "1h" in match[2] else 60
        return f'floor(extract(epoch from {match[1]})/{seconds})*{seconds} AS "time"'

    sql = re.sub(r"\$__timeGroupAlias\((.*?),(.*?)\)", group, sql)
    sql = re.sub(r"\$__timeFilter\((.*?)\)", rf"\1 BETWEEN '{since}' AND '{until}'", sql)
    for name, values in (("node", ["attic", "cellar"]), ("channel", channels)):
        sql = sql.replace(f"${{{name}:sqlstring}}", ",".join(f"'{value}'" for value in values))
    assert "$" not in sql
    return sql


def batch(stream: str, *readings: dict[str, Any], **other: Any) -> str:
    now = datetime.now(UTC)
    for reading in readings:
        ago = timedelta(minutes=reading.pop("minutes_ago"))
        reading.update(time=(now - ago).isoformat(), clock=reading.get("clock", "synced"))
    return json.dumps({"stream": stream, "readings": readings, **other})


def air(seq: int, minutes_ago: int, **values: Any) -> dict[str, Any]:
    return {"seq": seq, "sensor": "air", "minutes_ago": minutes_ago, **values}


ALARM = {"name": "warm", "channel": "temperature", "state": "on", "limit": 8.0, "value": 9.1}
HISTORY = {
    "attic": [
        batch("a", air(1, 90, temperature=20.0, humidity=45.0), air(2, 30, temperature=22.0)),
        batch("a", air(6, 20, temperature=21.0), air(7, 19, alarm=ALARM)),
        "this is not a batch",
    ],
    "cellar": [
        batch("c", air(1, 80, temperature=12.0, clock="unsynced")),
        batch("c", air(2, 5, temperature=13.0), simulated=True),
    ],
}
"""What comes as history: values, a gap of three readings, an alarm, and rubbish."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the user of `reader.sql`, to a database that `store` has filled."""
    broker = Mosquitto(tmp_path).start()
    with open_folder() as folder:
        server = Postgres(folder)
        server.start()
        store = StoreProcess(tmp_path, server.address, broker.port)
        client = Subscriber(broker.port)
        try:
            store.wait_for_log("connected to")
            for node, messages in HISTORY.items():
                for message in messages:
                    client.client.publish(f"sensors/{node}/history", message, 1)
            stored = "SELECT count(*) FROM sensor_node.{}"
            tables = ("reading", "event", "rejected")
            wait_until(lambda: [server.ask(stored.format(t))[0][0] for t in tables] == [6, 1, 1])
            server.ask((FOLDER / "reader.sql").read_text())
            address = server.address.replace("store@", "grafana@")
            with psycopg.connect(address, autocommit=True) as connection:
                yield connection
        finally:
            client.close()
            store.kill()
            server.stop(signal.SIGQUIT)
            broker.stop()


def test_each_query_of_the_postgresql_dashboard_has_an_answer(reader):
    found = dashboard("postgresql")

    def ask(sql: str, channels: list[str]) -> list[dict[str, Any]]:
        cursor = reader.cursor(row_factory=psycopg.rows.dict_row)
        return list(cursor.execute(expanded(sql, channels).encode()))

    variables = {v["name"]: v["query"] for v in found["templating"]["list"]}
    assert ask(variables["node"], []) == [{"node": "attic"}, {"node": "cellar"}]
    channels = [row["channel"] for row in ask(variables["channel"], [])]
    assert channels == ["humidity", "temperature"]
    rows = {}
    for panel in found["panels"]:
        for target in panel.get("targets", ()):
            only = ["temperature"] if panel.get("repeat") == "channel" else channels
            rows[panel["title"]] = ask(target["rawSql"], only)
            assert rows[panel["title"]], panel["title"]
            if target["format"] == "time_series":
                assert list(rows[panel["title"]][0]) == ["time", "metric", "value"]
    series = [(row["metric"], row["value"]) for row in rows["$channel"]]
    assert series == [
        ("attic/air", 20.0),
        ("cellar/air", 12.0),
        ("attic/air", 22.0),
        ("attic/air", 21.0),
    ]
    newest = [(r["node"], r["channel"], r["value"]) for r in rows["Newest values"]]
    assert newest == [
        ("attic", "humidity", 45.0),
        ("attic", "temperature", 21.0),
        ("cellar", "temperature", 12.0),
    ]
    gap = {"node": "attic", "first_seq": 3, "last_seq": 5, "readings": 3, "lost": False}
    assert gap in rows["Gaps: readings that are missing"]
    [alarm] = rows["Alarms"]
    assert (alarm["node"], alarm["alarm"], alarm["state"], alarm["value"]) == (
        "attic",
        "warm",
        "on",
        9.1,
    )
    assert rows["Readings whose time is not certain"] == [{"readings": 1}]
    assert rows["Readings of simulated hardware"] == [{"readings": 1}]
    [annotation] = found["annotations"]["list"]
    [noted] = ask(annotation["target"]["rawSql"], [])
    assert (noted["text"], noted["tags"]) == ("attic/air: warm", "on")


def test_the_reader_cannot_change_anything(reader):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("DELETE FROM sensor_node.reading")


def test_the_recipe_for_home_assistant_reads_it_too(reader):
    sys.path.append(str(RECIPES / "homeassistant"))
    fill_hours = importlib.import_module("fill_hours")
    address = f"postgresql://grafana@127.0.0.1:{reader.info.port}/postgres"
    with contextlib.closing(fill_hours.Readings(address)) as readings:
        # Those of the cellar are not certain in time, or not real.
        for node, values in (("attic", [20.0, 22.0, 21.0]), ("cellar", [])):
            entity = fill_hours.Entity("sensor.x", node, "air", "temperature", "°C", 60.0)
            found = readings.of(entity, time.time() - 7200)
            assert [value for _, value in sorted(found)] == values
            assert all(0 < time.time() - at_s < 7200 for at_s, _ in found)
            assert len(readings.of(entity, time.time() - 1800)) < max(1, len(values))
    with pytest.raises(fill_hours.Problem, match=r"--from: .*does not exist"):
        fill_hours.Readings(f"{address}-none")


# -- Prometheus

MAY_BE_EMPTY = {
    "sensor_node_wifi_signal_dbm",
    "sensor_node_cpu_temperature_celsius",
    "sensor_node_rejected_values_total",
}
"""What this computer, or a node without faults, does not have."""


def test_each_query_of_the_prometheus_dashboard_has_an_answer(tmp_path):
    board = dashboard("prometheus")
    with Installation(tmp_path) as ours:
        prometheus = ours.start_prometheus()
        ours.box.write_text("9500\n")
        wait_until(lambda: ("SensorNodeAlarm", "box") in prometheus.firing(), 90)
        # The clock of this computer may not be set, and then no reading of the node has a sure age.
        with contextlib.closing(Subscriber(ours.broker.port)) as client:
            client.client.publish(
                "sensors/attic/history", batch("a", air(1, 0, temperature=20.0)), 1
            )
            newest = (
                "time() - sensor_node_store_newest_reading_timestamp_seconds{node='attic'} < 300"
            )
            wait_until(lambda: prometheus.value(newest), 60)

        def ask(target: dict[str, Any]) -> list[Any]:
            expr = target["expr"]
            for name, value in (
                ("$node", ".*"),
                ("$channel", "temperature"),
                ("$__rate_interval", "1m"),
            ):
                expr = expr.replace(name, value)
            assert "$" not in expr
            if target.get("instant"):
                return list(prometheus.api("query", query=expr)["result"])
            now = datetime.now(UTC).timestamp()
            times = {"start": str(now - 30), "end": str(now), "step": "1"}
            return list(prometheus.api("query_range", query=expr, **times)["result"])

        targets = [t for panel in board["panels"] for t in panel.get("targets", ())]
        targets += board["annotations"]["list"]
        for target in targets:
            if not any(name in target["expr"] for name in MAY_BE_EMPTY):
                assert ask(target), target["expr"]
            ask(target)
        for variable in board["templating"]["list"][1:]:
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found
            series = prometheus.api("series", **{"match[]": found[1].replace("$node", ".*")})
            assert all(found[2] in one for one in series)
            assert series
        alarms = next(p for p in board["panels"] if p["title"] == "Alarms that are on")
        assert ask(alarms["targets"][0])[0]["value"][1] == "1"
        no_such = {"expr": "sensor_node_no_such_metric"}
        assert ask(no_such) == []  # the control: a name that is wrong has no answer
