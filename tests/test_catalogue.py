"""The catalogue: its rows against the real packages, its extras, and a bus that dies."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from packaging.requirements import Requirement
from support import FakeClock, TickingClock, put_libraries_on

from drivers.accuracy import accuracy_at, accuracy_of, figures_of
from drivers.base import Channel, DriverInfo, Measurement, Options
from drivers.catalogue import CATALOGUE
from drivers.catalogue_table import catalogue_table, lies_table
from drivers.chip_reads import AhtFrames, Ms8607Twice, SmbusThermometer
from drivers.chip_row import ChipRow
from drivers.circuitpython import chip_driver
from drivers.errors import ImplausibleValue, MissingSupport, SensorError
from drivers.mlx90640 import HeatPicture
from drivers.packages import install_command
from drivers.registry import driver_names, find_driver
from drivers.scan_i2c import _rows_at
from drivers.sensirion_i2c import Sen5x
from drivers.sim.board import SimulatedBoard
from drivers.sim.chips import I2C_CHIPS, SPI_CHIPS
from drivers.sim.dead import ConstantChip
from drivers.sim.i2c import SimulatedI2C
from drivers.sim.room import Air
from drivers.sim.spi import SimulatedSPI

ROOT = Path(__file__).parent.parent
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
SIMULATED = (*I2C_CHIPS, *SPI_CHIPS)

every_row = pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: row.name)


@pytest.fixture
def clock() -> FakeClock:
    return TickingClock()


ADCS = ("ads1015", "ads1115")


def library_class(row: ChipRow) -> Any:
    return getattr(importlib.import_module(row.module), row.class_name)


def driver_on_fake_time(name: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> DriverInfo:
    """The driver, whose library is imported and goes by `clock`."""
    row = next(row for row in CATALOGUE if row.name == name)
    library_class(row)
    if name in ADCS:
        importlib.import_module("adafruit_ads1x15.analog_in")
    put_libraries_on(clock, monkeypatch)
    return find_driver(name)


def put_everywhere(row: ChipRow, board: SimulatedBoard, chip: Any) -> None:
    """`chip` at every address and select that the chip of `row` can have."""
    if row.construct == "spi":
        board.spi(0, 0)
        board.spi_ports[0, 0].chip = chip
        return
    board.i2c(1)
    for address in (*row.addresses, *row.also_uses):
        board.i2c_ports[1].chips[address] = chip


# -- Rows against the packages -------------------------------------------------------------------


def test_there_are_at_least_45_rows_with_names_of_their_own():
    assert len(CATALOGUE) >= 45
    assert len({row.name for row in CATALOGUE}) == len(CATALOGUE)


@every_row
def test_the_constructor_takes_what_the_row_gives(row):
    signature = inspect.signature(library_class(row).__init__)
    positional: tuple[object, ...] = (None, "bus", "select") if row.construct == "spi" else ()
    keywords: dict[str, object] = {}
    if row.construct != "spi":
        positional = (None, "bus")
        if row.made_by is None and row.construct in ("address", "addr"):
            keywords[row.construct] = row.addresses[0]
    if row.made_by is not None:  # it calls the class as this does
        positional = (None, "bus", row.addresses[0])
    keywords |= {option.argument: option.default for option in row.options if option.argument}
    signature.bind(*positional, **keywords)
    if row.construct == "fixed":
        assert not {"address", "addr"} & set(signature.parameters), "the address can be chosen"
    if row.construct in keywords:
        default = signature.parameters[row.construct].default
        # seesaw is the library of many boards, and its default the address of another one.
        assert default == row.addresses[0] or row.name == "seesaw"


@every_row
def test_every_attribute_that_is_read_exists(row):
    library = {
        **dict.fromkeys(ADCS, importlib.import_module("adafruit_ads1x15.analog_in").AnalogIn),
        "ahtx0": AhtFrames,
        "mlx90614": SmbusThermometer,
        "ms8607": Ms8607Twice,
        "mlx90640": HeatPicture,
        "sen5x": Sen5x,
    }.get(row.name, library_class(row))
    for reads in row.reads:
        attribute = inspect.getattr_static(library, reads.attribute)
        assert not isinstance(attribute, int | float | str), "a constant, not a measurement"
        if inspect.isfunction(attribute):
            inspect.signature(attribute).bind("self")
    if row.start:  # what `prepare` puts in its place comes later
        assert inspect.getattr_static(library_class(row), row.start)
    if row.ready:
        assert inspect.getattr_static(library, row.ready)


@every_row
def test_every_value_of_an_option_is_known_to_the_library(row):
    module = importlib.import_module(row.module)
    for option in row.options:
        choices = getattr(option.annotation, "__args__", ())
        assert msgspec.convert(option.default, option.annotation) == option.default
        if option.meaning:
            assert option.meaning.keys() == set(choices)
        if option.enumeration:
            for choice in choices:
                assert isinstance(getattr(getattr(module, option.enumeration), choice), int)


@every_row
def test_every_row_says_what_it_is_worth(row):
    assert row.accuracy
    assert "," in row.source, "the datasheet and its section"
    for channel in row.channels:
        low, high = channel.plausible
        assert low < high
        assert not low <= -273.2 or channel.unit != "°C"
    assert any(channel.unit in ("°C", "V") for channel in row.channels)


def test_the_readme_has_the_table_that_the_rows_make():
    """`sensor-node drivers --markdown` prints it anew."""
    readme = (ROOT / "drivers" / "README.md").read_text()
    assert f"\n\n{catalogue_table(CATALOGUE)}\n" in readme


def test_dies_of_other_chips_are_listed_last():
    """In the table, and where a scan offers what an address may be."""
    table = catalogue_table(CATALOGUE)
    thermometers, dies = table.split("\nChips that are made for something else")
    for row in CATALOGUE:
        assert (f"| `{row.name}` |" in dies) is row.is_die, row.name
        assert (f"| `{row.name}` |" in thermometers) is not row.is_die, row.name
    for address in range(0x08, 0x78):
        offered = [row.is_die for row in _rows_at(address, dict.fromkeys(range(0x80), ""))]
        assert offered == sorted(offered)
    assert any(row.is_die for row in _rows_at(0x68, {}))


def test_the_readme_tells_of_every_driver_how_it_can_lie():
    """The catalogue's table is made of its rows; the others are by hand, and none is missing."""
    readme = (ROOT / "drivers" / "README.md").read_text()
    heading = lies_table([])
    section = readme.partition("## How each can lie")[2].partition("\n## ")[0]
    table = heading + section.partition(heading)[2].partition("\n\n")[0].rstrip() + "\n"
    assert table == lies_table(CATALOGUE)
    firsts = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    told = {name for first in firsts for name in re.findall(r"`(\w+)`", first)}
    assert told == set(driver_names())


