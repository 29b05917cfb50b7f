"""`sensor-node calibrate`: measures a sensor against what is known, and writes the correction."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from node.cli.arguments import add_state_dir_argument, positive
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.schema import Config, SensorTable, SimulationTable
from node.config.values import did_you_mean
from node.outbox.reader import LOG_TROUBLE, health_of, look_into, why_not
from node.outbox.store import FILE_NAME
from node.sensors.board import open_board, preload_drivers
from node.setup.calibration import (
    CannotCalibrate,
    Point,
    Target,
    boiling_point,
    keys_for,
    measure,
    pressure_at,
    unfit,
)
from node.setup.dialog import Dialog, Unanswered
from node.setup.edit_channel import CannotEdit, channel_lines, with_channel_keys
from node.setup.plateau import Plateau
from node.setup.probe import BusProbe, Probe
from node.system.clock import SystemClock
from node.system.safe_files import write_file
from node.system.state_dir import find_state_dir, lock_holder
from node.units import Seconds, duration_text

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_SHORTEST_PAUSE_S = 0.2
_ICE = (
    "Put the sensor into ice water: crushed ice, with as much water as fills the gaps, stirred now "
    "and then; in a thin bag, if it is not waterproof."
)
_READINGS = 60
"""In a window, where the sensor can be read that often."""

HELP = CommandHelp(
    details="""\
Measures what a sensor shows in ice water (0 °C), in boiling water (by the altitude or the pressure
of the air), at a value that you know, or beside another sensor. It waits until the value has come
to rest where it should be, so there is no hurry and nothing to press.

One point becomes an offset, two become the points of calibrate. They are written into the
configuration with the date, after a question; its comments and all other lines stay as they are.
Nothing is written before that, whenever you end it with Ctrl-C.

A node that runs goes on: what it reads is taken from its log, without the present correction, at
its own interval. Its readings and alarms are of the water meanwhile. Of a node that is stopped, the
sensor is read directly, with its power_pin switched on; that is faster where the interval is long.
""",
    examples={
        "sudo sensor-node calibrate tank --ice --boiling --altitude 340": "two points",
        "sudo sensor-node calibrate air --against box": "the same temperature as another sensor",
        "sudo sensor-node calibrate air --channel humidity --true 75.3": "above a salt solution",
    },
    exit_codes={1: "a value did not come to rest, or nothing was written"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sensor", metavar="SENSOR", help="its id")
    parser.add_argument("--channel", metavar="NAME", help="default: its temperature, or its first")
    parser.add_argument("--ice", action="store_true", help="a point in ice water")
    parser.add_argument("--boiling", action="store_true", help="a point in boiling water")
    air = parser.add_mutually_exclusive_group()
    air.add_argument("--altitude", type=float, metavar="METRES", help="of the boiling water (0)")
    air.add_argument("--pressure", type=positive, metavar="HPA", help="or the pressure there")
    parser.add_argument("--true", type=float, metavar="VALUE", help="a point of a known value")
    parser.add_argument(
        "--against", metavar="SENSOR[/CHANNEL]", help="a point beside another sensor"
    )
    parser.add_argument(
        "--within", type=positive, default=5.0, help="how far off the sensor may be (5)"
    )
    parser.add_argument(
        "--window", type=_seconds, default="2m", metavar="TIME", help="how long it must rest (2m)"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default="30m", metavar="TIME", help="for each point (30m)"
    )
    parser.add_argument("--yes", action="store_true", help="write without asking")
    parser.add_argument("--dry-run", action="store_true", help="print the lines, and do not write")
    parser.add_argument("--simulate", action="store_true", help="measure simulated hardware")
    add_state_dir_argument(parser)


def _seconds(written: str) -> Seconds:
    seconds = Seconds.parse(written)
    if not seconds:
        raise ValueError(written)
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Measure the points, and write the correction; exit code 1 if that was not possible."""
    config = configuration.load(configuration.find_file(arguments.config))
    chosen = _chosen(config, arguments)
    if isinstance(chosen, str):
        print(chosen, file=sys.stderr)
        return 2
    try:
        _check_beforehand(config, arguments)
        bench = _Bench(config, arguments, chosen)
        points = bench.points()
        return _write(config, arguments, bench.channel, points)
    except CannotCalibrate as error:
        _show_progress("")
        print(f"{arguments.sensor}: {error}; nothing was written", file=sys.stderr)
        return 1
    except Unanswered:
        print("nothing was written", file=sys.stderr)
        return 1


