"""Reads sensors once, with one thread for each bus: for `read` and `init`."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from drivers.accuracy import accuracy_of
from drivers.agree import Agreed, AgreeOptions
from drivers.base import Channel
from drivers.bus import Board
from node.config.schema import ChannelTable, SensorTable
from node.derive.parts import Derived, Missing, OverWindow
from node.filters import ChannelFilters, Rejected
from node.reading import ReadOutcome
from node.sensors.agreement import Verdict, verdict_on
from node.sensors.port import SensorPort
from node.sensors.supply import SETTLE_S, SensorPower
from node.sensors.workers import ReadDone, Workers
from node.system.clock import SystemClock
from node.system.terminal import table as table_text
from node.uncertainty import of_derived, of_measured, of_middle, published
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
    missing: dict[str, str] = {}
    """Computed channel -> why it has no value."""
    accuracy: dict[str, str] = {}
    """What the datasheet promises for this value, else its first figure; in the driver's unit."""
    uncertainty: dict[str, float] = {}
    """How far the value may be off, in its unit, where that is known; see `node.uncertainty`."""
    took_s: float = 0.0
    error: str = ""


def read_once(
    sensors: Sequence[SensorTable], board: Board, *, of_all: Sequence[SensorTable] = ()
) -> list[SensorResult]:
    """Return each sensor's values, or why it failed, in the order of the sensors.

    `of_all`: all sensors of the configuration. Those are read too that have a part of a derived
    channel. Takes as long as the slowest bus, and at most the budgets of the sensors on it.
    """
    wanted = _with_parts(sensors, {sensor.id: sensor for sensor in of_all or sensors})
    outcomes = _read([sensor for sensor in wanted if not sensor.info.computed], board)
    values = _Values(wanted, outcomes)
    return [_result(sensor, outcomes.get(sensor.id), values) for sensor in sensors]


def _with_parts(
    sensors: Sequence[SensorTable], known: Mapping[str, SensorTable]
) -> list[SensorTable]:
    """Return the sensors, and those that have a part of one of their derived channels."""
    wanted = {sensor.id: sensor for sensor in sensors}
    open_ends = list(sensors)
    while open_ends:
        table = open_ends.pop()
        parts = {name for derived in table.derive for name, _ in derived.sources.values()}
        if isinstance(table.options, AgreeOptions):
            parts |= {name.partition("/")[0] for name in table.options.of}
        for name in sorted(parts - wanted.keys()):
            wanted[name] = known[name]
            open_ends.append(known[name])
    return list(wanted.values())


def as_table(results: Sequence[SensorResult]) -> str:
    """Return the results for people, in columns; an error is a line below them."""
    rows = [("SENSOR", "DRIVER", "CHANNEL", "RAW", "VALUE", "ACCURACY", "TOOK")]
    for result in results:
        for name, unit in result.units.items():
            value = result.values.get(name)
            raw = result.raw.get(name)
            rows.append(
                (
                    result.sensor,
                    result.driver,
                    name,
                    "computed" if raw is None else f"{raw:.6g} {result.raw_units[name]}",
                    ("missing" if raw is None else "rejected")
                    if value is None
                    else f"{value:g} {unit}",
                    result.accuracy.get(name, ""),
                    f"{result.took_s:.2f} s",
                )
            )
    lines = [table_text(rows)] if len(rows) > 1 else []
    lines += [f"{r.sensor} ({r.driver}): {r.error}" for r in results if r.error]
    lines += [f"{r.sensor}: no {name}: {why}" for r in results for name, why in r.missing.items()]
    return "\n".join(lines) or "no sensor is configured"


