"""What a real Home Assistant makes of a real node: run by `run`, in this order, in one room.

Each claim leaves the node running for the next one. After each, Home Assistant's log must have
nothing to complain of in what concerns MQTT, sensors and templates.
"""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from home_assistant import HomeAssistant
from homeassistant_schema import problems_in
from paho.mqtt import publish
from support import Mosquitto, NodeProcess, Subscriber, retained, wait_until

from node import __version__

HEAD = """\
[node]
name = "{name}"

[mqtt]
host = "127.0.0.1"
port = {port}
keepalive = "5s"
payload = "{payload}"

[status_led]
pin = 17
"""
# Id -> its table; among them they have every unit that a channel can be published in but one.
SENSORS = {
    "air": 'driver = "dht22"\npin = 4\ninterval = "2s"\n[sensor.derive]\ndew_point = true\n'
    "absolute_humidity = true\nvpd = true",
    "box": 'driver = "bme280"\n[sensor.channel.temperature]\nunit = "°F"\n'
    '[sensor.channel.pressure]\nunit = "inHg"\ndecimals = 3',
    "cellar": 'driver = "ds18b20"\n[sensor.channel.temperature]\nunit = "K"',
    "room": 'driver = "bme680"\naddress = 0x76\n[sensor.channel.pressure]\nunit = "mmHg"',
    "loft": 'driver = "bmp280"\nbus = 2\n[sensor.channel.pressure]\nunit = "kPa"\ndecimals = 2',
    "yard": 'driver = "bmp280"\nbus = 3\n[sensor.channel.pressure]\nunit = "Pa"\ndecimals = 0',
    "mast": 'driver = "bmp280"\nbus = 4\n[sensor.channel.pressure]\nunit = "mbar"',
    "deck": 'driver = "bmp280"\nbus = 5',
    "office": 'driver = "scd4x"\nbus = 6\ninterval = "6s"',
    "kiln": 'driver = "max31855"\nselect = 0',
    "soup": 'driver = "mlx90614"',
    "supply": 'driver = "ads1115"\ninput = 0\nsensor = "voltage"',
    "chip": 'driver = "cpu"',
    "water-2": 'driver = "mcp9808"\n[sensor.channel.temperature]\ndecimals = 3',
}
# (sensor, channel) -> unit in Home Assistant's metric system, device class, digits that it shows.
SHOWN: dict[tuple[str, str], tuple[str, str | None, int]] = {
    ("air", "temperature"): ("°C", "temperature", 1),
    ("air", "humidity"): ("%", "humidity", 1),
    ("air", "dew_point"): ("°C", "temperature", 1),
    ("air", "absolute_humidity"): ("g/m³", "absolute_humidity", 2),
    ("air", "vpd"): ("kPa", "pressure", 2),
    ("box", "temperature"): ("°C", "temperature", 2),
    ("box", "humidity"): ("%", "humidity", 1),
    ("box", "pressure"): ("hPa", "atmospheric_pressure", 2),
    ("cellar", "temperature"): ("K", "temperature", 2),
    ("room", "temperature"): ("°C", "temperature", 2),
    ("room", "humidity"): ("%", "humidity", 1),
    ("room", "pressure"): ("hPa", "atmospheric_pressure", 1),
    ("room", "gas_resistance"): ("Ω", None, 0),
    ("loft", "temperature"): ("°C", "temperature", 2),
    ("loft", "pressure"): ("hPa", "atmospheric_pressure", 1),
    ("yard", "temperature"): ("°C", "temperature", 2),
    ("yard", "pressure"): ("hPa", "atmospheric_pressure", 2),
    ("mast", "temperature"): ("°C", "temperature", 2),
    ("mast", "pressure"): ("hPa", "atmospheric_pressure", 1),
    ("deck", "temperature"): ("°C", "temperature", 2),
    ("deck", "pressure"): ("hPa", "atmospheric_pressure", 1),
    ("office", "temperature"): ("°C", "temperature", 2),
    ("office", "humidity"): ("%", "humidity", 1),
    ("office", "co2"): ("ppm", "carbon_dioxide", 0),
    ("kiln", "temperature"): ("°C", "temperature", 2),
    ("kiln", "cold_junction"): ("°C", "temperature", 2),
    ("soup", "temperature"): ("°C", "temperature", 2),
    ("soup", "ambient"): ("°C", "temperature", 2),
    ("supply", "voltage"): ("V", "voltage", 4),
    ("chip", "temperature"): ("°C", "temperature", 1),
    ("water-2", "temperature"): ("°C", "temperature", 3),
}
# (unit of the node, unit that is shown) -> what the number becomes.
CONVERTED: dict[tuple[str, str], Callable[[float], float]] = {
    ("°F", "°C"): lambda value: (value - 32) / 1.8,
    ("mbar", "hPa"): float,
    ("Pa", "hPa"): lambda value: value / 100,
    ("kPa", "hPa"): lambda value: value * 10,
    ("inHg", "hPa"): lambda value: value * 33.8638866667,
    ("mmHg", "hPa"): lambda value: value * 1.33322387415,
}
HEALTH = {"uptime", "readings_to_be_sent", "rejected_values", "processor_temperature"}
BUTTONS = {"read_now", "identify", "restart"}
# What would be the fault of a message of ours.
OURS = re.compile(
    r"(WARNING|ERROR).*\[homeassistant\.(components\.(mqtt|\w*sensor|button|update)|helpers)"
)


