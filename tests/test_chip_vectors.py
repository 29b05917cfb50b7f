"""Known vectors of the datasheets, through the real libraries on simulated registers."""

from __future__ import annotations

import math

import pytest
from support import FakeClock, TickingClock
from test_catalogue import driver_on_fake_time

from drivers.errors import ImplausibleValue, SensorError
from drivers.sim.board import SimulatedBoard
from drivers.sim.humidity import SensirionChip, SimulatedHtu21d, crc8
from drivers.sim.thermometers import WordChip


@pytest.fixture
def clock() -> FakeClock:
    return TickingClock()


def word_at_zero(board: SimulatedBoard, name: str, clock, monkeypatch, word: int) -> float:
    """What the driver reads when register 0 of its chip has `word`."""
    info = driver_on_fake_time(name, clock, monkeypatch)
    board.attach(name, info.options())
    (chip,) = board.i2c_ports[1].chips.values()
    assert isinstance(chip, WordChip)
    others = chip.word_read
    monkeypatch.setattr(
        chip, "word_read", lambda register: word if register == 0 else others(register)
    )
    return info.open(info.options(), board).read()["temperature"]


@pytest.mark.parametrize(
    ("name", "word", "celsius"),
    [
        # TI SNOSD82, table 7-1
        ("tmp117", 0xF380, -25.0),
        ("tmp117", 0xFFFF, -0.0078125),
        ("tmp117", 0x0000, 0.0),
        ("tmp117", 0x0C80, 25.0),
        ("tmp117", 0x3200, 100.0),
        # Analog Devices ADT7410, table 5: 13 bits, left-justified
        ("adt7410", 0xE480, -55.0),
        ("adt7410", 0xFFF8, -0.0625),
        ("adt7410", 0x0000, 0.0),
        ("adt7410", 0x0008, 0.0625),
        ("adt7410", 0x4B00, 150.0),
        # NXP PCT2075, §7.4.3: 11 bits, left-justified
        ("pct2075", 0xC900, -55.0),
        ("pct2075", 0xE720, -24.875),
        ("pct2075", 0xFFE0, -0.125),
        ("pct2075", 0x0000, 0.0),
        ("pct2075", 0x0020, 0.125),
        ("pct2075", 0x7D00, 125.0),
    ],
)
def test_temperature_words(name, word, celsius, board, clock, monkeypatch):
    """Exactly 0 °C is a value too: the witness tells it from a dead bus."""
    assert word_at_zero(board, name, clock, monkeypatch, word) == celsius


@pytest.mark.parametrize(("name", "word"), [("tmp117", 0x8000), ("pct2075", 0x7FE0)])
def test_words_outside_the_range_are_refused(name, word, board, clock, monkeypatch):
    """0x8000 stands in a TMP117 before its first conversion (SNOSD82, table 7-1)."""
    with pytest.raises(ImplausibleValue):
        word_at_zero(board, name, clock, monkeypatch, word)


@pytest.mark.parametrize(
    ("raw", "celsius"), [(0x194, 25.25), (-1, -0.0625), (0, 0.0), (-640, -40.0), (2000, 125.0)]
)
def test_mcp9808(raw, celsius, board, clock, monkeypatch):
    """DS25095, §5.1.3 with equation 5-1; the alert flags above the value are no part of it."""
    info = driver_on_fake_time("mcp9808", clock, monkeypatch)
    board.attach("mcp9808", info.options())
    board.i2c_ports[1].chips[0x18].raw = lambda: raw
    assert info.open(info.options(), board).read() == {"temperature": celsius}


def test_checksums():
    """SHT3x §4.12; HTU21D(F), "CRC checksum"; SCD4x §3.11."""
    assert crc8(b"\xbe\xef", start=0xFF) == 0x92
    assert crc8(b"\xdc", start=0) == 0x79
    assert crc8(b"\x68\x3a", start=0) == 0x7C
    assert crc8(b"\x4e\x85", start=0) == 0x6B


def frames(board: SimulatedBoard, name: str, clock, monkeypatch, *answers: str):
    """A sensor whose chip answers its measurements with these bytes, one after another."""
    info = driver_on_fake_time(name, clock, monkeypatch)
    board.attach(name, info.options())
    sensor = info.open(info.options(), board)
    (chip,) = board.i2c_ports[1].chips.values()
    assert isinstance(chip, SensirionChip | SimulatedHtu21d)
    left = [bytes.fromhex(answer) for answer in answers]
    chip.damage = lambda sent: left.pop(0) if left and len(sent) == len(left[0]) else sent
    return sensor


