"""How far a value may be off: from the datasheet through calibration, unit and formula."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment
from support import retained, wait_until

from drivers.base import HUMIDITY, TEMPERATURE
from node.cli.main import main
from node.config.load import load
from node.config.schema import Config
from node.derive.functions import DewPoint, WetBulb
from node.derive.parts import Derived
from node.homeassistant.discovery import AnnouncedChannel, AnnouncedSensor, device_message
from node.plot.buckets import Bucket
from node.plot.svg import Plot, render
from node.reading import ReadOutcome
from node.sensors.state import SensorState
from node.system.host import Vitals
from node.uncertainty import of_derived, of_middle

AIR = '[[sensor]]\nid = "air"\ndriver = "sht31d"\naddress = 0x44\n'  # ±0.2 °C (0 to 90 °C), ±2 %
TANK = '[[sensor]]\nid = "tank"\ndriver = "ds18b20"\naddress = "28-0316a2795bff"\n'  # ±0.5 °C


def config_of(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "node.toml"
    file.write_text(f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\n{text}', encoding="utf-8")
    return load(file)


def state_of(tmp_path: Path, text: str, **measured: float) -> SensorState:
    """The state of the first sensor after a reading of each."""
    tables = config_of(tmp_path, text).sensors
    states = {table.id: SensorState(table) for table in tables}
    for table in reversed(tables):
        states[table.id].others = states
        known = {channel.name for channel in table.info.channels_with(table.options)}
        states[table.id].accept(
            ReadOutcome(
                sensor=table.id,
                started_s=0,
                ended_s=0,
                boot_s=0,
                utc_s=0,
                synced=True,
                measurement={name: value for name, value in measured.items() if name in known},
                channels=(TEMPERATURE, HUMIDITY),
            )
        )
    return states[tables[0].id]


NOTHING = Vitals(cpu_temperature=None, wifi_dbm=None, under_voltage=None, throttled=None)


@pytest.mark.parametrize(
    ("keys", "limit"),
    [
        ("", 0.2),
        ("offset = 3.0\n", 0.2),
        ("unit = '°F'\n", 0.36),
        ("calibrate = [[0, 0], [50, 100]]\n", 0.4),
        ("calibrate = [[0, 0], [10, 10], [30, 20]]\n", 0.1),
        ("unit = '°F'\ncalibrate = [[32, 32], [122, 212]]\n", 0.72),
    ],
)
def test_it_is_carried_through_the_filters(tmp_path, keys, limit):
    text = f"{AIR}[sensor.channel.temperature]\n{keys}"
    assert state_of(tmp_path, text, temperature=21.0, humidity=50.0).accuracy() == {
        "temperature": limit,
        "humidity": 2.0,
    }


def test_outside_the_ranges_of_the_datasheet_it_is_silent_and_so_is_what_follows(tmp_path):
    """-5 °C is outside the 0 to 90 °C of the row."""
    text = f"{AIR}[sensor.derive]\ndew_point = true\n"
    assert "dew_point" in state_of(tmp_path, text, temperature=5.0, humidity=50.0).accuracy()
    frost = state_of(tmp_path, text, temperature=-5.0, humidity=50.0).accuracy()
    assert frost == {"humidity": 2.0}


def test_a_formula_propagates_as_a_simulation_of_its_parts_does():
    """The oracle of GUM supplement 1: draw the parts, look at the spread of the results."""
    draw = random.Random(1)
    for function, parts, limits in (
        (
            DewPoint(),
            {"temperature": 20.0, "humidity": 50.0},
            {"temperature": 0.2, "humidity": 2.0},
        ),
        (WetBulb(), {"temperature": 30.0, "humidity": 40.0}, {"temperature": 0.5, "humidity": 3.0}),
    ):
        derived = Derived(function.channel, function, {})
        drawn = [
            derived.value({k: v + draw.uniform(-limits[k], limits[k]) for k, v in parts.items()})
            for _ in range(3000)
        ]
        mean = sum(drawn) / len(drawn)
        deviation = math.sqrt(sum((d - mean) ** 2 for d in drawn) / len(drawn))
        assert of_derived(derived, parts, limits) == pytest.approx(
            math.sqrt(3) * deviation, rel=0.05
        )
        assert of_derived(derived, parts, {**limits, "humidity": None}) is None


def test_two_independent_sensors_are_better_than_one():
    assert of_middle([0.5, 0.5]) == pytest.approx(0.5 / math.sqrt(2))
    assert of_middle([0.5]) == 0.5
    assert of_middle([0.5, None]) is None
    assert of_middle([]) is None


def test_a_window_is_as_uncertain_as_its_channel(tmp_path):
    keys = 'day = {function = "max", of = "temperature", window = "1h"}'
    state = state_of(tmp_path, f"{AIR}[sensor.derive]\n{keys}\n", temperature=1.0, humidity=5.0)
    for _, window, _ in state.windows:
        window.is_complete = True
    assert state.outcome is not None
    state.accept(state.outcome)
    assert state.accuracy()["day"] == 0.2


def test_a_part_of_another_sensor_brings_its_own(tmp_path):
    both = f'{AIR}[sensor.derive]\nvpd = {{temperature = "tank/temperature"}}\n{TANK}'
    alone = f"{AIR}[sensor.derive]\nvpd = true\n"
    measured = {"temperature": 21.0, "humidity": 50.0}
    of_two = state_of(tmp_path, both, **measured).accuracy()["vpd"]
    assert of_two > state_of(tmp_path, alone, **measured).accuracy()["vpd"]


# -- where it is shown


def test_read_shows_it(tmp_path, capsys):
    config_of(tmp_path, f"{AIR}[sensor.derive]\ndew_point = true\n")
    arguments = ["read", "--simulate", "--config", str(tmp_path / "node.toml")]
    assert main(arguments) == 0
    rows = {line.split()[2]: line for line in capsys.readouterr().out.splitlines()}
    assert "±0.2 °C" in rows["temperature"]
    assert "±0." in rows["dew_point"]
    assert main([*arguments, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["uncertainty"]["temperature"] == 0.2
    assert 0.2 < result["uncertainty"]["dew_point"] < 2


def test_health_has_it(broker, start_node):
    text = f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
    start_node(text + AIR, "--simulate")
    topic = "sensors/test/health"

    def accuracy() -> Any:
        health = json.loads(retained(broker.port, topic).get(topic, "{}"))
        return health and health["sensors"]["air"]["accuracy"]

    wait_until(lambda: accuracy() == {"temperature": 0.2, "humidity": 2.0})


def test_history_has_it_once_for_a_connection(broker, start_node, subscribe):
    subscriber = subscribe(broker.port)
    text = f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
    text += f'[outbox]\nhistory_interval = "0.2s"\n{AIR}interval = "0.2s"\n'

    def batches() -> list[Any]:
        return [json.loads(payload) for payload in subscriber.on("sensors/test/history")]

    def said() -> list[Any]:
        return [batch["accuracy"] for batch in batches() if "accuracy" in batch]

    start_node(text, "--simulate")
    wait_until(said)
    count = len(batches())
    wait_until(lambda: len(batches()) > count + 3)
    assert said() == [{"air": {"temperature": 0.2, "humidity": 2.0}}]
    broker.stop()
    broker.start()
    again = subscribe(broker.port)
    wait_until(lambda: any("accuracy" in p for p in again.on("sensors/test/history")))


def test_home_assistant_gets_it_as_an_attribute(tmp_path):
    config = config_of(tmp_path, AIR)
    channel = AnnouncedChannel("temperature", "°C", 1, has_accuracy=True)
    sensors = [AnnouncedSensor(config.sensors[0], "air", (channel,))]
    message = device_message(config, "device", sensors, NOTHING, "model", has_led=False)
    component = message["cmps"]["air.temperature"]
    assert component["json_attr_t"] == "sensors/test/health"
    template = Environment().from_string(component["json_attr_tpl"])
    health = {"sensors": {"air": {"accuracy": {"temperature": 0.2}}}}
    assert json.loads(template.render(value_json=health)) == {"accuracy": 0.2}
    others: list[dict[str, Any]] = [{}, {"sensors": {}}, {"sensors": {"air": {}}}]
    for other in others:
        assert json.loads(template.render(value_json=other)) == {}
    assert json.loads(template.render()) == {}


def test_the_plot_has_it_as_a_band_within_its_frame():
    buckets = [Bucket(n * 60_000, 21.0, 21.2, 21.1, 3, unsynced=False) for n in range(4)]
    keys: dict[str, Any] = {"key": "k", "title": "t", "unit": "°C", "decimals": 1}
    keys |= {"buckets": buckets, "width_ms": 60_000, "start_ms": 0, "end_ms": 240_000}
    keys["gap_ms"] = 200_000
    svg = render(Plot(**keys, accuracy=0.5))
    assert 'class="accuracy"' in svg
    assert "±0.5 °C by its datasheet" in svg
    path = svg.partition('class="accuracy" d="M')[2].partition('Z"')[0]
    heights = [float(point.split()[1]) for point in path.split("L")]
    assert min(heights) >= 8
    assert max(heights) <= 130
    assert "accuracy" not in render(Plot(**keys))