def test_what_the_tables_say_of_a_row_is_in_the_row():
    """A chip without a CRC, a flag or a mark has none in its line either."""
    bare = msgspec.structs.replace(
        CATALOGUE[0], crc="", asked=False, checked="", noisy=False, witness=None, ready=""
    )
    assert lies_table([bare]).splitlines()[-1] == "| `bme280` | - | - | - | - |"
    assert "| its range alone |" in catalogue_table([bare])


def test_a_row_that_changed_changes_the_table():
    """The comparison above would notice: each field that is shown is in the line."""
    row = CATALOGUE[0]
    for change in ({"accuracy": "±9 °C"}, {"quirks": "new"}, {"summary": "New: x"}, {"name": "z"}):
        assert catalogue_table([msgspec.structs.replace(row, **change)]) != catalogue_table([row])


@every_row
def test_every_row_has_an_extra_that_brings_its_package(row):
    (requirement,) = EXTRAS[row.name]
    assert Requirement(requirement).name == row.package
    assert importlib.metadata.version(row.package) in Requirement(requirement).specifier


CHIP_PACKAGES = ("adafruit-", "sensirion-")


def test_every_extra_with_a_package_of_a_chip_is_a_row_and_one_brings_them_all():
    with_package = {
        name for name, needs in EXTRAS.items() if any(n.startswith(CHIP_PACKAGES) for n in needs)
    }
    assert with_package == {row.name for row in CATALOGUE}
    brought = {
        name.strip()
        for line in EXTRAS["chips"]
        for name in line.partition("[")[2].rstrip("]").split(",")
    }
    assert brought == with_package


@every_row
def test_a_missing_package_says_what_to_install(row, board):
    absent = chip_driver(msgspec.structs.replace(row, module="adafruit_no_such_module"))
    with pytest.raises(MissingSupport) as raised:
        absent.open(absent.options(), board)
    assert raised.value.hint == install_command(row.name)
    assert f"pip install '{row.package}" in raised.value.hint


