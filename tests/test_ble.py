"""The driver `ble`, on simulated radio: what is new, what never is, and what it says otherwise."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from homeassistant_schema import problems_in
from support import FakeClock

from drivers.base import Measurement, Options
from drivers.ble.advertisement import channel_called
from drivers.ble.formats import FORMATS
from drivers.ble.label import Label
from drivers.ble.sensor import BLE, BleOptions, BleSensor
from drivers.bus import Advertisement
from drivers.cpu import CPU
from drivers.errors import (
    BadFrame,
    MissingSupport,
    SensorError,
    SensorFault,
    SensorNotFound,
    SensorTimeout,
    WrongDriver,
)
from drivers.scanning import scan
from drivers.sim.board import SimulatedBoard
from drivers.sim.faults import Fault, fault_kinds
from drivers.sim.labels import advertised
from drivers.sim.room import Air
from node.config.load import load
from node.config.schema import Config
from node.homeassistant.discovery import (
    AnnouncedChannel,
    AnnouncedSensor,
    device_message,
    discovery_topic,
)
from node.reading import ReadOutcome
from node.sensors.port import SensorPort
from node.sensors.state import SensorState
from node.setup.dialog import Dialog
from node.setup.sensors import ask_sensors
from node.system.host import Vitals

ADDRESS = "A4:C1:38:8D:18:B2"
KEY = "231d39c1d7cc1ab1aee224cd096db932"
ENCRYPTED = ("bthome", "pvvx", "atc", "mibeacon")
COUNTED = ("bthome", "pvvx", "atc", "mibeacon", "ruuvi")


def air(celsius: float) -> Air:
    return Air(temperature=celsius, humidity=45.0, pressure=1013.0)


def sent(form: str, count: int, *, celsius: float = 21.5, at_s: float = 1000.0, key: str = ""):
    sealed = bytes.fromhex(key) if key else None
    return advertised(form, air(celsius), count, ADDRESS, sealed, heard_s=at_s)


def a_label(form: str = "auto", key: str = "") -> Label:
    return Label(form, bytes.fromhex(key) if key else None, 1000.0)


def taken(label: Label) -> Measurement | None:
    found = label.take()
    return None if found is None else found[0]


class Bench:
    """A sensor on a simulated board, whose time passes only when the test or the driver lets it."""

    def __init__(self, *faults: Fault, form: str = "auto") -> None:
        self.clock = FakeClock()
        self.board = SimulatedBoard(self.clock)
        self.options = msgspec.convert({"address": ADDRESS, "format": form}, BleOptions)
        self.board.attach("ble", self.options, faults)
        self.sensor = BleSensor(self.options, self.board)

    def read(self) -> Measurement:
        return self.sensor.read()

    def failure(self) -> SensorError:
        with pytest.raises(SensorError) as caught:
            self.read()
        assert caught.value.hint
        assert ADDRESS in caught.value.what
        return caught.value


# -- What is new ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("celsius", [21.5, -7.5, 0.5])
def test_each_format_is_read_as_its_simulation_has_sent_it(form, named, celsius):
    label = a_label(form if named else "auto")
    label.hear(sent(form, 1, celsius=celsius))
    measured = taken(label)
    assert measured is not None
    assert measured["temperature"] == pytest.approx(celsius, abs=0.01)
    assert measured["humidity"] == pytest.approx(45.0, abs=0.1)
    assert -127 < measured["rssi"] < 0
    assert taken(label) is None, "a measurement was read twice"


@pytest.mark.parametrize("form", ENCRYPTED)
def test_each_encrypted_format_is_read_with_its_key(form):
    label = a_label(form, KEY)
    label.hear(sent(form, 300, key=KEY))
    measured = taken(label)
    assert measured is not None
    assert measured["temperature"] == pytest.approx(21.5)


@pytest.mark.parametrize("form", COUNTED)
def test_a_label_that_repeats_its_last_measurement_is_read_once(form):
    label = a_label()
    for second in range(200):
        label.hear(sent(form, 7, at_s=1000.0 + second))
        if second == 0:
            assert taken(label) is not None
    assert not label.has_unread
    error = label.silence(1200.0)
    assert isinstance(error, SensorFault)
    assert "has sent the same measurement for 200 s" in error.what


@pytest.mark.parametrize("form", sorted(FORMATS.keys() - {*COUNTED}))
def test_without_a_counter_each_advertisement_is_a_sign_of_life(form):
    label = a_label()
    for second in range(3):
        label.hear(sent(form, 7, at_s=1000.0 + second))
        assert taken(label) is not None


def test_a_counter_that_wraps_is_no_repetition():
    label = a_label()
    for count in (254, 255, 256, 257):
        label.hear(sent("pvvx", count))
        assert taken(label) is not None, count


def test_each_format_of_a_label_that_sends_several_has_a_counter_of_its_own():
    """The firmware of pvvx can send all its formats in turn, with the same counter in each."""
    label = a_label()
    for form in ("pvvx", "atc", "bthome"):
        label.hear(sent(form, 7))
    assert taken(label) is not None
    for form in ("pvvx", "atc", "bthome"):
        label.hear(sent(form, 7))
    assert taken(label) is None


@pytest.mark.parametrize("form", ["bthome"])
def test_an_old_encrypted_advertisement_is_refused(form):
    label = a_label(form, KEY)
    label.hear(sent(form, 5000, key=KEY))
    assert taken(label) is not None
    label.hear(sent(form, 4999, key=KEY, celsius=90.0, at_s=1001.0))
    assert taken(label) is None
    error = label.silence(1002.0)
    assert isinstance(error, BadFrame)
    assert "number 4999 after number 5000" in error.what
    label.hear(sent(form, 5001, key=KEY, at_s=1003.0))
    assert taken(label) is not None


def test_a_new_battery_lets_the_counter_begin_again():
    label = a_label("bthome", KEY)
    label.hear(sent("bthome", 5000, key=KEY))
    assert taken(label) is not None
    label.hear(sent("bthome", 3, key=KEY))
    assert taken(label) is not None
    label.hear(sent("bthome", 4, key=KEY))
    assert taken(label) is not None


def test_a_wrong_key_is_told_from_silence():
    label = a_label("bthome", "00" * 16)
    label.hear(sent("bthome", 5, key=KEY))
    error = label.silence(1001.0)
    assert isinstance(error, BadFrame)
    assert "cannot be decrypted with the configured key" in error.what
    assert KEY not in str(error)


def test_quantities_that_come_one_by_one_are_read_together():
    """Xiaomi's thermometers send temperature and humidity in turn."""

    def part(content: str, counter: int, at_s: float) -> Advertisement:
        head = f"50505b05{counter:02x}b2188d38c1a4"
        return Advertisement(
            address=ADDRESS, service_data={0xFE95: bytes.fromhex(head + content)}, heard_s=at_s
        )

    label = a_label()
    label.hear(part("041002d700", 1, 1000.0))
    label.hear(part("0610021202", 2, 1010.0))
    label.hear(part("0a100157", 3, 1011.0))
    assert label.take() == ({"temperature": 21.5, "humidity": 53.0, "battery": 87}, 1000.0)
    label.hear(part("0a100156", 4, 1012.0))
    assert label.take() is None, "a battery is not a measurement"
    label.hear(part("041002d800", 5, 1020.0))
    assert label.take() == ({"temperature": 21.6, "battery": 86}, 1020.0)


