"""1-Wire sensors that share a bus: conversions made together, swaps, resolution."""

from __future__ import annotations

import errno
import functools
import gc
import os
import weakref
from pathlib import Path

import pytest
from support import FakeClock

from drivers.ds18b20 import DS18B20, Ds18b20Options
from drivers.errors import BadFrame, ImplausibleValue, MissingSupport, SensorNotFound
from drivers.sim.board import SimulatedBoard
from drivers.sim.one_wire import POWER_ON_SCRATCHPAD, OneWireTree, w1_slave_text

A, B, C = (f"28-00000000000{n}" for n in "abc")


def attach(board: SimulatedBoard, *addresses: str, **options: int):
    """Open sensors of a simulated bus, in this order."""
    for address in addresses:
        board.attach("ds18b20", Ds18b20Options(address=address))
    return [DS18B20.open(Ds18b20Options(address=a, **options), board) for a in addresses]


def at(celsius: float) -> str:
    """What `w1_slave` holds after a conversion at that temperature."""
    raw = round(celsius * 16)
    low, high = raw.to_bytes(2, "little", signed=True)
    return w1_slave_text(bytes([low, high, 0x4B, 0x46, 0x7F, 0xFF, 16 - (raw & 0xF), 0x10]))


def took_s(clock: FakeClock, sensors) -> float:
    start_s = clock.now_s
    for sensor in sensors:
        sensor.read()
    return clock.now_s - start_s


def twenty(board: SimulatedBoard):
    return attach(board, *(f"28-0000000000{n:02x}" for n in range(20)))


def test_twenty_sensors_due_together_take_one_conversion(board, clock):
    """0.75 s and the time to read twenty scratchpads; one by one it would be 15 s."""
    sensors = twenty(board)
    assert took_s(clock, sensors) == pytest.approx(0.75 + 20 * OneWireTree.TRAFFIC_S)
    board.one_wire.conversions = 0
    clock.now_s += 30
    took_s(clock, sensors)
    assert board.one_wire.conversions == 1


def test_sensors_that_are_opened_as_they_are_read_share_it_too(board):
    """As at the start of a node: the first is alone still, the second converts for all others."""
    addresses = [f"28-0000000000{n:02x}" for n in range(20)]
    for address in addresses:
        board.attach("ds18b20", Ds18b20Options(address=address))
    sensors = []
    for address in addresses:
        sensors.append(DS18B20.open(Ds18b20Options(address=address), board))
        sensors[-1].read()
    assert board.one_wire.conversions == 2


def test_where_the_kernel_has_no_bulk_read_they_are_converted_one_by_one(board, clock):
    """Negative control of the test above."""
    board.one_wire.has_bulk_read = False
    assert took_s(clock, twenty(board)) == pytest.approx(20 * (0.75 + OneWireTree.TRAFFIC_S))
    assert board.one_wire.conversions == 20


def test_every_sensor_gives_its_own_temperature_of_the_shared_conversion(board):
    sensors = attach(board, A, B, C)
    for address, celsius in ((A, 10), (B, 20), (C, 30)):
        board.one_wire.text[address] = functools.partial(at, celsius)
    assert [s.read()["temperature"] for s in sensors] == [10, 20, 30]


def test_a_lone_sensor_leaves_the_bulk_read_alone(board, clock):
    """Other programs that read the other sensors would get what is older than they think."""
    board.attach("ds18b20", Ds18b20Options(address=B))
    (sensor,) = attach(board, A)
    assert took_s(clock, [sensor]) == pytest.approx(0.75 + OneWireTree.TRAFFIC_S)
    assert (board.path("/sys/bus/w1/devices") / "w1_bus_master1/therm_bulk_read").read_text() == (
        "0\n"
    )


def test_a_sensor_that_was_left_out_is_not_read_of_an_old_conversion(board, clock):
    """A is read twice while B is not: the kernel holds B's old value ready."""
    first, second = attach(board, A, B)
    board.one_wire.text[B] = lambda: at(10)
    first.read()
    clock.now_s += 30
    board.one_wire.text[B] = lambda: at(20)
    assert second.read() == {"temperature": 20}


def test_the_kernel_alone_would_have_given_the_old_value(board, clock):
    """Negative control of the test above and of the next one."""
    first, _ = attach(board, A, B)
    board.one_wire.text[B] = lambda: at(10)
    first.read()
    clock.now_s += 30
    board.one_wire.text[B] = lambda: at(20)
    assert board.path(f"/sys/bus/w1/devices/{B}/w1_slave").read_text() == at(10)


