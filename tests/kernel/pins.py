"""Runs in the guest: LED, button, supply and DHT on pins of the kernel's GPIO simulator.

The simulator (gpio-sim) stands below the kernel's own GPIO character device: which bias a line has,
who holds it, how an edge is reported and debounced is the kernel's work, as on a Pi. What is wired
to a pin is simulated by its pull, and what a pin shows is read from its value, both in sysfs.

Prints a line per check, and ends with 1 if any has failed.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import gpiod

import node.panel
from drivers import dht_edges
from drivers.dht_edges import GpioEdges
from drivers.errors import PinInUse
from drivers.gpio_chip import header_chip, line_user
from drivers.gpiod_pins import GpiodFactory
from drivers.hardware import HardwareBoard
from node.config.schema import ButtonTable, StatusLedTable
from node.panel import ButtonHeld, ButtonPressed, Panel, Pattern
from node.sensors.supply import SensorPower
from node.system.clock import SystemClock

# ruff: noqa: T201

CONFIGFS = Path("/sys/kernel/config/gpio-sim")
LED, BUTTON, SUPPLY, DHT, HOGGED = 17, 27, 22, 4, 5
PATIENCE_S = 60.0
Check = Callable[["Header"], None]


class PinsBoard(HardwareBoard):
    """The real board, with our own pins also where lgpio is installed."""

    def pin_factory(self) -> Any:
        return GpiodFactory()


class Header:
    """A simulated chip with the label of a Pi's header; another chip comes before it."""

    def __init__(self) -> None:
        _simulate("other", "some-expander", {})
        self.folder = _simulate("pi", "pinctrl-bcm2835", {HOGGED: "onewire@5"})
        self.board = PinsBoard()

    def value(self, pin: int) -> int:
        return int((self.folder / f"sim_gpio{pin}/value").read_text())

    def wait_for(self, pin: int, value: int) -> None:
        wait_until(lambda: self.value(pin) == value, f"GPIO {pin} is {value}")

    def pull(self, pin: int) -> str:
        return (self.folder / f"sim_gpio{pin}/pull").read_text().strip()

    def set_pull(self, pin: int, *, high: bool) -> None:
        """Wire something to the pin that is weaker than an output."""
        (self.folder / f"sim_gpio{pin}/pull").write_text("pull-up" if high else "pull-down")


def _simulate(name: str, label: str, hogs: dict[int, str]) -> Path:
    """Make a chip of 54 lines; return its folder of pins in sysfs."""
    device = CONFIGFS / name
    bank = device / "bank"
    bank.mkdir(parents=True)
    (bank / "label").write_text(label)
    (bank / "num_lines").write_text("54")
    for pin, user in hogs.items():
        hog = bank / f"line{pin}/hog"
        hog.mkdir(parents=True)
        (hog / "name").write_text(user)
        (hog / "direction").write_text("input")
    (device / "live").write_text("1")
    dev_name = (device / "dev_name").read_text().strip()
    return Path("/sys/devices/platform", dev_name, (bank / "chip_name").read_text().strip())


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(0.005)


def refusal(action: Callable[[], object]) -> PinInUse:
    try:
        action()
    except PinInUse as error:
        return error
    raise AssertionError("the pin was free")


@contextmanager
def panel(
    header: Header, events: list[Any] | None = None, hold_s: float = PATIENCE_S, **tables: Any
) -> Iterator[Panel]:
    tables = {"led": None, "button": None, **tables}
    cast(Any, node.panel).HOLD_S = hold_s
    report = (events if events is not None else []).append
    made = Panel(tables["led"], tables["button"], header.board, SystemClock(), report=report)
    try:
        yield made
    finally:
        made.close()


def the_header_is_found_by_its_label(_header: Header) -> None:
    with gpiod.Chip(header_chip()) as chip:
        assert chip.get_info().label == "pinctrl-bcm2835"
    assert header_chip() != "/dev/gpiochip0", "the other chip"


def the_led_is_on_and_blinks_and_its_line_is_released(header: Header) -> None:
    with panel(header, led=StatusLedTable(pin=LED)) as made:
        assert header.value(LED) == 0
        made.display(Pattern.ONLINE)
        assert header.value(LED) == 1
        assert line_user(LED) == "sensor-node"
        made.display(Pattern.IDENTIFY)
        for value in (0, 1, 0, 1):
            header.wait_for(LED, value)
    assert line_user(LED) == ""
    with gpiod.Chip(header_chip()) as chip:
        assert chip.get_line_info(LED).direction is gpiod.line.Direction.INPUT


