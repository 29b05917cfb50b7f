"""The LED and the button, through gpiozero on its mock pins, and the node that they belong to."""

from __future__ import annotations

import itertools
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from support import PATIENCE_S, SENSOR_NODE, FakeClock, Mosquitto, wait_until

from drivers.sim.board import SimulatedBoard
from node.config import load as configuration
from node.config.schema import ButtonTable, StatusLedTable
from node.loop import Node
from node.panel import (
    IDENTIFY_S,
    STARTING_S,
    ButtonHeld,
    ButtonPressed,
    Panel,
    Pattern,
    led_of,
    show_bad_configuration,
)
from node.system.clock import SystemClock

LED, BUTTON = 17, 27


def pin(board: SimulatedBoard, number: int) -> Any:
    """What a probe at the pin would see, and a finger could do."""
    return board.pin_factory().pin(number)


def flashes_s(board: SimulatedBoard) -> list[tuple[bool, float]]:
    """The levels that the LED's pin has had, each with how long it lasted, but for the first.

    The mock pin keeps them: who looks now and then misses a short one when the machine is busy.
    """
    states = list(pin(board, LED).states)
    lasted = [(bool(old.state), new.timestamp) for old, new in itertools.pairwise(states)]
    return lasted[1:]


def pattern_of(seen: list[tuple[bool, float]]) -> Pattern:
    """The pattern that somebody would take it for."""
    on_s, off_s = (
        statistics.median(lasted_s for level, lasted_s in seen if level is wanted)
        for wanted in (True, False)
    )
    patterns = [pattern for pattern in Pattern if pattern is not Pattern.ONLINE]
    return min(patterns, key=lambda p: abs(p.value[0] - on_s) + abs(p.value[1] - off_s))


@pytest.fixture
def panel(board: SimulatedBoard, clock: FakeClock) -> Iterator[Panel]:
    made = Panel(StatusLedTable(pin=LED), None, board, clock)
    yield made
    made.close()


@pytest.mark.parametrize("pattern", [p for p in Pattern if p is not Pattern.ONLINE])
def test_a_pattern_can_be_told_by_its_times(board, panel, pattern):
    panel.display(pattern)
    wait_until(lambda: len(flashes_s(board)) >= 4)
    assert pattern_of(flashes_s(board)) is pattern


def test_a_node_that_is_well_has_its_led_on_and_needs_no_thread_for_it(board, panel):
    before = set(threading.enumerate())  # some are of earlier tests, and may end meanwhile
    panel.display(Pattern.STARTING)
    wait_until(lambda: set(threading.enumerate()) - before)
    panel.display(Pattern.ONLINE)
    wait_until(lambda: not set(threading.enumerate()) - before)
    assert pin(board, LED).state
    flashes = len(flashes_s(board))
    time.sleep(0.3)
    assert len(flashes_s(board)) == flashes


def test_the_pattern_follows_the_node(panel, clock):
    """Starting for ten seconds at most; then what is worst is shown, and wake-ups are few."""
    panel.show(connected=False, all_online=True)
    assert (panel.pattern, panel.next_due_s) == (Pattern.STARTING, clock.now_s + STARTING_S)
    clock.now_s += 5
    panel.show(connected=True, all_online=False)
    assert panel.pattern is Pattern.STARTING
    panel.show(connected=True, all_online=True)
    assert (panel.pattern, panel.next_due_s) == (Pattern.ONLINE, float("inf"))
    clock.now_s += STARTING_S
    for connected, all_online, pattern in (
        (True, False, Pattern.SENSOR_DOWN),
        (False, False, Pattern.NO_BROKER),
        (False, True, Pattern.NO_BROKER),
        (True, True, Pattern.ONLINE),
    ):
        panel.show(connected=connected, all_online=all_online)
        assert panel.pattern is pattern


def test_identify_is_seen_before_anything_else_and_ends(panel, clock):
    clock.now_s += STARTING_S
    assert panel.identify() == IDENTIFY_S
    panel.show(connected=False, all_online=False)
    assert (panel.pattern, panel.next_due_s) == (Pattern.IDENTIFY, clock.now_s + IDENTIFY_S)
    clock.now_s += IDENTIFY_S
    panel.show(connected=False, all_online=False)
    assert (panel.pattern, panel.next_due_s) == (Pattern.NO_BROKER, float("inf"))


def test_a_press_and_a_hold_are_told_apart(board, clock):
    events: list[ButtonPressed | ButtonHeld] = []
    panel = Panel(None, ButtonTable(pin=BUTTON), board, clock, report=events.append)
    finger = pin(board, BUTTON)
    finger.drive_low()
    time.sleep(0.1)
    finger.drive_high()
    wait_until(lambda: events)
    assert events == [ButtonPressed()]
    finger.drive_low()
    wait_until(lambda: len(events) > 1)
    time.sleep(0.1)
    finger.drive_high()
    time.sleep(0.2)
    assert events == [ButtonPressed(), ButtonHeld()], "and no press when it is let go"
    panel.close()


def test_a_pin_that_cannot_be_had_is_said_and_costs_nothing_else(board, clock, caplog):
    first = Panel(StatusLedTable(pin=LED), None, board, clock)
    second = Panel(StatusLedTable(pin=LED), None, board, clock)
    assert "[status_led] pin 17 cannot be used" in caplog.text
    second.show(connected=True, all_online=True)
    assert second.identify() == 0.0
    first.close()
    second.close()
    assert not pin(board, LED).state