def test_a_conversion_that_another_program_triggered_is_not_taken(board, clock):
    """A reading that was too short for a conversion is done again."""
    (sensor,) = attach(board, A)
    bulk_read = board.path("/sys/bus/w1/devices/w1_bus_master1/therm_bulk_read")
    board.one_wire.text[A] = lambda: at(10)
    bulk_read.write_bytes(b"trigger\n")
    board.path("/sys/bus/w1/devices/w1_bus_master1/therm_bulk_read")
    clock.now_s += 30
    board.one_wire.text[A] = lambda: at(20)
    assert sensor.read() == {"temperature": 20}


def test_each_reading_of_one_sensor_is_of_another_conversion(board):
    sensors = attach(board, A, B)
    celsius = iter(range(10, 40))
    board.one_wire.text[A] = lambda: at(next(celsius))
    values = [sensors[0].read()["temperature"] for _ in range(5)]
    assert values == sorted(set(values))


@pytest.mark.parametrize("state", ["0\n", "1\n", "\n"])
def test_a_trigger_without_a_conversion_falls_back_to_one_by_one(board, clock, monkeypatch, state):
    """Whatever the file says afterwards: no time has passed."""
    sensors = attach(board, A, B)
    board.one_wire.text[B] = lambda: at(12)
    monkeypatch.setattr(OneWireTree, "_serve_bulk_read", lambda self, file: file.write_text(state))
    assert took_s(clock, sensors) == pytest.approx(2 * (0.75 + OneWireTree.TRAFFIC_S))
    assert sensors[1].read() == {"temperature": 12}


def test_a_conversion_under_way_is_waited_for_but_not_for_ever(board, clock, monkeypatch):
    """-1: another program has triggered it."""
    sensors = attach(board, A, B)
    serve = OneWireTree._serve_bulk_read
    left = 5

    def busy(self, file) -> None:
        nonlocal left
        triggered = file.read_bytes() == b"trigger\n"
        if triggered:
            serve(self, file)
        left -= 1
        if left > 0:
            file.write_text("-1\n")
        elif not triggered:
            file.write_text("1\n")

    monkeypatch.setattr(OneWireTree, "_serve_bulk_read", busy)
    took_s(clock, sensors)
    assert board.one_wire.conversions == 1
    left = 10**6
    clock.now_s += 30
    assert took_s(clock, sensors) < 2 * 5.0, "the read budget of each"


def test_a_sensor_that_fails_costs_its_neighbours_nothing(board, clock):
    sensors = attach(board, A, B, C)
    board.one_wire.text[B] = lambda: w1_slave_text(POWER_ON_SCRATCHPAD)
    for conversions in (2, 1, 1):  # at first, another one may show that it is truly that hot
        before = board.one_wire.conversions
        sensors[0].read()
        with pytest.raises(ImplausibleValue):
            sensors[1].read()
        sensors[1].close()
        sensors[1] = DS18B20.open(Ds18b20Options(address=B), board)
        assert sensors[2].read()
        assert board.one_wire.conversions - before == conversions
        clock.sleep(30)


def test_a_ds28ea00_has_its_own_conversion(board, clock):
    """w1_therm.c: no bulk read for family 42."""
    sensors = attach(board, A, B, "42-00000000000d")
    took_s(clock, sensors)
    assert board.one_wire.conversions == 2


def test_a_ds28ea00_does_not_make_a_lone_ds18b20_two(board):
    first, second = attach(board, A, "42-00000000000d")
    first.read()
    second.read()
    file = board.path("/sys/bus/w1/devices/w1_bus_master1/therm_bulk_read")
    assert file.read_text() == "0\n", "nothing was triggered"


def test_a_swapped_sensor_names_the_new_one(board):
    """The old id is gone and another one is there, whose address no sensor has."""
    sensors = attach(board, A, B)
    del board.one_wire.text[A]
    board.attach("ds18b20", Ds18b20Options(address=C))
    with pytest.raises(SensorNotFound) as caught:
        sensors[0].read()
    assert f"{A} is not on the bus; there is {C}, which is not read" in str(caught.value)
    assert B not in str(caught.value), "that one is in use"
    assert sensors[1].read()


def test_a_swapped_sensor_is_named_before_the_kernel_forgets_the_old_one(board):
    """w1.c takes ten searches to drop an id; until then w1_slave reads empty."""
    (sensor,) = attach(board, A)
    board.one_wire.text[A] = lambda: ""
    with pytest.raises(BadFrame, match="is empty"):
        sensor.read()
    board.attach("ds18b20", Ds18b20Options(address=C))
    with pytest.raises(SensorNotFound, match=f"{A} does not answer; there is {C}"):
        sensor.read()


def test_an_unplugged_sensor_names_those_that_are_there(board):
    sensors = attach(board, A, B)
    del board.one_wire.text[A]
    with pytest.raises(SensorNotFound, match=f"there is {B}; check 3V3"):
        sensors[0].read()
    del board.one_wire.text[B]
    with pytest.raises(SensorNotFound, match="there is no other; check 3V3"):
        sensors[1].read()


