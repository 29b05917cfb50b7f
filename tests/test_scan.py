"""`sensor-node scan`: what it finds and tells apart, what it leaves alone, its output."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from Adafruit_PureIO import smbus
from support import SENSOR_NODE, FakeClock

from drivers import hardware, scan_i2c, scanning
from drivers.catalogue import CATALOGUE
from drivers.errors import MissingSupport, SensorTimeout
from drivers.hardware import HardwareBoard
from drivers.owned_bus import I2CBus
from drivers.registry import find_driver
from drivers.scan_buses import switched_off
from drivers.scan_i2c import Answer, scan_bus
from drivers.scan_strangers import STRANGERS
from drivers.scanning import Found, Scan, scan
from drivers.sim.board import SimulatedBoard
from drivers.sim.chips import I2C_CHIPS
from drivers.sim.dead import ConstantChip
from drivers.sim.i2c import RegisterChip, SimulatedI2C
from node.config.sensor_toml import free_id, suggest_id

ROOT = Path(__file__).parent.parent
BROKER = '[mqtt]\nhost = "127.0.0.1"\n\n'


class CarefulPort(SimulatedI2C):
    """Writes down what each address is sent, and where it is read without having been sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[int, bytes]] = []
        self.read_plainly: list[int] = []
        self.combined: list[tuple[int, bytes]] = []

    def scan(self) -> list[int]:
        raise AssertionError("Blinka's scan calls addresses that must not be called its way")

    def writeto(self, address: int, buffer: Any, **limits: Any) -> None:
        self.sent.append((address, bytes(buffer)))
        super().writeto(address, buffer, **limits)

    def readfrom_into(self, address: int, buffer: Any, **limits: Any) -> None:
        self.read_plainly.append(address)
        super().readfrom_into(address, buffer, **limits)

    def writeto_then_readfrom(
        self, address: int, buffer_out: Any, buffer_in: Any, **limits: Any
    ) -> None:
        self.combined.append((address, bytes(buffer_out)))
        chip = self._chip(address)
        chip.write(bytes(buffer_out))
        buffer_in[:] = chip.read(len(buffer_in))


@pytest.fixture
def port() -> CarefulPort:
    return CarefulPort()


@pytest.fixture
def bus(port: CarefulPort, clock: FakeClock) -> I2CBus:
    return I2CBus(port, clock)


def sensors_of(result: Scan) -> list[Found]:
    """The sensor of each finding: nothing but sensors was found."""
    sensors = [finding.sensor for finding in result.findings if finding.sensor is not None]
    assert len(sensors) == len(result.findings)
    return sensors


def registers(**content: bytes) -> RegisterChip:
    """A chip with `content` from the registers on that the names say, x0f=b"..."."""
    chip = RegisterChip()
    for name, value in content.items():
        register = int(name[1:], 16)
        chip.registers[register : register + len(value)] = value
    return chip


class Deaf:
    """A chip that acknowledges its address, and none of the bytes it is sent."""

    def write(self, sent: bytes) -> None:
        if sent:
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))

    def read(self, length: int) -> bytes:
        raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))


# -- What is told by what ------------------------------------------------------------------------


def test_several_chips_on_a_bus_are_told_apart(bus, port):
    """A BME280 and a BMP280 by their id, an MCP9808 by its maker; an SHT31 is one of three."""
    port.chips[0x76] = registers(xd0=b"\x60")
    port.chips[0x77] = registers(xd0=b"\x58")
    port.chips[0x18] = registers(x06=b"\x00\x54")
    port.chips[0x44] = Deaf()
    port.chips[0x27] = RegisterChip()
    result = scan_bus(bus, "I2C bus 1")
    assert result.failure is None
    assert result.answers == (
        Answer(0x18, "mcp9808"),
        Answer(0x27),
        Answer(0x44, possible=("sht31d", "sht4x", "hdc302x")),
        Answer(0x76, "bme280"),
        Answer(0x77, "bmp280"),
    )


def test_two_rows_with_one_identification_are_both_named_and_none_is_chosen(bus, port):
    """LPS22HB and LPS35HW have the same WHO_AM_I, INA228 and INA237 the same maker."""
    port.chips[0x5D] = registers(x0f=b"\xb1")
    port.chips[0x45] = registers(x3e=b"\x54\x49")
    low, high = scan_bus(bus, "I2C bus 1").answers
    assert (low.identified, low.possible) == ("", ("ina228", "ina23x"))
    assert (high.identified, high.possible) == ("", ("lps22", "lps35hw"))


