"""Asks the units of a Modbus line, one after another, which of them are there and what they are.

Only when asked to: each unit that is not there costs the time that an answer may take, and the
line must belong to nothing else meanwhile. Nothing is written. A model is known by the register
that has its unit id, and by having all its other registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from drivers.bus import Board
from drivers.errors import BadFrame, SensorError, SensorFault, SensorNotFound
from drivers.modbus import TCP_PORT, ModbusOptions, line_of
from drivers.modbus_bus import ModbusBus, Request
from drivers.modbus_models import MODELS
from drivers.packages import is_installed
from drivers.scanning import Finding, Found, Scan

__all__ = ["line_named", "scan_modbus"]

_ANY: Literal["xy-md02"] = "xy-md02"
"""A line is asked for all models; its options need one."""
_PAUSE_S = 0.05
"""Between two requests: slow devices miss one that comes too soon after another's answer."""


def line_named(name: str, baud: int | None = None) -> ModbusOptions:
    """Return options on the line "/dev/ttyUSB0", "192.168.1.50" or "192.168.1.50:502".

    Raises:
        ValueError: the name, or the baud with it, is not valid.
    """
    if name.startswith("/"):
        return ModbusOptions(port=name, model=_ANY, baud=baud)
    host, colon, port = name.rpartition(":")
    if not colon:
        return ModbusOptions(host=name, model=_ANY, baud=baud)
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f'"{port}" is not a port from 1 to 65535')
    return ModbusOptions(host=host, tcp_port=int(port), model=_ANY, baud=baud)


def scan_modbus(board: Board, line: ModbusOptions, units: Sequence[int]) -> Scan:
    """Ask each of `units` on the line that `line` is on."""
    bus = line_of(line, board)
    findings: list[Finding] = []
    silence: SensorError | None = None
    failure: SensorError | None = None
    try:
        for unit in units:
            try:
                findings.append(_look(bus, line, unit))
            except SensorNotFound as error:
                silence = error
                if not bus.is_open:
                    raise
    except SensorError as error:
        failure = error
    finally:
        bus.close()
    if failure is None and not findings and silence is not None:
        which = f"unit {units[0]}" if len(units) == 1 else f"unit from {units[0]} to {units[-1]}"
        hint = silence.hint.replace(f" (here {units[-1]})", "")
        failure = SensorNotFound(f"{line.bus()}: no {which} answers", hint)
    return Scan(tuple(findings), (), (), () if failure is None else (failure,))


def _look(bus: ModbusBus, line: ModbusOptions, unit: int) -> Finding:
    """Return what answers as `unit`.

    Raises:
        SensorNotFound: nothing does, or the line is gone.
        SensorError: the line cannot be used.
    """
    where = msgspec.structs.replace(line, unit=unit).where()
    try:
        _ask(bus, line, Request(unit, 3, 0, 1), where)
    except SensorFault:
        pass  # it is there, and does not have this register
    except BadFrame as error:
        return Finding(where, note=f"something answers, but {error}".replace(f"{where}: ", ""))
    fits = [name for name in MODELS if _is(bus, line, unit, name, where)]
    if not fits:
        note = "a Modbus device of no model that is known here: describe its registers"
        return Finding(where, note=note)
    best = max(fits, key=lambda name: MODELS[name].inputs)  # of equal ones, the first
    place: dict[str, str | int] = {"host": line.host} if line.host else {"port": line.bus()}
    if line.host and line.tcp_port != TCP_PORT:
        place["tcp_port"] = line.tcp_port
    if line.baud is not None and line.baud != MODELS[best].baud:
        place["baud"] = line.baud
    missing = "" if is_installed("minimalmodbus") else "modbus"
    options = {**place, "unit": unit, "model": best}
    return Finding(where, Found("modbus", MODELS[best].summary, options, missing))


def _is(bus: ModbusBus, line: ModbusOptions, unit: int, name: str, where: str) -> bool:
    """Return whether the unit has the registers of a model."""
    model = MODELS[name]
    if model.own_id is None:
        return False
    entries = list(model.registers.values())
    first = min(entry.register for entry in entries)
    count = max(model.inputs, max(entry.register for entry in entries) - first + 1)
    try:
        if _ask(bus, line, Request(unit, 3, model.own_id, 1), where) != [unit]:
            return False
        _ask(bus, line, Request(unit, entries[0].function, first, count), where)
    except (SensorFault, BadFrame, SensorNotFound):
        return False
    return True


def _ask(bus: ModbusBus, line: ModbusOptions, request: Request, where: str) -> list[int]:
    pause_s = max(_PAUSE_S, line.turnaround)
    return bus.words(request, where, timeout_s=line.timeout, turnaround_s=pause_s)
