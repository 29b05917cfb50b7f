"""The conformance suite on every driver; on a package of somebody else's; and on bad drivers."""

from __future__ import annotations

import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import adafruit_dht  # noqa: F401, so that it is put on the fake clock
import msgspec
import pytest
from support import FakeClock, TickingClock, put_libraries_on

from drivers import registry
from drivers.base import (
    Channel,
    Claim,
    DriverInfo,
    Measurement,
    Options,
    fault_of,
    refuse_implausible,
)
from drivers.bus import Board
from drivers.catalogue import CATALOGUE
from drivers.conformance import Conformance, NotConformant, example_options
from drivers.errors import MissingSupport, SensorError, SensorNotFound, as_sensor_error
from drivers.modbus_models import Register
from drivers.registry import driver_names, find_driver
from drivers.sim.board import SimulatedBoard
from drivers.sim.dead import DEATHS
from node.config.load import ConfigError, load
from node.sensors.board import open_board

ROWS = {row.name: row for row in CATALOGUE}

SUBJECTS: dict[str, tuple[str, dict[str, object] | None]] = {
    **{name: (name, None) for name in driver_names() if not find_driver(name).computed},
    "dht22 edges": ("dht22", {"pin": 4, "backend": "edges"}),
    "dht22 kernel": ("dht22", {"pin": 4, "backend": "kernel"}),
    "sysfs by path": ("sysfs", {"path": "/sys/class/hwmon/hwmon0/temp1_input"}),
    "sysfs dht11": ("sysfs", {"name": "dht11"}),
    "modbus tcp": ("modbus", {"host": "10.0.0.1", "model": "cwt-th"}),
    "modbus r4dcb08": ("modbus", {"port": "/dev/ttyUSB0", "model": "r4dcb08", "inputs": (1, 3)}),
    "modbus registers": (
        "modbus",
        {"port": "/dev/ttyUSB0", "registers": {"temperature": Register(register=7)}},
    ),
}
every_subject = pytest.mark.parametrize("subject", SUBJECTS)


@pytest.fixture
def conformance(monkeypatch: pytest.MonkeyPatch):
    """Makes the suite for a subject, on a fake clock."""
    clock: FakeClock = TickingClock()

    def make(subject: str) -> Conformance:
        name, given = SUBJECTS[subject]
        if name in ROWS:
            importlib.import_module(ROWS[name].module)
        if name in ("ads1015", "ads1115"):
            importlib.import_module("adafruit_ads1x15.analog_in")
        put_libraries_on(clock, monkeypatch)
        info = find_driver(name)
        options: Options = example_options(info) if given is None else info.options(**given)
        return Conformance(info, options, clock=clock)

    return make


@every_subject
def test_a_driver_declares_what_it_is(conformance, subject):
    name, _ = SUBJECTS[subject]
    assert find_driver(name).name == name
    conformance(subject).check_declaration()


@every_subject
def test_a_driver_reads_what_it_declares(conformance, subject):
    conformance(subject).check_readings()


@pytest.mark.parametrize("death", DEATHS)
@every_subject
def test_a_driver_reads_nothing_from_a_dead_board(conformance, subject, death):
    error = conformance(subject).check_dead(death)
    assert error is not None, "it asked the board for nothing"
    assert error.__cause__ is not error, "whoever follows the causes would never come to an end"
    if subject in ROWS and death in ("zeros", "ones"):
        assert error.what.startswith(example_options(find_driver(subject)).where())
        assert f"every byte read was 0x{'00' if death == 'zeros' else 'ff'}" in error.what


# -- Drivers that the suite must refuse ----------------------------------------------------------


class PondOptions(Options, frozen=True, kw_only=True):
    def bus(self) -> str:
        return "i2c1"

    def where(self) -> str:
        return "I2C bus 1 address 0x19"


class Pond:
    """A chip of the tests' own: one register with °C; each of these drivers changes one thing."""

    channels = (Channel("temperature", "°C", (1.0, 50.0), 1),)

    def __init__(self, options: PondOptions, board: Board) -> None:
        self.bus = board.i2c(1)
        self.closed = 0

    def register(self) -> int:
        answer = bytearray(1)
        try:
            with self.bus.within(1.0):
                self.bus.writeto_then_readfrom(0x19, b"\x00", answer)
        except Exception as error:
            raise as_sensor_error(error, "the pond", "check its wires") from error
        return answer[0]

    def read(self) -> Measurement:
        celsius = float(self.register())
        refuse_implausible(
            {"temperature": celsius}, self.channels, where="the pond", hint="check its wires"
        )
        return {"temperature": celsius}

    def close(self) -> None:
        self.closed += 1


class BelievesZeros(Pond):
    def read(self) -> Measurement:
        return {"temperature": float(min(50, self.register()))}


class BelievesTheLastValue(Pond):
    newest = 20.0

    def read(self) -> Measurement:
        try:
            return super().read()
        except SensorError:
            return {"temperature": self.newest}


class LetsOSErrorOut(Pond):
    def read(self) -> Measurement:
        answer = bytearray(1)
        self.bus.writeto_then_readfrom(0x19, b"\x00", answer)
        return {"temperature": float(answer[0])}


