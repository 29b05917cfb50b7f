"""Faults of the simulation, each kind on each bus, as the real driver code meets them.

Each sensor is read well before the fault and again after it; what happens in between is the
claim. That it reads well without the fault is the negative control.
"""

from __future__ import annotations

import itertools
import math
import struct
import subprocess
from functools import partial
from itertools import pairwise

import adafruit_dht  # noqa: F401, so that it is put on the fake clock
import pytest
from support import (
    PATIENCE_S,
    SENSOR_NODE,
    FakeClock,
    Subscriber,
    TickingClock,
    put_libraries_on,
    replaced,
    wait_until,
)
from test_catalogue import driver_on_fake_time

from drivers.base import Driver, DriverInfo, Measurement, Options
from drivers.catalogue import CATALOGUE
from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    SensorError,
    SensorFault,
    SensorNotFound,
    SensorTimeout,
)
from drivers.registry import driver_names, find_driver
from drivers.sim.board import SimulatedBoard
from drivers.sim.broken import FaultyChip
from drivers.sim.faults import DEFAULT_AMOUNTS, KINDS, Fault, fault_kinds
from drivers.sim.room import Air, Climate, Room

ROWS = {row.name for row in CATALOGUE}
AFTER_S, FOR_S = 100.0, 500.0

_WITH_OPTIONS = ("agree", "ble", "dht11", "dht22", "modbus", "sysfs")
SENSORS: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in driver_names() if name not in _WITH_OPTIONS},
    **{
        f"ble {form}": ("ble", {"address": "A4:C1:38:8D:18:B2", "format": form})
        for form in ("bthome", "govee")  # with a counter, and without
    },
    "dht11": ("dht11", {"pin": 4}),
    "dht22": ("dht22", {"pin": 4}),
    "dht22 edges": ("dht22", {"pin": 4, "backend": "edges"}),
    "dht22 kernel": ("dht22", {"pin": 4, "backend": "kernel"}),
    "ds18b20 28": ("ds18b20", {"address": "28-0316a2795bff"}),
    "ds18b20 10": ("ds18b20", {"address": "10-0316a2795bff"}),
    "sysfs file": ("sysfs", {"path": "/sys/class/hwmon/hwmon0/temp1_input"}),
    "sysfs bmp280": ("sysfs", {"name": "bmp280"}),
    "sysfs scd4x": ("sysfs", {"name": "scd4x"}),
    "sysfs dht11": ("sysfs", {"name": "dht11"}),
    "sysfs lm75": ("sysfs", {"name": "lm75"}),
    "modbus": ("modbus", {"port": "/dev/ttyUSB0", "model": "xy-md02"}),
    "modbus tcp": ("modbus", {"host": "10.0.0.1", "model": "cwt-th"}),
    "mcp3008 thermistor": ("mcp3008", {"sensor": "thermistor"}),
}


def options_of(sensor: str) -> Options:
    name, given = SENSORS[sensor]
    return find_driver(name).options(**given)


def with_kind(*kinds: str) -> pytest.MarkDecorator:
    """Every sensor with every one of these kinds that it can have."""
    return pytest.mark.parametrize(
        ("sensor", "kind"),
        [
            (sensor, kind)
            for sensor, (name, _) in SENSORS.items()
            for kind in fault_kinds(name, options_of(sensor))
            if kind in kinds
        ],
    )