def test_a_register_that_shows_only_life_is_no_identification(bus, port):
    """A TC74's witness says that it lives; an LM75 may have the same byte there."""
    port.chips[0x49] = registers(x01=b"\x40")
    (answer,) = scan_bus(bus, "I2C bus 1").answers
    assert answer.identified == ""
    assert {"tc74", "pct2075", "ads1115"} <= set(answer.possible)


def test_what_must_not_be_asked_is_possible_by_its_address(bus, port):
    port.chips[0x61] = registers(x20=b"\x40\x10")
    port.chips[0x22] = registers(x0e=b"\x49\x54")
    low, high = scan_bus(bus, "I2C bus 1").answers
    assert (low.identified, low.possible) == ("", ("tmag5273",))
    assert (high.identified, high.possible) == ("", ("scd30", "mcp9600"))


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_silence_identifies_nothing(bus, port, byte):
    for row in CATALOGUE:
        for address in row.addresses:
            port.chips[address] = ConstantChip(byte)
    assert all(not answer.identified for answer in scan_bus(bus, "I2C bus 1").answers)


def test_a_chip_of_two_addresses_is_possible_only_where_both_answer(bus, port):
    port.chips[0x76] = Deaf()
    (answer,) = scan_bus(bus, "I2C bus 1").answers
    assert "ms8607" not in answer.possible
    port.chips[0x40] = Deaf()
    assert "ms8607" in scan_bus(bus, "I2C bus 1").answers[1].possible


@pytest.mark.parametrize(
    ("address", "content", "says"),
    [
        (
            0x40,
            {"xff": b"\x10", "x00": b"\x50"},
            "HDC1080; it is read by a driver of Linux's: put dtoverlay=",
        ),
        (0x40, {"xff": b"\x10"}, "HDC1000; it is read by a driver of Linux's"),
        (0x77, {"xd0": b"\x55"}, "BMP180; it is read by a driver of Linux's: put dtoverlay="),
        (0x53, {"x00": b"\x60\x01"}, "ENS160; it measures gases"),
        (0x45, {"xff": b"\x22", "x00": b"\x60"}, "INA226; it measures current"),
    ],
)
def test_a_chip_that_nothing_here_reads_is_named_and_taken_for_no_other(
    bus, port, address, content, says
):
    """An HDC1080 was taken for an HTU21D, a BMP180 for nothing that is known."""
    port.chips[address] = registers(**content)
    (answer,) = scan_bus(bus, "I2C bus 1").answers
    assert (answer.identified, answer.possible) == ("", ())
    assert answer.note.startswith(says)


def test_the_same_addresses_with_other_chips_are_as_before(bus, port):
    port.chips[0x40] = Deaf()
    port.chips[0x77] = registers(xd0=b"\x60")
    low, high = scan_bus(bus, "I2C bus 1").answers
    assert {"htu21d", "htu31d", "si7021"} <= set(low.possible)
    assert high.identified == "bme280"


class Multiplexer:
    """A TCA9548A: the byte written last is its control register, which it reads (SCPS207, §8.6)."""

    def __init__(self) -> None:
        self.control = 0x00

    def write(self, sent: bytes) -> None:
        if sent:
            self.control = sent[-1]

    def read(self, length: int) -> bytes:
        return bytes([self.control]) * length


def test_a_multiplexer_is_told_from_an_shtc3_and_left_as_it_is(bus, port):
    port.chips[0x70] = mux = Multiplexer()
    mux.control = 0x04
    (answer,) = scan_bus(bus, "I2C bus 1").answers
    assert (answer.identified, answer.possible) == ("", ())
    assert "multiplexer (TCA9548A)" in answer.note
    assert "dtoverlay=i2c-mux,pca9548,addr=0x70" in answer.note
    assert mux.control == 0x04, "no other channel was switched on"
    del port.chips[0x70]
    port.chips[0x73] = Multiplexer()
    (answer,) = scan_bus(bus, "I2C bus 1").answers
    assert "addr=0x73" in answer.note