class LetsErrorsOutOfOpen(Pond):
    def __init__(self, options: PondOptions, board: Board) -> None:
        super().__init__(options, board)
        self.bus.writeto(0x19, b"")


class GivesNoHint(Pond):
    def read(self) -> Measurement:
        try:
            return super().read()
        except SensorError as error:
            raise SensorError("it failed") from error


class ClosesOnce(Pond):
    def close(self) -> None:
        if self.closed:
            raise ValueError("closed already")
        super().close()


class GivesAnotherChannel(Pond):
    def read(self) -> Measurement:
        return {**super().read(), "humidity": 3.0}


class GivesText(Pond):
    def read(self) -> Measurement:
        return {"temperature": str(super().read())}  # type: ignore[dict-item]


class GivesNaN(Pond):
    def read(self) -> Measurement:
        return {"temperature": super().read()["temperature"] * math.nan}


class MeasuresSomethingElse(Pond):
    channels = (Channel("depth", "m", (1.0, 50.0), 1),)

    def read(self) -> Measurement:
        return {"depth": float(self.register())}


class NeverReads(Pond):
    def read(self) -> Measurement:
        raise SensorNotFound("no pond", "dig one")


def pond(open_: type[Pond] = Pond, **changes: object) -> DriverInfo:
    info = DriverInfo(
        name="pond",
        summary="A pond",
        options=PondOptions,
        channels=Pond.channels,
        open=open_,
        example='driver = "pond"',
    )
    return msgspec.structs.replace(info, **changes)


class PondChip:
    def write(self, sent: bytes) -> None:
        pass

    def read(self, length: int) -> bytes:
        return bytes([12]) * length


def put_pond(board: SimulatedBoard) -> None:
    board.i2c(1)
    board.i2c_ports[1].chips[0x19] = PondChip()


def test_a_good_driver_with_a_chip_of_its_own_conforms():
    """Negative control of the tests below."""
    Conformance(pond(), attach=put_pond, clock=TickingClock()).check_all()


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (pond(BelievesZeros), "zeros: reads .* from a dead board"),
        (pond(BelievesTheLastValue), "absent: reads .* from a dead board"),
        (pond(LetsOSErrorOut), "absent: OSError escapes"),
        (pond(LetsErrorsOutOfOpen), "OSError escapes from open"),
        (pond(GivesNoHint), "no hint"),
        (pond(ClosesOnce), "close raises ValueError"),
        (pond(GivesAnotherChannel), "humidity"),
        (pond(GivesText), "temperature is "),
        (pond(GivesNaN), "temperature is nan"),
        (pond(MeasuresSomethingElse), "'depth'. are measured, and .'temperature'. are declared"),
        (pond(NeverReads), "a healthy sensor does not give a reading: no pond; dig one"),
        (pond(example='driver = "lake"'), "the example is not of pond"),
        (pond(example='driver = "pond"\ndepth = '), "is not a configuration"),
        (pond(name="pond 1", example='driver = "pond 1"'), "cannot be the name of a driver"),
        (pond(channels=()), "there is no channel"),
        (pond(channels=(Channel("seq", "°C", (0.0, 1.0), 1),)), "'seq' cannot be the name"),
        (pond(channels=(Channel("t", "°C", (5.0, 1.0), 1),)), "t can mean nothing"),
        (pond(channels=(Channel("t", "°C", (0.0, math.inf), 1),)), "t can be anything"),
        (pond(channels=Pond.channels * 2), "two channels have one name"),
        (pond(read_budget_s=0.0), "a read may take no time"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_driver_that_breaks_the_contract_is_refused(info, says):
    with pytest.raises(NotConformant, match=says):
        Conformance(info, attach=put_pond, clock=TickingClock()).check_all()


# -- A package of somebody else's ----------------------------------------------------------------

THEIR_TEST = """
from drivers.conformance import Conformance
from drivers.registry import driver_names, find_driver

assert "pond" in driver_names()
suite = Conformance(find_driver("pond"))
suite.check_all()
print("pond conforms")
"""


@pytest.fixture
def their_package(tmp_path: Path) -> dict[str, str]:
    """The driver of drivers/README.md as an installed package; the environment to see it."""
    site = tmp_path / "site"
    info = site / "pond_sensor-1.0.dist-info"
    info.mkdir(parents=True)
    text = (Path(__file__).parent.parent / "drivers" / "README.md").read_text()
    (site / "my_package").mkdir()
    (site / "my_package" / "__init__.py").touch()
    (site / "my_package" / "pond.py").write_text(text.split("```python\n")[1].split("```")[0])
    entry = text.split('[project.entry-points."sensor_node.drivers"]\n')[1].split("```")[0]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pond-sensor\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sensor_node.drivers]\n" + entry.replace('"', ""))
    return {**os.environ, "PYTHONPATH": str(site)}


def test_a_package_of_somebody_else_runs_the_suite_without_pytest(their_package):
    script = THEIR_TEST + "import sys\nassert 'pytest' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=their_package,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "pond conforms\n", done.stderr