def test_the_catalogue_is_not_loaded_for_drivers_that_are_not_in_it():
    script = (
        "import sys, node.commands.run, drivers.hardware\n"
        "from drivers.registry import find_driver\n"
        "find_driver('cpu'); find_driver('sysfs'); find_driver('dht22'); find_driver('mcp3008')\n"
        "words = ('catalogue', 'chip', 'owned')\n"
        "found = lambda: {w for w in words for m in sys.modules if w in m}\n"
        "print(found())\n"
        "find_driver('bme680'); import drivers.owned_bus\n"
        "print(found() == {*words})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["set()", "True"], "and one that is in it loads it"


# -- Dead buses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("byte", [0x00, 0xFF])
@pytest.mark.parametrize("name", SIMULATED)
def test_a_bus_that_dies_later_gives_no_reading(name, byte, board, clock, monkeypatch):
    info = driver_on_fake_time(name, clock, monkeypatch)
    row = next(row for row in CATALOGUE if row.name == name)
    board.attach(name, info.options())
    sensor = info.open(info.options(), board)
    assert sensor.read()
    put_everywhere(row, board, ConstantChip(byte))
    with pytest.raises(SensorError):
        sensor.read()


class Dying:
    """The one chip on `board`: after `left` more transactions it is dead, every byte alike."""

    def __init__(self, board: SimulatedBoard, left: float, byte: int) -> None:
        self._board = board
        self._left = left
        self._byte = byte
        self.count = 0
        ports: list[SimulatedI2C | SimulatedSPI] = []
        ports += [*board.i2c_ports.values(), *board.spi_ports.values()]
        for port in ports:
            port.before_answer = self._transaction

    def _transaction(self, *_: object) -> None:
        self.count += 1
        if self.count <= self._left:
            return
        for i2c in self._board.i2c_ports.values():
            i2c.chips = dict.fromkeys(i2c.chips, ConstantChip(self._byte))
        for spi in self._board.spi_ports.values():
            spi.chip = ConstantChip(self._byte)


@pytest.mark.parametrize("byte", [0x00, 0xFF])
@pytest.mark.parametrize("name", [name for name in SIMULATED if name != "mlx90640"])  # its own
def test_a_bus_that_dies_in_the_middle_of_a_reading_gives_it_right_or_not_at_all(
    name, byte, clock, monkeypatch
):
    """At whichever transaction: humidity of 0 % beside a good temperature is no reading."""
    info = driver_on_fake_time(name, clock, monkeypatch)

    def reading(left: float) -> tuple[Measurement | None, int]:
        """What comes of a reading, and the number of its transactions."""
        board = SimulatedBoard(clock)
        monkeypatch.setattr(board.room, "at", lambda spot: Air(23.4, 45.6, 987.6))
        board.attach(name, info.options())
        sensor = info.open(info.options(), board)
        sensor.read()
        line = Dying(board, left, byte)
        try:
            return sensor.read(), line.count
        except SensorError:
            return None, line.count

    truth, transactions = reading(math.inf)
    assert truth
    outcomes = [reading(left)[0] for left in range(transactions)]
    assert outcomes[0] is None
    for left, outcome in enumerate(outcomes):
        assert outcome is None or outcome == pytest.approx(truth), f"dead after {left}"


@pytest.mark.parametrize(
    ("name", "byte", "believed"),
    [
        ("pct2075", 0x00, 0.0),
        ("pct2075", 0xFF, -0.125),
        ("tc74", 0x00, 0.0),
        ("tc74", 0xFF, -1.0),
        ("ds3231", 0x00, 0.0),
        ("amg88xx", 0x00, 0.0),
        ("max31855", 0x00, 0.0),
        ("max31856", 0x00, 0.0),
        ("ms8607", 0x00, 20.0),
    ],
)
def test_the_library_alone_believes_a_dead_bus(name, byte, believed, board, clock, monkeypatch):
    """Negative control: these are values inside the plausible range, and no error."""
    driver_on_fake_time(name, clock, monkeypatch)
    row = next(row for row in CATALOGUE if row.name == name)
    put_everywhere(row, board, ConstantChip(byte))
    if row.construct == "spi":
        bus = board.spi(0, 0)
        library = library_class(row)(bus, bus.chip_select)
    else:
        library = library_class(row)(board.i2c(1))
    ours = {"ms8607": "temperature"}  # which is read through an object of ours
    value = getattr(library, ours.get(name, row.reads[0].attribute))
    value = value() if callable(value) else value
    assert value == pytest.approx(believed)
    low, high = row.channels[0].plausible
    assert low <= value <= high


# -- Simulation ----------------------------------------------------------------------------------


def step_of(info: DriverInfo) -> float:
    """How far off the temperature of a simulated chip may be: a step, or the noise of the room."""
    return next(1.0 if c.decimals == 0 else 0.3 for c in info.channels if c.name == "temperature")


@pytest.mark.parametrize("name", SIMULATED)
def test_a_simulated_chip_reads_the_air_of_its_spot(name, board, clock, monkeypatch):
    info = driver_on_fake_time(name, clock, monkeypatch)
    options = info.options()
    board.attach(name, options)
    measurement = info.open(options, board).read()
    air = board.room.at(f"{name} {options.where()}")
    if name in ADCS:
        assert (measurement["voltage"] - 0.5) * 100 == pytest.approx(air.temperature, abs=0.3)
        return
    assert measurement["temperature"] == pytest.approx(air.temperature, abs=step_of(info))
    if "humidity" in measurement:
        assert measurement["humidity"] == pytest.approx(air.humidity, abs=1)
    if "pressure" in measurement:
        assert measurement["pressure"] == pytest.approx(air.pressure, abs=1)


WRONG_BELOW_ZERO = {"seesaw"}
"""Chips whose library takes two's complement for a large number, and is not mended."""


@pytest.mark.parametrize("name", [name for name in SIMULATED if name not in ADCS])
def test_below_zero_a_chip_reads_right_or_not_at_all(name, board, clock, monkeypatch):
    info = driver_on_fake_time(name, clock, monkeypatch)
    board.room.at = lambda spot: Air(-8.4, 45.6, 987.6)
    board.attach(name, info.options())
    sensor = info.open(info.options(), board)
    if name in WRONG_BELOW_ZERO:
        with pytest.raises(ImplausibleValue, match=r"temperature .* is outside"):
            sensor.read()
        return
    assert sensor.read()["temperature"] == pytest.approx(-8.4, abs=step_of(info))


def test_simulating_a_chip_without_simulation_says_so(board, clock, monkeypatch):
    """As one of another package; all of the catalogue are simulated."""
    info = driver_on_fake_time("tmp117", clock, monkeypatch)
    board.attach("elsewhere", info.options())
    with pytest.raises(MissingSupport, match="no simulated elsewhere; leave out --simulate"):
        info.open(info.options(), board).read()
    assert {row.name for row in CATALOGUE} == {*SIMULATED}


# -- Accuracy ------------------------------------------------------------------------------------


def channels(*names_and_units: str) -> tuple[Channel, ...]:
    return tuple(
        Channel(name, unit, (0.0, 1.0), 1)
        for name, unit in (text.split() for text in names_and_units)
    )


@pytest.mark.parametrize(
    ("text", "there", "figures"),
    [
        ("±1.0 °C (0 to 65 °C), ±3 %", ("temperature °C", "humidity %"), ["±1.0 °C", "±3 %"]),
        (
            "±1.5 °C; cold junction ±0.25 °C typical",
            ("temperature °C", "cold_junction °C"),
            ["±1.5 °C", "±0.25 °C"],
        ),
        (
            "±0.15 % of full scale; cold junction ±0.7 °C",
            ("temperature °C", "cold_junction °C"),
            ["", "±0.7 °C"],
        ),
        ("±1 °C typical", ("temperature °C", "die °C"), ["±1 °C", ""]),
        ("object ±1 °C, ambient ±2 °C", ("temperature °C", "ambient °C"), ["±1 °C", "±2 °C"]),
        ("±100 ppm ±10 %; as the other", ("co2 ppm", "humidity %"), ["±100 ppm", ""]),
        ("not specified", ("temperature °C",), [""]),
        ("", ("temperature °C",), [""]),
    ],
)
def test_each_channel_gets_the_figure_that_is_for_it(text, there, figures):
    """A figure for another channel, or in another unit, is none for this one."""
    of = channels(*there)
    assert [accuracy_of(text, channel, of) for channel in of] == figures


@pytest.mark.parametrize(
    ("text", "there", "limits"),
    [
        ("±1.0 °C (0 to 65 °C), ±3 %", "temperature °C", {-1: None, 0: 1, 65: 1, 65.1: None}),
        (
            "±0.1 °C (-20 to 50 °C), ±0.3 °C (-55 to 150 °C)",
            "temperature °C",
            {20: 0.1, 60: 0.3, 151: None},
        ),
        (
            "type K ±2 °C (-200 to 700 °C), ±4 °C above",
            "temperature °C",
            {0: 2, 701: 4, -201: None},
        ),
        ("±100 ppm ±10 %; as the other", "co2 ppm", {400: 140, 1000: 200}),
        ("±0.25 °C typical, ±0.5 °C (-20 to 100 °C)", "temperature °C", {20: 0.5, 120: None}),
        ("±0.5 % (typical)", "humidity %", {50: 0.5}),
        ("±1 °C typical at 25 °C, ±2 °C over its range", "temperature °C", {25: 2, 90: 2}),
        ("SHT40: ±0.2 °C, ±1.8 %; SHT45: ±0.1 °C, ±1 %", "temperature °C", {20: 0.2}),
        ("±0.5 °C (-10 to 85 °C); DS1822 ±2 °C", "temperature °C", {20: 0.5, 100: None}),
        ("±0.5 °C at 25 °C", "temperature °C", {25: None}),
        ("±0.5 °C plus the sensor's own tolerance", "temperature °C", {25: None}),
        ("±0.4 °C + 0.023 (t - 25 °C), ±3 %", "temperature °C", {25: None}),
        ("±15 °C offset: calibrate it", "temperature °C", {25: None}),
        ("not specified", "temperature °C", {25: None}),
    ],
)
def test_a_figure_is_a_number_where_the_datasheet_says_so_and_nowhere_else(text, there, limits):
    (channel,) = channels(there)
    for value, limit in limits.items():
        assert accuracy_at(text, channel, (channel,), value) == limit, value


@every_row
def test_every_figure_of_the_catalogue_is_a_number_or_is_known_to_be_none(row):
    """So a new row with a new wording is looked at."""
    no_number = {
        "bmp3xx": ["temperature"],  # at 25 °C alone
        "mpl3115a2": ["temperature"],
        "ina23x": ["temperature"],
        "scd30": ["temperature"],  # a formula
        "max31865": ["temperature"],  # and the sensor's own
        "ads1115": ["voltage"],  # gain and offset
        "ads1015": ["voltage"],
        "lsm6dsox": ["temperature"],  # only an offset
    }
    none = [
        channel.name
        for channel in row.channels
        if accuracy_of(row.accuracy, channel, row.channels)
        and not figures_of(row.accuracy, channel, row.channels)
    ]
    assert none == [name for name in no_number.get(row.name, []) if name != "voltage"]


# -- Options -------------------------------------------------------------------------------------


def shared_or_not(one: Options, other: Options) -> set[str]:
    """What both claim, and at least one not to be shared."""
    held = {claim.resource: claim for claim in one.claims()}
    return {
        claim.resource
        for claim in other.claims()
        if claim.resource in held
        and not (claim.shared_as and claim.shared_as == held[claim.resource].shared_as)
    }


def options_of(name: str, **given: object) -> Options:
    return find_driver(name).options(**given)


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        (("max31855", {}), ("max31856", {"select": 1}), set()),
        (("max31855", {}), ("max31856", {}), {"SPI bus 0 CE0", "GPIO 8"}),
        (("max31855", {}), ("mcp3008", {}), {"GPIO 8"}),
        (("max31855", {"select": 1}), ("mcp3008", {}), set()),
        (("max31855", {}), ("max31865", {"bus_number": 1}), set()),
        (("sht31d", {}), ("sht31d", {"address": 0x45}), set()),
        (("sht31d", {}), ("sht31d", {"bus_number": 3}), set()),
        (("sht31d", {}), ("sht4x", {}), {"I2C bus 1 address 0x44"}),
        (("ms8607", {}), ("bme280", {"address": 0x76}), {"I2C bus 1 address 0x76"}),
        (("ms8607", {}), ("htu21d", {}), {"I2C bus 1 address 0x40"}),
        (("sht31d", {}), ("max31855", {}), set()),
    ],
)
def test_chips_share_wires_and_nothing_else(one, other, conflict):
    first, second = options_of(one[0], **one[1]), options_of(other[0], **other[1])
    assert shared_or_not(first, second) == conflict
    assert shared_or_not(second, first) == conflict


def test_chips_on_the_same_wires_are_read_one_after_another():
    assert options_of("max31855").bus() == options_of("mcp3008").bus()
    assert options_of("sht31d").bus() == options_of("bme280").bus()
    assert options_of("sht31d").bus() != options_of("sht31d", bus_number=3).bus()
    assert options_of("max31855").bus() != options_of("max31855", bus_number=1).bus()