def _read(sensors: Sequence[SensorTable], board: Board) -> dict[str, ReadOutcome]:
    """Return each sensor's outcome by its id; one that hangs beyond its budget is missing."""
    clock = SystemClock()
    events: queue.SimpleQueue[ReadDone] = queue.SimpleQueue()
    workers = Workers(events.put, events.put)
    supplies = [SensorPower(s.id, s.power_pin, board) for s in sensors if s.power_pin is not None]
    if supplies:
        time.sleep(SETTLE_S)
    started_s = time.monotonic()
    budgets_s: dict[str, float] = {}
    ports = {sensor.id: SensorPort(sensor, board, clock) for sensor in sensors}
    for sensor in sensors:
        port = ports[sensor.id]
        budgets_s[port.bus] = budgets_s.get(port.bus, 0.0) + sensor.info.read_budget_s
        workers.submit(port)
    workers.dispatch(started_s)
    for _ in budgets_s:
        workers.add_thread()
    give_up_s = started_s + max(budgets_s.values(), default=0.0)
    again: dict[str, float] = {}
    """Sensor that was only asked -> when its answer is to be read."""
    outcomes: dict[str, ReadOutcome] = {}
    while len(outcomes) < len(sensors) and (now_s := time.monotonic()) < give_up_s:
        for name in [name for name, at_s in again.items() if at_s <= now_s]:
            del again[name]
            workers.submit(ports[name])
        workers.dispatch(now_s)
        workers.begin()
        try:
            done = events.get(timeout=min([give_up_s, *again.values()]) - now_s)
        except queue.Empty:
            continue
        if done.bus_free:
            workers.bus_free(done.bus)
        if done.outcome.again_s:
            again[done.outcome.sensor] = time.monotonic() + done.outcome.again_s
        else:
            outcomes[done.outcome.sensor] = done.outcome
    for supply in supplies:
        supply.close()
    return outcomes


class _Values:
    """The values of all channels that were read, and of those derived from them."""

    def __init__(self, sensors: Sequence[SensorTable], outcomes: Mapping[str, ReadOutcome]) -> None:
        self._outcomes = outcomes
        self._derived = {(s.id, d.channel.name): d for s in sensors for d in s.derive}
        self._tables = {sensor.id: sensor for sensor in sensors}
        self._found: dict[tuple[str, str], tuple[float, float]] = {}

    def published(self, sensor: str, name: str) -> float:
        """Return the value as it would be published.

        Raises:
            Missing, Rejected: there is none.
        """
        return self._value(sensor, name)[0]

    def _part(self, sensor: str, name: str, unit: str) -> float:
        try:
            channel, _ = self._raw(sensor, name)
            value = self._value(sensor, name)[1]
        except Rejected as rejection:
            raise Missing(str(rejection)) from rejection
        if channel.unit != unit:
            raise Missing(f"{name} is in {channel.unit}, and not in {unit}")
        return value

    def _parts(self, derived: Derived) -> dict[str, float]:
        return {
            key: self._part(sensor, name, derived.unit_of(key))
            for key, (sensor, name) in derived.sources.items()
        }

    def _value(self, sensor: str, name: str) -> tuple[float, float]:
        """Return the value as published, and unrounded in the unit of the driver."""
        if (sensor, name) not in self._found:
            channel, raw = self._raw(sensor, name)
            table = self._tables[sensor].channel.get(name, ChannelTable())
            filters = ChannelFilters(channel, table)
            self._found[sensor, name] = filters.accept(raw, 0.0), filters.exact
        return self._found[sensor, name]

    def _raw(self, sensor: str, name: str) -> tuple[Channel, float]:
        derived = self._derived.get((sensor, name))
        if derived is not None:
            if isinstance(derived.function, OverWindow):
                raise Missing("only the running node knows what was before")
            return derived.channel, derived.value(self._parts(derived))
        options = self._tables[sensor].options
        if isinstance(options, Agreed):
            return options.channel, self._agreed(options)
        outcome = self._outcomes.get(sensor)
        if outcome is None or outcome.measurement is None:
            raise Missing(f"{sensor} did not answer")
        if name not in outcome.measurement:
            raise Missing(f"{sensor} has no {name}")
        channel = next(channel for channel in outcome.channels if channel.name == name)
        return channel, outcome.measurement[name]

    def limit(self, sensor: str, name: str) -> float | None:
        """Return how far a value may be off, in the unit of the driver; None: not known."""
        table = self._tables[sensor]
        derived = self._derived.get((sensor, name))
        try:
            if derived is not None:
                parts = self._parts(derived)
                limits = {key: self.limit(*source) for key, source in derived.sources.items()}
                return of_derived(derived, parts, limits)
            if isinstance(table.options, Agreed):
                middle = (m.partition("/") for m in self._verdict(table.options).middle)
                return of_middle([self.limit(s, channel) for s, _, channel in middle])
            channel, raw = self._raw(sensor, name)
        except Missing:
            return None
        filters = ChannelFilters(channel, table.channel.get(name, ChannelTable()))
        return of_measured(table, filters, self._outcomes[sensor].channels, raw)

    def _agreed(self, options: Agreed) -> float:
        verdict = self._verdict(options)
        if verdict.value is None:
            raise Missing(verdict.problem)
        return verdict.value

    def _verdict(self, options: Agreed) -> Verdict:
        values: dict[str, float] = {}
        missing: dict[str, str] = {}
        for name in options.of:
            sensor, _, channel = name.partition("/")
            try:
                values[name] = self._part(sensor, channel, options.channel.unit)
            except Missing as reason:
                missing[name] = str(reason)
        return verdict_on(values, missing, within=options.within, unit=options.channel.unit)


