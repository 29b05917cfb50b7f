"""`sensor-node read`: each sensor once, without a broker."""

from __future__ import annotations

import argparse
import logging
import queue
import sys
import time

import msgspec

from drivers.accuracy import accuracy_of
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.schema import ChannelTable, SensorTable
from node.reading import ReadOutcome
from node.sensors.board import open_board, preload_drivers
from node.sensors.filters import ChannelFilters, Rejected
from node.sensors.port import SensorPort
from node.sensors.workers import ReadDone, Workers
from node.system.clock import SystemClock
from node.system.terminal import table
from node.units import duration_text

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_log = logging.getLogger(__name__)


class _Result(msgspec.Struct):
    """One sensor's answer; the values are calibrated and in the configured unit."""

    sensor: str
    driver: str
    values: dict[str, float] = {}
    units: dict[str, str] = {}
    raw: dict[str, float] = {}
    """As the sensor gave it, in the driver's unit."""
    raw_units: dict[str, str] = {}
    accuracy: dict[str, str] = {}
    """The datasheet's figure for each channel that it has one for."""
    took_s: float = 0.0
    error: str = ""


HELP = CommandHelp(
    details="""\
Reads each sensor once, without a broker, and prints what it gave (RAW), what would be
published of it (VALUE: calibrated, in the configured unit), what the datasheet promises
(ACCURACY), and how long it took. Stop the node before.
""",
    examples={
        "sudo sensor-node read": "every sensor of the service",
        "sudo sensor-node read air water --json": "two of them, for programs",
    },
    exit_codes={0: "every sensor gave a value", 1: "one of them gave none"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="sensors to read (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--simulate", action="store_true", help="read simulated hardware")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1 when any of the sensors gave no value."""
    config = configuration.load(configuration.find_file(arguments.config))
    sensors = {sensor.id: sensor for sensor in config.sensors}
    unknown = [name for name in arguments.ids if name not in sensors]
    if unknown:
        known = ", ".join(sensors) or "none"
        print(f"no sensor {', '.join(unknown)}; configured: {known}", file=sys.stderr)
        return 2
    board = open_board(config, simulate=arguments.simulate)
    preload_drivers(config)
    clock = SystemClock()
    chosen = [sensors[name] for name in dict.fromkeys(arguments.ids or sensors)]
    ports = {table.id: SensorPort(table, board, clock) for table in chosen}
    outcomes = _read_all(chosen, ports)
    results = [_result(table, outcomes.get(table.id)) for table in chosen]
    if arguments.json:
        print(msgspec.json.encode(results).decode())
    else:
        print(_as_table(results))
    return 1 if any(result.error for result in results) or not results else 0


def _read_all(
    sensors: list[SensorTable], ports: dict[str, SensorPort]
) -> dict[str, tuple[ReadOutcome, float]]:
    """Each sensor's outcome and the seconds it took; one that is stuck is missing."""
    events: queue.SimpleQueue[ReadDone] = queue.SimpleQueue()
    workers = Workers(events.put, events.put)
    started_s = time.monotonic()
    budgets_s: dict[str, float] = {}
    for sensor in sensors:
        port = ports[sensor.id]
        budgets_s[port.bus] = budgets_s.get(port.bus, 0.0) + sensor.info.read_budget_s
        workers.submit(port)
    workers.dispatch(started_s)
    for _ in budgets_s:
        workers.add_thread()
    give_up_s = started_s + max(budgets_s.values(), default=0.0)
    outcomes: dict[str, tuple[ReadOutcome, float]] = {}
    while len(outcomes) < len(sensors):
        try:
            outcome = events.get(timeout=max(0.0, give_up_s - time.monotonic())).outcome
        except queue.Empty:
            break
        outcomes[outcome.sensor] = (outcome, outcome.ended_s - outcome.started_s)
    return outcomes


def _result(table: SensorTable, answer: tuple[ReadOutcome, float] | None) -> _Result:
    result = _Result(sensor=table.id, driver=table.driver)
    if answer is None:
        result.error = f"no answer within {duration_text(table.info.read_budget_s)}"
        return result
    outcome, took_s = answer
    result.took_s = round(took_s, 3)
    if outcome.measurement is None:
        result.error = str(outcome.error)
        return result
    accuracy = table.options.accuracy() or table.info.accuracy
    for channel in outcome.channels:
        if channel.name not in outcome.measurement:
            continue
        raw = outcome.measurement[channel.name]
        pipeline = ChannelFilters(channel, table.channel.get(channel.name, ChannelTable()))
        result.raw[channel.name] = raw
        result.raw_units[channel.name] = channel.unit
        if figure := accuracy_of(accuracy, channel, outcome.channels):
            result.accuracy[channel.name] = figure
        result.units[channel.name] = pipeline.unit
        try:
            result.values[channel.name] = pipeline.accept(raw, outcome.ended_s)
        except Rejected as rejection:
            result.error = str(rejection)
    return result


def _as_table(results: list[_Result]) -> str:
    rows = [("SENSOR", "DRIVER", "CHANNEL", "RAW", "VALUE", "ACCURACY", "TOOK")]
    for result in results:
        for name, raw in result.raw.items():
            value = result.values.get(name)
            rows.append(
                (
                    result.sensor,
                    result.driver,
                    name,
                    f"{raw:.6g} {result.raw_units[name]}",
                    "rejected" if value is None else f"{value:g} {result.units[name]}",
                    result.accuracy.get(name, ""),
                    f"{result.took_s:.2f} s",
                )
            )
    lines = [table(rows)] if len(rows) > 1 else []
    lines += [f"{r.sensor} ({r.driver}): {r.error}" for r in results if r.error]
    return "\n".join(lines) or "no sensor is configured"
