"""Modbus: minimalmodbus and pyserial against devices on ptys and on TCP, with each fault."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import serial
from hypothesis import given
from hypothesis import strategies as st
from modbus_slaves import on_pty, on_tcp, refuse, silence, values
from ports import free_port
from support import FakeClock, NodeProcess, replaced, wait_until

from drivers import modbus_bus, packages
from drivers.bus import SerialSettings
from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    MissingSupport,
    SensorError,
    SensorFault,
    SensorNotFound,
    SensorTimeout,
)
from drivers.hardware import HardwareBoard
from drivers.modbus import Modbus, ModbusOptions
from drivers.modbus_frame import EXCEPTIONS, crc16, is_whole, with_crc
from drivers.modbus_models import MODELS, Register
from drivers.name_sentences import about
from drivers.scan_modbus import line_named, scan_modbus
from drivers.sim.board import SimulatedBoard
from drivers.sim.modbus import SimulatedDevice, SimulatedLine
from node.config.load import ConfigError, load

QUICK = {"timeout": 2.0, "retries": 0}
"""An answer ends the wait, so a long timeout costs time only where no whole answer comes."""
XY = {"model": "xy-md02", **QUICK}


def opened(options: dict[str, object], board: HardwareBoard | None = None) -> Modbus:
    return Modbus(ModbusOptions(**options), board or HardwareBoard())  # type: ignore[arg-type]


# -- frames ------------------------------------------------------------------------------------


def test_checksums_are_those_of_published_frames():
    """The request of the XY-MD02's manual, and the one of the line specification's appendix."""
    assert crc16(bytes.fromhex("010400010001")) == bytes.fromhex("600a")
    assert crc16(bytes.fromhex("0207")) == bytes.fromhex("4112")


@given(st.binary(min_size=3, max_size=40), st.data())
def test_no_changed_bit_passes_the_checksum(message, data):
    frame = bytearray(with_crc(message))
    assert is_whole(bytes(frame))
    place = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[place // 8] ^= 1 << place % 8
    assert not is_whole(bytes(frame))


@given(st.integers(-3000, 3000), st.sampled_from(["ABCD", "CDAB", "BADC", "DCBA"]))
def test_a_register_gives_back_what_it_holds(tenths, order):
    for kind in ("int16", "int32", "float32"):
        register = Register(register=0, type=kind, scale=0.1, word_order=order)
        assert register.value(register.words(tenths / 10)) == pytest.approx(tenths / 10)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ("ABCD", [0x41AC, 0x0000]),
        ("CDAB", [0x0000, 0x41AC]),
        ("BADC", [0xAC41, 0x0000]),
        ("DCBA", [0x0000, 0xAC41]),
    ],
)
def test_each_order_of_words(order, words):
    """21.5 is 0x41AC0000 (IEEE 754)."""
    assert Register(register=0, type="float32", word_order=order).value(words) == 21.5


@pytest.mark.parametrize(
    ("register", "words"),
    [
        (Register(register=0), [0x7FFF]),
        (Register(register=0), [0x8000]),
        (Register(register=0, type="uint16"), [0xFFFF]),
        (Register(register=0, type="int32"), [0x8000, 0]),
        (Register(register=0, type="float32"), [0x7FC0, 0]),  # NaN
        (Register(register=0, type="float32"), [0x7F80, 0]),  # infinity
        (Register(register=0, missing=(-1,)), [0xFFFF]),
        (Register(register=0, missing=(850,)), [850]),
    ],
)
def test_what_means_a_missing_probe_is_not_a_value(register, words):
    assert register.value(words) is None


def test_minus_a_tenth_is_a_value():
    """0xFFFF is -1 here: only an unsigned register may not hold it."""
    assert Register(register=0, scale=0.1).value([0xFFFF]) == pytest.approx(-0.1)
    assert Register(register=0, missing=(1,)).value([0x7FFF]) == 32767


def test_fahrenheit_and_kelvin_are_measured_in_celsius():
    assert Register(register=0, scale=0.1, unit="F").value([707]) == pytest.approx(21.5)
    assert Register(register=0, scale=0.01, unit="K").value([29465]) == pytest.approx(21.5)
    options = ModbusOptions(
        port="/dev/x",
        registers={"temperature": Register(register=0, unit="°F", range=(32.0, 212.0))},
    )
    (channel,) = options.channels()
    assert channel.unit == "°C"
    assert channel.plausible == pytest.approx((0, 100))


# -- a serial port -----------------------------------------------------------------------------


def test_values_and_negative_numbers():
    with on_pty(values(-205, 546)) as slave:
        sensor = opened({"port": slave.port, **XY})
        assert sensor.read() == {"temperature": -20.5, "humidity": pytest.approx(54.6)}
        assert slave.asked == [bytes.fromhex("010400010002200b")], "both by one request"


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (silence, SensorNotFound, r"no answer within 0.5 s; .*unit id \(here 1\), 9600 baud 8N1"),
        (lambda r: values(1, 2)(r)[:-1] + b"\x00", BadFrame, "wrong checksum .*; noise: "),
        (lambda r: values(1, 2)(r)[:4], BadFrame, "the answer was cut short"),
        (lambda r: values(1, 2)(r)[:7], BadFrame, "the answer was cut short"),
        (refuse(2), SensorFault, r"exception 2 \(illegal data address\).*register 1 to 2; it has"),
        (refuse(77), SensorFault, r"exception 77 \(unknown\)"),
        (values(1, 2, unit=7), SensorNotFound, "unit 7 answered, and unit 1 did not; check unit"),
        (with_crc, SensorNotFound, "only the echo of the request came within"),
        (values(300, 200, 100), SensorNotFound, "no answer"),
        (values(0, 0), ImplausibleValue, "every register is 0; the device answers, but its"),
        (values(0x7FFF, 0x8000), SensorFault, "no probe is connected"),
        (values(3000, 1500), ImplausibleValue, "temperature 300 °C is outside -40 to 85; check"),
    ],
)
def test_each_fault_says_what_it_is_and_what_to_try(answer, error, says):
    with on_pty(answer) as slave:
        with pytest.raises(error, match=says) as caught:
            opened({"port": slave.port, **XY, "timeout": 0.5}).read()
        assert str(caught.value).startswith(f"unit 1 on {slave.port}: ")
        assert caught.value.hint


def test_every_exception_has_a_remedy():
    assert all(name and remedy for name, remedy in EXCEPTIONS.values())


def test_an_echo_is_passed_over():
    with on_pty(lambda request: with_crc(request) + values(215, 500)(request)) as slave:
        assert opened({"port": slave.port, **XY}).read()["temperature"] == 21.5


@pytest.mark.parametrize("glitch", [b"\x00", b"\xff", b"\x00\xff"])
def test_a_glitch_before_the_answer_is_passed_over(glitch):
    """Adapters that turn the line around by themselves hear one."""
    with on_pty(lambda request: glitch + values(215, 500)(request)) as slave:
        assert opened({"port": slave.port, **XY}).read()["temperature"] == 21.5


def test_one_implausible_value_does_not_cost_the_others():
    with on_pty(values(3000, 500)) as slave:
        assert opened({"port": slave.port, **XY}).read() == {"humidity": 50.0}


def test_what_fails_by_accident_is_asked_again_and_what_is_refused_is_not():
    answers = [silence, lambda r: values(1, 2)(r)[:-1] + b"\x00", values(215, 500)]

    def answer(request: bytes) -> bytes:
        return answers.pop(0)(request)

    with on_pty(answer) as slave:
        sensor = opened({"port": slave.port, "model": "xy-md02", "timeout": 0.5})
        assert sensor.read()["temperature"] == 21.5
        slave.answer, before = refuse(2), len(slave.asked)
        with pytest.raises(SensorFault):
            sensor.read()
        assert len(slave.asked) == before + 1


def test_probes_that_are_missing_are_left_out_and_the_others_read():
    with on_pty(values(215, 0x8000, -5)) as slave:
        probes = {"port": slave.port, "model": "r4dcb08", "inputs": (1, 2, 3), **QUICK}
        assert opened(probes).read() == {"temperature_1": 21.5, "temperature_3": -0.5}


def test_registers_that_are_apart_are_asked_apart():
    registers = {
        "temperature": Register(register=0, scale=0.1),
        "humidity": Register(register=1, scale=0.1),
        "level": Register(register=10, unit="mm"),
        "flow": Register(register=11, function=4, unit="l/min"),
    }
    with on_pty(lambda r: values(*range(200, 200 + r[5]))(r)) as slave:
        read = opened({"port": slave.port, "registers": registers, **QUICK}).read()
        spans = [(frame[1], frame[3], frame[5]) for frame in slave.asked]
    assert read == {"temperature": 20.0, "humidity": pytest.approx(20.1), "level": 200, "flow": 200}
    assert spans == [(3, 0, 2), (3, 10, 1), (4, 11, 1)]


def test_a_late_answer_of_another_unit_is_not_taken_for_this_ones():
    """It comes together with the answer to the next request."""
    late: list[bytes] = []

    def answer(request: bytes) -> bytes:
        if request[0] == 1:
            late.append(values(999, 999)(request))
            return b""
        return late.pop() + values(215, 500)(request)

    with on_pty(answer) as slave:
        board = HardwareBoard()
        with pytest.raises(SensorNotFound):
            opened({"port": slave.port, **XY, "timeout": 0.05}, board).read()
        assert opened({"port": slave.port, **XY, "unit": 2}, board).read()["temperature"] == 21.5


@pytest.mark.parametrize("waits", [True, False])
def test_a_late_answer_is_not_taken_for_another_register(monkeypatch, waits):
    """Of the same unit, and of the same length: nothing in it says which request it answers.

    Without the wait the humidity is what the temperature was: the negative control.
    """
    if not waits:
        monkeypatch.setattr(modbus_bus, "_LATE_S", 0.0)
    clock = FakeClock()
    board = SimulatedBoard(clock)
    line = board.streams["/dev/ttyUSB0"] = SimulatedLine(clock)
    device = line.devices[1] = SimulatedDevice(1)
    device.registers = {(4, 1): lambda: 215, (4, 2): lambda: 480}
    answers_after_s = [0.7, 0.3]
    device.late_s = lambda: answers_after_s.pop(0)

    def sensor(register: int) -> Modbus:
        entry = Register(register=register, function=4, scale=0.1)
        options = ModbusOptions(port="/dev/ttyUSB0", retries=0, registers={"humidity": entry})
        return Modbus(options, board)

    with pytest.raises(SensorNotFound):
        sensor(1).read()
    assert sensor(2).read() == {"humidity": 48.0 if waits else 21.5}


def test_a_port_that_is_pulled_out_and_plugged_in_again(tmp_path):
    """Under a name that stays, as those of /dev/serial/by-id."""
    name = tmp_path / "adapter"
    board = HardwareBoard()
    with on_pty(values(215, 500)) as slave:
        name.symlink_to(slave.port)
        sensor = Modbus(ModbusOptions(port="/dev/x", model="xy-md02", **QUICK), board)  # type: ignore[arg-type]
        sensor._line._open_stream = lambda: board.serial(str(name), SerialSettings())
        assert sensor.read()["temperature"] == 21.5
        slave.unplug()
        name.unlink()
        with pytest.raises(SensorError, match=r"does not exist|is gone") as caught:
            sensor.read()
        assert caught.value.hint
    with on_pty(values(220, 500)) as slave:
        name.symlink_to(slave.port)
        assert sensor.read()["temperature"] == 22.0


def test_a_port_that_is_not_there_names_those_that_are():
    with pytest.raises(SensorNotFound, match=r"/dev/ttyNone does not exist; .*plugged in"):
        opened({"port": "/dev/ttyNone", **XY}).read()


def test_a_port_that_another_program_has_is_left_to_it():
    with (
        on_pty(values(215, 500)) as slave,
        serial.Serial(slave.port, exclusive=True),
        pytest.raises(SensorTimeout, match="is in use; stop the other program"),
    ):
        opened({"port": slave.port, **XY}).read()


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [
        (errno.EACCES, MissingSupport, "permission denied; it is for the group dialout"),
        (errno.ENOTTY, SensorError, "cannot be opened with 9600 baud 8N1 .*; is it a serial port"),
    ],
)
def test_a_port_that_cannot_be_opened(monkeypatch, number, error, says):
    def refuse_to_open(_port: serial.Serial) -> None:
        raise serial.SerialException(number, os.strerror(number))

    monkeypatch.setattr(serial.Serial, "open", refuse_to_open)
    with pytest.raises(error, match=says):
        opened({"port": "/dev/ttyUSB0", **XY}).read()


@pytest.mark.parametrize("module", ["minimalmodbus", "serial"])
def test_without_its_package_the_error_has_the_command(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(packages, "_requirements", lambda extra: [f"the-packages-of-{extra}"])
    with on_pty(values(215, 500)) as slave, pytest.raises(MissingSupport) as caught:
        opened({"port": slave.port, **XY}).read()
    assert "is missing" in caught.value.what
    assert caught.value.hint.endswith("install the-packages-of-modbus")


def test_thirty_devices_on_a_port_are_read_every_10_s_with_a_dead_one_among_them():
    """The dead one takes one timeout of each round, after the first."""
    clock = FakeClock()
    board = SimulatedBoard(clock)
    line = board.streams["/dev/ttyUSB0"] = SimulatedLine(clock)
    sensors = []
    for unit in range(1, 31):
        device = SimulatedDevice(unit)
        device.hold(4, 1, partial(list, (200 + unit, 500)), 2)
        if unit != 17:
            line.devices[unit] = device
        sensors.append(
            Modbus(ModbusOptions(port="/dev/ttyUSB0", unit=unit, model="xy-md02"), board)
        )
    for round_number in range(3):
        began_s = clock.monotonic()
        for number, sensor in enumerate(sensors, start=1):
            if number == 17:
                with pytest.raises(SensorNotFound):
                    sensor.read()
            else:
                assert sensor.read()["temperature"] == pytest.approx(20 + number / 10)
        attempts = 3 if round_number == 0 else 1
        took_s = clock.monotonic() - began_s
        assert took_s == pytest.approx(attempts * 0.5 + 29 * 0.02, abs=0.01)
        assert took_s < 10 / 2


def test_turnaround_is_the_silence_before_a_request():
    clock = FakeClock()
    board = SimulatedBoard(clock)
    board.attach("modbus", ModbusOptions(port="/dev/ttyUSB0", model="xy-md02"))
    sensor = Modbus(ModbusOptions(port="/dev/ttyUSB0", model="xy-md02", turnaround=0.3), board)
    sensor.read()
    ended_s = clock.monotonic()
    sensor.read()
    assert clock.monotonic() - ended_s == pytest.approx(0.3 + 0.02)


# -- TCP ---------------------------------------------------------------------------------------


def tcp(port: int, **more: object) -> dict[str, object]:
    return {"host": "127.0.0.1", "tcp_port": port, **XY, **more}


def test_values_by_tcp():
    with on_tcp(values(-205, 546)) as slave:
        sensor = opened(tcp(slave.port, unit=9))
        assert sensor.read()["temperature"] == -20.5
        assert slave.asked == [bytes.fromhex("000100000006" + "090400010002")]


def test_rtu_frames_by_tcp():
    """As simple gateways pass them on."""
    with on_pty(values(215, 500)) as there:
        port = free_port()
        bridge = threading.Thread(target=_bridge, args=(port, there), daemon=True)
        bridge.start()
        options = tcp(port, framing="rtu")
        read = wait_until(lambda: _read_or_none(options))
    assert read["temperature"] == 21.5


def _bridge(port: int, slave: object) -> None:
    import socket

    with socket.create_server(("127.0.0.1", port)) as server:
        connection, _ = server.accept()
        while request := connection.recv(8):
            connection.sendall(slave.answer(request[:-2]))  # type: ignore[attr-defined]


def _read_or_none(options: dict[str, object]) -> dict[str, float] | None:
    try:
        return opened(options).read()
    except SensorNotFound:  # the bridge is not there yet
        return None


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (silence, SensorNotFound, r"no answer within 0.5 s; check the unit id \(here 1\), and"),
        (refuse(11), SensorFault, r"exception 11 \(gateway target failed to respond\)"),
        (values(1, 2, 3), BadFrame, "the answer does not fit the request"),
        (values(1, 2, unit=7), BadFrame, "the answer does not fit the request"),
    ],
)
def test_each_fault_on_tcp(answer, error, says):
    with on_tcp(answer) as slave, pytest.raises(error, match=says):
        opened(tcp(slave.port, timeout=0.5)).read()


def test_a_late_answer_on_tcp_is_told_by_its_number():
    with on_tcp(values(999, 999)) as slave:
        sensor = opened(tcp(slave.port, timeout=0.5))
        slave.delay_answers = True
        with pytest.raises(SensorNotFound):
            sensor.read()
        slave.answer = values(215, 500)
        with pytest.raises(SensorNotFound):
            sensor.read()  # gets 99.9, which belongs to the request before
        slave.answer = values(220, 500)
        slave.delay_answers = False
        assert sensor.read()["temperature"] == 22.0


def test_an_idle_connection_that_was_closed_is_opened_again():
    with on_tcp(values(215, 500)) as slave:
        sensor = opened(tcp(slave.port))
        sensor.read()
        slave.hang_up()
        assert sensor.read()["temperature"] == 21.5


def test_a_gateway_that_refuses_and_one_that_has_no_name():
    with pytest.raises(SensorNotFound, match="refuses the connection; is Modbus TCP switched on"):
        opened(tcp(free_port())).read()
    with pytest.raises(SensorNotFound, match="unknown name"):
        opened({**tcp(502), "host": "no-such-host.invalid"}).read()


# -- configuration -----------------------------------------------------------------------------

CONFIG = """\
[mqtt]
host = "h"