def test_a_package_of_somebody_else_is_read_on_the_simulated_board(their_package, tmp_path):
    config = tmp_path / "node.toml"
    config.write_text(
        '[mqtt]\nhost = "127.0.0.1"\n[[sensor]]\nid = "koi"\ndriver = "pond"\ndepth = 2.5\n'
    )
    command = [sys.executable, "-m", "node", "read", "--simulate", "--config", str(config)]
    done = subprocess.run(command, env=their_package, capture_output=True, text=True, check=False)
    assert "9.5 °C" in done.stdout, done.stderr
    assert done.returncode == 0
    without = {name: value for name, value in their_package.items() if name != "PYTHONPATH"}
    absent = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert absent.returncode == 78
    assert "[[sensor]] koi driver: unknown driver" in absent.stderr


# -- Options that hide a method ------------------------------------------------------------------


class HidingOptions(Options, frozen=True, kw_only=True):
    """`bus` is the natural name of the key, and hides `Options.bus`."""

    bus: int = 1  # type: ignore[assignment]

    def where(self) -> str:
        return "the pond"


class RaisingOptions(Options, frozen=True, kw_only=True):
    def bus(self) -> str:
        return "pond"

    def where(self) -> str:
        raise KeyError("depth")


class UnreadableOptions(Options, frozen=True, kw_only=True):
    """msgspec cannot make this of a number or a text in TOML."""

    depth: complex = 1j

    def bus(self) -> str:
        return "pond"

    def where(self) -> str:
        return "the pond"


class NumberedOptions(PondOptions, frozen=True, kw_only=True):
    def bus(self) -> str:
        return 1  # type: ignore[return-value]


class ClaimingOptions(PondOptions, frozen=True, kw_only=True):
    def claims(self) -> tuple[Claim, ...]:
        return ("GPIO 4",)  # type: ignore[return-value]


class RefusingOptions(PondOptions, frozen=True, kw_only=True):
    def __post_init__(self) -> None:
        raise KeyError("depth")


FAULTY = [
    (HidingOptions, "its field bus hides the method bus(): give the field another name, and"),
    (RaisingOptions, "where() raises KeyError: 'depth'"),
    (NumberedOptions, "bus() returns 1, and not a text"),
    (ClaimingOptions, "claims() returns ('GPIO 4',), and not Claims"),
]
CANNOT_BE_LOADED = "driver 'pond': my.pond cannot be loaded (KeyError: 'x')"


@pytest.mark.parametrize(("options", "says"), FAULTY)
def test_options_that_are_wrong_are_named_by_the_suite(options, says):
    with pytest.raises(NotConformant, match=re.escape(says)):
        Conformance(pond(options=options)).check_declaration()


@pytest.mark.parametrize(
    ("options", "keys", "says"),
    [
        *((options, "", says) for options, says in FAULTY),
        (UnreadableOptions, "depth = 3", "its options raise"),
        (RefusingOptions, "", "its options raise KeyError: 'depth'"),
        (None, "", CANNOT_BE_LOADED),
    ],
)
def test_a_faulty_driver_costs_its_own_sensor_alone(tmp_path, monkeypatch, options, keys, says):
    """The configuration is valid and says what is wrong, and so does each reading of the sensor."""

    def third_party(_name: str) -> DriverInfo:
        if options is None:
            raise MissingSupport(CANNOT_BE_LOADED)
        return pond(options=options)

    monkeypatch.setattr(registry, "_third_party", third_party)
    file = tmp_path / "node.toml"
    file.write_text(
        '[mqtt]\nhost = "h"\n[[sensor]]\nid = "a"\ndriver = "cpu"\n'
        f'[[sensor]]\nid = "koi"\ndriver = "pond"\n{keys}\n'
        "[sensor.channel.temperature]\nmedian = 3\n"
    )
    config = load(file)
    (remark,) = config.remarks
    faulty_because = "driver 'pond': " if options is None else "the driver pond is faulty: "
    assert remark.startswith(f"[[sensor]] koi: {faulty_because}")
    assert says in remark
    assert remark.endswith("; this sensor stays offline")
    healthy, faulty = config.sensors
    board = open_board(config, simulate=True)
    with pytest.raises(MissingSupport, match=re.escape(says)) as caught:
        faulty.info.open(faulty.options, board)
    assert caught.value.hint == "its author must correct it; the other sensors go on"
    assert healthy.info.open(healthy.options, board).read()


def test_a_wrong_key_for_a_sound_driver_is_still_an_error(tmp_path, monkeypatch):
    """Negative control: the fault is the user's."""
    monkeypatch.setattr(registry, "_third_party", lambda _name: pond())
    file = tmp_path / "node.toml"
    file.write_text('[mqtt]\nhost = "h"\n[[sensor]]\nid = "koi"\ndriver = "pond"\ndeep = 1\n')
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [problem.where for problem in caught.value.problems] == ["[[sensor]] koi deep"]


def test_the_options_of_every_driver_of_ours_are_right():
    for name in driver_names():
        assert fault_of(example_options(find_driver(name))) == ""