def _result(table: SensorTable, outcome: ReadOutcome | None, values: _Values) -> SensorResult:
    result = SensorResult(sensor=table.id, driver=table.driver)
    if table.info.computed:
        _add_computed(result, table, table.channels, values)
        if not result.values:
            result.error = "; ".join(dict.fromkeys(result.missing.values()))
            result.missing = {}
        return result
    if outcome is None:
        result.error = f"no answer within {duration_text(table.info.read_budget_s)}"
        return result
    result.took_s = round(outcome.ended_s - outcome.started_s, 3)
    if outcome.measurement is None:
        result.error = str(outcome.error)
        return result
    accuracy = table.options.accuracy() or table.info.accuracy
    for channel in outcome.channels:
        name = channel.name
        if name not in outcome.measurement:
            continue
        result.raw[name] = outcome.measurement[name]
        result.raw_units[name] = channel.unit
        result.units[name] = _unit_of(table, channel)
        _add_limit(result, table, channel, values)
        if figure := accuracy_of(accuracy, channel, outcome.channels):
            result.accuracy.setdefault(name, figure)
        try:
            result.values[name] = values.published(table.id, name)
        except Rejected as rejection:
            result.error = str(rejection)
    _add_computed(result, table, [derived.channel for derived in table.derive], values)
    return result


def _add_computed(
    result: SensorResult, table: SensorTable, channels: Iterable[Channel], values: _Values
) -> None:
    """Add the channels that are not read but computed."""
    for channel in channels:
        result.units[channel.name] = _unit_of(table, channel)
        try:
            result.values[channel.name] = values.published(table.id, channel.name)
        except (Rejected, Missing) as reason:
            result.missing[channel.name] = str(reason)
        else:
            _add_limit(result, table, channel, values)


def _add_limit(result: SensorResult, table: SensorTable, channel: Channel, values: _Values) -> None:
    """Add how far the value may be off, if that is known."""
    limit = values.limit(table.id, channel.name)
    if limit is not None:
        filters = ChannelFilters(channel, table.channel.get(channel.name, ChannelTable()))
        result.uncertainty[channel.name] = published(limit, filters)
        of_value = channel.name not in result.raw  # there is no raw value for it to stand beside
        shown = result.uncertainty[channel.name] if of_value else limit
        unit = filters.unit if of_value else channel.unit
        result.accuracy[channel.name] = f"±{shown:.2g} {unit}"


def _unit_of(table: SensorTable, channel: Channel) -> str:
    return table.channel.get(channel.name, ChannelTable()).unit or channel.unit
