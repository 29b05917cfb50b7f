"""Bluetooth thermometers through the real bleak, from a fake BlueZ, at a real mosquitto."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bluetooth import Bluetoothd, DBus
from support import SENSOR_NODE, Mosquitto, NodeProcess, Subscriber, running, wait_until

KEY = "231d39c1d7cc1ab1aee224cd096db932"
FORMATS = (
    *("bthome", "pvvx", "atc", "mibeacon", "qingping"),
    *("switchbot", "ruuvi", "govee", "thermopro", "inkbird"),
)
SENT_EVERY_S = 0.7
INTERVAL_S = 2
OFFLINE_WITHIN_S = 3 * INTERVAL_S + 2
"""Three intervals and the grace, and what a loaded computer takes."""
BACK_WITHIN_S = 45
"""A look each 10 s, a new attempt each 5 s, and what a loaded computer takes."""


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[DBus]:
    made = DBus(tmp_path).start()
    yield made
    made.stop()


@pytest.fixture
def bluetoothd(bus: DBus) -> Iterator[Bluetoothd]:
    made = Bluetoothd(bus).start()
    yield made
    made.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path).start()
    yield made
    made.stop()


@pytest.fixture
def subscriber(broker: Mosquitto) -> Iterator[Subscriber]:
    made = Subscriber(broker.port)
    yield made
    made.close()


def sensor(name: str, address: str, more: str = "") -> str:
    return (
        f'[[sensor]]\nid = "{name}"\ndriver = "ble"\ninterval = "{INTERVAL_S}s"\n'
        f'address = "{address}"\n{more}\n'
    )


def config(port: int, *sensors: str) -> str:
    head = f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n'
    return head + "\n".join(sensors)


@contextlib.contextmanager
def a_node(folder: Path, bus: DBus, text: str) -> Iterator[NodeProcess]:
    with running(NodeProcess(folder, text, env=bus.env)) as node:
        yield node


def is_online(subscriber: Subscriber, name: str) -> bool:
    return subscriber.on(f"sensors/test/{name}/availability")[-1:] == ["online"]


def who_is(subscriber: Subscriber, names: list[str], *, online: bool) -> Callable[[], bool]:
    return lambda: all(is_online(subscriber, name) is online for name in names)


LABELS = {
    f"label-{number}": (
        f"A4:C1:38:00:00:{number:02X}",
        FORMATS[number % len(FORMATS)],
        KEY if number in (0, 1, 13) else "",
    )
    for number in range(20)
}
"""Twenty of all formats; of three the data are encrypted."""


def test_twenty_labels_among_foreign_devices(tmp_path, bus, bluetoothd, broker, subscriber):
    """One dies, one repeats itself; the adapter goes off and on, and bluetoothd restarts."""
    for address, form, key in LABELS.values():
        bluetoothd.tell("label", address, form, SENT_EVERY_S, key)
    bluetoothd.tell("foreign", 200)
    sensors = [
        sensor(name, address, f'key = "{key}"' if key else "")
        for name, (address, _, key) in LABELS.items()
    ]
    with a_node(tmp_path, bus, config(broker.port, *sensors)) as node:
        wait_until(who_is(subscriber, [*LABELS], online=True), what="all are online")
        for name in LABELS:
            (newest,) = subscriber.states(name)[-1:]
            assert 20 <= newest["temperature"] < 25, name
            assert -80 < newest["rssi"] < 0, name
        assert bluetoothd.tell("state") == "done state discovery=A4:C1:38:00:00: monitors=0"

        dead, stuck = "label-3", "label-6"
        bluetoothd.tell("become", LABELS[dead][0], "dead")
        bluetoothd.tell("become", LABELS[stuck][0], "stuck")
        wait_until(
            who_is(subscriber, [dead, stuck], online=False),
            OFFLINE_WITHIN_S + 5,
            "they are offline",
        )
        others = [name for name in LABELS if name not in (dead, stuck)]
        assert who_is(subscriber, others, online=True)()
        counts = {name: len(subscriber.states(name)) for name in (dead, stuck)}
        node.wait_for_log(f"{dead} (ble): offline: Bluetooth {LABELS[dead][0]}: nothing heard for")
        node.wait_for_log("it has sent the same measurement for")
        # What BlueZ remembers of it comes with any change of it.
        bluetoothd.tell("touch", LABELS[dead][0])
        wait_until(lambda: len(subscriber.states(others[0])) > 8, what="others go on")
        assert {name: len(subscriber.states(name)) for name in counts} == counts

        bluetoothd.tell("power", "off")
        wait_until(who_is(subscriber, others, online=False), OFFLINE_WITHIN_S + 15, "all offline")
        node.wait_for_log("hci0 is switched off; bluetoothctl power on")
        bluetoothd.tell("power", "on")
        wait_until(who_is(subscriber, others, online=True), BACK_WITHIN_S, "all are back")

        bluetoothd.stop()
        wait_until(who_is(subscriber, others, online=False), OFFLINE_WITHIN_S + 15, "all offline")
        node.wait_for_log("bluetoothd is not running; sudo apt install bluez")
        bluetoothd.start()
        for address, form, key in LABELS.values():
            bluetoothd.tell("label", address, form, SENT_EVERY_S, key)
        wait_until(who_is(subscriber, [*LABELS], online=True), BACK_WITHIN_S, "all are back")
        assert node.terminate() == 0
        assert bluetoothd.tell("state") == "done state discovery= monitors=0"


def test_no_measurement_is_published_twice(tmp_path, bus, bluetoothd, broker, subscriber):
    """A label that sends each measurement seven times: one reading for each."""
    bluetoothd.tell("label", "A4:C1:38:00:00:01", "ruuvi", 0.3)
    with a_node(tmp_path, bus, config(broker.port, sensor("a", "A4:C1:38:00:00:01"))):
        subscriber.wait_for_states("a", 4)
        bluetoothd.tell("become", "A4:C1:38:00:00:01", "stuck")
        time.sleep(INTERVAL_S + 1)
        before = len(subscriber.states("a"))
        subscriber.wait_for("sensors/test/a/availability", "offline", OFFLINE_WITHIN_S + 5)
        assert len(subscriber.states("a")) == before
        bluetoothd.tell("become", "A4:C1:38:00:00:01", "alive")
        subscriber.wait_for("sensors/test/a/availability", "online", 20)


def test_what_bluez_remembers_is_not_read(tmp_path, bus, bluetoothd, broker, subscriber):
    """Negative control: one that sends is read."""
    gone, there = "A4:C1:38:00:00:01", "A4:C1:38:00:00:02"
    bluetoothd.tell("remember", gone, "pvvx")
    bluetoothd.tell("remember", there, "pvvx")
    bluetoothd.tell("label", there, "pvvx", SENT_EVERY_S)
    text = config(broker.port, sensor("gone", gone), sensor("there", there))
    with a_node(tmp_path, bus, text) as node:
        subscriber.wait_for("sensors/test/there/availability", "online")
        for _ in range(5):
            bluetoothd.tell("touch", gone)
        node.wait_for_log("gone (ble): offline: Bluetooth A4:C1:38:00:00:01: nothing heard", 60)
        assert subscriber.states("gone") == []


def test_a_new_connection_does_not_make_remembered_data_new(
    tmp_path, bus, bluetoothd, broker, subscriber
):
    """The system's D-Bus restarts: all that bleak has is read anew from BlueZ's memory."""
    address = "A4:C1:38:00:00:01"
    bluetoothd.tell("label", address, "govee", SENT_EVERY_S)
    with a_node(tmp_path, bus, config(broker.port, sensor("a", address))) as node:
        subscriber.wait_for("sensors/test/a/availability", "online")
        bluetoothd.stop()
        bus.stop()
        subscriber.wait_for("sensors/test/a/availability", "offline", OFFLINE_WITHIN_S + 15)
        node.wait_for_log("no D-Bus")
        bus.start()
        bluetoothd.start()
        bluetoothd.tell("remember", address, "govee")
        wait_until(
            lambda: "A4:C1:38" in bluetoothd.tell("state"), BACK_WITHIN_S, "the node scans again"
        )
        before = len(subscriber.states("a"))
        for _ in range(3):
            bluetoothd.tell("touch", address)
        time.sleep(INTERVAL_S + 1)
        assert len(subscriber.states("a")) == before
        bluetoothd.tell("label", address, "govee", SENT_EVERY_S)
        subscriber.wait_for("sensors/test/a/availability", "online", 30)


def test_a_wrong_key_is_told_and_costs_its_own_sensor_alone(
    tmp_path, bus, bluetoothd, broker, subscriber
):
    wrong, right = "A4:C1:38:00:00:01", "A4:C1:38:00:00:02"
    for address in (wrong, right):
        bluetoothd.tell("label", address, "bthome", SENT_EVERY_S, KEY)
    other = "00112233445566778899aabbccddeeff"
    text = config(
        broker.port,
        sensor("wrong", wrong, f'key = "{other}"'),
        sensor("right", right, f'key = "{KEY}"'),
    )
    with a_node(tmp_path, bus, text) as node:
        subscriber.wait_for("sensors/test/right/availability", "online")
        node.wait_for_log("cannot be decrypted with the configured key; compare the key", 60)
        assert subscriber.states("wrong") == []
        for secret in (KEY, other):
            assert secret not in node.log
            assert all(secret not in payload for _, payload, _ in subscriber.messages)


def test_a_passive_scan_where_bluez_and_every_format_allow_it(
    tmp_path, bus, bluetoothd, broker, subscriber
):
    bluetoothd.tell("monitoring")
    forms = {"pvvx": "", "ruuvi": "", "bthome": KEY}
    sensors = []
    for number, (form, key) in enumerate(forms.items()):
        address = f"A4:C1:38:00:00:{number:02X}"
        bluetoothd.tell("label", address, form, SENT_EVERY_S, key)
        more = f'format = "{form}"\n' + (f'key = "{key}"' if key else "")
        sensors.append(sensor(form, address, more))
    with a_node(tmp_path, bus, config(broker.port, *sensors)):
        for form in forms:
            subscriber.wait_for_states(form, 3)
        assert bluetoothd.tell("state") == "done state discovery= monitors=1"
        bluetoothd.tell("become", "A4:C1:38:00:00:00", "stuck")
        bluetoothd.tell("become", "A4:C1:38:00:00:01", "dead")
        for form in ("pvvx", "ruuvi"):
            subscriber.wait_for(f"sensors/test/{form}/availability", "offline", 40)
        assert is_online(subscriber, "bthome")


# -- One command ----------------------------------------------------------------------------------


def said(tmp_path: Path, env: dict[str, str], *command: str, text: str = "") -> tuple[int, str]:
    file = tmp_path / "node.toml"
    file.write_text(text or config(1883, sensor("a", "A4:C1:38:00:00:01")))
    done = subprocess.run(
        [SENSOR_NODE, *command, "--config", str(file)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_read_waits_for_the_first_advertisement(tmp_path, bus, bluetoothd):
    bluetoothd.tell("label", "A4:C1:38:00:00:01", "govee", 3.0)
    code, text = said(tmp_path, bus.env, "read", "--json")
    assert code == 0, text
    (result,) = json.loads(text)["sensors"] if text.startswith("{") else json.loads(text)
    assert set(result["values"]) == {"temperature", "humidity", "battery", "rssi"}


def test_without_bluetoothd(tmp_path, bus):
    code, text = said(tmp_path, bus.env, "read")
    assert code == 1
    assert "bluetoothd is not running; sudo apt install bluez" in text


def test_without_d_bus(tmp_path):
    code, text = said(tmp_path, {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/none"}, "read")
    assert code == 1
    assert "no D-Bus (No such file or directory)" in text


def test_without_the_right(tmp_path):
    bus = DBus(tmp_path, denied=True).start()
    bluetoothd = Bluetoothd(bus).start()
    try:
        code, text = said(tmp_path, bus.env, "read")
    finally:
        bluetoothd.stop()
        bus.stop()
    assert code == 1
    assert "this user has no permission to use bluetoothd" in text
    assert "usermod -aG bluetooth" in text


@pytest.mark.usefixtures("bluetoothd")
def test_another_adapter(tmp_path, bus):
    text = config(1883, sensor("a", "A4:C1:38:00:00:01", 'adapter = "hci1"'))
    code, text = said(tmp_path, bus.env, "read", text=text)
    assert code == 1
    assert 'the adapter hci1 is not there; there is hci0: adapter = "hci0"' in text


def test_an_adapter_that_is_off(tmp_path, bus, bluetoothd):
    bluetoothd.tell("power", "off")
    code, text = said(tmp_path, bus.env, "read")
    assert code == 1
    assert "hci0 is switched off" in text


def test_doctor_says_how_the_adapter_is(tmp_path, bus, bluetoothd, broker):
    text = config(broker.port, sensor("a", "A4:C1:38:00:00:01"))

    def bluetooth() -> dict[str, str]:
        _, out = said(tmp_path, bus.env, "doctor", "--json", text=text)
        steps = json.loads(out[out.index("{") :])["steps"]
        (step,) = [step for step in steps if step["name"] == "Bluetooth"]
        return {key: step[key] for key in ("status", "message", "remedy")}

    assert bluetooth() == {
        "status": "ok",
        "message": "hci0 is on; BlueZ cannot scan passively with it",
        "remedy": "",
    }
    bluetoothd.tell("power", "off")
    step = bluetooth()
    assert (step["status"], step["message"]) == ("failed", "hci0 is switched off")
    assert "bluetoothctl power on" in step["remedy"]


SCAN = """\
from pathlib import Path