def the_supply_is_on_from_the_first_moment_and_switched(header: Header) -> None:
    supply = SensorPower("air", SUPPLY, header.board)
    assert header.value(SUPPLY) == 1
    supply.off()
    assert header.value(SUPPLY) == 0
    supply.on()
    assert header.value(SUPPLY) == 1
    supply.close()
    assert line_user(SUPPLY) == ""


def a_press_is_reported_when_it_ends_and_a_long_one_is_held(header: Header) -> None:
    events: list[Any] = []
    header.set_pull(BUTTON, high=False)
    with panel(header, events, button=ButtonTable(pin=BUTTON)):
        assert header.pull(BUTTON) == "pull-up", "the bias that the driver asks the kernel for"
        header.set_pull(BUTTON, high=False)
        time.sleep(0.3)
        assert not events
        header.set_pull(BUTTON, high=True)
        wait_until(lambda: events, "the press is reported")
        assert events == [ButtonPressed()]
    with panel(header, events, hold_s=0.5, button=ButtonTable(pin=BUTTON)):
        header.set_pull(BUTTON, high=False)
        wait_until(lambda: len(events) == 2, "the button is held")
        header.set_pull(BUTTON, high=True)
        time.sleep(0.3)
        assert events == [ButtonPressed(), ButtonHeld()]
    assert line_user(BUTTON) == ""


def a_bouncing_contact_is_one_press(header: Header) -> None:
    """The kernel's own debouncing: 30 ms without a change."""
    events: list[Any] = []
    with panel(header, events, button=ButtonTable(pin=BUTTON)):
        for attempt in range(50):
            longest_s = 0.0
            for end in (False, True):  # pressed, and released
                began_s = time.monotonic()
                for high in (end, not end) * 4 + (end,):
                    header.set_pull(BUTTON, high=high)
                    now_s = time.monotonic()
                    longest_s, began_s = max(longest_s, now_s - began_s), now_s
                time.sleep(0.3)
            wait_until(lambda: events, "the press is reported")
            if longest_s < 0.02:  # else this computer was held up, and it was no bouncing
                assert events == [ButtonPressed()], (attempt, longest_s)
                return
            events.clear()
    raise AssertionError("this computer is too slow for a contact that bounces")


def a_pin_has_its_edges_and_then_none(header: Header) -> None:
    """gpiozero's own button: pressed at once, and nothing once it is closed."""
    from gpiozero import Button

    factory = GpiodFactory()
    seen: queue.SimpleQueue[str] = queue.SimpleQueue()
    button = Button(BUTTON, pin_factory=factory)
    button.when_pressed = lambda: seen.put("pressed")
    button.when_released = lambda: seen.put("released")
    threads = threading.active_count()
    for _ in range(5):
        header.set_pull(BUTTON, high=False)
        assert seen.get(timeout=PATIENCE_S) == "pressed"
        header.set_pull(BUTTON, high=True)
        assert seen.get(timeout=PATIENCE_S) == "released"
    button.close()
    factory.close()
    header.set_pull(BUTTON, high=False)
    time.sleep(0.2)
    assert seen.empty()
    assert threading.active_count() < threads, "its listener has ended"


class Noticed:
    """The module `time` of `drivers.dht_edges`: what the line is while it sleeps.

    It sleeps twice, and looks at the clock once it listens: `listening` is called then.
    """

    def __init__(self, header: Header, listening: Callable[[], object]) -> None:
        self._header = header
        self._listening: Callable[[], object] | None = listening
        self.values: list[int] = []

    def sleep(self, seconds: float) -> None:
        self.values.append(self._header.value(DHT))
        time.sleep(seconds)

    def monotonic(self) -> float:
        if self._listening is not None:
            listening, self._listening = self._listening, None
            listening()
        return time.monotonic()


@contextmanager
def noticed(header: Header, listening: Callable[[], object], answer_s: float) -> Iterator[Noticed]:
    """Call `listening` when a capture begins to listen, and let it wait for `answer_s`."""
    module = cast(Any, dht_edges)
    usual_s, module._MAX_ANSWER_S = module._MAX_ANSWER_S, answer_s
    module.time = Noticed(header, listening)
    try:
        yield module.time
    finally:
        module.time, module._MAX_ANSWER_S = time, usual_s