def _chosen(config: Config, arguments: argparse.Namespace) -> list[Target] | str:
    """Return the points to measure, or what is wrong with the arguments."""
    tables = {sensor.id: sensor for sensor in config.sensors}
    against, _, _ = (arguments.against or "").partition("/")
    for name in filter(None, (arguments.sensor, against)):
        if name not in tables:
            return f"unknown sensor: {name}; {did_you_mean(name, tables) if tables else ''}"
        if name == arguments.sensor and tables[name].info.computed:
            return f"{name} has no hardware: calibrate the sensors that it compares"
    if against == arguments.sensor:
        return "--against needs another sensor"
    if not (arguments.ice or arguments.boiling or against) and arguments.true is None:
        if arguments.yes or not sys.stdin.isatty():
            return "name a point: --ice, --boiling, --true VALUE or --against SENSOR"
        _ask_for_points(arguments)
    pressure = arguments.pressure or pressure_at(arguments.altitude or 0.0)
    boiling = boiling_point(pressure)
    known, unit = arguments.true, "in the unit of the channel"
    targets = [
        (arguments.ice, Target("ice water", 0.0, _ICE, is_water=True)),
        (
            arguments.boiling,
            Target(
                "boiling water",
                boiling,
                f"Put the sensor into boiling water, which is {boiling:.1f} °C at "
                f"{pressure:.0f} hPa, without touching the pot.",
                is_water=True,
            ),
        ),
        (
            known is not None,
            Target("the known value", known, f"Put the sensor where {known} is true, {unit}."),
        ),
        (
            bool(against),
            Target("the place of both", None, f"Put the sensor and {against} into one place."),
        ),
    ]
    return [target for wanted, target in targets if wanted]


def _ask_for_points(arguments: argparse.Namespace) -> None:
    dialog = Dialog(accept_defaults=False)
    choices = ("in ice water, then in boiling water", "in ice water alone")
    index = dialog.choose("Where can it be measured? [1]", choices) or 0
    arguments.ice, arguments.boiling = True, index == 0
    if arguments.boiling and arguments.altitude is None and arguments.pressure is None:
        arguments.altitude = dialog.ask("Altitude above the sea, in metres", float, "0")


def _check_beforehand(config: Config, arguments: argparse.Namespace) -> None:
    """Raise CannotCalibrate for what would fail after half an hour."""
    if (process := _running(arguments)) is not None:
        log = find_state_dir(arguments.state_dir) / FILE_NAME
        try:
            health = look_into(log, lambda found: health_of(found.ledger, process))
        except LOG_TROUBLE as error:
            raise CannotCalibrate(why_not(log, error)) from error
        if health is None or health.config != config.digest:
            raise CannotCalibrate(
                f"the node runs (process {process}) on another configuration than {config.source}: "
                "restart it first, sudo systemctl restart sensor-node"
            )
    file = config.source.resolve()
    if not arguments.dry_run and not os.access(file.parent, os.W_OK):
        raise CannotCalibrate(f"{file} cannot be written by this user: use sudo, or --dry-run")


def _running(arguments: argparse.Namespace) -> int | None:
    """Return the process of the node that has the sensors; None if they can be read here."""
    return None if arguments.simulate else lock_holder(find_state_dir(arguments.state_dir))


