"""The driver `agree`: who is believed, who is named, and how old what they agree on is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import FakeClock, retained, wait_until

from drivers.base import TEMPERATURE
from node.cli.main import main
from node.config.load import ConfigError, load
from node.config.schema import Config
from node.reading import ReadOutcome
from node.sensors.agreement import Agreement, verdict_on
from node.sensors.state import SensorState
from node.web.settings import settings_of

BOUND: dict[str, Any] = {"within": 0.5, "unit": "°C"}


def dht(name: str, pin: int, more: str = "") -> str:
    return f'[[sensor]]\nid = "{name}"\ndriver = "dht22"\npin = {pin}\n{more}'


def agree(*of: str, more: str = "", name: str = "both") -> str:
    return (
        f'[[sensor]]\nid = "{name}"\ndriver = "agree"\nof = {json.dumps(of)}\nwithin = 0.5\n{more}'
    )


AIR, ATTIC, CELLAR = dht("air", 23), dht("attic", 24), dht("cellar", 25)
TWO = agree("air/temperature", "attic/temperature")
THREE = agree("air/temperature", "attic/temperature", "cellar/temperature")


def config_of(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "node.toml"
    file.write_text(f'[mqtt]\nhost = "127.0.0.1"\n{text}', encoding="utf-8")
    return load(file)


# -- the verdict


@pytest.mark.parametrize(
    ("values", "value", "problem"),
    [
        ((21.0, 21.5), 21.25, ""),
        ((0.1, 0.6), 0.35, ""),
        ((21.0, 21.6), None, "a and b differ by more than 0.5 °C, and nothing says which is right"),
        ((21.0, 21.2, 21.5), 21.2, ""),
        ((21.0, 21.2, 25.0), 21.2, "c deviates by more than 0.5 °C"),
        ((9.0, 21.2, 21.3), 21.2, "a deviates by more than 0.5 °C"),
        ((20.0, 21.2, 25.0), None, "a and b and c differ by more than 0.5 °C, and nothing says wh"),
        ((20.0, 21.0, 21.1, 25.0), None, "a and b and c and d differ by more than 0.5 °C, and"),
        ((20.0, 21.0, 21.1, 21.2, 25.0), 21.1, "a and e deviate by more than 0.5 °C"),
    ],
)
def test_the_majority_is_right(values, value, problem):
    verdict = verdict_on(dict(zip("abcde", values, strict=False)), {}, **BOUND)
    assert verdict.value == pytest.approx(value) if value is not None else verdict.value is None
    assert verdict.problem.startswith(problem)
    assert bool(verdict.problem) == bool(problem)
    if value is not None and problem:
        assert not {
            name for name in verdict.used if name in problem.partition(" deviate")[0].split(" and ")
        }


def test_one_that_is_left_is_believed_and_that_is_said():
    verdict = verdict_on({"a": 21.0}, {"b": "attic is offline"}, **BOUND)
    assert (verdict.value, verdict.used) == (21.0, ("a",))
    assert verdict.problem == "only a has a value (attic is offline)"


def test_without_any_value_there_is_none():
    verdict = verdict_on({}, {"a": "air is offline", "b": "attic is offline"}, **BOUND)
    assert verdict.value is None
    assert verdict.problem == "air is offline; attic is offline"


# -- the configuration


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (AIR + agree("air/temperature"), "[[sensor]] both of: expected a list of length >= 2"),
        (AIR + agree("air/temperature", "air"), 'the name of a channel: "SENSOR/CHANNEL"'),
        (
            AIR + agree("air/temperature", "atic/temperature") + ATTIC,
            "both of: atic/temperature: there is no sensor of this name; did you mean attic?",
        ),
        (
            AIR + agree("air/temperature", "attic/temprature") + ATTIC,
            "attic/temprature: attic does not have this channel; did you mean temperature?",
        ),
        (
            AIR + agree("air/temperature", "attic/humidity") + ATTIC,
            "both of: expected channels in one unit; they are in °C and %",
        ),
        (AIR + agree("air/temperature", "air/temperature"), "both of: has a channel twice"),
        (
            AIR + agree("air/temperature", "both/temperature"),
            "both of: is a circle: both/temperature from both/temperature",
        ),
        (
            AIR
            + agree("air/temperature", "more/temperature")
            + agree("air/temperature", "both/temperature", name="more"),
            "more of: is a circle: both/temperature from more/temperature from both/temperature",
        ),
        (
            AIR + ATTIC + agree("air/temperature", "attic/temperature", more='interval = "5s"\n'),
            "both interval: is shorter than that of one of its sensors, 30s; leave it out",
        ),
        (
            AIR + ATTIC + agree("air/temperature", "attic/temperature", more="power_pin = 17\n"),
            "both power_pin: agree has no hardware: put power_pin where the sensor is",
        ),
    ],
)
def test_each_mistake_is_named(tmp_path, text, says):
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, text)
    assert len(caught.value.problems) == 1, caught.value.report()
    assert says in str(caught.value.problems[0])


def test_its_interval_is_the_longest_of_its_sensors(tmp_path):
    slow = dht("attic", 24, 'interval = "5m"\n')
    nested = agree("both/temperature", "cellar/temperature", name="all")
    config = config_of(tmp_path, nested + TWO + AIR + slow + CELLAR)
    intervals = {sensor.id: float(sensor.interval) for sensor in config.sensors}
    assert (intervals["both"], intervals["all"], intervals["cellar"]) == (300, 300, 30)


def test_the_page_does_not_take_it_for_one_of_the_usual_interval(tmp_path):
    """It would show it as offline between two readings of its slow sensors."""
    slow = dht("attic", 24, 'interval = "5m"\n')
    config_of(tmp_path, AIR + slow + TWO)
    assert settings_of(tmp_path / "node.toml").intervals == {"air": 30.0, "attic": 300.0}


def test_it_may_be_derived_from_and_filtered(tmp_path):
    more = (
        "[sensor.channel.temperature]\nunit = '°F'\n"
        '[sensor.derive]\ndew_point = {humidity = "air/humidity"}\n'
    )
    both = agree("air/temperature", "attic/temperature", more=more)
    config = config_of(tmp_path, AIR + ATTIC + both)
    assert [c.name for c in config.sensors[-1].channels] == ["temperature", "dew_point"]


# -- its state


class Bench:
    """The states of the sensors of a configuration, and of the last one, which is of `agree`."""

    def __init__(self, config: Config) -> None:
        self.clock = FakeClock()
        self.states = {table.id: SensorState(table) for table in config.sensors}
        self.table = config.sensors[-1]
        self.agreement = Agreement(self.table, self.clock)

    def read(self, sensor: str, temperature: float) -> None:
        now_s = self.clock.monotonic()
        self.states[sensor].accept(
            ReadOutcome(
                sensor=sensor,
                started_s=now_s,
                ended_s=now_s,
                boot_s=now_s,
                utc_s=self.clock.utc_s(),
                synced=True,
                measurement={"temperature": temperature},
                channels=(TEMPERATURE,),
            )
        )

    def outcome(self) -> ReadOutcome | None:
        return self.agreement.outcome(self.states)


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(config_of(tmp_path, AIR + ATTIC + CELLAR + THREE))


def test_a_value_is_as_old_as_the_oldest_that_it_rests_on(bench):
    start_s = bench.clock.now_s
    bench.read("air", 21.0)
    bench.clock.now_s += 10
    bench.read("cellar", 30.0)
    bench.clock.now_s += 10
    bench.read("attic", 21.2)
    outcome = bench.outcome()
    assert outcome is not None
    assert outcome.measurement == {"temperature": 21.2}
    assert (outcome.ended_s, outcome.boot_s) == (start_s, start_s)
    bench.clock.now_s += 60
    bench.read("air", 29.9)  # now attic deviates, and the rest is younger
    outcome = bench.outcome()
    assert outcome is not None
    assert outcome.ended_s == start_s + 10


def test_nothing_new_is_no_reading(bench):
    bench.read("air", 21.0)
    assert bench.outcome() is not None
    assert bench.outcome() is None
    bench.clock.now_s += 30
    bench.read("air", 21.0)
    assert bench.outcome() is not None


def test_it_goes_offline_with_the_age_of_its_value(bench):
    """Not three intervals after it was computed: its value may be older than that."""
    state = SensorState(bench.table)
    bench.read("air", 21.0)
    outcome = bench.outcome()
    assert outcome is not None
    bench.clock.now_s += 80
    state.accept(outcome, taken_s=outcome.ended_s)
    assert state.next_check_s == pytest.approx(1000 + 90.2)


def test_a_sensor_that_is_silent_no_longer_counts(bench):
    bench.read("air", 21.0)
    bench.clock.now_s += 60
    bench.read("attic", 25.0)
    bench.read("cellar", 25.1)
    bench.outcome()
    assert bench.agreement.concern == "air/temperature deviates by more than 0.5 °C"
    bench.clock.now_s += 60
    bench.read("attic", 25.0)
    outcome = bench.outcome()
    assert outcome is not None
    assert outcome.measurement == {"temperature": pytest.approx(25.05)}
    assert bench.agreement.concern == "air is offline"


# -- the node


def test_the_node_names_who_deviates_and_goes_on(broker, start_node, tmp_path):
    """With real files: a sensor that drifts, one that fails, and both back again."""
    files = {name: tmp_path / name for name in ("one", "two", "three")}
    text = f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
    for name, file in files.items():
        file.write_text("21500\n")
        text += f'[[sensor]]\nid = "{name}"\ndriver = "sysfs"\npath = "{file}"\ninterval = "0.2s"\n'
    node = start_node(text + agree(*(f"{name}/temperature" for name in files)))

    def health() -> Any:
        return json.loads(retained(broker.port, "sensors/test/health")["sensors/test/health"])

    def value() -> Any:
        topic = "sensors/test/both/state"
        return json.loads(retained(broker.port, topic).get(topic, "{}")).get("temperature")

    wait_until(lambda: value() == 21.5)
    files["two"].write_text("29000\n")
    files["one"].write_text("21700\n")
    wait_until(lambda: value() == 21.7)
    node.wait_for_log("both (agree): two/temperature deviates by more than 0.5 °C: one/temp")
    wait_until(lambda: "both: two/temperature deviates by more than 0.5 °C" in health()["problems"])
    files["one"].write_text("nonsense\n")
    available = "sensors/test/both/availability"
    wait_until(lambda: retained(broker.port, available)[available] == "offline")
    differ = "two/temperature and three/temperature differ by more than 0.5 °C"
    wait_until(lambda: differ in str(health()["sensors"]["both"]["last_error"]))

    files["two"].write_text("21400\n")
    wait_until(lambda: value() == 21.45)
    wait_until(lambda: "both: one is offline" in health()["problems"])
    files["one"].write_text("21400\n")
    wait_until(lambda: value() == 21.4)
    node.wait_for_log("both (agree): all agree again")
    wait_until(lambda: not [p for p in health()["problems"] if p.startswith("both")])


def test_a_spike_of_one_of_three_is_named_and_does_not_count(broker, start_node):
    """Simulated hardware, real drivers: the spike is 60 °C above a room of 21 °C."""
    names = ("one", "two", "three")
    text = f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
    for bus, name in enumerate(names):
        text += f'[[sensor]]\nid = "{name}"\ndriver = "bme280"\nbus = {bus + 1}\n'
        text += 'address = 0x76\ninterval = "0.5s"\n'
    text += agree(*(f"{name}/temperature" for name in names)).replace("0.5", "15.0")
    text += '[[simulation.fault]]\nsensor = "two"\nkind = "spike"\namount = 60\n'
    node = start_node(text + 'after = "2s"\nfor = "2s"\n', "--simulate")
    node.wait_for_log("both (agree): two/temperature deviates by more than 15 °C")
    topic = "sensors/test/both/state"
    assert 10 < json.loads(retained(broker.port, topic)[topic])["temperature"] < 32
    node.wait_for_log("both (agree): all agree again")
    assert not node.log_lines("both (agree): offline")


def test_read_compares_too(tmp_path, capsys):
    """Simulated sensors are not all in one place, and here two of them are in two."""
    chips = "".join(
        f'[[sensor]]\nid = "{name}"\ndriver = "bme280"\naddress = {address}\n'
        for name, address in (("air", 0x76), ("attic", 0x77))
    )
    config_of(tmp_path, chips + TWO.replace("0.5", "20.0"))
    arguments = ["read", "both", "--simulate", "--config", str(tmp_path / "node.toml")]
    assert main(arguments) == 0
    (_, row) = capsys.readouterr().out.splitlines()
    assert row.split()[:4] == ["both", "agree", "temperature", "computed"]
    config_of(tmp_path, chips + TWO.replace("0.5", "1e-6"))
    assert main(arguments) == 1
    assert (
        "both (agree): air/temperature and attic/temperature differ by" in capsys.readouterr().out
    )