def test_an_shtc3_is_still_found_at_the_address_of_a_multiplexer():
    board = SimulatedBoard()
    board.attach("shtc3", find_driver("shtc3").options())
    (finding,) = scan(board).findings
    assert [found.driver for found in finding.possible] == ["shtc3"]


IDENTIFIED = [
    row
    for row in CATALOGUE
    if row.name in I2C_CHIPS and row.witness and row.witness.expected and row.witness.identifies
]


@pytest.mark.parametrize("row", IDENTIFIED, ids=lambda row: row.name)
def test_every_simulated_chip_with_an_identification_is_found_by_it(row):
    board = SimulatedBoard()
    options = find_driver(row.name).options()
    board.attach(row.name, options)
    (finding,) = scan(board).findings
    alike = {"lps22", "lps35hw", "ina228", "ina23x"}
    if row.name in alike:
        assert row.name in {found.driver for found in finding.possible}
        return
    assert finding.sensor is not None, finding
    assert finding.sensor.driver == row.name
    assert msgspec.convert(finding.sensor.options, type(options)) == options


# -- What must not be done to a bus --------------------------------------------------------------


def test_addresses_are_called_as_i2cdetect_calls_them(bus, port):
    """Memories by reading, the rest by an empty write, reserved addresses not at all."""
    scan_bus(bus, "I2C bus 1")
    memories = {*range(0x30, 0x38), *range(0x50, 0x60)}
    assert port.sent == [(a, b"") for a in range(0x08, 0x78) if a not in memories]
    assert set(port.read_plainly) == memories
    assert port.combined == []


def test_a_register_is_asked_for_only_where_a_chip_with_that_one_may_be(bus, port):
    for address in range(0x08, 0x77):
        port.chips[address] = Deaf()
    for address in (*range(0x30, 0x38), *range(0x50, 0x60)):
        port.chips[address] = ConstantChip(0x00)
    scan_bus(bus, "I2C bus 1")
    allowed = {
        (address, bytes([row.witness.register]))
        for row in CATALOGUE
        if row.witness and row.witness.expected and row.witness.register <= 0xFF
        for address in row.addresses
    }
    allowed |= {(a, bytes([known.register])) for known in STRANGERS for a in known.addresses}
    assert set(port.combined) <= allowed
    assert all(sent == b"" for _, sent in port.sent)
    outputs = {*range(0x20, 0x28), *range(0x38, 0x40)}
    asked = {address for address, _ in port.combined}
    assert not outputs & asked, "a PCF8574 would switch"
    assert 0x61 not in asked, "an SCD30 takes no repeated start"
    assert {0x60, 0x76} <= asked


def test_a_chip_that_the_kernel_has_is_left_alone(bus, port):
    port.chips[0x76] = registers(xd0=b"\x60")

    def refuse(address: int) -> None:
        if address == 0x76:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    port.before_answer = refuse
    (answer,) = scan_bus(bus, "I2C bus 1").answers
    assert (answer.identified, answer.possible) == ("", ())
    assert "kernel" in answer.note
    assert port.combined == []


def test_a_sleeping_chip_is_called_twice(bus, port):
    """An AM2320 wakes at the first call, without acknowledging it."""
    port.chips[0x5C] = Deaf()
    calls = []

    def sleepy(address: int) -> None:
        if address == 0x5C:
            calls.append(address)
            if len(calls) == 1:
                raise OSError(errno.EREMOTEIO, "asleep")

    port.chips[0x5C] = ConstantChip(0x03)
    port.before_answer = sleepy
    (answer,) = scan_bus(bus, "I2C bus 1").answers
    assert answer.possible == ("am2320",)


def test_an_adapter_without_empty_writes_is_read_from(bus, port):
    port.chips[0x44] = registers()
    plain = port.writeto

    def no_empty_write(address: int, buffer: Any, **limits: Any) -> None:
        if not buffer:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        plain(address, buffer, **limits)

    port.writeto = no_empty_write
    assert [answer.address for answer in scan_bus(bus, "I2C bus 1").answers] == [0x44]