def test_a_sensor_without_its_driver_names_the_module(board):
    """The bus lists it, and nothing is there to read it by."""
    (sensor,) = attach(board, A)
    board.path(f"/sys/bus/w1/devices/{A}/w1_slave").unlink()
    with pytest.raises(MissingSupport, match="modprobe w1-therm"):
        sensor.read()


def test_a_new_only_sensor_is_found_when_it_is_opened_again(board):
    board.attach("ds18b20", Ds18b20Options(address=A))
    sensor = DS18B20.open(Ds18b20Options(), board)
    assert sensor.read()
    del board.one_wire.text[A]
    board.attach("ds18b20", Ds18b20Options(address=B))
    with pytest.raises(SensorNotFound, match=B):
        sensor.read()
    sensor.close()
    assert DS18B20.open(Ds18b20Options(), board).read()


def test_the_resolution_is_written_when_it_differs(board, clock):
    """9 bits convert in 94 ms, in steps of 0.5 °C."""
    (sensor,) = attach(board, A, resolution=9)
    start_s = clock.now_s
    assert sensor.read()["temperature"] % 0.5 == 0
    assert clock.now_s - start_s == pytest.approx(0.75 / 8 + OneWireTree.TRAFFIC_S)
    assert board.one_wire.resolutions[A] == 9


def test_a_resolution_that_is_right_is_not_written(board, monkeypatch):
    """It would cost an access to the bus, and revert conv_time (w1_therm.rst)."""
    (sensor,) = attach(board, A, resolution=12)
    file = board.path(f"/sys/bus/w1/devices/{A}/resolution")
    before_ns = file.stat().st_mtime_ns
    monkeypatch.setattr(OneWireTree, "_serve_resolution", lambda *_: None)
    sensor.read()
    assert file.stat().st_mtime_ns == before_ns


def test_a_resolution_that_is_lost_with_the_power_is_set_again(board):
    (sensor,) = attach(board, A, resolution=10)
    sensor.read()
    board.one_wire.resolutions[A] = 12
    sensor.read()
    sensor.read()
    assert board.one_wire.resolutions[A] == 10


def test_a_copy_that_keeps_its_resolution_says_so(board):
    (sensor,) = attach(board, A, resolution=9)
    board.one_wire.fixed.add(A)
    with pytest.raises(MissingSupport, match=r"is 12 and cannot be set to 9; leave out"):
        sensor.read()


def test_a_sensor_without_a_resolution_says_so(board):
    (sensor,) = attach(board, A, resolution=9)
    board.path(f"/sys/bus/w1/devices/{A}/resolution").unlink()
    with pytest.raises(MissingSupport, match="is fixed and cannot be set"):
        sensor.read()
    del board.one_wire.text[A]
    with pytest.raises(SensorNotFound, match="not on the bus"):
        sensor.read()


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [(errno.EACCES, MissingSupport, "deploy/README.md"), (errno.EIO, BadFrame, "leave out resolu")],
)
def test_a_resolution_that_cannot_be_written_says_why(board, monkeypatch, number, error, says):
    """EACCES: root alone may; EIO: newer kernels say so of a copy that keeps its own."""
    (sensor,) = attach(board, A, resolution=9)
    real = Path.write_text

    def fail(self: Path, text: str, **options: str) -> int:
        if text == "9":
            raise OSError(number, os.strerror(number))
        return real(self, text, **options)

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(error, match=says):
        sensor.read()


def test_a_bulk_read_that_may_not_be_written_is_done_without(board, clock, monkeypatch):
    """The node does not run as root; without a rule of udev's it reads one by one."""
    real = os.open

    def fail(path, *rest):
        if str(path).endswith("therm_bulk_read"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *rest)

    sensors = attach(board, A, B)
    monkeypatch.setattr(os, "open", fail)
    assert took_s(clock, sensors) == pytest.approx(2 * (0.75 + OneWireTree.TRAFFIC_S))


def test_a_ds18s20_has_no_resolution_to_set():
    with pytest.raises(ValueError, match="of a DS18S20 cannot be set"):
        Ds18b20Options(address="10-000000000001", resolution=9)


def test_boards_do_not_share_a_bus_and_are_not_kept(clock):
    """Sensors of two boards: nothing of one reaches the other, and a board can go."""
    boards = [SimulatedBoard(clock), SimulatedBoard(clock)]
    sensors = [attach(board, A)[0] for board in boards]
    for sensor in sensors:
        sensor.read()
    assert [board.one_wire.conversions for board in boards] == [1, 1]
    gone = weakref.ref(boards[0])
    del boards, sensors, sensor
    gc.collect()
    assert gone() is None