def test_memory_stays_bounded_however_much_is_heard():
    label = a_label()
    for count in range(2000):
        label.hear(sent("ruuvi", count))
    assert len(label._unread) < 10
    assert len(label._numbers) == 1


# -- What it says ---------------------------------------------------------------------------------


def test_nothing_was_ever_heard():
    bench = Bench(Fault(kind="unplug"))
    error = bench.failure()
    assert isinstance(error, SensorNotFound)
    assert "nothing heard for 20 s" in error.what
    assert "sensor-node scan" in error.hint


@pytest.mark.parametrize(
    ("rssi", "hint"), [(-60, "battery"), (-95, "out of reach")], ids=["near", "far"]
)
def test_a_label_that_died_says_for_how_long_and_how_strong_it_was(rssi, hint):
    label = a_label()
    label.hear(msgspec.structs.replace(sent("pvvx", 1), rssi=rssi))
    assert taken(label) is not None
    error = label.silence(1095.0)
    assert isinstance(error, SensorTimeout)
    assert f"nothing heard for 95 s; the last time at {rssi} dBm" in error.what
    assert hint in error.hint


def test_a_device_that_sends_something_else_is_told():
    label = a_label()
    label.hear(Advertisement(address=ADDRESS, manufacturer_data={0x004C: b"\x02\x15"}, rssi=-50))
    label.hear(
        Advertisement(
            address=ADDRESS, manufacturer_data={0x004C: b"\x02\x15"}, rssi=-50, heard_s=1005.0
        )
    )
    error = label.silence(1006.0)
    assert isinstance(error, WrongDriver)
    assert "heard at -50 dBm, but sends nothing that is known" in error.what


