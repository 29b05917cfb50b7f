"""gpiozero's pins through gpiod, without a kernel's GPIO: `tests/kernel/run` has one."""

from __future__ import annotations

import errno
from collections import defaultdict
from typing import Any

import gpiod
import pytest
from gpiod.line import Direction, Value
from gpiozero import Device, OutputDevice
from gpiozero.exc import GPIOPinInUse
from gpiozero.pins.local import LocalPiFactory
from gpiozero.pins.mock import MockFactory, MockPin

from drivers import gpiod_pins
from drivers.errors import MissingSupport, PinInUse
from drivers.gpiod_pins import GpiodFactory
from drivers.mcp3008 import MCP3008
from drivers.pin_factory import release_after_failure
from drivers.sim.board import SimulatedBoard

PIN = 22


class Kernel:
    """What is asked of it, and who has a line."""

    def __init__(self) -> None:
        self.requests: list[Line] = []
        self.error: OSError | None = None

    def request_lines(self, path: str, *, config: Any, consumer: str) -> Line:
        assert (path, consumer) == ("/dev/gpiochip0", "sensor-node")
        if self.error is not None:
            raise self.error
        assert not any(line.is_held for line in self.requests), "EBUSY"
        self.requests.append(Line(config))
        return self.requests[-1]


class Line:
    def __init__(self, config: dict[int, gpiod.LineSettings]) -> None:
        self.is_held = True
        self.settings = config[PIN]

    def reconfigure_lines(self, config: dict[int, gpiod.LineSettings]) -> None:
        assert self.is_held
        self.settings = config[PIN]

    def set_value(self, pin: int, value: Value) -> None:
        assert (self.is_held, pin) == (True, PIN)
        self.settings.output_value = value

    def get_value(self, pin: int) -> Value:
        assert (self.is_held, pin) == (True, PIN)
        return self.settings.output_value

    def release(self) -> None:
        self.is_held = False


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(gpiod, "request_lines", kernel.request_lines)
    monkeypatch.setattr(gpiod_pins, "header_chip", lambda: "/dev/gpiochip0")
    monkeypatch.setattr(LocalPiFactory, "pins", {})
    monkeypatch.setattr(LocalPiFactory, "_reservations", defaultdict(list))
    return kernel


def test_a_pin_that_was_closed_can_be_opened_again(kernel):
    """gpiozero keeps pins; a converter on SPI is opened again after a failed reading."""
    factory = GpiodFactory()
    for number in range(1, 4):
        device = OutputDevice(PIN, pin_factory=factory)
        device.on()
        assert len(kernel.requests) == number
        assert kernel.requests[-1].settings.output_value is Value.ACTIVE
        device.close()
        assert not kernel.requests[-1].is_held
        assert kernel.requests[-1].settings.direction is Direction.INPUT


def test_nothing_of_the_device_before_is_left_on_the_pin(kernel):
    """Not the debouncing of a button, for one."""
    factory = GpiodFactory()
    pin = factory.pin(PIN)
    pin.edges, pin.bounce = "falling", 0.03
    pin.close()
    assert (pin.edges, pin.bounce, pin.pull) == ("both", None, "floating")
    assert [line.is_held for line in kernel.requests] == [False]


def test_a_pin_that_is_taken_is_named_with_its_user(kernel, monkeypatch):
    kernel.error = OSError(errno.EBUSY, "Device or resource busy")
    monkeypatch.setattr("drivers.gpio_chip.line_user", lambda _pin: "lirc")
    with pytest.raises(PinInUse, match='GPIO 22 is in use: the kernel knows its user as "lirc"'):
        OutputDevice(PIN, pin_factory=GpiodFactory())
    kernel.error = OSError(errno.EPERM, "Operation not permitted")
    with pytest.raises(MissingSupport, match="GPIO 22: Operation not permitted"):
        OutputDevice(PIN, pin_factory=GpiodFactory())


@pytest.mark.parametrize("ours", [True, False])
def test_a_taken_pin_is_named_again_at_the_next_attempt_and_can_be_had_later(
    kernel, monkeypatch, ours
):
    """gpiozero alone says from the second attempt on that a closed device of ours has it."""

    class PinOfKernel(MockPin):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            kernel.request_lines("/dev/gpiochip0", config={PIN: None}, consumer="sensor-node")

    factory = GpiodFactory() if ours else MockFactory(pin_class=PinOfKernel)
    release_after_failure(factory)
    monkeypatch.setattr("drivers.gpio_chip.line_user", lambda _pin: "lirc")
    kernel.error = OSError(errno.EBUSY, "Device or resource busy")
    for _ in range(3):
        with pytest.raises((PinInUse, OSError), match=r"lirc|resource busy"):
            OutputDevice(PIN, pin_factory=factory)
    kernel.error = None
    with OutputDevice(PIN, pin_factory=factory) as device, pytest.raises(GPIOPinInUse):
        OutputDevice(PIN, pin_factory=factory)
    assert device.closed


@pytest.mark.filterwarnings("ignore:failed to initialize hardware SPI")
def test_a_converter_says_which_of_its_pins_is_taken(kernel, monkeypatch):
    """And not the name of a class."""
    kernel.error = OSError(errno.EBUSY, "Device or resource busy")
    monkeypatch.setattr("drivers.gpio_chip.line_user", lambda _pin: "spi0 CS0")
    board, factory = SimulatedBoard(), GpiodFactory()
    monkeypatch.setattr(Device, "pin_factory", factory)  # as the real board does
    monkeypatch.setattr(board, "pin_factory", lambda: factory)
    with pytest.raises(PinInUse, match=r'is in use: the kernel knows its user as "spi0 CS0"'):
        MCP3008.open(MCP3008.options(sensor="tmp36"), board)