class KernelFile:
    """`/dev/i2c-N` under Blinka: 0x76 is a BME280, 0x40 belongs to a driver of the kernel's."""

    def __init__(self) -> None:
        self.address = -1
        self.messages: list[list[tuple[int, int, int]]] = []

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Nothing is open."""

    def write(self, sent: bytes) -> int:
        if self.address != 0x76:
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        return len(sent)

    def read(self, length: int) -> bytes:
        raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))

    def ioctl(self, descriptor: int, request: int, argument: Any) -> None:
        if request == smbus.I2C_SLAVE:
            if argument == 0x40:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self.address = argument
            return
        messages = [argument.msgs[i] for i in range(argument.nmsgs)]
        self.messages.append([(m.addr, m.flags, m.len) for m in messages])
        messages[1].buf[0] = 0x60 if messages[0].buf[0] == 0xD0 else 0x00


def test_blinka_passes_the_rules_on_to_the_kernel(monkeypatch):
    """EBUSY comes from I2C_SLAVE, so every call must go that way; a register is one I2C_RDWR."""
    file = KernelFile()
    monkeypatch.setattr(smbus, "ioctl", file.ioctl)
    monkeypatch.setattr(smbus.SMBus, "open", lambda bus, number: setattr(bus, "_device", file))
    low, high = scan_bus(HardwareBoard().i2c(1), "I2C bus 1").answers
    assert (low.address, low.note) == (0x40, "a driver of the kernel's has it")
    assert (high.address, high.identified) == (0x76, "bme280")
    written, read = (0x76, 0, 1), (0x76, smbus.I2C_M_RD, 1)
    assert file.messages == [[written, read]] * len(file.messages)
    assert file.messages


# -- Broken buses --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENXIO, errno.EREMOTEIO, errno.EIO])
def test_a_bus_without_an_answer_is_empty_and_no_failure(bus, port, number):
    def refuse(_address: int) -> None:
        raise OSError(number, os.strerror(number))

    port.before_answer = refuse
    result = scan_bus(bus, "I2C bus 1")
    assert (result.answers, result.failure) == ((), None)


def test_a_bus_that_answers_everywhere_is_stuck_and_finds_nothing(bus, port):
    for address in range(0x80):
        port.chips[address] = ConstantChip(0x00)
    result = scan_bus(bus, "I2C bus 1")
    assert result.answers == ()
    assert isinstance(result.failure, SensorTimeout)
    assert "SDA is stuck low" in str(result.failure)
    assert port.combined == []


def test_a_chip_that_hangs_costs_its_address_alone(bus, port, clock):
    port.chips[0x76] = registers(xd0=b"\x60")

    def hang(address: int) -> None:
        if address == 0x40:
            clock.sleep(1.0)
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    port.before_answer = hang
    result = scan_bus(bus, "I2C bus 1")
    assert result.failure is None
    assert [(a.address, a.identified) for a in result.answers] == [(0x40, ""), (0x76, "bme280")]
    assert "holds the bus" in result.answers[0].note


def test_a_held_bus_is_given_up_soon_and_keeps_what_was_found(bus, port, clock):
    port.chips[0x18] = registers(x06=b"\x00\x54")

    def hang(address: int) -> None:
        if address >= 0x40:
            clock.sleep(1.0)
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    port.before_answer = hang
    began_s = clock.now_s
    result = scan_bus(bus, "I2C bus 1")
    assert clock.now_s - began_s < 5
    (answer,) = result.answers
    assert (answer.address, answer.identified) == (0x18, "")
    assert "before it was asked who" in answer.note
    assert "short on SDA or SCL" in str(result.failure)


def test_a_lost_arbitration_is_a_held_bus(bus, port):
    """`FileIO.read` gives None for EAGAIN, and Blinka takes an element of that."""

    def lost(address: int) -> None:
        if address >= 0x50:
            raise TypeError("'NoneType' object is not subscriptable")

    port.before_answer = lost
    assert "another master" in str(scan_bus(bus, "I2C bus 1").failure)


def test_a_slow_bus_ends_at_the_deadline_and_says_how_far_it_came(bus, port, clock):
    def crawl(_address: int) -> None:
        clock.sleep(0.5)

    port.before_answer = crawl
    began_s = clock.now_s
    result = scan_bus(bus, "I2C bus 1")
    assert clock.now_s - began_s < scan_i2c.ALLOWED_S + 1
    assert "came as far as address 0x19" in str(result.failure)


def test_a_call_that_never_returns_costs_its_bus_alone(monkeypatch):
    """The deadline is looked at between transactions; this one has no end."""
    monkeypatch.setattr(scanning, "_BEYOND_DEADLINE_S", 0.1)
    board = SimulatedBoard()
    options = find_driver("bme280").options(bus_number=3, address=0x76)
    board.attach("bme280", options)
    never = threading.Event()
    board.i2c_ports[1] = SimulatedI2C()
    board.i2c_ports[1].before_answer = lambda address: never.wait(20)
    result = scan(board, allowed_s=2.0)  # which the other bus has as well
    never.set()
    (failure,) = result.failures
    assert "I2C bus 1: no answer within" in str(failure)
    (finding,) = result.findings
    assert finding.where == "I2C bus 3 address 0x76"
    assert finding.sensor is not None
    assert finding.sensor.options == {"bus": 3, "address": 0x76}


def test_a_drivers_own_scan_that_fails_or_hangs_costs_itself_alone(monkeypatch):
    """Also one of another package's."""
    cpu = find_driver("cpu")
    never = threading.Event()

    def fail(_board: object) -> list[dict[str, str | int]]:
        raise ValueError("what it found made no sense")

    def hang(_board: object) -> list[dict[str, str | int]]:
        never.wait(20)
        return []

    drivers = [
        msgspec.structs.replace(cpu, name="broken", scan=fail),
        msgspec.structs.replace(cpu, name="hanging", scan=hang, scan_s=2.0),
        cpu,
    ]
    monkeypatch.setattr(scanning, "_scanning_drivers", lambda: drivers)
    board = SimulatedBoard()
    board.attach("cpu", cpu.options())
    result = scan(board)
    never.set()
    assert [found.driver for found in sensors_of(result)] == ["cpu"]
    broken, hanging = map(str, result.failures)
    assert "broken: ValueError: what it found made no sense" in broken
    assert "hanging: no answer within 2 s" in hanging