class Bench:
    """The broker, Home Assistant, whatever is said, and the node, which `run` starts anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = Mosquitto(folder, "persistence true", f"persistence_location {folder}/")
        self.broker.start()
        self.hass = HomeAssistant()
        self.heard: Subscriber
        self.expected: tuple[str, ...] = ()
        """What Home Assistant may complain of in this claim."""
        self.node: NodeProcess | None = None

    def run(
        self,
        *sensors: str,
        name: str = "greenhouse",
        payload: str = "json",
        more: str = "",
        without_announcing: bool = False,
        changed: dict[str, str] | None = None,
    ) -> NodeProcess:
        """Start the node with these sensors (all), in place of the one that runs."""
        self.stop()
        config = HEAD.format(name=name, port=self.broker.port, payload=payload)
        if without_announcing:
            config += "\n[homeassistant]\nenabled = false\n"
        for sensor in sensors or SENSORS:
            table = (changed or {}).get(sensor, SENSORS.get(sensor, ""))
            if "interval" not in table:
                table = table.replace("\n[", '\ninterval = "1s"\n[', 1)
                table += "" if "interval" in table else '\ninterval = "1s"'
            config += f'\n[[sensor]]\nid = "{sensor}"\n{table}\n'
        self.node = NodeProcess(self.folder, config + more, "--simulate")
        self.node_says("connected to")
        return self.node

    def stop(self) -> None:
        if self.node is not None and self.node.process.poll() is None:
            self.node.terminate(5)

    def close(self) -> None:
        if self.node is not None:
            self.node.kill()
        self.heard.close()
        self.hass.close()
        self.broker.stop()

    def node_says(self, text: str) -> None:
        """Wait until the node that runs has `text` in its log."""
        assert self.node is not None
        self.node.wait_for_log(text)

    def state(self, entity: str) -> str | None:
        """The state of an entity; None: there is none."""
        found: str | None = self.hass.states().get(entity, {}).get("state")
        return found

    def wait_for(self, entity: str, right: Callable[[str | None], bool], seconds: float) -> None:
        try:
            wait_until(lambda: right(self.state(entity)), seconds)
        except AssertionError:
            raise AssertionError(f"{entity} is {self.state(entity)} after {seconds} s") from None


def entity(sensor: str, channel: str) -> str:
    return f"sensor.greenhouse_{sensor}_{channel}".replace("-", "_")


def number(state: str | None) -> bool:
    return state is not None and re.fullmatch(r"-?[\d.]+", state) is not None


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    bench.hass.start()
    bench.hass.set_up_mqtt(bench.broker.port)
    bench.heard = Subscriber(bench.broker.port, "#")
    yield bench
    bench.close()


@pytest.fixture(autouse=True)
def quiet(bench: Bench) -> Iterator[None]:
    """Home Assistant has nothing to complain of."""
    before = len(bench.hass.log)
    yield
    expected, bench.expected = bench.expected, ()
    complaints = [line for line in bench.hass.log[before:].splitlines() if OURS.search(line)]
    assert [c for c in complaints if not any(text in c for text in expected)] == []


def newest(bench: Bench, sensor: str) -> dict[str, Any]:
    """Each channel of a sensor, from the newest state that has one."""
    values: dict[str, Any] = {}
    for state in bench.heard.states(sensor, "greenhouse"):
        values.update(state)
    return values


def test_every_channel_is_an_entity_with_its_value(bench: Bench) -> None:
    """Unit, device class and digits are right, and the number is what the node says."""
    bench.run()
    for (sensor, channel), (unit, device_class, digits) in SHOWN.items():
        name = entity(sensor, channel)
        bench.wait_for(name, number, 30)
        attributes = bench.hass.states()[name]["attributes"]
        assert attributes["unit_of_measurement"] == unit, name
        assert attributes.get("device_class") == device_class, name
        assert attributes["state_class"] == "measurement", name
        shown = bench.hass.entities()[name]["options"]["sensor"]["suggested_display_precision"]
        assert shown == digits, name
        assert bench.hass.entities()[name]["entity_category"] is None
        ours = re.search(r'unit = "(.+)"', _table_of(sensor, channel))
        convert = CONVERTED.get((ours[1] if ours else unit, unit), float)

        def is_shown(state: str | None) -> bool:
            said = [s[channel] for s in bench.heard.states(sensor, "greenhouse") if channel in s]  # noqa: B023
            return (
                number(state)
                and any(
                    math.isclose(float(state or 0), convert(value), rel_tol=1e-6)  # noqa: B023
                    for value in said[-3:]
                )
            )

        bench.wait_for(name, is_shown, 10)


def _table_of(sensor: str, channel: str) -> str:
    _, _, table = SENSORS[sensor].partition(f"[sensor.channel.{channel}]")
    return table.partition("[")[0]


def test_the_accuracy_of_a_value_is_its_attribute(bench: Bench) -> None:
    """From the first health on that has it; of a channel without a datasheet there is none."""

    def accuracy(sensor: str, channel: str) -> Any:
        return bench.hass.states()[entity(sensor, channel)]["attributes"].get("accuracy")

    wait_until(lambda: accuracy("air", "temperature") == 0.5, 70)
    assert accuracy("air", "humidity") == 2.0
    assert 0.5 < accuracy("air", "dew_point") < 2
    assert accuracy("chip", "temperature") is None


def test_the_node_is_one_device(bench: Bench) -> None:
    """It has a name and a version; its entities are named after it."""
    (device,) = bench.hass.devices()
    assert device["name"] == "greenhouse"
    assert device["sw_version"]
    states = bench.hass.states()
    assert states[entity("air", "temperature")]["attributes"]["friendly_name"] == (
        "greenhouse Air temperature"
    )
    assert {e["device_id"] for e in bench.hass.entities().values()} == {device["id"]}


def test_the_health_of_the_node_is_diagnostic(bench: Bench) -> None:
    """It comes with the first message of health, within a minute."""
    for name in HEALTH:
        if name != "uptime":
            bench.wait_for(f"sensor.greenhouse_{name}", number, 70)
        entry = bench.hass.entities()[f"sensor.greenhouse_{name}"]
        assert entry["entity_category"] == "diagnostic"


def test_uptime_is_the_time_of_the_start(bench: Bench) -> None:
    """Unknown while the clock is not set, as it may be here; so the test speaks for the node."""
    health = bench.heard.health("greenhouse")
    said = {"2026-11-29T12:00:05.000Z": "2026-11-29T12:00:05+00:00", None: "unknown"}
    for started, shown in said.items():
        payload = json.dumps({**health, "started": started})
        bench.heard.client.publish("sensors/greenhouse/health", payload, 1).wait_for_publish(10)
        bench.wait_for("sensor.greenhouse_uptime", shown.__eq__, 10)


def test_there_is_nothing_else(bench: Bench) -> None:
    """No entity that nobody has asked for."""
    expected = {entity(*key) for key in SHOWN}
    expected |= {f"sensor.greenhouse_{name}" for name in HEALTH}
    expected |= {f"button.greenhouse_{name}" for name in BUTTONS}
    assert set(bench.hass.entities()) == expected


def test_what_is_announced_passes_the_checker(bench: Bench) -> None:
    """The one that the ordinary tests use."""
    announced = [(t, p) for t, p, _ in bench.heard.messages if t.endswith("/config")]
    assert announced
    for topic, payload in announced:
        assert problems_in(topic, payload.encode()) == []


def test_a_button_is_a_command(bench: Bench) -> None:
    """Each is obeyed; a restart ends the process, for the service to start it anew."""
    assert bench.node is not None
    for name in ("read", "identify", "restart"):
        button = {"read": "read_now"}.get(name, name)
        bench.hass.call("button.press", entity_id=f"button.greenhouse_{button}")
        answers = f"sensors/greenhouse/cmd/{name}/result"
        wait_until(lambda: bench.heard.on(answers), 15, answers)  # noqa: B023
        assert json.loads(bench.heard.on(answers)[-1])["ok"], bench.heard.on(answers)
    bench.node.process.wait(5)
    assert not [m for m in bench.heard.messages if "/cmd/" in m[0] and m[2]], "retained"
    bench.wait_for(entity("air", "temperature"), lambda state: state == "unavailable", 5)


def test_a_sensor_that_fails_is_unavailable(bench: Bench) -> None:
    """And it alone; when it is back, so is its value."""
    fault = '\n[[simulation.fault]]\nsensor = "air"\nkind = "unplug"\nafter = "6s"\nfor = "14s"\n'
    bench.run(more=fault)
    bench.node_says("air (dht22): online")
    bench.wait_for(entity("air", "temperature"), number, 15)
    bench.wait_for(entity("air", "temperature"), lambda state: state == "unavailable", 25)
    assert bench.state(entity("air", "humidity")) == "unavailable"
    assert number(bench.state(entity("box", "humidity")))
    bench.wait_for(entity("air", "temperature"), number, 25)


def test_a_channel_without_a_value_is_unknown(bench: Bench) -> None:
    """Not the last value for ever; the other channel of the sensor goes on."""
    air = SENSORS["air"] + "\n[sensor.channel.temperature]\nrange = [-10, 50]"
    fault = '\n[[simulation.fault]]\nsensor = "air"\nkind = "spike"\namount = 45\n'
    bench.run(more=fault + 'after = "6s"\nfor = "14s"\n', changed={"air": air})
    bench.node_says("air (dht22): online")
    bench.wait_for(entity("air", "temperature"), number, 15)
    bench.wait_for(entity("air", "temperature"), lambda state: state == "unknown", 25)
    assert number(bench.state(entity("air", "humidity")))
    bench.wait_for(entity("air", "temperature"), number, 25)


def test_an_alarm_is_a_binary_sensor(bench: Bench) -> None:
    """On with the reason as its attributes, acknowledged by a button, unknown without a value."""
    alarm, name = "binary_sensor.greenhouse_air_too_warm", "button.greenhouse_acknowledge_alarms"
    air = SENSORS["air"] + "\n[[sensor.channel.temperature.alarm]]\n"
    air += 'name = "too-warm"\nabove = 35\n'
    faults = '\n[[simulation.fault]]\nsensor = "air"\nkind = "spike"\namount = 25\n'
    faults += 'after = "10s"\nfor = "20s"\n'
    faults += '[[simulation.fault]]\nsensor = "air"\nkind = "unplug"\nafter = "40s"\n'
    bench.run(more=faults, changed={"air": air})
    bench.node_says("air (dht22): online")
    bench.wait_for(alarm, lambda state: state == "off", 15)
    bench.wait_for(alarm, lambda state: state == "on", 25)
    attributes = bench.hass.states()[alarm]["attributes"]
    assert attributes["device_class"] == "heat"
    assert (attributes["limit"], attributes["acknowledged"]) == (35, False)
    bench.hass.call("button.press", entity_id=name)
    wait_until(lambda: bench.hass.states()[alarm]["attributes"]["acknowledged"], 10)
    bench.wait_for(alarm, lambda state: state == "off", 30)
    bench.wait_for(alarm, lambda state: state == "unknown", 40)
    bench.run()
    bench.wait_for(alarm, lambda state: state is None, 20)
    bench.wait_for(entity("box", "humidity"), number, 15)


def test_an_update_that_is_offered_is_installed_by_a_button(bench: Bench) -> None:
    """With a key of a publisher. Its state is taken whole, and the button is a command."""
    update, commands = "update.greenhouse_software", "sensors/greenhouse/cmd/update"
    keys = bench.folder / "update-keys"
    keys.mkdir()
    (keys / "first.pub").touch()
    bench.run()
    bench.wait_for(update, lambda state: state == "off", 20)

    def attribute(name: str) -> Any:
        return bench.hass.states()[update]["attributes"][name]

    def tell(payload: str) -> None:
        publish.single(commands, payload, qos=1, hostname="127.0.0.1", port=bench.broker.port)

    signature = "untrusted comment: x"
    about = {"bundle": "0" * 64, "size": 1000, "version": "9.0.0", "signature": signature}
    tell(json.dumps({**about, "offer": True}))
    bench.wait_for(update, lambda state: state == "on", 20)
    assert attribute("latest_version") == "9.0.0"
    assert attribute("installed_version") == __version__
    assert attribute("in_progress") is False
    bench.hass.call("update.install", entity_id=update)
    wait_until(lambda: attribute("in_progress"), 20)
    assert attribute("update_percentage") == 0
    tell("cancel")
    wait_until(lambda: not attribute("in_progress"), 20)
    bench.wait_for(update, lambda state: state == "off", 20)
    (keys / "first.pub").unlink()
    bench.run()
    bench.wait_for(update, lambda state: state is None, 20)
    bench.wait_for(entity("box", "humidity"), number, 15)


def test_a_node_that_dies_is_unavailable(bench: Bench) -> None:
    """Every entity of it, by the will."""
    assert bench.node is not None
    bench.node.kill()
    bench.wait_for(entity("box", "humidity"), lambda state: state == "unavailable", 12)
    mqtt = bench.hass.entities()
    states = bench.hass.states()
    assert {states[name]["state"] for name in mqtt} == {"unavailable"}
    bench.run()
    bench.wait_for(entity("box", "humidity"), number, 15)


def test_what_comes_back_does_not_show_an_old_value(bench: Bench) -> None:
    """Not for an instant: it would be in the history, and start automations."""
    shown = entity("air", "temperature")
    bench.wait_for(shown, number, 15)
    assert bench.node is not None
    bench.node.kill()
    bench.wait_for(shown, lambda state: state == "unavailable", 12)
    old = bench.heard.states("air", "greenhouse")[-1]["temperature"]
    since = datetime.now(UTC)
    warmer = "\n[simulation]\nbase = 30\n"
    bench.run(more=warmer)

    def is_new(state: str | None) -> bool:
        return number(state) and float(state or 0) > old + 5

    bench.wait_for(shown, is_new, 15)
    wait_until(lambda: is_new(bench.hass.history(shown, since)[-1]), 10, "it is recorded")
    assert str(old) not in bench.hass.history(shown, since)


def test_a_sensor_that_is_removed_is_gone(bench: Bench) -> None:
    """And nothing but it; put back, it is what it was."""
    bench.hass.ask("config/entity_registry/update", entity_id=entity("air", "humidity"), name="Fog")
    before = set(bench.hass.entities())
    bench.run(*(sensor for sensor in SENSORS if sensor != "air"))
    gone = {entity(sensor, channel) for sensor, channel in SHOWN if sensor == "air"}
    wait_until(lambda: set(bench.hass.entities()) == before - gone, 15, "the air is gone")
    bench.run()
    wait_until(lambda: set(bench.hass.entities()) == before, 15, "the air is back")
    bench.wait_for(entity("air", "humidity"), number, 15)
    named = bench.hass.states()[entity("air", "humidity")]["attributes"]["friendly_name"]
    assert named.endswith("Fog")


def test_a_node_that_is_renamed_keeps_its_entities(bench: Bench) -> None:
    """Their ids, so that automations and statistics go on; what they are called follows."""
    before = {name: entry["unique_id"] for name, entry in bench.hass.entities().items()}
    bench.run(name="orangery")
    wait_until(lambda: bench.hass.devices()[0]["name"] == "orangery", 15, "the device's new name")
    for key in SHOWN:
        bench.wait_for(entity(*key), number, 30)
    after = {name: entry["unique_id"] for name, entry in bench.hass.entities().items()}
    assert after == before
    assert len(bench.hass.devices()) == 1
    bench.run()
    bench.wait_for(entity("air", "temperature"), number, 15)


def test_a_sensor_that_is_renamed_keeps_its_entities(bench: Bench) -> None:
    """It is still wired where it was."""
    before = {name: entry["unique_id"] for name, entry in bench.hass.entities().items()}
    sensors = ["wind" if sensor == "air" else sensor for sensor in SENSORS]
    bench.run(*sensors, changed={"wind": SENSORS["air"]})
    shown = entity("air", "temperature")

    def renamed() -> bool:
        attributes = bench.hass.states()[shown]["attributes"]
        return bool(attributes["friendly_name"] == "greenhouse Wind temperature")

    wait_until(renamed, 15, "the new name")
    bench.wait_for(shown, number, 15)
    after = {name: entry["unique_id"] for name, entry in bench.hass.entities().items()}
    assert after == before
    bench.run()
    bench.wait_for(shown, number, 15)


def test_plain_values_are_shown_too(bench: Bench) -> None:
    """`payload = "plain"`: the same entities, fed by other topics; unknown when one is emptied."""
    before = set(bench.hass.entities())
    air = SENSORS["air"] + "\n[sensor.channel.temperature]\nrange = [-10, 50]"
    fault = '\n[[simulation.fault]]\nsensor = "air"\nkind = "spike"\namount = 45\n'
    bench.run(payload="plain", more=fault + 'after = "8s"\n', changed={"air": air})
    wait_until(lambda: bench.heard.on("sensors/greenhouse/box/pressure"), 15)
    for key in SHOWN:
        bench.wait_for(entity(*key), number, 15)
    bench.wait_for(entity("air", "temperature"), lambda state: state == "unknown", 25)
    assert number(bench.state(entity("air", "humidity")))
    assert set(bench.hass.entities()) == before
    bench.run()
    bench.wait_for(entity("air", "temperature"), number, 15)


def test_home_assistant_restarted_knows_it_all(bench: Bench) -> None:
    """The retained messages tell it, and its birth message makes the node say it all again."""
    before = set(bench.hass.entities())
    announced = len(_announced(bench))
    bench.hass.stop()
    bench.hass.start()
    for key in SHOWN:
        bench.wait_for(entity(*key), number, 30)
    wait_until(lambda: len(_announced(bench)) > announced, 15, "announced anew")
    assert set(bench.hass.entities()) == before


def _announced(bench: Bench) -> list[float]:
    topic = next(t for t, _, _ in bench.heard.messages if t.endswith("/config"))
    return bench.heard.times_of(topic)


def test_a_sensor_that_is_removed_meanwhile_is_gone_as_well(bench: Bench) -> None:
    """Home Assistant was off when the node took it back; the node tells it when it is there."""
    before = set(bench.hass.entities())
    bench.hass.stop()
    bench.run(*(sensor for sensor in SENSORS if sensor != "air"))
    bench.node_says("removing from Home Assistant")
    bench.hass.start()
    gone = {entity(sensor, channel) for sensor, channel in SHOWN if sensor == "air"}
    wait_until(lambda: set(bench.hass.entities()) == before - gone, 30, "the air is gone")
    bench.run()
    bench.wait_for(entity("air", "temperature"), number, 15)


def test_a_broker_that_has_forgotten_everything_is_told_anew(bench: Bench) -> None:
    """Killed, and without a file of its own: as on a broker without persistence."""
    before = set(bench.hass.entities())
    bench.expected = ("The connection was lost",)
    bench.broker.stop(signal.SIGKILL)
    bench.wait_for(entity("air", "temperature"), lambda state: state == "unavailable", 15)
    (bench.folder / "mosquitto.db").unlink(missing_ok=True)
    bench.broker.start()
    for key in SHOWN:
        bench.wait_for(entity(*key), number, 40)
    assert set(bench.hass.entities()) == before


APART = '\n[homeassistant]\nform = "components"\n'


@pytest.mark.parametrize("more", [APART, ""], ids=["components", "device"])
def test_a_change_of_the_form_keeps_every_entity(bench: Bench, more: str) -> None:
    """Its id, its place in the registry and its history; and nothing of the former form is left."""
    # Of the former message of the device, which has nothing left to say.
    bench.expected = ("No device components to cleanup",)
    registry = {name: entry["id"] for name, entry in bench.hass.entities().items()}
    began = datetime.now(UTC)
    bench.run(more=more)
    wait_until(lambda: _forms(bench) == ({"component"} if more else {"device"}), 30)
    for key in SHOWN:
        bench.wait_for(entity(*key), number, 30)
    assert {name: entry["id"] for name, entry in bench.hass.entities().items()} == registry
    (of_node,) = bench.hass.devices()
    assert {e["device_id"] for e in bench.hass.entities().values()} == {of_node["id"]}
    assert number(bench.hass.history(entity("air", "temperature"), began)[0]), "from before"


def _forms(bench: Bench) -> set[str]:
    """The forms of what the broker has of the node."""
    topics = [t for t in retained(bench.broker.port, "homeassistant/#") if t.endswith("/config")]
    return {"device" if "/device/" in topic else "component" for topic in topics}


def test_an_alarm_of_the_form_of_components_is_on_off_or_unknown(bench: Bench) -> None:
    alarm = '\n[[sensor.channel.temperature.alarm]]\nname = "warm"\nabove = -20'
    bench.run(
        "air", more=APART, changed={"air": f'driver = "dht22"\npin = 4\ninterval = "2s"{alarm}'}
    )
    name = "binary_sensor.greenhouse_air_warm"
    bench.expected = ("No device components to cleanup",)
    bench.wait_for(name, lambda state: state == "on", 40)
    topic = "sensors/greenhouse/air/alarm/warm"
    said = json.loads(bench.heard.on(topic)[-1])
    for state, shown in (("off", "off"), ("unknown", "unknown"), ("on", "on")):
        payload = json.dumps({**said, "state": state})
        bench.heard.client.publish(topic, payload, 1).wait_for_publish(10)
        bench.wait_for(name, shown.__eq__, 10)
    bench.run()
    wait_until(lambda: _forms(bench) == {"device"} and bench.state(name) is None, 40)


def test_a_device_deleted_by_hand_comes_back_with_the_node(bench: Bench) -> None:
    """Home Assistant clears the topic then; the node announces itself whenever it connects."""
    before = set(bench.hass.entities())
    # It clears the topic once for each entity, and hears itself do so.
    bench.expected = ("No device components to cleanup",)
    bench.hass.delete_device(bench.hass.devices()[0])
    wait_until(lambda: not bench.hass.entities(), 10, "it is deleted")
    bench.run()
    wait_until(lambda: set(bench.hass.entities()) == before, 15, "it is back")
    bench.wait_for(entity("air", "temperature"), number, 15)


def test_a_node_that_is_not_to_announce_itself_is_gone(bench: Bench) -> None:
    """`[homeassistant] enabled = false` takes the device back, and leaves nothing at the broker."""
    bench.run(without_announcing=True)
    wait_until(lambda: not bench.hass.devices(), 15, "the device is gone")
    assert bench.hass.entities() == {}
    assert retained(bench.broker.port, "homeassistant/#") == {}