from drivers.ble.sensor import BLE
from drivers.hardware import HardwareBoard


class Board(HardwareBoard):
    \"\"\"This computer's, with an adapter that the kernel does not know of.\"\"\"

    def path(self, absolute):
        return Path({folder!r}) if absolute == "/sys/class/bluetooth" else Path(absolute)


for attached in BLE.scan(Board()):
    print(attached.options, attached.summary)
"""


def test_scan_lists_what_is_heard_by_kind(tmp_path, bus, bluetoothd):
    folder = tmp_path / "adapters"
    (folder / "hci0").mkdir(parents=True)
    bluetoothd.tell("remember", "A4:C1:38:00:00:09", "pvvx")
    for number, form in enumerate(FORMATS):
        bluetoothd.tell("label", f"A4:C1:38:00:00:{number:02X}", form, SENT_EVERY_S)
    bluetoothd.tell("label", "A4:C1:38:00:00:20", "bthome", SENT_EVERY_S, KEY)
    bluetoothd.tell("foreign", 50)
    done = subprocess.run(
        [sys.executable, "-c", SCAN.format(folder=str(folder))],
        env={**os.environ, **bus.env},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(FORMATS) + 1
    for number, form in enumerate(FORMATS):
        options = {"address": f"A4:C1:38:00:00:{number:02X}", "format": form}
        (line,) = [line for line in lines if line.startswith(str(options))]
        assert "temperature 2" in line
        assert "dBm" in line
    (sealed,) = [line for line in lines if "A4:C1:38:00:00:20" in line]
    assert "encrypted" in sealed