def test_a_chip_without_simulation_says_so_and_the_rest_is_found():
    board = SimulatedBoard()
    board.attach("of another package", find_driver("mlx90632").options())
    board.attach("bme280", find_driver("bme280").options())
    result = scan(board)
    assert result.failures == ()
    unknown, known = result.findings
    assert "there is no simulated of another package" in unknown.note
    assert known.sensor is not None
    assert known.sensor.driver == "bme280"


HANGING = """
import sys, threading
from drivers.sim import board, i2c
def simulated(*_, **__):
    found = real(*_, **__)
    found.i2c_ports[1] = i2c.SimulatedI2C()
    found.i2c_ports[1].before_answer = lambda address: threading.Event().wait()
    return found
real, board.SimulatedBoard = board.SimulatedBoard, simulated
from drivers import scanning
scanning._BEYOND_DEADLINE_S = -6.0  # of the 8 s that a bus has
from node.cli import main as cli
sys.exit(cli.main(["scan", "--simulate"]))
"""


def test_the_command_ends_though_a_call_never_returns():
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert "I2C bus 1: no answer within 2 s" in done.stderr
    assert 'driver = "ds18b20"' in done.stdout


# -- The real board, with folders of the test's own ----------------------------------------------


class RootedBoard(HardwareBoard):
    """The real board, with its files below `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def path(self, absolute: str) -> Path:
        return self._root / absolute.lstrip("/")


def write(root: Path, path: str, text: str = "") -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


PI = "Raspberry Pi 4 Model B Rev 1.4\0"


def test_a_pi_is_told_how_to_switch_its_buses_on(tmp_path):
    write(tmp_path, "proc/device-tree/model", PI)
    write(tmp_path, "boot/firmware/config.txt")
    board = RootedBoard(tmp_path)
    i2c, spi, one_wire = switched_off(board)
    for text, line in ((i2c, "dtparam=i2c_arm=on"), (spi, "dtparam=spi=on")):
        assert f"put {line} into /boot/firmware/config.txt" in text
        assert "On this Raspberry Pi 4 Model B Rev 1.4:" in text
    assert "dtoverlay=w1-gpio" in one_wire
    (tmp_path / "boot/firmware/config.txt").unlink()
    assert "into /boot/config.txt" in switched_off(board)[0]


def test_what_is_switched_on_is_not_complained_of(tmp_path):
    write(tmp_path, "dev/i2c-1")
    write(tmp_path, "dev/spidev0.0")
    write(tmp_path, "sys/bus/w1/devices/w1_bus_master1/w1_master_slaves")
    assert switched_off(RootedBoard(tmp_path)) == []


def test_a_bus_without_its_device_file_lacks_a_module(tmp_path):
    write(tmp_path, "proc/device-tree/model", PI)
    write(tmp_path, "sys/bus/i2c/devices/i2c-1/name", "bcm2835 (i2c@7e804000)\n")
    assert "modprobe i2c-dev" in switched_off(RootedBoard(tmp_path))[0]


@pytest.mark.parametrize(
    ("model", "says"),
    [("Orange Pi Zero 3\0", "Orange Pi Zero 3 and no Raspberry Pi"), ("", "USB adapter")],
)
def test_what_is_no_pi_is_not_told_of_config_txt(tmp_path, model, says):
    if model:
        write(tmp_path, "proc/device-tree/model", model)
    off = switched_off(RootedBoard(tmp_path))
    assert len(off) == 3
    assert all(says in text and "config.txt" not in text for text in off)


def test_a_displays_bus_is_left_alone_unless_it_is_asked_for(tmp_path, monkeypatch):
    write(tmp_path, "dev/i2c-20")
    write(tmp_path, "sys/class/i2c-dev/i2c-20/name", "fef04500.i2c\n")
    port = CarefulPort()
    monkeypatch.setattr(hardware, "_open_i2c", lambda number: port)
    board = RootedBoard(tmp_path)
    result = scan(board)
    assert "--bus 20 scans it" in result.notes[0]
    assert port.sent == []
    assert any(text.startswith("I2C:") for text in result.switched_off)
    assert scan(board, only_bus=20).notes == ()
    assert port.sent != []


def test_a_bus_that_is_forbidden_names_the_group_and_the_command(tmp_path, monkeypatch):
    write(tmp_path, "dev/i2c-1")

    def forbidden(_number: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    module = "adafruit_blinka.microcontroller.generic_linux.i2c.I2C"
    monkeypatch.setattr(module, forbidden)
    (failure,) = scan(RootedBoard(tmp_path)).failures
    assert isinstance(failure, MissingSupport)
    assert "/dev/i2c-1: permission denied" in str(failure)
    assert "sudo usermod -aG i2c $USER" in str(failure)


@pytest.mark.parametrize(("device", "group"), [("spidev0.0", "spi"), ("gpiochip0", "gpio")])
def test_devices_of_other_groups_are_told_too(tmp_path, monkeypatch, device, group):
    write(tmp_path, f"dev/{device}")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert scan(RootedBoard(tmp_path)).failures == (), "a PC's"
    write(tmp_path, "proc/device-tree/model", PI)
    (failure,) = scan(RootedBoard(tmp_path)).failures
    assert f"/dev/{device}: permission denied" in str(failure)
    assert f"usermod -aG {group}" in str(failure)


def test_kernel_devices_of_one_name_get_the_device_they_sit_on():
    board = SimulatedBoard()
    sysfs = find_driver("sysfs")
    for name, device in (("lm75", "1-0048"), ("lm75", "1-0049"), ("cpu_thermal", "soc")):
        board.attach("sysfs", sysfs.options(name=name, device=device))
    found = [sensor.options for sensor in sensors_of(scan(board))]
    assert found == [
        {"name": "lm75", "device": "1-0048"},
        {"name": "lm75", "device": "1-0049"},
    ]


def test_every_family_of_the_one_wire_driver_is_found():
    board = SimulatedBoard()
    driver = find_driver("ds18b20")
    addresses = [f"{family}-0123456789ab" for family in ("10", "22", "28", "3b", "42")]
    for address in addresses:
        board.attach("ds18b20", driver.options(address=address))
    assert [found.options["address"] for found in sensors_of(scan(board))] == addresses


# -- The command ---------------------------------------------------------------------------------


def sensor_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SENSOR_NODE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_is_printed_can_be_pasted_and_read(tmp_path):
    """The whole output below [mqtt] is a configuration, whose sensors all give values."""
    scanned = sensor_node("scan", "--simulate")
    assert (scanned.returncode, scanned.stderr) == (0, "")
    assert max(map(len, scanned.stdout.splitlines())) <= 80
    file = tmp_path / "node.toml"
    file.write_text(BROKER + scanned.stdout)
    checked = sensor_node("check", "--config", str(file))
    assert checked.returncode == 0, checked.stderr
    done = sensor_node("read", "--simulate", "--json", "--config", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)
    assert {r["driver"] for r in results} == {"bme280", "mcp9808", "ds18b20", "sysfs", "cpu"}
    assert all(r["values"] for r in results)


def test_a_candidate_that_is_uncommented_is_a_table_too():
    scanned = sensor_node("scan", "--simulate").stdout
    (block,) = [b for b in scanned.split("\n\n") if "0x44" in b]
    first = re.search(r"(?:# .*=.*\n?|# \[\[sensor\]\]\n)+", block)
    assert first is not None
    table = re.sub("(?m)^# ", "", first[0])
    (sensor,) = tomllib.loads(table)["sensor"]
    assert sensor == {"id": "sht31d-44", "driver": "sht31d", "address": 0x44}


def test_scanning_what_a_configuration_simulates_names_its_sensors(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text(
        BROKER + '[[sensor]]\nid = "bme280-3-77"\ndriver = "bme280"\nbus = 3\naddress = 0x77\n'
    )
    done = sensor_node("scan", "--simulate", "--json", "--config", str(file))
    (finding,) = json.loads(done.stdout)["found"]
    assert finding["configured_as"] == "bme280-3-77"
    assert finding["sensors"][0]["options"] == {"bus": 3, "address": 0x77}
    assert finding["sensors"][0]["id"] != "bme280-3-77"
    text = sensor_node("scan", "--simulate", "--config", str(file)).stdout
    assert '"bme280-3-77" of the configuration reads this' in text


def test_what_the_configuration_has_already_is_a_comment(tmp_path, monkeypatch):
    """`scan >> node.toml` is what people do, and cpu is in the file that comes with the service."""
    file = tmp_path / "node.toml"
    file.write_text(BROKER + '[[sensor]]\nid = "cpu"\ndriver = "cpu"\n\n')
    monkeypatch.setenv("SENSOR_NODE_CONFIG", str(file))
    for option in ((), ("--config", str(file))):
        scanned = sensor_node("scan", *option, "--simulate").stdout
        assert '"cpu" of the configuration reads this' in scanned
        tables = tomllib.loads(scanned).get("sensor", [])
        assert all(table["driver"] != "cpu" for table in tables)
        both = tmp_path / "both.toml"
        both.write_text(file.read_text() + scanned)
        checked = sensor_node("check", str(both))
        assert checked.returncode == 0, checked.stderr
    file.write_text("[mqtt]\n")  # a configuration that is wrong keeps nothing from being scanned
    assert 'driver = "cpu"' in sensor_node("scan", "--simulate").stdout


def test_a_bus_can_be_chosen():
    done = sensor_node("scan", "--simulate", "--bus", "1", "--json")
    assert any("I2C bus 1" in f["where"] for f in json.loads(done.stdout)["found"])
    done = sensor_node("scan", "--simulate", "--bus", "7")
    assert done.returncode == 1
    assert "/dev/i2c-7 does not exist; there is /dev/i2c-1" in done.stderr
    assert "I2C bus" not in done.stdout
    assert sensor_node("scan", "--bus", "-1").returncode == 2


def test_a_configuration_that_is_wrong_is_said(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text("[mqtt]\n")
    assert sensor_node("scan", "--config", str(file)).returncode == 78


def test_nothing_found_is_said_and_no_failure():
    from node.commands.scan import _as_toml

    with tempfile.TemporaryDirectory() as folder:
        result = scan(RootedBoard(Path(folder)))
    text = _as_toml(result, [], {})
    assert text.startswith("# Nothing was found.")
    assert result.failures == ()
    assert tomllib.loads(text) == {}


def test_ids_are_valid_and_different():
    taken = {"cpu"}
    assert free_id("cpu", taken) == "cpu-2"
    found = scanning.Found("sysfs", options={"name": "dht11@4", "device": "a b/ü:" + 80 * "x"})
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", suggest_id(found.driver, found.options))
    assert free_id("", set()) == "sensor"