def test_another_format_than_the_configured_one_is_told():
    label = a_label("ruuvi")
    label.hear(sent("pvvx", 1, at_s=1001.0))
    assert "sends nothing that is of the format ruuvi" in label.silence(1002.0).what


# -- The driver -----------------------------------------------------------------------------------


def test_reading_waits_for_the_next_advertisement():
    bench = Bench()
    first = bench.read()
    assert first["temperature"] == pytest.approx(21, abs=5)
    second = bench.read()
    assert first != second


def test_a_primed_reading_never_sleeps():
    bench = Bench()
    while step_s := bench.sensor.prime():
        assert not bench.clock.slept
        bench.clock.now_s += step_s
    assert bench.read()
    assert not bench.clock.slept


def test_a_dead_label_is_not_waited_for_again_and_again():
    """Up to 20 s at the start, and not at all later; a single reading 5 s."""
    bench = Bench(Fault(kind="unplug", after_s=30.0))
    bench.read()
    bench.clock.now_s += 60.0
    assert bench.sensor.prime() == 0.0
    with pytest.raises(SensorTimeout):
        bench.sensor.read()
    bench.clock.slept.clear()
    bench.failure()
    assert sum(bench.clock.slept) == pytest.approx(5.0)
    assert len(bench.clock.slept) < 10


def test_a_label_that_is_never_heard_is_waited_for_once():
    bench = Bench(Fault(kind="unplug"))
    steps = []
    while step_s := bench.sensor.prime():
        steps.append(step_s)
        bench.clock.now_s += step_s
    assert sum(steps) == pytest.approx(20.0)
    assert len(steps) < 12
    with pytest.raises(SensorNotFound):
        bench.sensor.read()
    assert bench.sensor.prime() == 0.0


def test_the_age_of_a_reading_is_that_of_its_advertisement():
    bench = Bench()
    bench.read()
    label = bench.sensor._label
    label.hear(sent("bthome", 99, at_s=bench.clock.now_s))
    bench.clock.now_s += 12.5
    bench.board.radios["hci0"].labels.clear()
    bench.read()
    assert bench.sensor.age_s == pytest.approx(12.5)


def test_unplugged_and_plugged_in_again():
    bench = Bench(Fault(kind="unplug", after_s=10.0, for_s=60.0))
    bench.read()
    bench.clock.now_s += 40.0
    assert "nothing heard for" in bench.failure().what
    bench.clock.now_s += 60.0
    assert bench.read()


@pytest.mark.parametrize("form", ["pvvx", "govee"])
def test_stuck_is_found_where_measurements_are_counted(form):
    bench = Bench(Fault(kind="stuck", after_s=10.0), form=form)
    bench.read()
    bench.clock.now_s += 30.0
    if form == "pvvx":
        assert "has sent the same measurement" in bench.failure().what
    else:
        assert bench.read()


def test_which_faults_it_can_have():
    options = BleOptions(address=ADDRESS)
    assert fault_kinds("ble", options) == ("unplug", "spike", "drift", "stuck")


def test_trouble_of_the_adapter_comes_before_silence(monkeypatch):
    bench = Bench(Fault(kind="unplug"))
    radio = bench.board.radios["hci0"]

    def off() -> None:
        raise SensorFault("hci0 is switched off", "bluetoothctl power on")

    monkeypatch.setattr(radio, "check", off)
    error = bench.failure()
    assert isinstance(error, SensorFault)
    assert "hci0 is switched off" in error.what
    assert not bench.clock.slept


# -- Options --------------------------------------------------------------------------------------