CONFIG = """
[node]
name = "test"
[mqtt]
host = "127.0.0.1"
port = {port}
keepalive = "5s"
[status_led]
pin = 17
[button]
pin = 27
[[sensor]]
id = "air"
driver = "bme280"
interval = "1h"
[[sensor]]
id = "water"
driver = "ds18b20"
interval = "0.5s"
"""


@pytest.fixture
def node_at(tmp_path) -> Iterator[Any]:
    """Runs a node in this process, on a simulated board whose pins can be seen and pressed."""
    stops = []

    def start(port: int, more: str = "") -> tuple[Node, SimulatedBoard]:
        file = tmp_path / "node.toml"
        file.write_text(CONFIG.format(port=port) + more)
        config = configuration.load(file)
        board = SimulatedBoard()
        for sensor in config.sensors:
            board.attach(sensor.driver, sensor.options)
        node = Node(config, board, SystemClock(), client_id="panel", state_dir=tmp_path / "state")
        thread = threading.Thread(target=node.run)
        thread.start()
        stops.append((node, thread))
        return node, board

    yield start
    for node, thread in stops:
        node.stop("the test is over")
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_an_alarm_flashes_and_sounds_until_a_press_without_any_broker(node_at):
    alarm = '[[sensor.channel.temperature.alarm]]\nname = "cold"\nbelow = 100\ngpio = 22\n'
    node, board = node_at(free_port(), "[sensor.channel.temperature]\n" + alarm)
    wait_until(lambda: node.panel.pattern is Pattern.ALARM)
    wait_until(lambda: pin(board, 22).state)
    finger = pin(board, BUTTON)
    finger.drive_low()
    time.sleep(0.1)
    finger.drive_high()
    wait_until(lambda: node.panel.pattern is not Pattern.ALARM)
    wait_until(lambda: not pin(board, 22).state)


def test_the_led_of_a_node_tells_how_it_is(broker: Mosquitto, node_at, monkeypatch):
    """Well; a sensor lost and found; the broker gone and back."""
    monkeypatch.setattr("node.panel.STARTING_S", 1.0)
    node, board = node_at(broker.port)

    def shown(pattern: Pattern) -> bool:
        return node.panel.pattern is pattern

    wait_until(partial(shown, Pattern.ONLINE))
    ((address, healthy),) = board.one_wire.text.items()
    board.one_wire.text[address] = lambda: ""
    wait_until(partial(shown, Pattern.SENSOR_DOWN))
    board.one_wire.text[address] = healthy
    wait_until(partial(shown, Pattern.ONLINE))
    broker.stop()
    wait_until(lambda: node.panel.pattern is Pattern.NO_BROKER)
    broker.start()
    wait_until(lambda: node.panel.pattern is Pattern.ONLINE)
    wait_until(lambda: pin(board, LED).state)


def test_the_button_of_a_node_reads_now_and_identifies(broker, node_at, subscribe):
    node, board = node_at(broker.port)
    subscriber = subscribe(broker.port)
    subscriber.wait_for_states("air", 1)
    finger = pin(board, BUTTON)
    finger.drive_low()
    time.sleep(0.1)
    finger.drive_high()
    subscriber.wait_for_states("air", 2)
    finger.drive_low()
    wait_until(lambda: node.panel.pattern is Pattern.IDENTIFY)
    finger.drive_high()


def test_a_bad_configuration_is_seen_on_the_led(tmp_path, board, monkeypatch):
    """Whatever is wrong in it, as long as `[status_led]` is right."""
    file = tmp_path / "node.toml"
    file.write_text(CONFIG.format(port='"x"') + "[[sensor]]\nnonsense = 1\n")
    led = led_of(file)
    assert led == StatusLedTable(pin=17)
    monkeypatch.setattr("node.panel.BLINK_S", 4.5)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    show_bad_configuration(led, board)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert pattern_of(flashes_s(board)) is Pattern.BAD_CONFIGURATION
    assert not pin(board, LED).state


@pytest.mark.parametrize(
    "text",
    ["[mqtt", "", "status_led = 1", '[status_led]\npin = "17"\n', "[status_led]\npin = 99\n"],
)
def test_without_a_right_led_there_is_none_to_show_it_on(tmp_path, text):
    file = tmp_path / "node.toml"
    file.write_text(text)
    assert led_of(file) is None
    assert led_of(tmp_path / "missing.toml") is None


def caught_signals(pid: int) -> set[int]:
    """Those that a process has a handler for (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt:"))
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def test_a_signal_ends_the_blinking_and_the_exit_code_is_78(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text(CONFIG.format(port=free_port()) + "nonsense = 1\n")
    process = subprocess.Popen(
        [SENSOR_NODE, "run", "--simulate", "--config", str(file)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert "nonsense" in process.stderr.readline(), "said before it blinks"
        wait_until(lambda: signal.SIGTERM in caught_signals(process.pid))
        process.terminate()
        assert process.wait(PATIENCE_S) == 78
    finally:
        process.kill()
        process.communicate()


def test_a_pin_that_cannot_be_let_go_of_is_in_the_way_of_nothing(board, clock):
    """The node has its log to close and its broker to leave after that."""
    panel = Panel(StatusLedTable(pin=LED), ButtonTable(pin=BUTTON), board, clock)

    class GonePin(type(pin(board, LED))):  # type: ignore[misc]
        def close(self) -> None:
            raise OSError("the chip is gone")

    device = panel._led  # is there until its pin is whole again
    led = pin(board, LED)
    whole = type(led)
    led.__class__ = GonePin
    panel.close()
    led.__class__ = whole
    assert pin(board, BUTTON).when_changed is None, "and the other pin is let go of"
    device.close()
