"""Checks each sensor: its package, its place on the bus, and what the running node last read.

The doctor does not read the sensors, because it must not disturb a running node, and two programs
on one wire mix up its answers. If the node does not run, `sensor-node read` is the next step.
"""

from __future__ import annotations

from collections.abc import Iterator

from drivers.bus import Board
from drivers.packages import install_command, missing_package
from node.config.schema import Config, SensorTable
from node.doctor.our_node import OurNode
from node.doctor.report import Step, from_sentence
from node.health import SensorHealth, age_of
from node.sensors.obstacles import pins_on_one_wire
from node.system.clock import Clock
from node.units import duration_text

__all__ = ["check_sensors"]

_NAME = "sensors"
_W1_DEVICES = "/sys/bus/w1/devices"
_PULL_UP = "check 3V3, the data wire and the 4.7 kΩ pull-up"


def check_sensors(config: Config, board: Board, node: OurNode, clock: Clock) -> Iterator[Step]:
    """Yield a step for each sensor, and for each pin that 1-Wire and something else claim."""
    for obstacle in pins_on_one_wire(config, board):
        yield Step(_NAME, "failed", obstacle.message, obstacle.remedy)
    for sensor in config.sensors:
        yield _sensor(sensor, board, node, clock)


def _sensor(sensor: SensorTable, board: Board, node: OurNode, clock: Clock) -> Step:
    who = f"{sensor.id} ({sensor.driver}, {sensor.options.where()})"
    if package := missing_package(sensor.info):
        remedy = f"{install_command(sensor.info.extra)}, and restart the node"
        return Step(_NAME, "failed", f"{who}: the package {package} is missing", remedy)
    if node.process is not None and node.health is not None:
        known = node.health.sensors.get(sensor.id)
        if known is None:
            message = f"{who}: the running node does not have it in its configuration"
            return Step(_NAME, "skipped", message, "sudo systemctl restart sensor-node")
        return _as_heard(sensor, who, known, node, clock)
    absent = _absent_from_one_wire(sensor, board)
    if absent:
        return Step(_NAME, "failed", f"{who}: {absent}", _PULL_UP)
    message = f"{who}: not checked, because the node is not running"
    return Step(_NAME, "skipped", message, f"sudo sensor-node read {sensor.id}")


def _as_heard(
    sensor: SensorTable, who: str, known: SensorHealth, node: OurNode, clock: Clock
) -> Step:
    """Return the running node's report on the sensor, with the driver's remedy."""
    if known.online:
        return Step(_NAME, "ok", f"{who}: online{_last_value(sensor, node, clock)}")
    if known.last_error is None and not (known.failed or known.rejected):
        message = f"{who}: not read yet, because the node has just started"
        return Step(_NAME, "skipped", message, "try again")
    step = from_sentence(_NAME, "failed", known.last_error or "no plausible reading")
    message = step.message.removeprefix(f"{sensor.options.where()}: ")
    counts = f"{known.failed} of {known.ok + known.failed} reads failed"
    if known.rejected:
        counts += f", {known.rejected} values were rejected"
    remedy = step.remedy
    if not remedy and known.rejected:
        remedy = f"check range and max_rate in [sensor.channel] of {sensor.id}"
    remedy = remedy or f"check the wiring; stop the node, and try sensor-node read {sensor.id}"
    return Step(_NAME, "failed", f"{who}: offline: {message} ({counts})", remedy)


def _last_value(sensor: SensorTable, node: OurNode, clock: Clock) -> str:
    reading = node.newest.get(sensor.id)
    if reading is None:
        return ""
    layout = reading.layout
    values = ", ".join(
        f"{name} {number:g} {unit}"
        for name, number, unit in zip(layout.channels, reading.numbers, layout.units, strict=True)
    )
    age_s = age_of(reading, clock)
    return f", {values}" + ("" if age_s is None else f", {duration_text(age_s)} ago")


def _absent_from_one_wire(sensor: SensorTable, board: Board) -> str:
    """Say that the kernel has not found a 1-Wire sensor; "" for all others."""
    address = getattr(sensor.options, "address", None)
    if sensor.options.bus() != "w1" or not isinstance(address, str):
        return ""
    devices = board.path(_W1_DEVICES)
    if (devices / address).exists() or not any(devices.glob("w1_bus_master*")):
        return ""
    there = sorted(d.name for d in devices.glob("[0-9a-f][0-9a-f]-*"))
    return f"not found on the bus; present: {', '.join(there) or 'none'}"
