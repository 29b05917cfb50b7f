"""`sensor-node plot`: the readings of a sensor as an SVG file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from pathlib import Path

from node.cli.arguments import add_state_dir_argument
from node.cli.help_text import CommandHelp
from node.config.schema import STALE_INTERVALS
from node.outbox.reader import LOG_TROUBLE, open_log, readings_from, why_not
from node.plot.buckets import Buckets
from node.plot.series import STEPS, Moment, decimals_of, usual_step_ms
from node.plot.svg import Plot, standalone
from node.plot.text import slug
from node.plot.times import LocalZone, parse_since
from node.reading import Reading
from node.system.clock import SystemClock
from node.system.safe_files import write_file
from node.system.state_dir import find_state_dir
from node.system.terminal import visible

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_WIDTH = 960
_HEIGHT = 260
_POINTS = 450
"""About half as many buckets as pixels."""
_LEAST_WIDTH_MS = 1000
_OTHER_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf", ".bmp", ".csv", ".html")
"""Endings that promise a format other than SVG."""

HELP = CommandHelp(
    details="""\
Draws one channel of a sensor, from the log of the node on this machine: the mean as a line,
lowest to highest as a band, gaps as gaps, dashed where the clock was not set. Times are in this
computer's time zone. A running node is not disturbed.
""",
    examples={
        "sudo sensor-node plot air --since 24h -o air.svg": "the last day",
        "sudo sensor-node plot air --channel humidity --since 24h -o -": "to standard output",
    },
    exit_codes={1: "the log cannot be read, or has no such sensor or channel"},
    without=(78,),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sensor", metavar="SENSOR", help="its id")
    parser.add_argument("--channel", metavar="NAME", help="default: its first")
    parser.add_argument(
        "--since", metavar="TIME", default="24h", help='"90m", "24h", "2d", or a date (24h)'
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="file to write; - is standard output"
    )
    add_state_dir_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Draw the plot; exit code 1 if there is nothing to draw."""
    from node.outbox.store import FILE_NAME

    now = Moment.of(SystemClock())
    ending = Path(arguments.output).suffix.lower()
    if ending in _OTHER_PICTURES:
        print(f"{arguments.output}: plot writes SVG; end the name in .svg", file=sys.stderr)
        return 2
    try:
        start_ms = parse_since(arguments.since, now.utc_ms)
    except ValueError as error:
        print(f"--since {arguments.since}: {error}", file=sys.stderr)
        return 2
    if start_ms >= now.utc_ms:
        print(f"--since {arguments.since}: this is not in the past", file=sys.stderr)
        return 2
    file = find_state_dir(arguments.state_dir) / FILE_NAME
    try:
        found = _Found(arguments.sensor, arguments.channel, start_ms, now)
        found.read(file)
    except LOG_TROUBLE as error:
        print(why_not(file, error), file=sys.stderr)
        return 1
    if found.channel is None:
        print(found.why_nothing(), file=sys.stderr)
        return 1
    svg = standalone(found.plot())
    try:
        _write(svg.encode(), arguments.output)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"{arguments.output} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _write(svg: bytes, output: str) -> None:
    """Write the whole file, or leave the old one as it is.

    The encoding is UTF-8, as the SVG declares, also on a terminal that uses another one.
    """
    file = Path(output)
    if output == "-":
        with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as stdout:
            stdout.write(svg)
    elif file.exists() and not file.is_file():  # a device, or a pipe
        file.write_bytes(svg)
    else:
        write_file(file.resolve(), svg)  # the file itself, not the link to it


class _Found:
    """The readings of one channel, in buckets."""

    def __init__(self, sensor: str, channel: str | None, start_ms: int, now: Moment) -> None:
        self._sensor = sensor
        self._wanted = channel
        self._start_ms = start_ms
        self._now = now
        long_ms = now.utc_ms - start_ms
        self._width_ms = max(_LEAST_WIDTH_MS, -(-long_ms // _POINTS))
        self._buckets = Buckets(self._width_ms, long_ms // self._width_ms + 2)
        self._sensors: set[str] = set()
        self._channels: set[str] = set()
        self._before: Reading | None = None
        self._steps_ms: deque[int] = deque(maxlen=STEPS)
        self.channel: str | None = None
        self._unit = ""
        self._decimals = 0

    def read(self, file: Path) -> None:
        with open_log(file) as log:
            after = log.last_before(self._start_ms)
            for readings in readings_from(log, after):
                for reading in readings:
                    self._add(reading)

    def _add(self, reading: Reading) -> None:
        if reading.layout.alarm is not None:
            return
        self._sensors.add(reading.sensor)
        if reading.sensor != self._sensor:
            return
        layout = reading.layout
        self._channels.update(layout.channels)
        name = self._wanted or self.channel or layout.channels[0]
        if name not in layout.channels:
            return
        place = layout.channels.index(name)
        if layout.units[place] != self._unit:  # the unit was changed: a plot has one
            self._buckets = Buckets(self._buckets.width_ms, self._buckets.count)
            self._unit = layout.units[place]
        self.channel = name
        number = reading.numbers[place]
        self._decimals = max(self._decimals, decimals_of(number))
        if self._before is not None and self._before.boot_id == reading.boot_id:
            self._steps_ms.append(reading.boot_ms - self._before.boot_ms)
        self._before = reading
        at_ms = self._now.time_of(reading)
        if self._start_ms <= at_ms <= self._now.utc_ms:
            self._buckets.add(at_ms, number, unsynced=not reading.synced)

    def why_nothing(self) -> str:
        if self._channels:
            known = ", ".join(sorted(map(visible, self._channels)))
            return f"{visible(self._sensor)} has no channel {visible(self._wanted or '')}: {known}"
        known = ", ".join(sorted(map(visible, self._sensors))) or "none"
        return f"no reading of {visible(self._sensor)} in this time; sensors with readings: {known}"

    def plot(self) -> Plot:
        typical_ms = usual_step_ms(self._steps_ms) if self._steps_ms else 600_000
        began = time.strftime("%Y-%m-%d %H:%M (%Z)", time.localtime(self._start_ms / 1000))
        return Plot(
            key=f"{slug(self._sensor)}-{slug(self.channel or '')}",
            title=f"{self._sensor} {self.channel}, {self._unit}, since {began}",
            unit=self._unit,
            buckets=self._buckets.between(self._start_ms, self._now.utc_ms + 1),
            width_ms=self._width_ms,
            start_ms=self._start_ms,
            end_ms=self._now.utc_ms,
            gap_ms=max(STALE_INTERVALS * typical_ms, 5000) + self._width_ms,
            decimals=self._decimals,
            width=_WIDTH,
            height=_HEIGHT,
            zone=LocalZone(),
        )