def test_the_address_may_be_written_in_small_letters():
    clock = FakeClock()
    board = SimulatedBoard(clock)
    options = BleOptions(address=ADDRESS.lower())
    board.attach("ble", options)
    assert BLE.open(options, board).read()


def test_a_key_is_never_shown():
    options = BleOptions(address=ADDRESS, key=KEY)
    for text in (repr(options), str(options), f"{options}", options.where(), options.bus()):
        assert KEY not in text


def test_a_key_from_a_file(tmp_path: Path):
    file = tmp_path / "label.key"
    file.write_text(f"{KEY}\n")
    clock = FakeClock()
    board = SimulatedBoard(clock)
    options = BleOptions(address=ADDRESS, key_file=str(file))
    board.attach("ble", options)
    assert BLE.open(options, board).read()["temperature"]


@pytest.mark.parametrize(
    ("content", "what"), [(None, "No such file"), ("secret", "has no key"), ("ä", "not a text")]
)
def test_a_key_file_without_a_key(tmp_path: Path, content, what):
    file = tmp_path / "label.key"
    if content is not None:
        file.write_text(content)
    options = BleOptions(address=ADDRESS, key_file=str(file))
    board = SimulatedBoard(FakeClock())
    board.attach("ble", options)
    with pytest.raises(MissingSupport, match=what) as caught:
        BLE.open(options, board)
    assert "secret" not in str(caught.value)


def test_key_and_key_file_exclude_each_other():
    with pytest.raises(ValueError, match="mutually exclusive"):
        BleOptions(address=ADDRESS, key=KEY, key_file="/x")


