"""What proves a value of a chip: sound answers, flags, its power, and that it is the chip."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from support import FakeClock, TickingClock
from test_catalogue import SIMULATED, driver_on_fake_time

from drivers.base import Driver
from drivers.catalogue import CATALOGUE
from drivers.catalogue_table import proof_of
from drivers.errors import BadFrame, ImplausibleValue, SensorError, SensorFault, WrongDriver
from drivers.registry import find_driver
from drivers.sim.board import SimulatedBoard
from drivers.sim.chips import I2C_CHIPS, simulated_i2c_chip
from drivers.sim.commands import SimulatedScd30, SimulatedSen5x, SimulatedSen66
from drivers.sim.compensated import SimulatedMs8607Pressure
from drivers.sim.room import Air

AIR = Air(19.5, 45.6, 987.6)
ROWS = {row.name: row for row in CATALOGUE}


@pytest.fixture
def clock() -> FakeClock:
    return TickingClock()


class Bench:
    """The drivers of chips in still air, and the chips."""

    def __init__(self, board: SimulatedBoard, clock: FakeClock, monkeypatch) -> None:
        self.air = AIR
        self._board, self._clock, self._monkeypatch = board, clock, monkeypatch
        monkeypatch.setattr(board.room, "at", lambda *_: self.air)

    def wire(self, name: str, *, as_driver: str = "", address: int | None = None) -> Driver:
        """The chip of `name`, and the open driver for it, or another one that it is taken for."""
        address = ROWS[name].addresses[0] if address is None else address
        infos = [
            driver_on_fake_time(driver, self._clock, self._monkeypatch)
            for driver in (name, as_driver or name)
        ]
        self._board.attach(name, infos[0].options(address=address))
        return infos[1].open(infos[1].options(address=address), self._board)

    def reopen(self, name: str) -> Driver:
        """Another driver for the chip of `name`."""
        info = find_driver(name)
        return info.open(info.options(), self._board)

    def replace(self, name: str, chip) -> None:
        """Another chip in the place of the one of `name`."""
        self._board.i2c_ports[1].chips[ROWS[name].addresses[0]] = chip

    def chip(self, name: str):
        return self._board.i2c_ports[1].chips[ROWS[name].addresses[0]]


@pytest.fixture
def bench(board, clock, monkeypatch) -> Bench:
    return Bench(board, clock, monkeypatch)


def flipping(bit: int, shortest: int) -> Callable[[bytes], bytes]:
    """Flips one bit of every answer that is long enough to have it."""

    def damage(sent: bytes) -> bytes:
        if len(sent) < shortest:
            return sent
        damaged = bytearray(sent)
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    return damage


# -- Damaged answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("bit", range(8, 56))
def test_a_wrong_bit_in_the_frame_of_an_aht20_is_seen(bench, bit):
    """-30.4 °C was published in a room of 19.5 °C."""
    sensor = bench.wire("ahtx0")
    assert sensor.read()["temperature"] == pytest.approx(19.5, abs=0.01)
    bench.chip("ahtx0").damage = flipping(bit, 6)
    with pytest.raises(BadFrame, match="CRC is wrong"):
        sensor.read()


def test_an_aht20_that_is_damaged_from_the_start_is_not_taken_for_an_aht10(bench):
    sensor = bench.wire("ahtx0")
    bench.chip("ahtx0").damage = flipping(12, 6)
    with pytest.raises(BadFrame, match="CRC is wrong"):
        sensor.read()


def aht10(bench: Bench) -> Driver:
    sensor = bench.wire("ahtx0")
    chip = bench.chip("ahtx0")
    chip.sends_crc = False
    steps = iter(range(10**6))  # its lowest bits are noise
    chip._air = lambda: Air(19.5 + 0.001 * next(steps), 45.6, 0)
    return sensor


def test_an_aht10_which_sends_no_crc_is_read(bench):
    sensor = aht10(bench)
    for _ in range(3):
        assert sensor.read() == pytest.approx({"temperature": 19.5, "humidity": 45.6}, abs=0.05)


def test_an_aht10_whose_second_answer_differs_is_refused(bench):
    sensor = aht10(bench)
    sensor.read()
    damaged = iter([True, False, True, False])
    bench.chip("ahtx0").damage = lambda sent: (
        flipping(36, 6)(sent) if len(sent) >= 6 and next(damaged) else sent
    )
    with pytest.raises(BadFrame, match="another answer"):
        sensor.read()


@pytest.mark.parametrize("bit", range(24))
def test_a_wrong_bit_in_an_answer_of_an_mlx90614_is_seen(bench, bit):
    sensor = bench.wire("mlx90614")
    assert sensor.read()["temperature"] == pytest.approx(19.5, abs=0.02)
    bench.chip("mlx90614").damage = flipping(bit, 3)
    with pytest.raises(BadFrame, match="PEC is wrong"):
        sensor.read()


WITH_CRC = [row.name for row in CATALOGUE if row.crc and row.name in I2C_CHIPS]


@pytest.mark.parametrize("name", WITH_CRC)
def test_whoever_checks_the_crc_of_a_chip_does_so(bench, name):
    """The row says that somebody does; no answer with a wrong bit gives another value."""
    sensor = bench.wire(name)
    truth = sensor.read()
    chip = bench.chip(name)
    read = chip.read
    for byte in range(3):
        chip.read = lambda length, byte=byte: flipping(8 * byte + 5, 3)(read(length))
        try:
            assert sensor.read() == pytest.approx(truth, abs=0.01)
        except SensorError:
            continue


# -- Flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "is_valid"), [(0x00, 0), (0x10, 0), (0x20, 0), (0x30, 1)])
def test_gas_of_a_bme680_is_left_out_unless_it_was_measured(bench, flags, is_valid):
    """gas_valid_r and heat_stab_r; the temperature is sound in any case."""
    sensor = bench.wire("bme680")
    bench.chip("bme680").gas_flags = flags
    measurement = sensor.read()
    assert measurement["temperature"] == pytest.approx(19.5, abs=0.1)
    assert ("gas_resistance" in measurement) == is_valid


@pytest.mark.parametrize(
    ("bit", "says"),
    [(0, "supply voltage"), (4, "not connected"), (5, "memory"), (6, "memory"), (14, "testing")],
)
def test_an_stcc4_that_reports_a_fault_gives_no_reading(bench, bit, says):
    sensor = bench.wire("stcc4")
    bench.chip("stcc4").status = 0x000E  # for its makers alone
    assert sensor.read()
    bench.chip("stcc4").status = 1 << bit
    with pytest.raises(SensorFault, match=says):
        sensor.read()


@pytest.mark.parametrize("name", ["sen66", "sen63c"])
def test_a_sen6x_that_reports_a_fault_gives_what_is_sound(bench, name):
    sensor = bench.wire(name)
    chip = bench.chip(name)
    assert isinstance(chip, SimulatedSen66)
    assert set(sensor.read()) == {"temperature", "humidity", "co2"}
    for bit in (12, 9):
        chip.status = 1 << bit
        assert set(sensor.read()) == {"temperature", "humidity"}
    for bit, says in ((6, "temperature and humidity"), (4, "fan")):
        chip.status = 1 << bit
        with pytest.raises(SensorFault, match=says):
            sensor.read()
    assert set(sensor.read()) == {"temperature", "humidity", "co2"}, "the flags were cleared"


def test_a_sen5x_that_reports_a_fault_gives_no_reading(bench):
    """Without its fan the air in it is not the air around it; a broken laser costs particles."""
    sensor = bench.wire("sen5x")
    chip = bench.chip("sen5x")
    assert isinstance(chip, SimulatedSen5x)
    for bit, says in ((6, "temperature and humidity"), (4, "fan is blocked"), (21, "speed")):
        chip.status = 1 << bit
        with pytest.raises(SensorFault, match=says):
            sensor.read()
    chip.status = 1 << 5
    assert sensor.read() == {"temperature": pytest.approx(19.5), "humidity": pytest.approx(45.6)}


def test_a_sen50_is_told_from_its_like(bench):
    sensor = bench.wire("sen5x")
    chip = bench.chip("sen5x")
    assert isinstance(chip, SimulatedSen5x)
    chip.model = "SEN50"
    with pytest.raises(BadFrame, match="no temperature"):
        sensor.read()
    with pytest.raises(WrongDriver, match="it is a SEN50; it measures particles"):
        bench.reopen("sen5x")


def test_an_amg88xx_whose_thermistor_overflows_gives_no_reading(bench):
    sensor = bench.wire("amg88xx")
    assert sensor.read()
    bench.chip("amg88xx").registers[0x04] = 0x08
    with pytest.raises(BadFrame, match="register 0x04 has 0x8"):
        sensor.read()


@pytest.mark.parametrize(
    ("configuration", "is_refused"),
    [(0x60B0, True), (0x60A0, False), (0x0000, False), (0x00FF, False), (0x60FF, False)],
)
def test_a_tmp102_in_its_extended_mode_is_refused(bench, configuration, is_refused):
    """25 °C would be 12.5 °C; an LM75, a TMP75 and a TMP1075 are not taken for it."""
    sensor = bench.wire("pct2075")
    assert sensor.read()
    bench.chip("pct2075").words[0x01] = configuration
    if is_refused:
        with pytest.raises(SensorFault, match="extended mode"):
            sensor.read()
    else:
        assert sensor.read()


# -- Lost power ----------------------------------------------------------------------------------

NEVER_AT_REST = {"max31855", "max31856", "max31865"}
"""On SPI: their tests are in test_probes.py."""


@pytest.mark.parametrize("name", [name for name in SIMULATED if name not in NEVER_AT_REST])
def test_a_chip_that_lost_its_power_for_a_moment_gives_the_truth_or_nothing(bench, name, clock):
    """Never what stands in its registers at power-on: 0 °C is one of them."""
    sensor = bench.wire(name)
    truth = sensor.read()
    chip = simulated_i2c_chip(name, lambda: bench.air, clock)
    chip.measured = False  # type: ignore[attr-defined]
    bench.replace(name, chip)
    clock.now_s += 10
    try:
        again = sensor.read()
    except SensorError:
        return
    assert again == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize(
    "name",
    [row.name for row in CATALOGUE if row.fresh or row.running or row.mark],
)
def test_a_flag_or_a_mark_is_there_while_all_is_well(bench, clock, name):
    """Negative control: read again and again, a healthy chip has it each time."""
    sensor = bench.wire(name)
    for _ in range(5):
        clock.now_s += 1
        assert sensor.read()["temperature"] == pytest.approx(19.5, abs=1.0)


# -- Values that cannot be -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scd30", "scd4x", "stcc4", "sen66", "sen63c"])
@pytest.mark.parametrize("ppm", [0, 1, 249])
def test_less_co2_than_any_air_has_is_refused(bench, name, ppm, monkeypatch):
    sensor = bench.wire(name)
    chip = bench.chip(name)
    if name == "stcc4":
        words = chip._words
        monkeypatch.setattr(chip, "_words", lambda *w: words(*(ppm if x == 620 else x for x in w)))
    else:
        chip.ppm = ppm
    with pytest.raises(ImplausibleValue, match="co2"):
        sensor.read()


def test_the_co2_of_the_open_air_is_no_fault(bench):
    sensor = bench.wire("scd30")
    chip = bench.chip("scd30")
    assert isinstance(chip, SimulatedScd30)
    chip.ppm = 415
    assert sensor.read()["co2"] == 415


@pytest.mark.parametrize("name", ["htu21d", "si7021"])
@pytest.mark.parametrize(
    ("percent", "read"), [(-2.0, 0.0), (-4.9, 0.0), (102.3, 100.0), (98.2, 98.2)]
)
def test_a_wet_humidity_sensor_is_cut_off_as_the_datasheet_says(bench, name, percent, read):
    sensor = bench.wire(name)
    chip = bench.chip(name)
    bench.air = Air(19.5, percent, 0)
    assert chip
    assert sensor.read()["humidity"] == pytest.approx(read, abs=0.01)


@pytest.mark.parametrize(
    ("name", "percent"),
    [("htu21d", 118.5), ("htu21d", 106.0), ("htu21d", -6.0), ("si7021", -6.0)],
)
def test_a_humidity_that_no_sensor_may_overshoot_to_is_refused(bench, name, percent):
    sensor = bench.wire(name)
    bench.air = Air(19.5, percent, 0)
    with pytest.raises(ImplausibleValue, match="humidity"):
        sensor.read()


def test_an_hts221_is_cut_off_too(bench):
    sensor = bench.wire("hts221")
    bench.air = Air(19.5, 103.0, 0)
    assert sensor.read()["humidity"] == 100.0
    bench.air = Air(19.5, 110.0, 0)
    with pytest.raises(ImplausibleValue, match="humidity 110"):
        sensor.read()


@pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: row.name)
def test_every_humidity_and_co2_of_the_catalogue_is_held_to_the_same(row):
    for channel in row.channels:
        if channel.unit == "%":
            assert (channel.plausible, channel.overshoot) == ((0.0, 100.0), 5.0)
        if channel.unit == "ppm":
            assert channel.plausible[0] > 0


# -- Another chip --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "configured"),
    [
        ("bmp280", "bme280"),
        ("bme280", "bmp280"),
        ("bme680", "bme280"),
        ("bme280", "bme680"),
        ("dps310", "bmp280"),
        ("lps25", "lps22"),
        ("lps28", "lps25"),
        ("tmp117", "adt7410"),
        ("adt7410", "tmp117"),
        ("tmp006", "tmp007"),
        ("ina228", "tmp007"),
    ],
)
def test_the_driver_of_the_chip_that_is_there_is_named(bench, there, configured):
    """pimoroni/bme280 issue 20: it is bought as one, and is the other."""
    address = next(a for a in ROWS[there].addresses if a in ROWS[configured].addresses)
    with pytest.raises(WrongDriver, match=f'set driver = "{there}"'):
        bench.wire(there, as_driver=configured, address=address).read()


def test_an_identification_that_nobody_has_names_no_driver(bench):
    sensor = bench.wire("bme280")
    sensor.read()
    bench.chip("bme280").registers[0xD0] = 0x99
    with pytest.raises(BadFrame, match="register 0xd0 has 0x99"):
        sensor.read()


def test_every_row_says_what_proves_a_value():
    """But for what nothing proves: those are known by name."""
    unproved = {row.name for row in CATALOGUE if proof_of(row) == "its range alone"}
    assert unproved <= {"seesaw"}


def test_an_mlx90632_is_read_once_for_each_measurement(bench):
    """The library reads its words at any time, and they stand there when nothing is measured."""
    sensor = bench.wire("mlx90632")
    for celsius in (19.5, 19.7):
        bench.air = msgspec.structs.replace(bench.air, temperature=celsius)
        measurement = sensor.read()
        assert measurement["temperature"] == pytest.approx(celsius, abs=0.1)
        assert measurement["ambient"] == pytest.approx(celsius, abs=0.05)
    bench.chip("mlx90632").measured = False
    with pytest.raises(SensorError):
        sensor.read()


def test_an_mlx90632_at_the_end_of_its_scale_is_refused(bench):
    sensor = bench.wire("mlx90632")
    sensor.read()
    bench.chip("mlx90632").saturated = True
    with pytest.raises(ImplausibleValue, match="beyond the scale"):
        sensor.read()


def test_a_simulated_ms8607_compensates_as_the_example_of_its_datasheet():
    """MS8607-02BA01, figures 7 and 8: D1 = 6465444, D2 = 8077636."""
    chip = SimulatedMs8607Pressure(lambda: Air(20.0, 50.0, 1100.0))
    celsius, hpa = chip.compensated(8_077_636, 6_465_444)
    assert celsius == pytest.approx(20.00, abs=0.005)
    assert hpa == pytest.approx(1100.02, abs=0.05)


@pytest.mark.parametrize("bit", [20, 21, 22, 23])
def test_a_wrong_bit_in_a_conversion_of_an_ms8607_is_seen(bench, bit):
    """It sends no CRC with pressure and temperature."""
    sensor = bench.wire("ms8607")
    sensor.read()
    chip = bench.chip("ms8607")
    convert, conversions = chip._convert, iter([1 << bit, 0, 0, 0])
    chip._convert = lambda command: convert(command) ^ next(conversions)
    with pytest.raises((BadFrame, ImplausibleValue)):
        sensor.read()


def test_a_wrong_bit_in_the_humidity_of_an_ms8607_is_seen(bench):
    sensor = bench.wire("ms8607")
    sensor.read()
    humidity = bench._board.i2c_ports[1].chips[0x40]
    humidity.damage = flipping(5, 3)
    with pytest.raises(SensorError, match="CRC"):
        sensor.read()


@pytest.mark.parametrize("celsius", [-30.0, 5.0, 19.5, 60.0])
def test_an_ms8607_reads_what_there_is(bench, celsius):
    bench.air = msgspec.structs.replace(bench.air, temperature=celsius)
    measurement = bench.wire("ms8607").read()
    assert measurement["temperature"] == pytest.approx(celsius, abs=0.05)
    assert measurement["humidity"] == pytest.approx(bench.air.humidity, abs=0.1)
    assert measurement["pressure"] == pytest.approx(bench.air.pressure, abs=0.2)