def a_dht_is_triggered_and_its_edges_have_the_kernels_times(header: Header) -> None:
    """Each is between the time before the line fell, and the time after that."""
    fell_ns: list[tuple[int, int]] = []

    def send() -> None:
        for _ in range(42):
            before_ns = time.monotonic_ns()
            header.set_pull(DHT, high=False)
            fell_ns.append((before_ns, time.monotonic_ns()))
            header.set_pull(DHT, high=True)

    header.set_pull(DHT, high=False)
    thread = threading.Thread(target=send)
    with noticed(header, thread.start, PATIENCE_S) as times:
        edges_ns = GpioEdges(DHT).falling_edges(1_100)
    thread.join()
    assert times.values == [1, 0], "high to settle, and then held low"
    assert header.pull(DHT) == "pull-up"
    assert line_user(DHT) == ""
    assert len(edges_ns) == 42
    for (before_ns, after_ns), edge_ns in zip(fell_ns, edges_ns, strict=True):
        assert before_ns <= edge_ns <= after_ns + 1_000_000


def edges_wait_in_the_kernel_for_a_process_that_is_late(header: Header) -> None:
    """The time for an answer is over when it reads the first, and it has them all."""

    def held_up() -> None:
        for _ in range(42):
            header.set_pull(DHT, high=False)
            header.set_pull(DHT, high=True)

    with noticed(header, held_up, 0.0):
        edges_ns = GpioEdges(DHT).falling_edges(1_100)
    assert len(edges_ns) == 42
    assert sorted(edges_ns) == edges_ns


def a_pin_is_opened_again_after_it_was_closed(header: Header) -> None:
    """gpiozero keeps the pin; a converter on SPI is opened again after a failed reading."""
    from gpiozero import OutputDevice

    factory = GpiodFactory()
    for _ in range(3):
        device = OutputDevice(SUPPLY, pin_factory=factory)
        device.on()
        assert header.value(SUPPLY) == 1
        device.close()
        assert line_user(SUPPLY) == ""


def a_line_that_somebody_has_is_named_with_its_user(header: Header) -> None:
    assert line_user(HOGGED) == "onewire@5"
    assert line_user(LED) == ""
    assert line_user(53) == ""
    assert line_user(54) is None, "the chip has no such line"
    assert header.board.pin_user(HOGGED) == 'the kernel knows its user as "onewire@5"'
    says = 'GPIO 5 is in use: the kernel knows its user as "onewire@5"; 1-Wire has it'
    for taken in (
        lambda: GpioEdges(HOGGED).falling_edges(1_100),
        lambda: GpiodFactory().pin(HOGGED),
    ):
        assert str(refusal(taken)).startswith(says)


def what_is_ours_is_named_too(header: Header) -> None:
    supply = SensorPower("air", SUPPLY, header.board)
    error = refusal(lambda: GpioEdges(SUPPLY).falling_edges(1_100))
    assert "give each sensor a pin of its own" in error.hint
    supply.close()


def a_panel_goes_on_without_a_pin_that_is_taken(header: Header) -> None:
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("node.panel").addHandler(handler)
    with panel(header, led=StatusLedTable(pin=HOGGED), button=ButtonTable(pin=BUTTON)) as made:
        assert not made.has_led
        assert line_user(BUTTON) == "sensor-node"
    assert (
        'pin 5 cannot be used: GPIO 5 is in use: the kernel knows its user as "onewire@5"'
        in (logged[0])
    )


CHECKS: tuple[Check, ...] = (
    the_header_is_found_by_its_label,
    the_led_is_on_and_blinks_and_its_line_is_released,
    the_supply_is_on_from_the_first_moment_and_switched,
    a_press_is_reported_when_it_ends_and_a_long_one_is_held,
    a_bouncing_contact_is_one_press,
    a_pin_has_its_edges_and_then_none,
    a_dht_is_triggered_and_its_edges_have_the_kernels_times,
    edges_wait_in_the_kernel_for_a_process_that_is_late,
    a_pin_is_opened_again_after_it_was_closed,
    a_line_that_somebody_has_is_named_with_its_user,
    what_is_ours_is_named_too,
    a_panel_goes_on_without_a_pin_that_is_taken,
)


def main() -> int:
    header, failed = Header(), 0
    for check in CHECKS:
        began_s = time.monotonic()
        try:
            check(header)
        except Exception:  # noqa: BLE001, a check may fail in any way
            failed += 1
            print(f"pins: {check.__name__}: FAILED\n{traceback.format_exc()}", flush=True)
        else:
            took_s = time.monotonic() - began_s
            print(f"pins: {check.__name__.replace('_', ' ')} ({took_s:.1f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
