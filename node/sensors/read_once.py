"""Reads sensors once, with one thread for each bus: for `read` and `init`."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence

import msgspec

from drivers.accuracy import accuracy_of
from drivers.bus import Board
from node.config.schema import ChannelTable, SensorTable
from node.filters import ChannelFilters, Rejected
from node.reading import ReadOutcome
from node.sensors.port import SensorPort
from node.sensors.workers import ReadDone, Workers
from node.system.clock import SystemClock
from node.system.terminal import table as table_text
from node.units import duration_text

__all__ = ["SensorResult", "as_table", "read_once"]


class SensorResult(msgspec.Struct):
    """One sensor's answer; the values are calibrated and in the configured unit."""

    sensor: str
    driver: str
    values: dict[str, float] = {}
    units: dict[str, str] = {}
    raw: dict[str, float] = {}
    """The values as the sensor gave them, in the driver's unit."""
    raw_units: dict[str, str] = {}
    accuracy: dict[str, str] = {}
    """The datasheet's figure, for each channel for which there is one."""
    took_s: float = 0.0
    error: str = ""


def read_once(sensors: Sequence[SensorTable], board: Board) -> list[SensorResult]:
    """Return each sensor's values, or why it failed, in the order of the sensors.

    Takes as long as the slowest bus, and at most the budgets of the sensors on it.
    """
    outcomes = _read(sensors, board)
    return [_result(sensor, outcomes.get(sensor.id)) for sensor in sensors]


def as_table(results: Sequence[SensorResult]) -> str:
    """Return the results for people, in columns; an error is a line below them."""
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
    lines = [table_text(rows)] if len(rows) > 1 else []
    lines += [f"{r.sensor} ({r.driver}): {r.error}" for r in results if r.error]
    return "\n".join(lines) or "no sensor is configured"


def _read(sensors: Sequence[SensorTable], board: Board) -> dict[str, ReadOutcome]:
    """Return each sensor's outcome by its id; one that hangs beyond its budget is missing."""
    clock = SystemClock()
    events: queue.SimpleQueue[ReadDone] = queue.SimpleQueue()
    workers = Workers(events.put, events.put)
    started_s = time.monotonic()
    budgets_s: dict[str, float] = {}
    for sensor in sensors:
        port = SensorPort(sensor, board, clock)
        budgets_s[port.bus] = budgets_s.get(port.bus, 0.0) + sensor.info.read_budget_s
        workers.submit(port)
    workers.dispatch(started_s)
    for _ in budgets_s:
        workers.add_thread()
    give_up_s = started_s + max(budgets_s.values(), default=0.0)
    outcomes: dict[str, ReadOutcome] = {}
    while len(outcomes) < len(sensors):
        try:
            outcome = events.get(timeout=max(0.0, give_up_s - time.monotonic())).outcome
        except queue.Empty:
            break
        outcomes[outcome.sensor] = outcome
    return outcomes


def _result(table: SensorTable, outcome: ReadOutcome | None) -> SensorResult:
    result = SensorResult(sensor=table.id, driver=table.driver)
    if outcome is None:
        result.error = f"no answer within {duration_text(table.info.read_budget_s)}"
        return result
    result.took_s = round(outcome.ended_s - outcome.started_s, 3)
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
