"""Derived channels from the configuration to the broker: parts, circles, staleness, restarts."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from homeassistant_schema import problems_in
from support import FakeClock, retained, wait_until

from drivers.base import HUMIDITY, TEMPERATURE, Channel
from node.cli.main import main
from node.config.load import ConfigError, load
from node.config.schema import Config, OutboxTable
from node.derive.functions import functions
from node.outbox.outbox import Outbox
from node.reading import Layout, ReadOutcome
from node.report.refill import refill_windows
from node.report.topic_list import published_topics
from node.sensors.state import SensorState
from node.watch.model import units_of

AIR = '[[sensor]]\nid = "air"\ndriver = "dht22"\npin = 23\n'
CELLAR = '[[sensor]]\nid = "cellar"\ndriver = "dht22"\npin = 24\n'

BME_AIR = '[[sensor]]\nid = "air"\ndriver = "bme280"\naddress = 0x76\n'
BME_CELLAR = '[[sensor]]\nid = "cellar"\ndriver = "bme280"\naddress = 0x77\n'


def config_of(tmp_path: Path, text: str, mqtt: str = "") -> Config:
    file = tmp_path / "node.toml"
    file.write_text(f'[mqtt]\nhost = "127.0.0.1"\n{mqtt}{text}', encoding="utf-8")
    return load(file)


def derive(*lines: str) -> str:
    return "[sensor.derive]\n" + "\n".join(lines) + "\n"


def states_of(config: Config) -> dict[str, SensorState]:
    states = {table.id: SensorState(table) for table in config.sensors}
    for state in states.values():
        state.others = states
    return states


def outcome(sensor: str, at_s: float, **values: float) -> ReadOutcome:
    return ReadOutcome(
        sensor=sensor,
        started_s=at_s,
        ended_s=at_s,
        boot_s=at_s,
        utc_s=at_s,
        synced=True,
        measurement=values or None,
        channels=(TEMPERATURE, HUMIDITY),
    )


# -- the configuration


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (AIR + 'derive = "dew_point"\n', "line 7: [[sensor]] air derive: expected a table"),
        (
            AIR + derive("dew_pont = true"),
            "line 8: [[sensor]] air derive.dew_pont: is not the name of a function; did you mean "
            "dew_point?",
        ),
        (
            AIR + derive('peak = {of = "temperature", window = "1h"}'),
            "derive.peak: is not the name of a function; choose its function, as in "
            '{function = "max", ...}; known here: dew_point, absolute_humidity, vpd,',
        ),
        (
            AIR + derive('peak = {function = "maxi", of = "temperature", window = "1h"}'),
            "derive.peak.function: unknown function; did you mean max",
        ),
        (
            AIR + derive("dew_point = 3"),
            "derive.dew_point: expected true, or a table: "
            '{temperature = "SENSOR/temperature", humidity = "SENSOR/humidity"}',
        ),
        (
            AIR + derive("altitude = 340"),
            "derive.altitude: is not the name of a function; it is a key of sea_level_pressure: "
            "sea_level_pressure = {altitude = ...}",
        ),
        (AIR + derive("sea_level_pressure = true"), "sea_level_pressure.altitude: is missing"),
        (
            AIR + derive("sea_level_pressure = {altitude = 340}"),
            "derive.sea_level_pressure: this sensor has no channel pressure: name one, "
            '{pressure = "SENSOR/CHANNEL"}',
        ),
        (
            AIR + derive('dew_point = {temperature = "celler/temperature"}') + CELLAR,
            "derive.dew_point.temperature: there is no sensor of this name; did you mean cellar?",
        ),
        (
            AIR + derive('dew_point = {temperature = "cellar/temprature"}') + CELLAR,
            "derive.dew_point.temperature: cellar does not have this channel; did you mean "
            "temperature?",
        ),
        (
            AIR + derive('dew_point = {temperature = "humidity"}'),
            "derive.dew_point.temperature: expected a channel in °C; temperature is in %",
        ),
        (
            AIR + derive('dew_point = {temperature = "a b"}'),
            'dew_point.temperature: expected the name of a channel of this sensor, or "SENSOR/',
        ),
        (AIR + derive("dew_point = {altitude = 3}"), "dew_point.altitude: unknown key"),
        (
            AIR + derive('temperature = {function = "dew_point"}'),
            "derive.temperature: is a channel that the sensor measures; choose another name",
        ),
        (
            AIR + derive('seq = {function = "dew_point"}'),
            "derive.seq: cannot be the name of a channel; choose another",
        ),
        (
            AIR + derive('day = {function = "max", of = "temperature", window = "60d"}'),
            'derive.day.window: expected a window of "1m" to "31d"',
        ),
        (
            AIR + derive('a = {function = "max", of = "a", window = "1h"}'),
            "derive.a.of: is a circle: air/a from air/a",
        ),
        (
            AIR
            + derive('a = {function = "max", of = "cellar/b", window = "1h"}')
            + CELLAR
            + derive('b = {function = "min", of = "air/a", window = "1h"}'),
            "derive.b.of: is a circle: air/a from cellar/b from air/a",
        ),
        (
            AIR + derive("dew_point = true") + "[sensor.channel.dew_point]\nrange = [200, 300]\n",
            "channel.dew_point.range: is out of reach: the sensor measures -100 to 61 °C",
        ),
        (
            AIR + derive("dew_point = true") + "[sensor.channel.dew_pint]\ndelta = 1\n",
            "channel.dew_pint: dht22 does not have this channel; did you mean dew_point?",
        ),
    ],
)
def test_each_mistake_is_named(tmp_path, text, says):
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, text)
    assert len(caught.value.problems) == 1, caught.value.report()
    assert says in str(caught.value.problems[0])


def test_a_sensor_that_is_wrong_elsewhere_is_no_further_problem(tmp_path):
    wrong = CELLAR.replace("24", '"x"')
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, AIR + derive('dew_point = {humidity = "cellar/humidity"}') + wrong)
    assert [problem.where for problem in caught.value.problems] == ["[[sensor]] cellar pin"]


FOLDER = '[[sensor]]\nid = "box"\ndriver = "sysfs"\npath = "/sys/bus/i2c/devices/1-0076"\n'


def test_a_channel_that_only_the_hardware_knows_is_taken_by_its_name(tmp_path):
    keys = ("dew_point = true", 'top = {function = "max", of = "temperature2", window = "1h"}')
    (box,) = config_of(tmp_path, FOLDER + derive(*keys)).sensors
    assert [(c.name, c.unit) for c in box.channels[-2:]] == [("dew_point", "°C"), ("top", "°C")]
    with pytest.raises(ConfigError, match="problem"):
        config_of(tmp_path, FOLDER + derive('humidity = {function = "dew_point"}'))


def test_a_channel_that_turns_out_to_be_in_another_unit_is_missing(tmp_path, caplog):
    state = states_of(config_of(tmp_path, FOLDER + derive("dew_point = true")))["box"]
    pressure = Channel("humidity", "hPa", (0.0, 1100.0), 1)
    measured = {"temperature": 20.0, "humidity": 50.0}
    for at_s in (0, 100):
        reading = outcome("box", at_s, **measured)
        odd = msgspec.structs.replace(reading, channels=(TEMPERATURE, pressure))
        assert "dew_point" not in state.accept(odd)
    state.note_missing(100)
    assert "no dew_point: humidity is in hPa, and not in %" in caplog.text


def test_functions_may_be_written_by_the_names_that_people_use(tmp_path):
    config = config_of(tmp_path, AIR + derive("vapour_pressure_deficit = true", "Humidex = true"))
    assert [d.channel.name for d in config.sensors[0].derive] == [
        "vapour_pressure_deficit",
        "Humidex",
    ]
    assert not config_of(tmp_path, AIR + derive("dew_point = false")).sensors[0].derive


def test_a_derived_channel_is_in_every_list_of_channels(tmp_path):
    text = AIR + derive("dew_point = true") + "[sensor.channel.temperature]\nunit = '°F'\n"
    config = config_of(tmp_path, text)
    topics = dict(published_topics(config, "device"))
    state = next(topic for topic in topics if topic.endswith("/air/state"))
    assert "dew_point °F" in topics[state], "the unit of what it is derived from"
    assert units_of(config)[state, "dew_point"] == "°F"
    chosen = config_of(tmp_path, text + "[sensor.channel.dew_point]\nunit = 'K'\n")
    assert units_of(chosen)[state, "dew_point"] == "K"


# -- the values


def test_it_is_computed_of_unrounded_calibrated_values_in_base_units(tmp_path):
    channel = "[sensor.channel.temperature]\nunit = '°F'\ndecimals = 0\noffset = 1.8\n"
    state = states_of(config_of(tmp_path, AIR + derive("dew_point = true") + channel))["air"]
    values = state.accept(outcome("air", 0, temperature=19.26, humidity=50.0))
    # 20.26 °C and 50 % have a dew point of 9.5 °C; of the rounded 68 °F it would be 9.3 °C.
    assert values == {"temperature": 68, "humidity": 50.0, "dew_point": 49.1}
    assert state.layout(values).units == ("°F", "%", "°F")


def test_it_goes_through_the_filters_of_its_channel(tmp_path):
    channel = "[sensor.channel.dew_point]\nrange = [0, 20]\ndecimals = 3\ndelta = 1.0\n"
    state = states_of(config_of(tmp_path, AIR + derive("dew_point = true") + channel))["air"]
    assert state.accept(outcome("air", 0, temperature=20.0, humidity=50.0))["dew_point"] == 9.255
    assert "dew_point" not in state.accept(outcome("air", 1, temperature=20.0, humidity=10.0))
    assert state.rejected_for["range"] == 1
    values = state.accept(outcome("air", 2, temperature=20.0, humidity=50.0))
    state.published(list(values), 2)
    assert "dew_point" not in state.worth_publishing(values, 3)


def test_it_is_missing_when_a_part_is_missing_or_rejected(tmp_path, caplog):
    channel = "[sensor.channel.humidity]\nrange = [0, 90]\n"
    state = states_of(config_of(tmp_path, AIR + derive("dew_point = true") + channel))["air"]
    assert "dew_point" in state.accept(outcome("air", 0, temperature=20.0, humidity=50.0))
    assert state.accept(outcome("air", 30, temperature=20.0)) == {"temperature": 20.0}
    late = outcome("air", 120, temperature=20.0, humidity=95.0)
    assert state.accept(late) == {"temperature": 20.0}
    assert sorted(state.note_missing(120)) == ["dew_point", "humidity"]
    assert "air (dht22): no dew_point: there is no humidity" in caplog.text
    state.accept(outcome("air", 150, temperature=20.0, humidity=50.0))
    assert not state.missing_channels


def test_outside_its_range_it_is_missing_and_that_is_said_once(tmp_path, caplog):
    state = states_of(config_of(tmp_path, AIR + derive("heat_index = true")))["air"]
    for at_s in range(0, 600, 30):
        state.accept(outcome("air", at_s, temperature=10.0, humidity=50.0))
        state.note_missing(at_s)
    said = [r for r in caplog.messages if "heat_index" in r]
    assert said == [
        "air (dht22): no heat_index: heat_index is defined for a temperature of 20 to 50 °C, "
        "and it is 10"
    ]
    assert not state.rejected_for, "it is no fault of the sensor"


def test_a_value_of_another_sensor_counts_only_while_that_is_online_and_fresh(tmp_path, caplog):
    keys = 'dew_point = {humidity = "cellar/humidity"}'
    states = states_of(config_of(tmp_path, AIR + derive(keys) + CELLAR))
    air, cellar = states["air"], states["cellar"]
    reading = {"temperature": 20.0, "humidity": 50.0}
    assert "dew_point" not in air.accept(outcome("air", 0, **reading))
    cellar.accept(outcome("cellar", 10, **reading))
    assert air.accept(outcome("air", 30, **reading))["dew_point"] == 9.3
    assert "dew_point" in air.accept(outcome("air", 100, **reading)), "within three intervals"
    # The cellar is silent for three intervals. Nothing has looked for its silence yet.
    assert cellar.online
    assert "dew_point" not in air.accept(outcome("air", 101, **reading))
    air.note_missing(200)
    assert "no dew_point: cellar is offline" in caplog.text
    cellar.accept(outcome("cellar", 110, temperature=20.0))
    assert "dew_point" not in air.accept(outcome("air", 111, **reading)), "no humidity at present"


def test_one_derived_channel_may_be_a_part_of_another_whatever_their_order(tmp_path):
    keys = ('day = {function = "max", of = "dew_point", window = "24h"}', "dew_point = true")
    state = states_of(config_of(tmp_path, AIR + derive(*keys)))["air"]
    for _, window, _ in state.windows:
        window.is_complete = True
    assert state.accept(outcome("air", 0, temperature=20.0, humidity=50.0))["day"] == 9.3
    values = state.accept(outcome("air", 1, temperature=20.0, humidity=40.0))
    assert (values["dew_point"], values["day"]) == (6.0, 9.3)


# -- the log


LAYOUT = Layout("air", ("temperature", "humidity"), ("°C", "%"))
DAY = derive('day = {function = "max", of = "temperature", window = "24h"}')


@pytest.fixture
def day(tmp_path) -> SensorState:
    return states_of(config_of(tmp_path, AIR + DAY))["air"]


def log_of(folder: Path, clock: FakeClock, *temperatures: float) -> Outbox:
    """The log of a node that has ended, with a reading an hour; the last one an hour ago."""
    outbox = Outbox(folder, OutboxTable(), clock)
    for temperature in temperatures:
        outbox.append(
            LAYOUT,
            (temperature, 50.0),
            boot_s=clock.boot_s(),
            utc_s=clock.utc_s(),
            synced=clock.synced(),
        )
        pass_hour(clock)
    outbox.commit()
    outbox.close()
    return Outbox(folder, OutboxTable(), clock)


def pass_hour(clock: FakeClock) -> None:
    clock.now_s += 3600
    clock.wall_s += 3600


def test_after_a_restart_the_window_has_what_the_log_has(tmp_path, day):
    clock = FakeClock()
    outbox = log_of(tmp_path / "log", clock, 35.0, *[20.0] * 22, 25.0)
    refill_windows([day], outbox, clock)
    now = outcome("air", clock.now_s, temperature=21.0, humidity=50.0)
    assert day.accept(now)["day"] == 25.0, "the 35 °C were 24 h ago"


def test_after_a_boot_it_is_missing_until_the_clock_is_set(tmp_path, day, caplog):
    clock = FakeClock()
    outbox = log_of(tmp_path / "log", clock, 30.0, 25.0)
    clock.boot_id, clock.now_s, clock.in_sync = "the-second-boot", 10.0, False
    refill_windows([day], outbox, clock)
    reading = {"temperature": 21.0, "humidity": 50.0}
    assert "day" not in day.accept(outcome("air", clock.now_s, **reading))
    day.note_missing(clock.now_s + 200)
    assert "no day: the readings before this boot are added once the clock is set" in caplog.text
    clock.in_sync = True
    refill_windows([day], outbox, clock)
    assert day.accept(outcome("air", clock.now_s + 30, **reading))["day"] == 30.0


def test_a_restart_within_one_boot_needs_no_clock(tmp_path, day):
    clock = FakeClock()
    clock.in_sync = False
    outbox = log_of(tmp_path / "log", clock, 30.0, 25.0)
    refill_windows([day], outbox, clock)
    assert day.accept(outcome("air", clock.now_s, temperature=21.0, humidity=50.0))["day"] == 30.0


def test_without_a_clock_it_is_there_once_the_window_has_passed(day):
    reading = {"temperature": 21.0, "humidity": 50.0}
    for hour in range(25):
        values = day.accept(outcome("air", 3600.0 * hour, **reading))
        assert ("day" in values) == (hour >= 24)


def test_a_reading_is_never_in_the_window_twice(tmp_path):
    mean = derive('day = {function = "mean", of = "temperature", window = "24h"}')
    state = states_of(config_of(tmp_path, AIR + mean))["air"]
    clock = FakeClock()
    outbox = log_of(tmp_path / "log", clock, 10.0)
    now = outcome("air", clock.now_s, temperature=20.0, humidity=50.0)
    values = state.accept(now)
    outbox.append(
        state.layout(values),
        tuple(values.values()),
        boot_s=clock.now_s,
        utc_s=clock.wall_s,
        synced=True,
    )
    outbox.commit()
    for _ in range(2):
        refill_windows([state], outbox, clock)
    (_, window, _) = state.windows[0]
    assert window.value(clock.now_s) == 15.0


# -- on the wire


def test_it_is_published_announced_and_read_as_any_channel(broker, start_node):
    second = BME_CELLAR + derive('vpd = {temperature = "air/temperature"}')
    text = f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
    keys = ("dew_point = true", 'day = {function = "mean", of = "humidity", window = "1h"}')
    start_node(text + BME_AIR + derive(*keys) + second, "--simulate")
    topic = "sensors/test/air/state"
    seen = wait_until(lambda: "dew_point" in retained(broker.port, topic).get(topic, ""))
    assert seen
    state = json.loads(retained(broker.port, topic)[topic])
    assert 3 < state["dew_point"] < 15
    assert state["day"] == pytest.approx(state["humidity"], abs=1)
    wait_until(lambda: "vpd" in str(retained(broker.port, "sensors/test/cellar/state")))
    found = retained(broker.port, "homeassistant/#")
    (config,) = (json.loads(payload) for name, payload in found.items() if name.endswith("config"))
    assert problems_in(next(iter(found)), next(iter(found.values())).encode()) == []
    shown = {
        key: (component["unit_of_meas"], component.get("dev_cla"))
        for key, component in config["cmps"].items()
        if key in ("air.dew_point", "air.day", "cellar.vpd")
    }
    assert shown == {
        "air.dew_point": ("°C", "temperature"),
        "air.day": ("%", "humidity"),
        "cellar.vpd": ("kPa", "pressure"),
    }


def test_read_shows_it_with_the_parts_of_a_sensor_that_was_not_asked_for(tmp_path, capsys):
    keys = ('dew_point = {humidity = "cellar/humidity"}', DAY.splitlines()[1])
    config_of(tmp_path, BME_AIR + derive(*keys) + BME_CELLAR)
    arguments = ["read", "air", "--simulate", "--config", str(tmp_path / "node.toml")]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "dew_point" in line)
    assert row.split()[:4] == ["air", "bme280", "dew_point", "computed"]
    assert row.split()[5] == "°C"
    assert "cellar" not in shown
    assert "air: no day: only the running node knows what was before" in shown
    assert main([*arguments, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert set(result["values"]) == {"temperature", "humidity", "pressure", "dew_point"}


# -- the documents


@pytest.mark.parametrize("name", functions())
def test_the_readme_has_the_text_of_every_function(name):
    text = (Path(__file__).parents[1] / "node" / "config" / "README.md").read_text()
    (row,) = (line for line in text.splitlines() if f"| `{name}` |" in line)
    assert functions()[name].help in row