def checked(tmp_path: Path, lines: str) -> str:
    config = tmp_path / "node.toml"
    config.write_text(f'[mqtt]\nhost = "127.0.0.1"\n\n[[sensor]]\nid = "a"\n{lines}\n')
    command = [sys.executable, "-m", "node", "check", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def test_a_key_that_is_wrong_is_not_shown_by_check(tmp_path: Path):
    said = checked(tmp_path, f'driver = "ble"\naddress = "{ADDRESS}"\nkey = "{KEY[:-1]}"')
    assert "a key of 32 hexadecimal digits" in said
    assert KEY[:8] not in said


def test_the_name_on_the_box_leads_to_the_driver(tmp_path: Path):
    said = checked(tmp_path, f'driver = "LYWSD03MMC"\naddress = "{ADDRESS}"')
    assert 'is read by ble: driver = "ble"' in said


def test_two_sensors_of_one_address_are_a_mistake(tmp_path: Path):
    said = checked(
        tmp_path,
        f'driver = "ble"\naddress = "{ADDRESS}"\n\n[[sensor]]\nid = "b"\ndriver = "ble"\n'
        f'address = "{ADDRESS.lower()}"',
    )
    assert f"Bluetooth address {ADDRESS} is used by" in said


# -- Scan -----------------------------------------------------------------------------------------


def test_scan_names_what_it_hears_the_nearest_first():
    board = SimulatedBoard(FakeClock())
    options: list[Options] = [
        BleOptions(address="A4:C1:38:8D:18:1C", format="pvvx"),  # -88 dBm
        BleOptions(address="A4:C1:38:8D:18:1E", format="ruuvi"),  # -60 dBm
        BleOptions(address="A4:C1:38:8D:18:20", format="bthome", key=KEY),
    ]
    for one in options:
        board.attach("ble", one)
    assert BLE.scan is not None
    found = BLE.scan(board)
    summaries = [one.summary for one in found]  # type: ignore[union-attr]
    given = [one.options for one in found]  # type: ignore[union-attr]
    assert given == [
        {"address": "A4:C1:38:8D:18:1E", "format": "ruuvi"},
        {"address": "A4:C1:38:8D:18:20"},
        {"address": "A4:C1:38:8D:18:1C", "format": "pvvx"},
    ]
    assert "ruuvi, temperature" in summaries[0]
    assert "-60 dBm" in summaries[0]
    assert "encrypted" in summaries[1]
    assert "ATC_8D18B2, pvvx" in summaries[2]


def test_scan_says_what_it_lacks_to_hear(monkeypatch):
    """Only where there is an adapter."""
    board = SimulatedBoard(FakeClock())
    monkeypatch.setattr("drivers.packages.is_installed", lambda module: module != "bleak")
    monkeypatch.setattr("drivers.scanning.is_installed", lambda module: module != "bleak")
    assert not any("Bluetooth" in note for note in scan(board).notes)
    board.attach("ble", BleOptions(address=ADDRESS))
    result = scan(board)
    assert [finding for finding in result.findings if "Bluetooth" in finding.where] == []
    (note,) = [note for note in result.notes if "Bluetooth" in note]
    assert "were not listened to" in note
    assert "bleak" in note


def test_scan_without_an_adapter_finds_nothing_and_asks_no_radio(monkeypatch):
    board = SimulatedBoard(FakeClock())

    def fail(adapter: str) -> None:
        raise AssertionError(adapter)

    monkeypatch.setattr(board, "radio", fail)
    assert BLE.scan is not None
    assert BLE.scan(board) == []


def test_values_are_finite_whatever_the_weather():
    values: Callable[[float], float] = math.isfinite
    label = a_label()
    for form in FORMATS:
        for celsius in (-39.9, -0.1, 0.0, 59.9):
            label.hear(sent(form, int(celsius * 10) + 400, celsius=celsius))
            measured = taken(label)
            assert measured is not None
            assert all(map(values, measured.values()))


# -- What is published ----------------------------------------------------------------------------


def a_table(tmp_path: Path, more: str = "") -> Config:
    file = tmp_path / "node.toml"
    file.write_text(
        '[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\n[[sensor]]\nid = "shed"\n'
        f'driver = "ble"\ninterval = "10s"\naddress = "{ADDRESS}"\n{more}'
    )
    return load(file)


def an_outcome(at_s: float, celsius: float, rssi: float) -> ReadOutcome:
    values = {"temperature": celsius, "rssi": rssi, "battery": 87.0}
    return ReadOutcome(
        sensor="shed",
        started_s=at_s,
        ended_s=at_s,
        boot_s=at_s,
        utc_s=at_s,
        synced=True,
        measurement=values,
        channels=tuple(map(channel_called, values)),
    )


def test_a_changing_signal_alone_causes_no_message(tmp_path: Path):
    """Otherwise the delta of the temperature would save nothing."""
    config = a_table(tmp_path, "[sensor.channel.temperature]\ndelta = 0.5\n")
    state = SensorState(config.sensors[0])
    worth = []
    for second, celsius, rssi in ((0, 21.0, -60), (10, 21.1, -70), (20, 21.9, -65)):
        values = state.accept(an_outcome(second, celsius, rssi))
        worth.append(state.worth_publishing(values, second))
        if worth[-1]:
            state.published(list(values), second)
    assert worth == [["temperature", "rssi", "battery"], [], ["temperature", "rssi", "battery"]]


def test_home_assistant_gets_battery_and_signal_as_diagnostics(tmp_path: Path):
    config = a_table(tmp_path, "[sensor.channel.temperature]\ndelta = 0.5\n")
    channels = tuple(
        AnnouncedChannel(c.name, c.unit, c.decimals, diagnostic=c.diagnostic)
        for c in map(channel_called, ("temperature", "rssi", "battery", "battery_voltage"))
    )
    sensor = AnnouncedSensor(config.sensors[0], "shed", channels)
    vitals = Vitals(cpu_temperature=None, wifi_dbm=None, under_voltage=None, throttled=None)
    made = device_message(config, "sn01", [sensor], vitals, "Raspberry Pi 4", has_led=False)
    payload = msgspec.json.encode(made)
    assert problems_in(discovery_topic("homeassistant", "sn01"), payload) == []
    said = {
        name: (part["dev_cla"], part.get("ent_cat"), part["exp_aft"])
        for name in ("temperature", "rssi", "battery", "battery_voltage")
        for part in [made["cmps"][f"shed.{name}"]]
    }
    expires_s = said["temperature"][2]  # with its heartbeat: they come along with it
    assert expires_s > 900
    assert said == {
        "temperature": ("temperature", None, expires_s),
        "rssi": ("signal_strength", "diagnostic", expires_s),
        "battery": ("battery", "diagnostic", expires_s),
        "battery_voltage": ("voltage", "diagnostic", expires_s),
    }


def test_a_reading_has_the_time_of_its_advertisement(tmp_path: Path):
    clock = FakeClock()
    board = SimulatedBoard(clock)
    config = a_table(tmp_path)
    board.attach("ble", config.sensors[0].options)
    port = SensorPort(config.sensors[0], board, clock)
    while (first := port.read()).again_s:
        clock.now_s += first.again_s
    assert first.measurement is not None
    assert [channel.name for channel in first.channels] == [*first.measurement]
    board.radios["hci0"].check()
    clock.now_s += 1.0
    board.radios["hci0"].check()
    board.radios["hci0"].labels.clear()
    clock.now_s += 30.0
    second = port.read()
    assert second.measurement is not None
    assert second.age_s == pytest.approx(30.0)


# -- What it costs, and whose it is ---------------------------------------------------------------


def test_a_node_without_a_bluetooth_sensor_loads_nothing_of_it(tmp_path: Path):
    """Negative control: the simulated radio of one with such a sensor is loaded."""
    loaded = {}
    for driver in ("ble", "cpu"):
        file = tmp_path / f"{driver}.toml"
        address = f'address = "{ADDRESS}"\n' * (driver == "ble")
        file.write_text(
            f'[mqtt]\nhost = "127.0.0.1"\n[[sensor]]\nid = "a"\ndriver = "{driver}"\n{address}'
        )
        script = (
            "import sys, node.commands.run\nfrom pathlib import Path\n"
            "from node.config.load import load\n"
            "from node.sensors.board import open_board\n"
            "from node.sensors.read_once import read_once\n"
            f"config = load(Path({str(file)!r}))\n"
            "assert read_once(config.sensors, open_board(config, simulate=True))[0].values\n"
            "print(*sys.modules)\n"
        )
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        modules = done.stdout.split()
        loaded[driver] = [m for m in modules if m.startswith(("drivers.ble", "bleak", "dbus_"))]
    assert loaded["cpu"] == []
    assert "drivers.ble.sensor" in loaded["ble"]


def test_a_plain_label_loads_no_cryptography():
    script = (
        "import sys, drivers.ble.bluez, drivers.ble.sensor\n"
        "print([m for m in sys.modules if m.startswith(('cryptography', 'importlib.metadata'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_what_is_only_heard_may_be_a_neighbours():
    """So `init --yes` leaves it out, and takes what is on a wire."""
    board = SimulatedBoard(FakeClock())
    board.attach("ble", BleOptions(address=ADDRESS))
    board.attach("cpu", CPU.options())
    result = scan(board)
    dialog = Dialog(accept_defaults=True)
    chosen = ask_sensors(dialog, board, result, [])
    assert [sensor.driver for sensor in chosen] == ["cpu"]
    assert {f.sensor.driver for f in result.findings if f.sensor} == {"ble", "cpu"}


def test_check_says_that_there_is_no_adapter(tmp_path: Path):
    said = checked(tmp_path, f'driver = "ble"\naddress = "{ADDRESS}"\nadapter = "hci7"')
    assert "[[sensor]] a: there is no Bluetooth adapter hci7" in said


@pytest.mark.parametrize(
    ("form", "key", "passive"),
    [
        ("auto", None, False),
        ("pvvx", None, True),
        ("ruuvi", None, True),
        ("bthome", None, False),
        ("bthome", KEY, True),
        ("govee", None, False),
    ],
)
def test_which_thermometers_may_be_listened_to_passively(monkeypatch, form, key, passive):
    """Those whose content changes with each measurement: BlueZ reports only changes then."""
    board = SimulatedBoard(FakeClock())
    options = msgspec.convert({"address": ADDRESS, "format": form, "key": key}, BleOptions)
    board.attach("ble", options)
    asked = []
    monkeypatch.setattr(board.radios["hci0"], "listen", lambda *_, passive: asked.append(passive))
    BleSensor(options, board)
    assert asked == [passive]


def test_a_label_may_be_heard_while_it_is_looked_at():
    """Negative control: the dictionary that was looked at would have grown."""
    label = a_label()
    label.hear(sent("pvvx", 1))
    looked_at = iter(label._unread)
    next(looked_at)
    label.hear(sent("ruuvi", 2))  # with pressure, which is another quantity
    assert "pressure" in label._unread
    assert list(looked_at)
