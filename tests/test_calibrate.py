"""`sensor-node calibrate`: when a value rests, what follows from that, and how the file changes."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psychrolib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import SENSOR_NODE, FakeClock, NodeProcess, sysfs_config, wait_until

from drivers.base import Channel
from node.cli.main import main
from node.config.load import load
from node.config.schema import ChannelTable
from node.filters import ChannelFilters
from node.sensors.board import open_board
from node.sensors.read_once import read_once
from node.sensors.supply import SETTLE_S
from node.setup.calibration import (
    NoPlateau,
    Point,
    boiling_point,
    keys_for,
    measure,
    pressure_at,
    unfit,
)
from node.setup.edit_channel import CannotEdit, with_channel_keys
from node.setup.plateau import Plateau
from node.setup.probe import BusProbe
from node.system.clock import SystemClock
from node.system.state_dir import StateDirLock

Read = Callable[[], tuple[float, float]]
TODAY = date(2026, 11, 30)
HOST = '[mqtt]\nhost = "127.0.0.1"\n'
AIR = '[[sensor]]\nid = "air"\ndriver = "sht31d"\naddress = 0x44\n'
BOX = '[[sensor]]\nid = "box"\ndriver = "bme280"\naddress = 0x76\n'


# -- the plateau, and the way to it


def cooling(clock: FakeClock, *, to: float, constant_s: float, noise: float = 0.02) -> Read:
    """What a thermometer shows that was put from 21 °C into something else."""
    start_s, draw = clock.monotonic(), random.Random(1)

    def read() -> tuple[float, float]:
        way = math.exp(-(clock.monotonic() - start_s) / constant_s)
        return to + (21 - to) * way + draw.gauss(0, noise), 0.0

    return read


def rest_of(read: Read, clock: FakeClock, *, within: float = 5.0) -> tuple[float, float]:
    return measure(
        read,
        (Plateau("°C", 2, window_s=120), Plateau("°C", 2, window_s=120)),
        near=lambda one, other: abs(one - other) <= within,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
        interval_s=2,
        give_up_s=1800,
        show=lambda text: None,
    )


@pytest.mark.parametrize("constant_s", [5, 60, 180])
def test_it_waits_until_little_of_the_way_is_left(constant_s):
    """0.3 °C is what the sensor is off; a slow probe in a thick well may keep 0.1 °C of its way."""
    clock = FakeClock()
    measured, _ = rest_of(cooling(clock, to=0.3, constant_s=constant_s), clock)
    assert measured == pytest.approx(0.3, abs=0.1)
    assert clock.now_s - 1000 >= 120


def test_a_rest_on_the_table_does_not_count():
    clock = FakeClock()
    with pytest.raises(NoPlateau, match=r"rests at 21.*, too far from 0\.00, after 30m"):
        rest_of(cooling(clock, to=21.0, constant_s=1), clock)


def test_a_value_that_never_rests_is_given_up():
    clock = FakeClock()

    def drift() -> tuple[float, float]:
        return 0.001 * (clock.monotonic() - 1000), 0.0

    with pytest.raises(NoPlateau, match=r"the value still moves: 1\.80, after 30m"):
        rest_of(drift, clock)
    assert clock.now_s == pytest.approx(2800)


def test_a_failed_reading_is_not_the_end():
    clock = FakeClock()
    good = cooling(clock, to=0.3, constant_s=5)
    fails = iter([True, False] * 1000)

    def read() -> tuple[float, float]:
        if next(fails):
            raise LookupError("CRC")
        return good()

    assert rest_of(read, clock)[0] == pytest.approx(0.3, abs=0.1)

    def dead() -> tuple[float, float]:
        raise LookupError("tank (ds18b20): nothing answers")

    with pytest.raises(NoPlateau, match="nothing answers, after 30m"):
        rest_of(dead, clock)


@given(st.floats(-400, 4000))
def test_water_boils_where_its_vapour_pressure_is_that_of_the_air(altitude):
    """psychrolib has the vapour pressure of ASHRAE, and the standard atmosphere."""
    psychrolib.SetUnitSystem(psychrolib.SI)
    pressure = pressure_at(altitude)
    assert pressure == pytest.approx(psychrolib.GetStandardAtmPressure(altitude) / 100, abs=0.3)
    vapour = psychrolib.GetSatVapPres(boiling_point(pressure)) / 100
    assert vapour == pytest.approx(pressure, rel=1e-4)


@pytest.mark.parametrize(("hpa", "celsius"), [(700, 89.93), (850, 95.13), (1000, 99.61)])
def test_the_boiling_point_is_that_of_the_steam_tables(hpa, celsius):
    """IAPWS-IF97, saturation."""
    assert boiling_point(hpa) == pytest.approx(celsius, abs=0.02)


def test_one_point_is_an_offset_and_two_are_a_line():
    ice, steam = Point(0.3, 0.0, "ice water"), Point(98.1, 98.868, "boiling water")
    assert keys_for([ice], TODAY) == {"offset": -0.3, "calibrated": TODAY}
    assert keys_for([steam, ice], TODAY) == {
        "calibrate": [[0.3, 0.0], [98.1, 98.868]],
        "calibrated": TODAY,
    }
    assert unfit([steam, ice]) == ""
    assert unfit([ice, Point(5.2, 5.0, "x")]) == "ice water and x are too close to each other"
    assert unfit([Point(99, 0, "a"), Point(98, 98, "b")]) == "the sensor shows less in b than in a"


# -- the file

KEYS = {"offset": -0.3, "calibrated": TODAY}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            HOST + AIR + "\n# The box.\n" + BOX,
            HOST
            + AIR
            + "\n[sensor.channel.temperature]\noffset = -0.3\ncalibrated = 2026-11-30\n"
            + "\n# The box.\n"
            + BOX,
        ),
        (
            HOST
            + AIR
            + "[sensor.channel.temperature] # mine\nunit = '°C' # yes\noffset = 1 # no\n",
            HOST
            + AIR
            + "[sensor.channel.temperature] # mine\noffset = -0.3\ncalibrated = 2026-11-30\n"
            + "unit = '°C' # yes\n# until 2026-11-30: offset = 1 # no\n",
        ),
        (
            HOST
            + AIR
            + "[sensor.channel.temperature]\ncalibrate = [ # of May\n  [0.1, 0],\n  [99, 100],\n]\n"
            + "calibrated = 2025-05-01\nmedian = 3\n[sensor.channel.humidity]\noffset = 2\n",
            HOST
            + AIR
            + "[sensor.channel.temperature]\noffset = -0.3\ncalibrated = 2026-11-30\n"
            + "# until 2026-11-30: calibrate = [ # of May\n# until 2026-11-30: [0.1, 0],\n"
            + "# until 2026-11-30: [99, 100],\n# until 2026-11-30: ]\n"
            + "# until 2026-11-30: calibrated = 2025-05-01\nmedian = 3\n"
            + "[sensor.channel.humidity]\noffset = 2\n",
        ),
        (
            HOST + AIR + "[[sensor.channel.temperature.alarm]]\nname = 'x'\nabove = 1\n" + BOX,
            HOST
            + AIR
            + "[[sensor.channel.temperature.alarm]]\nname = 'x'\nabove = 1\n"
            + "\n[sensor.channel.temperature]\noffset = -0.3\ncalibrated = 2026-11-30\n"
            + BOX,
        ),
        (
            (HOST + AIR).replace("\n", "\r\n").removesuffix("\r\n"),
            (
                HOST
                + AIR
                + "\n[sensor.channel.temperature]\noffset = -0.3\ncalibrated = 2026-11-30\n"
            ).replace("\n", "\r\n"),
        ),
    ],
)
def test_only_the_keys_of_the_calibration_change(before, after):
    assert with_channel_keys(before, 0, "temperature", KEYS, TODAY) == after
    tomllib.loads(after.replace("\r\n", "\n"))


@pytest.mark.parametrize(
    "channel",
    [
        "channel = {temperature = {offset = 1}}\n",
        "channel.temperature.offset = 1\n",
        "[sensor.channel]\ntemperature = {offset = 1}\n",
        "[sensor.channel]\ntemperature.offset = 1\n",
    ],
)
def test_a_file_of_another_form_is_left_alone(channel):
    with pytest.raises(CannotEdit, match=r"not below \[sensor.channel.temperature\]"):
        with_channel_keys(HOST + AIR + channel + BOX, 0, "temperature", KEYS, TODAY)


def test_the_right_one_of_several_sensors_is_changed():
    text = with_channel_keys(HOST + AIR + BOX + AIR, 1, "temperature", KEYS, TODAY)
    tables = tomllib.loads(text)["sensor"]
    assert [bool(table.get("channel")) for table in tables] == [False, True, False]


# -- the year


def test_a_year_later_it_is_time_to_do_it_again(tmp_path):
    file = tmp_path / "node.toml"
    today = datetime.now(UTC).date()
    for days, said in ((364, 0), (367, 1), (-3, 0)):
        day = today - timedelta(days=days)
        keys = f"[sensor.channel.temperature]\noffset = 1\ncalibrated = {day}\n"
        file.write_text(HOST + AIR + keys, encoding="utf-8")
        notes = [note for note in load(file).notes if "calibrated" in note]
        assert len(notes) == said
    file.write_text(HOST + AIR + keys.replace(str(day), "2024-01-01"), encoding="utf-8")
    (note,) = load(file).notes
    assert note == (
        "[[sensor]] air channel.temperature: was calibrated on 2024-01-01, more than a year ago; "
        "repeat it: sensor-node calibrate air --channel temperature"
    )


# -- the command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(f"# Mine.\n{HOST}{AIR}{BOX}", encoding="utf-8")
    return file


def calibrate(file: Path, *arguments: str) -> int:
    fast = ("--window", "1s", "--timeout", "30s", "--simulate", "--config", str(file))
    return main(["calibrate", "air", *fast, *arguments])


def test_two_points_are_written_and_read_back(file, capsys):
    assert calibrate(file, "--ice", "--true", "40", "--yes") == 0
    out = capsys.readouterr().out
    assert "Put the sensor into ice water" in out
    assert "Put the sensor where 40.0 is true" in out
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"# Mine.\n{HOST}{AIR}\n[sensor.channel.temperature]\ncalibrate = [[")
    assert text.endswith(f"calibrated = {datetime.now(UTC).astimezone().date()}\n{BOX}")
    ice, warm = load(file).sensors[0].channel["temperature"].calibrate or []
    assert (ice[1], warm[1]) == (0.0, 40.0)
    assert list(file.parent.iterdir()) == [file]


def test_against_another_sensor_the_offset_is_their_difference(file):
    """And what is true is what the other one shows as it is calibrated itself."""
    file.write_text(file.read_text() + "[sensor.channel.temperature]\noffset = 30\n")
    assert calibrate(file, "--against", "box", "--yes", "--within", "40") == 0
    offset = load(file).sensors[0].channel["temperature"].offset
    assert offset == pytest.approx(30, abs=8), "they are in two places of the simulated room"


def test_a_channel_in_fahrenheit_is_calibrated_in_fahrenheit(file, capsys):
    unit = "[sensor.channel.temperature]\nunit = '°F'\n"
    file.write_text(f"{HOST}{AIR}{unit}", encoding="utf-8")
    assert calibrate(file, "--ice", "--dry-run", "--within", "10") == 0
    assert "°F, and 32.000 °F is true" in capsys.readouterr().out
    assert file.read_text(encoding="utf-8") == f"{HOST}{AIR}{unit}", "a dry run writes nothing"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--yes"], 2, "name a point: --ice, --boiling, --true VALUE or --against SENSOR"),
        (["--against", "bax"], 2, "unknown sensor: bax; did you mean box?"),
        (["--against", "air"], 2, "--against needs another sensor"),
        (["--ice", "--channel", "humidity"], 1, "humidity is in %: use --true or --against"),
        (["--ice", "--channel", "temprature"], 1, "air does not measure temprature; did you mea"),
        (["--true", "300"], 1, "300.0 °C is beyond the sensor's -40 to 125"),
        (["--against", "box/pressure"], 1, "pressure of the other sensor is in hPa, and temperat"),
        (["--ice", "--true", "5", "--yes"], 1, "ice water and the known value are too close"),
    ],
)
def test_each_mistake_is_named_and_nothing_is_written(file, capsys, arguments, code, says):
    before = file.read_text()
    assert calibrate(file, *arguments) == code
    assert says in capsys.readouterr().err
    assert file.read_text() == before


@pytest.mark.parametrize(("answers", "code"), [(["2", "y"], 0), (["2", "n"], 1), (["2"], 1)])
def test_a_person_is_asked_where_and_whether(file, capsys, monkeypatch, answers, code):
    before = file.read_text()
    given: Iterator[str] = iter(answers)

    def answer(_prompt: str) -> str:
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert calibrate(file) == code
    captured = capsys.readouterr()
    assert "2  in ice water alone" in captured.out
    assert (file.read_text() != before) == (code == 0)
    assert ("nothing was written" in captured.err) == (code == 1)


def test_an_offset_in_place_of_a_line_is_remarked_upon(file, capsys):
    line = "[sensor.channel.temperature]\ncalibrate = [[0, 0], [99, 100]]\n"
    file.write_text(f"{HOST}{AIR}{line}", encoding="utf-8")
    assert calibrate(file, "--ice", "--yes") == 0
    said = (
        "One offset replaces the former calibrate, of 2 points: measure two points to keep a slope."
    )
    assert said in capsys.readouterr().out
    assert "# until" in file.read_text()


CORRECTED = """
[sensor.channel.temperature]
calibrate = [[0, 2], [100, 104]]
unit = "°F"
decimals = 2
"""


def beside(node: NodeProcess, *arguments: str) -> int:
    """Calibrate the sensor of a node that runs."""
    where = ("--config", str(node.config), "--state-dir", str(node.state_dir))
    return main(["calibrate", "s", "--window", "1s", "--timeout", "20s", *where, *arguments])


def test_a_node_that_runs_is_listened_to(broker, start_node, temperature_file, capsys):
    """By what it writes into its log, from which the present correction and the unit are taken."""
    temperature_file.write_text("300\n")
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="200ms")
    old = CORRECTED.replace("[100, 104]", "[212, 220]")
    node = start_node(config + old)
    node.wait_for_log("s (sysfs): online, temperature")
    assert beside(node, "--ice", "--yes", "--within", "1") == 0
    assert "so it has to rest for 1.2s" in capsys.readouterr().out
    table = load(node.config).sensors[0].channel["temperature"]
    assert table.offset == pytest.approx(-0.54, abs=0.02), "0.3 °C, in °F"
    assert node.process.poll() is None
    assert beside(node, "--ice") == 1
    assert "on another configuration than" in capsys.readouterr().err


def test_what_a_running_node_cannot_tell_is_said(broker, start_node, temperature_file, capsys):
    coarse = "[sensor.channel.temperature]\ndecimals = 0\n"
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="200ms") + coarse
    node = start_node(config)
    node.wait_for_log("s (sysfs): online, temperature")
    assert beside(node, "--ice") == 1
    assert "decimals = 0 rounds what the node reads too much: stop the node first" in (
        capsys.readouterr().err
    )
    temperature_file.unlink()
    node.wait_for_log("offline")
    assert beside(node, "--ice") == 1
    assert "the node has no new reading of s for" in capsys.readouterr().err


def test_a_running_node_is_measured_beside_another_of_its_sensors(
    broker, start_node, temperature_file, tmp_path, capsys
):
    """What is true is what the other one shows, with its own correction."""
    (tmp_path / "t").write_text("20500\n")
    files = {"s": temperature_file, "t": tmp_path / "t"}
    offset = "[sensor.channel.temperature]\noffset = 0.5\n"
    node = start_node(sysfs_config(broker.port, files, interval="200ms") + offset)
    node.wait_for_log("t (sysfs): online, temperature 21")
    assert beside(node, "--against", "t", "--dry-run") == 0
    assert "offset = -0.5\n" in capsys.readouterr().out


def test_a_lock_without_a_log_is_no_node_that_can_be_listened_to(file, capsys, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    lock = StateDirLock(state)
    lock.hold()
    arguments = ["calibrate", "air", "--ice", "--config", str(file), "--state-dir", str(state)]
    assert main(arguments) == 1
    assert "there is no log in" in capsys.readouterr().err


def test_its_power_pin_is_on_while_a_sensor_is_measured(file):
    """And off again at the end, when nothing holds the pin any more."""
    text = file.read_text().replace("address = 0x44\n", "address = 0x44\npower_pin = 22\n")
    file.write_text(text)
    config = load(file)
    board = open_board(config, simulate=True)
    seen: list[int] = []

    def sleep(_seconds: float) -> None:
        seen.append(board.pin_factory().pin(22).state)

    probe = BusProbe(config.sensors[0], board, SystemClock(), None, sleep=sleep)
    assert seen == [1], "it settles first"
    assert board.pin_factory().pin(22).state
    assert -40 < probe.measured() < 60
    probe.close()
    assert board.pin_factory().pin(22).function == "input"


def test_read_switches_a_power_pin_on_too(file, monkeypatch):
    file.write_text(file.read_text().replace("= 0x44\n", "= 0x44\npower_pin = 22\n"))
    config = load(file)
    board = open_board(config, simulate=True)
    seen: list[int] = []

    def sleep(seconds: float) -> None:
        if seconds == SETTLE_S:
            seen.append(board.pin_factory().pin(22).state)

    monkeypatch.setattr("node.sensors.read_once.time.sleep", sleep)
    (result, _) = read_once(config.sensors, board)
    assert (seen, result.error) == ([1], "")
    assert board.pin_factory().pin(22).function == "input"


@given(
    st.lists(st.tuples(st.floats(-50, 150), st.floats(0.5, 2)), min_size=2, max_size=5),
    st.floats(-50, 150),
)
def test_a_correction_can_be_taken_back(steps, value):
    points: list[tuple[float, float]] = []
    true = 0.0
    for measured, slope in sorted(steps):
        if points and measured - points[-1][0] < 1:
            continue
        true = points[-1][1] + slope * (measured - points[-1][0]) if points else slope
        points.append((measured, true))
    channel = Channel("temperature", "°C", (-1e9, 1e9), 6)
    for table in (ChannelTable(offset=-0.7), ChannelTable(calibrate=points)):
        if table.calibrate is not None and len(points) < 2:
            continue
        filters = ChannelFilters(channel, table)
        assert filters.uncorrected(filters.through(value)) == pytest.approx(value, abs=1e-6)


def test_interrupted_it_leaves_nothing_behind(file):
    before = file.read_text()
    command = [SENSOR_NODE, "calibrate", "air", "--ice", "--simulate", "--config", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "ice water" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert wait_until(lambda: process.poll() is not None)
    assert process.returncode == 130
    assert file.read_text() == before
    assert [*file.parent.iterdir()] == [file]


def test_the_lines_are_printed_where_the_file_cannot_be_changed(file, capsys):
    inline = f"{HOST}{AIR}channel = {{temperature = {{offset = 1}}}}\n"
    file.write_text(inline, encoding="utf-8")
    assert calibrate(file, "--ice", "--yes") == 1
    captured = capsys.readouterr()
    assert "[sensor.channel.temperature]\noffset = " in captured.out
    assert "put these lines there by hand; nothing was written" in captured.err
    assert file.read_text(encoding="utf-8") == inline