class _Bench:
    """The sensor, and the reference beside it, while they are measured."""

    def __init__(
        self, config: Config, arguments: argparse.Namespace, targets: list[Target]
    ) -> None:
        self._config = config
        self._arguments = arguments
        self._targets = targets
        self._clock = SystemClock()
        self._tables = {sensor.id: sensor for sensor in config.sensors}
        self.channel = ""
        """The name of the channel that is measured."""

    def points(self) -> list[Point]:
        """Return the points, once they are measured.

        Raises:
            CannotCalibrate: one could not be.
        """
        points = [self._point(target) for target in self._targets]
        if fault := unfit(points):
            raise CannotCalibrate(fault)
        return points

    def _point(self, target: Target) -> Point:
        config = self._config
        if self._arguments.simulate and target.true is not None and -40 <= target.true <= 110:
            room = SimulationTable(base=target.true)  # where somebody would put the sensor
            config = msgspec.structs.replace(config, simulation=room)
        probe = self._probe(config)
        with contextlib.ExitStack() as opened:

            def probe_of(name: str, channel: str | None) -> Probe:
                made = probe(self._tables[name], channel)
                opened.callback(made.close)
                return made

            sensor = probe_of(self._arguments.sensor, self._arguments.channel)
            self.channel = sensor.channel.name
            reference = None
            if target.true is None:
                name, _, channel = self._arguments.against.partition("/")
                reference = probe_of(name, channel or self.channel)
                sensor.refuse_other_unit(reference)
            return self._measured(target, sensor, reference)

    def _probe(self, config: Config) -> Callable[[SensorTable, str | None], Probe]:
        """Return what makes probes: of the log of a node that runs, else of the buses."""
        if _running(self._arguments) is not None:
            from node.setup.log_probe import LogProbe

            log = find_state_dir(self._arguments.state_dir) / FILE_NAME
            return lambda table, channel: LogProbe(
                table, log, self._clock, channel, sleep=time.sleep
            )
        preload_drivers(config)
        board = open_board(config, simulate=self._arguments.simulate)
        return lambda table, channel: BusProbe(table, board, self._clock, channel, sleep=time.sleep)

    def _measured(self, target: Target, sensor: Probe, reference: Probe | None) -> Point:
        known = target.true
        if known is not None and target.is_water:
            known = sensor.of_celsius(known)
        sensor.refuse_out_of_range(known)
        unit = sensor.unit
        window_s = max(float(self._arguments.window), sensor.least_window_s)
        if window_s > self._arguments.window:
            print(f"The node reads it seldom, so it has to rest for {duration_text(window_s)}.")
        print(f"{target.advice} It shows {sensor.measured():.2f} {unit} now.", flush=True)

        def read() -> tuple[float, float]:
            measured = sensor.measured()
            if reference is None:
                assert known is not None
                return measured, known
            return measured, sensor.in_unit(reference.calibrated())

        def plateau() -> Plateau:
            return Plateau(unit, sensor.channel.decimals, window_s=window_s)

        measured, true = measure(
            read,
            (plateau(), plateau()),
            near=lambda one, other: abs(one - other) <= self._arguments.within,
            monotonic=self._clock.monotonic,
            sleep=time.sleep,
            interval_s=max(sensor.rest_s, window_s / _READINGS, _SHORTEST_PAUSE_S),
            give_up_s=float(self._arguments.timeout),
            show=_show_progress,
        )
        _show_progress("")
        rested = f"At rest for {duration_text(window_s)}"
        print(f"{rested}: it shows {measured:.3f} {unit}, and {true:.3f} {unit} is true.")
        return Point(measured, true, target.name)


def _show_progress(text: str) -> None:
    """Show a text in place of the last one, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _write(config: Config, arguments: argparse.Namespace, channel: str, points: list[Point]) -> int:
    """Show the keys, and write them into the configuration if that is wanted."""
    today = datetime.now(UTC).astimezone().date()
    keys = keys_for(points, today)
    index = [sensor.id for sensor in config.sensors].index(arguments.sensor)
    print("\n".join(["", f"[sensor.channel.{channel}]", *channel_lines(keys), ""]))
    before = config.sensors[index].channel.get(channel)
    if before is not None and before.calibrate is not None and "offset" in keys:
        former = f"the former calibrate, of {len(before.calibrate)} points"
        print(f"One offset replaces {former}: measure two points to keep a slope.")
    if arguments.dry_run:
        return 0
    file = config.source.resolve()
    try:
        text = file.read_bytes().decode("utf-8")
        edited = with_channel_keys(text, index, channel, keys, today)
    except (CannotEdit, OSError, UnicodeDecodeError) as error:
        raise CannotCalibrate(f"{file}: {error}; put these lines there by hand") from error
    configuration.parse(config.source, edited.encode())
    if not arguments.yes and not Dialog(accept_defaults=False).confirm(
        f"Write this into {file}?", default=True
    ):
        print("nothing was written", file=sys.stderr)
        return 1
    _save(file, edited)
    print(f"Written into {file}. Start the node: sudo systemctl restart sensor-node")
    return 0


def _save(file: Path, text: str) -> None:
    try:
        write_file(file, text.encode())
    except OSError as error:
        raise CannotCalibrate(f"{file} cannot be written: {error.strerror}") from error