def test_the_example_of_the_scd4x_datasheet(board, clock, monkeypatch):
    """§3.5.2, read_measurement: 500 ppm, 25 °C, 37 %."""
    answer = "01f433 6667a2 5eb93c"
    measurement = frames(board, "scd4x", clock, monkeypatch, answer).read()
    assert measurement["co2"] == 500
    assert measurement["temperature"] == pytest.approx(25.0, abs=0.01)
    assert measurement["humidity"] == pytest.approx(37.0, abs=0.01)


def test_the_example_of_the_htu21d_datasheet(board, clock, monkeypatch):
    """ "Conversion of signal outputs": 0x7C80 is 54.8 %; 0x683A, of the CRC example, 24.7 °C."""
    humidity = b"\x7c\x80"
    answers = ("683a7c", (humidity + bytes([crc8(humidity, start=0)])).hex())
    measurement = frames(board, "htu21d", clock, monkeypatch, *answers).read()
    assert measurement["humidity"] == pytest.approx(54.8, abs=0.05)
    assert measurement["temperature"] == pytest.approx(24.69, abs=0.01)


@pytest.mark.parametrize(
    ("raw", "celsius"), [("0751", -40.0), ("6666", 25.0), ("8000", 42.5013), ("f8ae", 125.0)]
)
def test_sht3x(raw, celsius, board, clock, monkeypatch):
    """§4.13: -45 + 175 S / (2^16 - 1); the ends of the range are in it."""
    block = bytes.fromhex(raw)
    answer = (block + bytes([crc8(block, start=0xFF)])).hex() + "beef92"
    sensor = frames(board, "sht31d", clock, monkeypatch, answer, answer)
    assert sensor.read()["temperature"] == pytest.approx(celsius, abs=0.01)


@pytest.mark.parametrize(
    ("hot", "cold"),
    # 19-5793, table 4 and table 5
    [
        (1600.0, 127.0 - 2),
        (1000.0, 100.5625),
        (100.75, 25.0),
        (0.0, -0.0625),
        (-0.25, 0.0),
        (-1.0, -1.0),
        (-250.0, -55.0),
    ],
)
def test_max31855(hot, cold, board, clock, monkeypatch):
    info = driver_on_fake_time("max31855", clock, monkeypatch)
    board.attach("max31855", info.options())
    port = board.spi_ports[0, 0]
    port.chip.hot = lambda: hot
    port.chip.cold_junction = lambda: cold
    measurement = info.open(info.options(), board).read()
    assert measurement == {"temperature": hot, "cold_junction": cold}
    assert port.modes == {0}


def test_the_words_of_the_max31855_datasheet(board):
    """19-5793, table 4, written out: the simulated chip is right too."""
    board.attach("max31855", driver_options("max31855"))
    chip = board.spi_ports[0, 0].chip
    for hot, bits in (
        (1600.0, "01100100000000"),
        (100.75, "00000110010011"),
        (-0.25, "11111111111111"),
        (-250.0, "11110000011000"),
    ):
        chip.hot = lambda celsius=hot: celsius
        word = int.from_bytes(chip.exchange(bytes(4)), "big")
        assert f"{word >> 18:014b}" == bits


def driver_options(name: str, **given: object):
    from drivers.registry import find_driver

    return find_driver(name).options(**given)


@pytest.mark.parametrize(
    ("hot", "word"),
    # 19-7534, table 8
    [
        (1600.0, "640000"),
        (1000.0, "3e8000"),
        (100.9375, "064f00"),
        (0.0625, "000100"),
        (-0.0625, "ffff00"),
        (-1.0, "fff000"),
    ],
)
def test_max31856(hot, word, board, clock, monkeypatch):
    info = driver_on_fake_time("max31856", clock, monkeypatch)
    board.attach("max31856", info.options())
    port = board.spi_ports[0, 0]
    port.chip.hot = lambda: hot
    port.chip.cold_junction = lambda: -0.015625  # table 7: FFFCh
    measurement = info.open(info.options(), board).read()
    assert measurement == {"temperature": hot, "cold_junction": -0.015625}
    assert port.chip.registers[0x0C:0x0F].hex() == word
    assert port.chip.registers[0x0A:0x0C].hex() == "fffc"
    assert port.modes == {1}