[[sensor]]
id = "barn"
driver = "modbus"
port = "/dev/ttyUSB0"
model = "xy-md02"

[[sensor]]
id = "tank"
driver = "modbus"
port = "/dev/ttyUSB0"
unit = 2
[sensor.registers.temperature]
register = 4
scale = 0.1
[sensor.registers.level]
register = 5
unit = "mm"
[sensor.channel.level]
delta = 5
heartbeat = "10m"
"""
TANK = 'port = "/dev/ttyUSB0"\nunit = 2\n'


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            (TANK, TANK + "baud = 4800\n"),
            '/dev/ttyUSB0 is used by sensor "barn" already, with 9600 '
            "baud 8N1; with 4800 baud 8N1 they cannot share it",
        ),
        ((TANK, TANK + 'parity = "even"\n'), "with 9600 baud 8E1 they cannot share it"),
        ((TANK, 'port = "/dev/ttyUSB0"\nmodel = "xy-md02"\n'), "needs either model"),
        ((TANK, TANK + 'host = "x"\n'), "needs either port ="),
        ((TANK, "unit = 2\n"), "needs either port ="),
        ((TANK, 'host = "10.0.0.1"\nbaud = 4800\n'), "baud, parity and stop_bits go with port"),
        ((TANK, TANK + "tcp_port = 5020\n"), "framing and tcp_port go with host"),
        ((TANK, 'port = "ttyUSB0"\n'), "port is the path of a serial port"),
        ((TANK, 'host = "10.0.0.1:502"\n'), "the port is tcp_port"),
        ((TANK, TANK + "inputs = [1]\n"), "inputs goes with a model that has several"),
        (("unit = 2\n", "unit = 300\n"), "unit: expected a whole number <= 247"),
        (("scale = 0.1", "scal = 0.1"), "registers.temperature.scal: unknown key; did you mean "),
        (("register = 5\n", ""), "registers.level.register: is missing"),
        (("register = 5\n", "register = 5\nfunction = 6\n"), "expected one of 3, 4 (it is 6)"),
        (('unit = "mm"\n', ""), 'level needs a unit, such as "°C"'),
        (('unit = "mm"\n', 'unit = "mm"\nrange = [5, 5]\n'), "the range of level is empty"),
        (
            ("[sensor.registers.level]", "[sensor.registers]\nlevel = 5\n[sensor.registers.x]"),
            "registers.level: expected a table",
        ),
        (("unit = 2\n", "unit = 1\nbaud = 9600\n"), ""),
        (('model = "xy-md02"\n', 'model = "xy-md2"\n'), "model: expected one of xy-md02, "),
        (
            ("delta = 5", "delta = 5\n[sensor.channel.flow]\ndelta = 1"),
            "does not have this channel",
        ),
    ],
)
def test_mistakes_in_the_configuration_are_named(tmp_path, changes, says):
    file = tmp_path / "node.toml"
    file.write_text(replaced(CONFIG, changes))
    if not says:
        assert load(file)
        return
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert says in caught.value.report()


def test_two_sensors_of_one_unit_may_not_read_one_register(tmp_path):
    """Mostly a unit id that was copied; other registers of one device are fine."""
    file = tmp_path / "node.toml"
    again = CONFIG.partition("[[sensor]]")[2].partition("[[sensor]]")[0]
    file.write_text(CONFIG + "[[sensor]]" + again.replace("barn", "shed"))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert 'unit 1 register 1 (input) /dev/ttyUSB0 is used by sensor "barn" already' in (
        caught.value.report()
    )


def test_every_model_is_an_option_is_found_by_its_name_and_is_read():
    for name, model in MODELS.items():
        options = ModbusOptions(port="/dev/ttyUSB0", model=name)  # type: ignore[arg-type]
        assert f'model = "{name}"' in about(name) or name == "sht20", name
        board = SimulatedBoard(FakeClock())
        board.attach("modbus", options)
        assert len(Modbus(options, board).read()) == max(len(model.registers), model.inputs)
        assert options.settings().baud == model.baud


def test_the_table_of_models_in_the_readme():
    text = (Path(__file__).parent.parent / "drivers" / "README.md").read_text()
    table = text.partition("| `model` | device |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    named = {name: int(row[2]) for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert named == {name: model.baud for name, model in MODELS.items()}


# -- scan --------------------------------------------------------------------------------------


def test_a_scan_asks_each_unit_and_knows_the_models():
    clock = FakeClock()
    board = SimulatedBoard(clock)
    for unit, name in enumerate(MODELS, start=3):
        board.attach(
            "modbus",
            ModbusOptions(port="/dev/ttyUSB0", unit=unit, model=name, baud=9600),  # type: ignore[arg-type]
        )
    line = board.streams["/dev/ttyUSB0"]
    assert isinstance(line, SimulatedLine)
    line.devices[40] = SimulatedDevice(40)
    began_s = clock.monotonic()
    result = scan_modbus(board, line_named("/dev/ttyUSB0"), range(1, 42))
    found = {f.where: f.sensor.options["model"] if f.sensor else f.note for f in result.findings}
    alike = {"xy-md03": "xy-md02", "xy-md04": "xy-md02", "sht20": "xy-md02", "rs-ws": "cwt-th"}
    unknown = "a Modbus device of no model that is known here: describe its registers"
    expected = {
        f"unit {unit} on /dev/ttyUSB0": unknown if name == "cwt-tm-8pt" else alike.get(name, name)
        for unit, name in enumerate(MODELS, start=3)
    }
    assert found == {**expected, "unit 40 on /dev/ttyUSB0": unknown}
    assert result.failures == ()
    silent = 41 - len(found)
    assert clock.monotonic() - began_s < silent * 0.6 + 41 * 2


def test_a_scan_of_a_line_on_which_nothing_answers_says_what_to_check():
    board = SimulatedBoard(FakeClock())
    board.streams["/dev/ttyUSB0"] = SimulatedLine(board.clock)
    (failure,) = scan_modbus(board, line_named("/dev/ttyUSB0"), range(1, 4)).failures
    assert failure.what == "/dev/ttyUSB0: no unit from 1 to 3 answers"
    assert (
        "check its power, the unit id, 9600 baud 8N1, whether A and B are swapped" in failure.hint
    )


def test_a_scan_ends_at_once_where_there_is_no_port():
    board = SimulatedBoard(FakeClock())
    (failure,) = scan_modbus(board, line_named("/dev/ttyUSB0"), range(1, 248)).failures
    assert "does not exist" in failure.what
    assert board.clock.monotonic() == 1000.0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--units", "1-3"], 2, "--units and --baud go with --modbus PORT"),
        (["--modbus", "/dev/ttyUSB0", "--units", "3-1"], 2, "invalid"),
        (["--modbus", "/dev/ttyUSB0", "--units", "0-5"], 2, "invalid"),
        (["--modbus", "10.0.0.1:port"], 2, '"port" is not a port'),
        (["--modbus", "10.0.0.1", "--baud", "4800"], 2, "baud, parity and stop_bits go with port"),
        (["--modbus", "/dev/ttyUSB9", "--units", "1"], 1, "/dev/ttyUSB9 does not exist"),
        (["--modbus", "/dev/ttyUSB0", "--units", "1-2"], 0, 'model = "r4dcb08"'),
    ],
)
def test_scan_modbus_as_a_command(arguments, code, says):
    command = [sys.executable, "-m", "node", "scan", "--simulate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    assert says in done.stdout + done.stderr


# -- the whole node ----------------------------------------------------------------------------


@pytest.mark.real_time(seconds=10)
def test_a_node_with_thirty_devices_on_a_port(broker, subscribe, start_node):
    """All but the dead one come online, and stay so."""

    def answer(request: bytes) -> bytes:
        return b"" if request[0] == 17 else values(200 + request[0], 500)(request)

    with on_pty(answer) as slave:
        config = f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n[node]\nname = "test"\n'
        for unit in range(1, 31):
            config += (
                f'[[sensor]]\nid = "u{unit}"\ndriver = "modbus"\nport = "{slave.port}"\n'
                f'unit = {unit}\nmodel = "xy-md02"\ninterval = "2s"\n'
            )
        subscriber = subscribe(broker.port)
        node: NodeProcess = start_node(config)
        for unit in set(range(1, 31)) - {17}:
            subscriber.wait_for_states(f"u{unit}", 3)
        assert subscriber.states("u17") == []
        assert node.log_lines("offline") == [] or "u17" in "".join(node.log_lines("offline"))
        (said,) = node.log_lines("u17 (modbus)")
        assert "no answer within 0.5 s; check its power, the unit id (here 17)" in said


def test_nothing_of_it_is_imported_without_such_a_sensor(tmp_path: Path):
    """`check` and `run` of other sensors do without the driver and its libraries."""
    file = tmp_path / "node.toml"
    file.write_text('[mqtt]\nhost = "h"\n[[sensor]]\nid = "a"\ndriver = "cpu"\n')
    script = (
        "import sys; from node.config.load import load; from pathlib import Path; "
        f"load(Path({str(file)!r})); import node.loop; "
        "print([m for m in sys.modules if 'modbus' in m or m == 'serial'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
