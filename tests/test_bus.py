"""The bus objects: deadlines, retries by kind of error, lost ports, SPI messages, silence."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

import pytest
from adafruit_bus_device.i2c_device import I2CDevice
from adafruit_bus_device.spi_device import SPIDevice
from support import FakeClock, TickingClock

from drivers.errors import (
    BadFrame,
    BusDeadline,
    MissingSupport,
    SensorNotFound,
    SensorTimeout,
    as_sensor_error,
)
from drivers.hardware import HardwareBoard
from drivers.owned_bus import I2CBus, SPIBus
from drivers.sim.dead import ConstantChip
from drivers.sim.i2c import RegisterChip, SimulatedI2C
from drivers.sim.spi import RegisterSpiChip, SimulatedSPI

ADDRESS = 0x40


def failing(numbers: Iterable[int]) -> Callable[[int], None]:
    """A `before_answer` that raises each error number once, and then lets through."""
    left = list(numbers)

    def fail(_address: int) -> None:
        if left:
            number = left.pop(0)
            raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def port() -> SimulatedI2C:
    port = SimulatedI2C()
    port.chips[ADDRESS] = chip = RegisterChip()
    chip.registers[:] = bytes(range(256))
    return port


@pytest.fixture
def bus(port: SimulatedI2C, clock: FakeClock) -> I2CBus:
    return I2CBus(port, clock)


def error_number(transact: Callable[[], object]) -> int | None:
    """The number of the OSError that `transact` raises; None if it raises none."""
    try:
        transact()
    except OSError as error:
        return error.errno
    return None


def read_register(bus: I2CBus, register: int) -> int:
    answer = bytearray(1)
    bus.writeto_then_readfrom(ADDRESS, bytes([register]), answer)
    return answer[0]


@pytest.mark.parametrize(
    ("number", "failures"),
    [(errno.EAGAIN, 3), (errno.EBUSY, 3), (errno.EIO, 2), (errno.EPROTO, 2)],
)
def test_what_failed_by_accident_is_tried_again_and_no_oftener(bus, port, clock, number, failures):
    port.before_answer = failing([number] * failures)
    assert read_register(bus, 7) == 7
    assert sum(clock.slept) < 0.05
    port.before_answer = failing([number] * (failures + 1))
    assert error_number(lambda: read_register(bus, 7)) == number


@pytest.mark.parametrize("number", [errno.ENXIO, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EACCES])
def test_what_is_absent_or_held_or_forbidden_is_not_tried_again(bus, port, clock, number):
    port.before_answer = failing([number])
    assert error_number(lambda: read_register(bus, 7)) == number
    assert clock.slept == []
    assert read_register(bus, 7) == 7


def test_each_kind_of_error_has_its_remedy():
    """kernel i2c/fault-codes.rst: absent, held, and noise are different errors."""
    for number, kind, says in (
        (errno.ENXIO, SensorNotFound, "the address"),
        (errno.EREMOTEIO, SensorNotFound, "the address"),
        (errno.ETIMEDOUT, SensorTimeout, "SDA or SCL"),
        (errno.EIO, BadFrame, "pull-ups"),
        (errno.EBUSY, SensorTimeout, "dtoverlay"),
        (errno.EAGAIN, SensorTimeout, "another master"),
    ):
        error = as_sensor_error(OSError(number, os.strerror(number)), "here")
        assert type(error) is kind
        assert says in error.hint


def test_retries_stay_within_the_deadline(bus, port, clock):
    port.before_answer = failing([errno.EBUSY] * 100)
    with pytest.raises(BusDeadline), bus.within(0.001):
        read_register(bus, 7)
    assert sum(clock.slept) < 0.01


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.ENODEV, errno.EBADF, errno.ESHUTDOWN])
def test_a_lost_port_is_opened_anew_at_the_next_transaction(port: SimulatedI2C, clock, number):
    """An I2C adapter on USB that was pulled out and put back is another file."""
    opened: list[SimulatedI2C] = []

    def reopen() -> SimulatedI2C:
        opened.append(port)
        return port

    lost = SimulatedI2C()
    lost.before_answer = failing([number] * 99)
    bus = I2CBus(lost, clock, reopen)
    assert error_number(lambda: read_register(bus, 7)) == number
    assert opened == []
    assert read_register(bus, 7) == 7
    assert read_register(bus, 8) == 8
    assert len(opened) == 1


def test_a_port_that_cannot_be_opened_anew_is_tried_each_time(clock, port: SimulatedI2C):
    answers: list[OSError | SimulatedI2C] = [OSError(errno.ENOENT, "no"), port]

    def reopen() -> SimulatedI2C:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    lost = SimulatedI2C()
    lost.before_answer = failing([errno.ENODEV])
    bus = I2CBus(lost, clock, reopen)
    for expected in (errno.ENODEV, errno.ENOENT):
        assert error_number(lambda: read_register(bus, 7)) == expected
    assert read_register(bus, 7) == 7


def test_every_transaction_minds_the_deadline(port):
    bus = I2CBus(port, TickingClock())
    device = I2CDevice(bus, ADDRESS)
    for transact in (
        bus.scan,
        lambda: read_register(bus, 1),
        lambda: bus.writeto(ADDRESS, b"\x01"),
        lambda: bus.readfrom_into(ADDRESS, bytearray(1)),
        device.__enter__,
    ):
        with pytest.raises(BusDeadline), bus.within(0.0):
            transact()
    with bus.within(0.1):
        assert read_register(bus, 1) == 1
    assert read_register(bus, 1) == 1, "outside of a reading there is no deadline"


def test_a_lock_that_a_driver_left_behind_is_taken_back(bus):
    assert bus.try_lock()
    with bus.within(1.0):
        assert bus.try_lock()


def test_a_driver_that_waits_for_a_lock_ends_at_the_deadline(port):
    """adafruit_bus_device spins until it has the lock."""
    bus = I2CBus(port, TickingClock())
    device = I2CDevice(bus, ADDRESS)
    with bus.within(1.0):
        bus.try_lock()
        with pytest.raises(BusDeadline):
            device.__enter__()


def test_silence_is_every_byte_the_same(bus):
    with bus.within(1.0):
        assert bus.dead_byte is None, "nothing was read yet"
        read_register(bus, 0)
        assert bus.dead_byte == 0x00
        read_register(bus, 1)
        assert bus.dead_byte is None
    with bus.within(1.0):
        read_register(bus, 0xFF)
        read_register(bus, 0xFF)
        assert bus.dead_byte == 0xFF
        read_register(bus, 0x00)
        assert bus.dead_byte is None
    with bus.within(1.0):
        read_register(bus, 0x55)
        read_register(bus, 0x55)
        assert bus.dead_byte is None


# -- SPI -----------------------------------------------------------------------------------------


class RecordingSPI(SimulatedSPI):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes] = []

    def transfer(self, sent: bytes, *, hertz: int, mode: int) -> bytes:
        self.messages.append(sent)
        return super().transfer(sent, hertz=hertz, mode=mode)


@pytest.fixture
def spi_port() -> RecordingSPI:
    port = RecordingSPI()
    port.chip = RegisterSpiChip()
    port.chip.registers[:] = bytes(range(128))
    return port


@pytest.fixture
def spi(spi_port: RecordingSPI, clock: FakeClock) -> SPIBus:
    return SPIBus(spi_port, clock)


def test_a_register_is_read_in_one_message(spi, spi_port):
    """The kernel lets go of chip select between messages, and the chip would forget."""
    device = SPIDevice(spi, spi.chip_select, baudrate=500_000, polarity=0, phase=1)
    answer = bytearray(4)
    with device as selected:
        selected.write(bytearray([0x0C, 0xEE]), end=1)
        selected.readinto(answer, start=1, end=4)
    assert spi_port.messages == [b"\x0c\x00\x00\x00"]
    assert answer == b"\x00\x0c\x0d\x0e"
    assert spi_port.modes == {1}


def test_a_write_goes_out_when_the_chip_is_deselected(spi, spi_port):
    device = SPIDevice(spi, spi.chip_select)
    with device as selected:
        selected.write(b"\x8c")
        selected.write(b"\x55")
        assert spi_port.messages == []
    assert spi_port.messages == [b"\x8c\x55"]
    assert spi_port.chip.registers[0x0C] == 0x55


def test_what_was_not_sent_before_an_error_is_not_sent_after_it(spi, spi_port):
    device = SPIDevice(spi, spi.chip_select)

    def fail() -> None:
        raise OSError(errno.EIO, "no")

    spi_port.before_answer = fail

    def read() -> None:
        with device as selected:
            selected.write(b"\x0c")
            selected.readinto(bytearray(1))

    assert error_number(read) == errno.EIO
    spi_port.before_answer = lambda: None
    spi_port.messages.clear()
    with spi.within(1.0), device as selected:
        selected.readinto(bytearray(2))
    assert spi_port.messages == [b"\x00\x00"]


def test_full_duplex_returns_what_came_at_the_same_time(spi):
    answer = bytearray(3)
    with SPIDevice(spi, spi.chip_select) as selected:
        selected.write_readinto(b"\x05\x00\x00", answer)
    assert answer == b"\x00\x05\x06"


def test_spi_minds_the_deadline_and_hears_silence(spi_port):
    spi = SPIBus(spi_port, TickingClock())
    device = SPIDevice(spi, spi.chip_select)
    with pytest.raises(BusDeadline), spi.within(0.0), device:
        pass
    spi_port.chip = ConstantChip(0xFF)
    with spi.within(1.0):
        assert spi.exchange(b"\x01\x00") == b"\xff\xff"
        assert spi.dead_byte == 0xFF


# -- The real board ------------------------------------------------------------------------------


class Spidev:
    """Stands in for `Adafruit_PureIO.spi.SPI`, the last thing above /dev."""

    opened: list[Spidev]

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_speed_hz = self.mode = -1
        self.sent: list[int] = []
        self.opened.append(self)

    def transfer(self, sent: list[int]) -> list[int]:
        self.sent = sent
        return [byte ^ 0xFF for byte in sent]


def test_the_real_spi_bus_passes_speed_and_mode_on(monkeypatch):
    monkeypatch.setattr(Spidev, "opened", [], raising=False)
    monkeypatch.setattr("Adafruit_PureIO.spi.SPI", Spidev)
    board = HardwareBoard()
    spi = board.spi(0, 1)
    assert board.spi(0, 1) is spi
    answer = bytearray(1)
    with SPIDevice(spi, spi.chip_select, baudrate=500_000, polarity=0, phase=1) as selected:
        selected.write(b"\x0f")
        selected.readinto(answer)
    (device,) = Spidev.opened
    assert (device.name, device.max_speed_hz, device.mode) == ("/dev/spidev0.1", 500_000, 1)
    assert device.sent == [0x0F, 0x00]
    assert answer == b"\xff"


def test_a_spi_device_that_is_forbidden_names_the_group(monkeypatch):
    def forbidden(_name: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("Adafruit_PureIO.spi.SPI", forbidden)
    with pytest.raises(MissingSupport, match="group spi"):
        HardwareBoard().spi(0, 0)


def test_the_real_i2c_bus_is_opened_anew_when_its_adapter_is_back(monkeypatch, port: SimulatedI2C):
    opened: list[SimulatedI2C] = []

    def open_bus(number: int) -> SimulatedI2C:
        assert number == 7
        opened.append(port)
        return port

    module = "adafruit_blinka.microcontroller.generic_linux.i2c.I2C"
    monkeypatch.setattr(module, open_bus)
    bus = HardwareBoard().i2c(7)
    port.before_answer = failing([errno.ENODEV])
    assert error_number(lambda: read_register(bus, 7)) == errno.ENODEV

    def gone(_number: int) -> None:
        raise RuntimeError("I2C Bus #7 not found, check if enabled in config!")

    monkeypatch.setattr(module, gone)
    with pytest.raises(SensorNotFound, match="/dev/i2c-7"), bus.within(1.0):
        read_register(bus, 7)
    monkeypatch.setattr(module, open_bus)
    assert read_register(bus, 7) == 7
    assert len(opened) == 2