class Bench:
    """One sensor with one fault, and its driver, which is opened anew after a failure."""

    def __init__(self, sensor: str, fault: Fault | None, clock: FakeClock, info: DriverInfo):
        self.clock = clock
        self.board = SimulatedBoard(clock)
        self.options = options_of(sensor)
        self.info = info
        self.board.attach(info.name, self.options, () if fault is None else (fault,))
        self.spot = f"{info.name} {self.options.where()}"
        self._start_s = clock.now_s
        self._driver: Driver | None = None

    def at(self, elapsed_s: float) -> None:
        """Go to a moment since the start."""
        assert self._start_s + elapsed_s >= self.clock.now_s, "it took longer than that"
        self.clock.now_s = self._start_s + elapsed_s

    def read(self) -> Measurement:
        try:
            if self._driver is None:
                self._driver = self.info.open(self.options, self.board)
            return self._driver.read()
        except SensorError:
            if self.info.reopen_after_failure:
                self.close()
            raise

    def close(self) -> None:
        """Let go of pins, which gpiozero shares among boards."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def celsius(self) -> float:
        measurement = self.read()
        if "voltage" in measurement:  # a TMP36 at an ADS1115
            return (measurement["voltage"] - 0.5) * 100
        offset = -25 if self.info.name == "cpu" else 0
        return measurement["temperature"] + offset

    def believes_the_air(self) -> None:
        """Fails unless the sensor reads the air around it, as far as it resolves it."""
        coarse = any(channel.decimals == 0 for channel in self.info.channels)
        tolerance = 1.6 if coarse else 0.6
        assert self.celsius() == pytest.approx(
            self.board.room.at(self.spot).temperature, abs=tolerance
        )


@pytest.fixture
def clock() -> FakeClock:
    return TickingClock()


@pytest.fixture
def bench(clock: FakeClock, monkeypatch: pytest.MonkeyPatch):
    """Makes a bench whose fault lasts from `AFTER_S` for `FOR_S`; one without, where it is None."""

    made: list[Bench] = []

    def make(sensor: str, kind: str | None, amount: float | None = None) -> Bench:
        for other in made:
            other.close()
        name = SENSORS[sensor][0]
        info = driver_on_fake_time(name, clock, monkeypatch) if name in ROWS else find_driver(name)
        fault = None
        if kind is not None:
            amount = DEFAULT_AMOUNTS.get(kind, 0.0) if amount is None else amount
            fault = Fault(kind=kind, after_s=AFTER_S, for_s=FOR_S, amount=amount)
        made.append(Bench(sensor, fault, clock, info))
        return made[-1]

    put_libraries_on(clock, monkeypatch)
    yield make
    for bench in made:
        bench.close()


# -- What must not be read -----------------------------------------------------------------------


@with_kind("unplug", "crc", "power-on")
def test_a_sensor_with_the_fault_gives_no_reading_and_comes_back(bench, sensor, kind):
    subject = bench(sensor, kind)
    subject.believes_the_air()
    subject.at(AFTER_S + 1)
    with pytest.raises(SensorError) as raised:
        subject.read()
    assert raised.value.hint, raised.value
    subject.at(AFTER_S + FOR_S + 1)
    subject.believes_the_air()


@with_kind("hang")
def test_a_sensor_that_hangs_is_given_up_or_blocks_until_it_hangs_no_more(bench, sensor, kind):
    """On I2C an adapter gives up by itself, and Modbus has a timeout; a file keeps its reader."""
    subject = bench(sensor, kind)
    subject.believes_the_air()
    subject.at(AFTER_S + 1)
    if "i2c" in subject.options.bus() or subject.info.name == "modbus":
        # AM2320's library swallows what the bus says.
        with pytest.raises(
            (SensorTimeout, BadFrame, SensorNotFound),
            match=r"the bus is held|no result within|wakeup|cut short|no answer",
        ):
            subject.read()
        assert subject.clock.now_s - subject._start_s < AFTER_S + 1 + subject.info.read_budget_s
        subject.at(AFTER_S + FOR_S + 1)
    else:
        subject.read()
        assert subject.clock.now_s - subject._start_s >= AFTER_S + FOR_S
    subject.believes_the_air()


@pytest.mark.parametrize(
    ("sensor", "kind", "error", "says"),
    [
        ("dht22", "unplug", SensorNotFound, "pull-up"),
        ("dht22 edges", "unplug", SensorNotFound, "pull-up"),
        ("dht22", "crc", BadFrame, "checksum differs"),
        ("dht22 edges", "crc", BadFrame, "checksum differs"),
        ("dht22 kernel", "crc", BadFrame, "damaged frame"),
        ("ds18b20 28", "unplug", SensorNotFound, "not on the bus"),
        ("ds18b20 28", "crc", BadFrame, "CRC error"),
        ("ds18b20 28", "power-on", ImplausibleValue, "85.0 °C is the power-on value"),
        ("ds18b20 10", "power-on", ImplausibleValue, "85.0 °C is the power-on value"),
        ("bme280", "unplug", SensorNotFound, r"\(NACK\)|no acknowledgement|No I2C device"),
        ("bme280", "power-on", SensorError, "lost its power|outside"),
        ("sht31d", "crc", BadFrame, "CRC"),
        ("max31855", "unplug", (BadFrame, SensorFault), "stuck high"),
        ("mcp3008", "unplug", ImplausibleValue, "open wire"),
        ("mcp3008 thermistor", "unplug", ImplausibleValue, "open"),
        ("sysfs file", "unplug", SensorNotFound, "does not exist"),
        ("sysfs file", "crc", BadFrame, "Input/output error"),
        ("sysfs bmp280", "unplug", SensorNotFound, "has gone"),
        ("sysfs bmp280", "crc", BadFrame, "Input/output error"),
        ("modbus", "unplug", SensorNotFound, "no answer within 0.5 s"),
        ("modbus", "crc", BadFrame, "wrong checksum"),
        ("modbus", "hang", BadFrame, "cut short"),
    ],
)
def test_the_driver_says_what_it_would_say_on_a_pi(bench, sensor, kind, error, says):
    subject = bench(sensor, kind)
    subject.read()
    subject.at(AFTER_S + 1)
    with pytest.raises(error, match=says):
        subject.read()


# -- What is read, and is not true ---------------------------------------------------------------


@with_kind("spike")
def test_a_spike_is_off_by_its_amount_while_it_lasts(bench, sensor, kind):
    subject = bench(sensor, kind, 12.0)
    subject.believes_the_air()
    subject.at(AFTER_S + 1)
    with pytest.raises(AssertionError):
        subject.believes_the_air()
    truth = subject.board.room.at(subject.spot).temperature
    assert subject.celsius() == pytest.approx(truth + 12, abs=2)
    subject.at(AFTER_S + FOR_S + 1)
    subject.believes_the_air()


@with_kind("drift")
def test_a_drift_grows_by_its_amount_each_minute(bench, sensor, kind):
    subject = bench(sensor, kind, 3.0)
    subject.believes_the_air()
    subject.at(AFTER_S + 1)
    subject.believes_the_air()
    subject.at(AFTER_S + 300)
    truth = subject.board.room.at(subject.spot).temperature
    assert subject.celsius() == pytest.approx(truth + 15, abs=2)
    subject.at(AFTER_S + FOR_S + 1)
    subject.believes_the_air()


@with_kind("stuck")
def test_a_stuck_sensor_says_the_same_again_and_again(bench, sensor, kind):
    for fault, alike in ((kind, True), (None, False)):
        subject = bench(sensor, fault)
        seen = []
        if sensor == "ble bthome" and fault is not None:  # which numbers its measurements
            subject.at(AFTER_S + 10)
            with pytest.raises(SensorError, match="the same measurement"):
                [subject.read() for _ in range(2)]
            continue
        for elapsed_s in range(int(AFTER_S) + 10, int(AFTER_S + FOR_S) - 10, 40):
            subject.at(elapsed_s)
            seen.append(subject.read())
        # The MLX90632's library corrects a value by the one before.
        same = partial(pytest.approx, abs=0.002 if sensor == "mlx90632" else 0.0, rel=0.0)
        assert all(now == same(before) for before, now in pairwise(seen)) is alike
        subject.at(AFTER_S + FOR_S + 1)
        subject.believes_the_air()


@with_kind("slow")
def test_a_slow_sensor_takes_longer_and_is_right(bench, sensor, kind):
    took_s = {}
    for fault in (kind, None):
        subject = bench(sensor, fault, 0.05)
        subject.believes_the_air()
        subject.at(AFTER_S + 10)
        began_s = subject.clock.now_s
        subject.believes_the_air()
        took_s[fault] = subject.clock.now_s - began_s
    # A periodic chip may hide it in its wait for a new value.
    at_least = 0.045 if subject.info.min_interval_s < 5 else -0.1
    assert took_s[kind] - took_s[None] >= at_least


@pytest.mark.parametrize("amount", [-100.0, 100.0])
@with_kind("spike")
def test_a_spike_beyond_a_sensors_range_is_refused_or_a_value_that_it_can_mean(
    bench, sensor, kind, amount
):
    """The simulated chip is at the end of its scale; it does not fall over."""
    subject = bench(sensor, kind, amount)
    subject.read()
    subject.at(AFTER_S + 1)
    fell_over, measurement = False, {}
    try:
        measurement = subject.read()
    except SensorError as error:
        fell_over = isinstance(error.__cause__, struct.error | OverflowError)
    assert not fell_over
    assert all(map(math.isfinite, measurement.values()))


# -- Which, and when -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sensor", "kinds"),
    [
        ("ds18b20", set(KINDS)),
        ("dht22", set(KINDS) - {"power-on"}),
        ("sysfs file", set(KINDS) - {"power-on"}),
        ("modbus", set(KINDS) - {"power-on"}),
        ("modbus tcp", set(KINDS) - {"power-on", "crc"}),
        ("bme280", set(KINDS) - {"crc"}),
        ("sht31d", set(KINDS) - {"power-on"}),
        ("ahtx0", set(KINDS) - {"power-on"}),
        ("max31855", {"unplug", "spike", "drift", "stuck"}),
        ("mcp3008", {"unplug", "spike", "drift", "stuck"}),
        ("cpu", {"hang", "slow", "spike", "drift", "stuck"}),
        ("ms8607", set(KINDS) - {"power-on"}),
    ],
)
def test_a_sensor_can_have_what_its_bus_can(sensor, kinds):
    assert set(fault_kinds(SENSORS[sensor][0], options_of(sensor))) == kinds


def test_a_fault_is_on_from_after_for_its_time_and_again_every_so_often():
    fault = Fault(kind="hang", after_s=30, for_s=20, every_s=120)
    on = [second for second in range(400) if fault.began_s(second) is not None]
    assert on == [*range(30, 50), *range(150, 170), *range(270, 290), *range(390, 400)]
    assert fault.began_s(275) == 270
    assert Fault(kind="hang", after_s=5).began_s(1e9) == 5, "without `for`, it stays"


def test_faults_of_a_sensor_add_up(clock):
    faults = [Fault(kind="spike", amount=5.0), Fault(kind="spike", amount=2.0, after_s=50)]
    bench = Bench("cpu", None, clock, find_driver("cpu"))
    bench.board.attach("cpu", bench.options, faults)
    truth = bench.board.room.at(bench.spot).temperature
    assert bench.celsius() == pytest.approx(truth + 5, abs=0.3)
    bench.at(60)
    truth = bench.board.room.at(bench.spot).temperature
    assert bench.celsius() == pytest.approx(truth + 7, abs=0.3)


def test_a_device_that_is_unplugged_keeps_its_number(clock):
    """Its neighbour is read on, and under the same path."""
    board = SimulatedBoard(clock)
    sysfs = find_driver("sysfs")
    one, other = sysfs.options(name="lm75", device="1-0048"), sysfs.options(name="tmp102")
    board.attach("sysfs", one, [Fault(kind="unplug", after_s=10)])
    board.attach("sysfs", other)
    first, second = sysfs.open(one, board), sysfs.open(other, board)
    assert first.read()
    assert second.read()
    clock.now_s += 20
    with pytest.raises(SensorNotFound):
        first.read()
    assert second.read()


def test_a_chip_that_was_unplugged_has_lost_its_state(clock, monkeypatch):
    """An SCD41 stops measuring; the driver starts it again."""
    info = driver_on_fake_time("scd4x", clock, monkeypatch)
    subject = Bench("scd4x", Fault(kind="unplug", after_s=100, for_s=10), clock, info)
    subject.read()
    faulty = subject.board.i2c_ports[1].chips[0x62]
    assert isinstance(faulty, FaultyChip)
    before = faulty._chip
    subject.at(105)
    with pytest.raises(SensorError):
        subject.read()
    subject.at(111)
    subject.believes_the_air()
    assert faulty._chip is not before


# -- The room ------------------------------------------------------------------------------------


def over_a_day(climate: Climate | None) -> list[Air]:
    clock = FakeClock()
    room = Room(clock, climate)
    return [room.at("here", 600.0 * step) for step in range(144)]


def test_the_room_is_as_it_is_described():
    day = [air.temperature for air in over_a_day(Climate(base=5.0, daily_swing=20.0, noise=0.0))]
    assert max(day) - min(day) == pytest.approx(20, abs=4.5)
    assert sum(day) / len(day) == pytest.approx(5, abs=1.5)
    assert max(day) == max(day[:72]), "it begins halfway, and gets warmer first"
    humidity = [air.humidity for air in over_a_day(Climate(humidity=80.0))]
    assert sum(humidity) / len(humidity) == pytest.approx(80, abs=2)


def test_noise_is_what_it_says():
    clock = FakeClock()
    quiet, loud = (Room(clock, Climate(noise=noise)) for noise in (0.0, 2.0))
    steps = [0.01 * step for step in range(400)]
    off = [loud.at("x", s).temperature - quiet.at("x", s).temperature for s in steps]
    assert math.sqrt(sum(x * x for x in off) / len(off)) == pytest.approx(2.0, rel=0.15)
    assert abs(quiet.at("x", 0.01).temperature - quiet.at("x", 0.0).temperature) < 0.001


def test_a_room_that_nobody_describes_is_the_default():
    assert over_a_day(None) == over_a_day(Climate())


# -- The node ------------------------------------------------------------------------------------

NODE = """
[node]
name = "test"
[mqtt]
host = "127.0.0.1"
port = {port}
[[sensor]]
id = "air"
driver = "dht22"
pin = 4
interval = "2s"
[[sensor]]
id = "water"
driver = "ds18b20"
interval = "0.5s"
[[sensor]]
id = "box"
driver = "bme280"
interval = "0.5s"
[[sensor]]
id = "file"
driver = "sysfs"
path = "/sys/class/hwmon/hwmon9/temp1_input"
interval = "0.5s"
[simulation]
base = 30
[[simulation.fault]]
sensor = "{sensor}"
kind = "{kind}"
after = "{after}"
for = "{lasts}"
every = "2h"
"""


def availability(subscriber: Subscriber, sensor: str) -> list[str]:
    """What was said since the first `online`, without repeats."""
    said = subscriber.on(f"sensors/test/{sensor}/availability")
    return [new for new, _ in itertools.groupby(said[said.index("online") :])]


@pytest.mark.real_time(seconds=15)
@pytest.mark.parametrize(
    ("sensor", "kind", "lasts", "says"),
    [
        ("air", "crc", "9s", "checksum differs"),
        ("water", "power-on", "4s", "85.0 °C is the power-on value"),
        ("box", "unplug", "4s", "check power, SDA and SCL"),
        ("file", "hang", "5s", "no answer for"),
    ],
)
def test_a_fault_takes_its_sensor_offline_and_no_other_and_it_comes_back(
    broker, subscribe, start_node, sensor, kind, lasts, says
):
    subscriber = subscribe(broker.port)
    config = NODE.format(port=broker.port, sensor=sensor, kind=kind, after="4s", lasts=lasts)
    # Again and again: where the node takes long to connect, the first one is over by then.
    config = config.replace('every = "2h"', 'every = "25s"')
    node = start_node(config, "--simulate")
    topic = f"sensors/test/{sensor}/availability"
    subscriber.wait_for(topic, "online")
    subscriber.wait_for(topic, "offline", seconds=25 + PATIENCE_S)
    broken = len(subscriber.states(sensor))
    subscriber.wait_for(topic, "online")
    node.wait_for_log(says)
    assert f"simulated fault: {sensor} {kind} after 4s for {lasts} every 25s" in node.log
    assert broken >= 1
    for other in {"air", "water", "box", "file"} - {sensor}:
        assert availability(subscriber, other) == ["online"]
    for name in ("air", "water", "box", "file"):
        for state in subscriber.states(name):
            assert 26 < state["temperature"] < 34, "not of this room"
    assert "[simulation]" not in node.log


@pytest.mark.parametrize("is_filtered", [False, True])
def test_a_spike_is_published_unless_a_filter_rejects_it(
    broker, subscribe, start_node, is_filtered
):
    subscriber = subscribe(broker.port)
    config = NODE.format(port=broker.port, sensor="box", kind="spike", after="2s", lasts="1h")
    if is_filtered:
        filtered = 'id = "box"\nchannel.temperature.range = [0, 40]'
        config = replaced(config, ('id = "box"', filtered))
    node = start_node(config, "--simulate")
    if is_filtered:
        node.wait_for_log("outside")
    else:
        subscriber.wait_for("sensors/test/box/availability", "online")
        wait_until(lambda: any(s["temperature"] > 45 for s in subscriber.states("box")))
        assert availability(subscriber, "box") == ["online"]
    published = [s.get("temperature") or 0.0 for s in subscriber.states("box")]
    assert any(celsius > 40 for celsius in published) is not is_filtered
    assert all(s["temperature"] < 40 for s in subscriber.states("water"))


def test_a_node_on_hardware_says_that_the_simulation_has_no_effect(start_node, broker):
    config = NODE.format(port=broker.port, sensor="box", kind="hang", after="0s", lasts="1h")
    node = start_node(config)
    node.wait_for_log("[simulation] has no effect without --simulate")
    assert "simulated fault" not in node.log


def test_a_sensor_that_is_broken_from_the_start_is_read_as_broken(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text(NODE.format(port=1, sensor="box", kind="unplug", after="0s", lasts="1h"))
    command = [SENSOR_NODE, "read", "--simulate", "--config", str(config), "box", "file"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "check power, SDA and SCL" in done.stdout
    assert "file" in done.stdout.splitlines()[1]