@pytest.mark.parametrize(
    ("ohms", "celsius"),
    [(22.83, -190.0), (60.26, -100.0), (100.0, 0.0), (138.51, 100.0), (247.09, 400.0)],
)
@pytest.mark.parametrize(("nominal", "reference"), [(100.0, 430.0), (1000.0, 4300.0)])
def test_max31865(ohms, celsius, nominal, reference, board, clock, monkeypatch):
    """Resistances of the table of IEC 60751."""
    info = driver_on_fake_time("max31865", clock, monkeypatch)
    options = driver_options("max31865", nominal_ohms=nominal, reference_ohms=reference, wires=3)
    board.attach("max31865", options)
    port = board.spi_ports[0, 0]
    port.chip.ohms = lambda: ohms * nominal / 100
    assert info.open(options, board).read()["temperature"] == pytest.approx(celsius, abs=0.1)
    assert port.chip.registers[0] & 0x11 == 0x11, "three wires, 50 Hz"
    assert not port.chip.registers[0] & 0x80, "the bias current is left on, and warms the sensor"
    assert port.modes == {1}


@pytest.mark.parametrize(
    ("full_scale", "volts", "count"),
    [
        ("6.144 V", 5.0, 187.5e-6),
        ("4.096 V", 3.3, 125e-6),
        ("4.096 V", 0.00013, 125e-6),
        ("1.024 V", 0.75, 31.25e-6),
    ],
)
def test_ads1115(full_scale, volts, count, board, clock, monkeypatch):
    """SBAS444, table 3: the size of a count."""
    info = driver_on_fake_time("ads1115", clock, monkeypatch)
    options = driver_options("ads1115", full_scale=full_scale, input=2)
    board.attach("ads1115", options)
    board.i2c_ports[1].chips[0x48].volts[2] = lambda: volts
    measured = info.open(options, board).read()["voltage"]
    assert measured == pytest.approx(volts, abs=count)


def test_a_voltage_beyond_full_scale_is_refused(board, clock, monkeypatch):
    info = driver_on_fake_time("ads1115", clock, monkeypatch)
    options = driver_options("ads1115", full_scale="1.024 V")
    board.attach("ads1115", options)
    board.i2c_ports[1].chips[0x48].volts[0] = lambda: 1.1
    with pytest.raises(ImplausibleValue, match="higher full_scale"):
        info.open(options, board).read()


@pytest.mark.parametrize("name", ["bmp280", "bme680"])
@pytest.mark.parametrize(
    ("celsius", "humidity", "pressure"),
    [(-39.0, 90.0, 310.0), (-5.0, 80.0, 950.0), (22.22, 45.5, 1013.25), (84.0, 10.0, 1090.0)],
)
def test_the_librarys_arithmetic_agrees_with_a_second_one(
    name, celsius, humidity, pressure, board, clock, monkeypatch
):
    from drivers.sim.room import Air

    info = driver_on_fake_time(name, clock, monkeypatch)
    board.room.at = lambda spot: Air(celsius, humidity, pressure)
    board.attach(name, info.options())
    measurement = info.open(info.options(), board).read()
    assert measurement["temperature"] == pytest.approx(celsius, abs=0.02)
    assert measurement["pressure"] == pytest.approx(pressure, abs=0.3)
    if "humidity" in measurement:
        assert measurement["humidity"] == pytest.approx(humidity, abs=0.3)


def test_power_on_values_of_a_bmp280_are_refused(board, clock, monkeypatch):
    info = driver_on_fake_time("bmp280", clock, monkeypatch)
    board.attach("bmp280", info.options())
    sensor = info.open(info.options(), board)
    board.i2c_ports[1].chips[0x77].convert = lambda: None
    with pytest.raises(ImplausibleValue, match="0x77 still holds power-on values"):
        sensor.read()


@pytest.mark.parametrize(
    ("celsius", "humidity"), [(-39.9, 5.0), (0.0, 50.0), (23.4, 55.5), (84.5, 95.0)]
)
@pytest.mark.parametrize("name", ["ahtx0", "htu21d", "scd4x", "sht31d", "sht4x", "si7021"])
def test_humidity_chips_read_what_is_there(name, celsius, humidity, board, clock, monkeypatch):
    from drivers.sim.room import Air

    info = driver_on_fake_time(name, clock, monkeypatch)
    board.room.at = lambda spot: Air(celsius, humidity, 1000.0)
    board.attach(name, info.options())
    sensor = info.open(info.options(), board)
    low, high = info.channels[0].plausible
    if not low <= celsius <= high:
        with pytest.raises(SensorError, match="outside"):
            sensor.read()
        return
    measurement = sensor.read()
    assert measurement["temperature"] == pytest.approx(celsius, abs=0.02)
    assert math.isclose(measurement["humidity"], humidity, abs_tol=0.03)
