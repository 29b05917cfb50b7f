"""Finds attached sensors: I2C chips, and the sensors found by drivers with a `scan` function.

The scan neither writes to sensors nor configures anything; `drivers.scan_i2c` has the rules for
I2C. Each part runs on a separate thread that is abandoned if it does not return, so a hanging bus
costs only its own part.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from drivers.base import Attached, DriverInfo
from drivers.bus import Board
from drivers.catalogue import CATALOGUE
from drivers.errors import (
    MissingSupport,
    SensorError,
    SensorNotFound,
    SensorTimeout,
    as_sensor_error,
)
from drivers.one_wire_bus import one_wire_trouble
from drivers.packages import install_command, is_installed
from drivers.registry import driver_names, find_driver
from drivers.scan_buses import I2CAdapter, forbidden, i2c_adapters, switched_off
from drivers.scan_i2c import ALLOWED_S, Answer, BusScan, scan_bus

__all__ = ["Finding", "Found", "Scan", "scan"]

_Result = TypeVar("_Result")
_BEYOND_DEADLINE_S = 2.0


class Found(msgspec.Struct, frozen=True):
    """A certain or possible sensor: its driver, and the options that open it."""

    driver: str
    summary: str = ""
    """A description of the chip, if the driver is for one kind of chip."""
    options: dict[str, str | int] = {}
    missing_extra: str = ""
    """The extra of this package that must be installed first."""
    may_be_foreign: bool = False
    """Whether it may be a neighbour's, because it is on no wire."""


class Finding(msgspec.Struct, frozen=True):
    """One place where something was found."""

    where: str
    sensor: Found | None = None
    """None if only the place is known."""
    possible: tuple[Found, ...] = ()
    note: str = ""


class Scan(msgspec.Struct, frozen=True):
    """Findings, buses that are switched off, notes on parts left alone, and failures."""

    findings: tuple[Finding, ...]
    switched_off: tuple[str, ...]
    notes: tuple[str, ...]
    failures: tuple[SensorError, ...]


def scan(board: Board, *, only_bus: int | None = None, allowed_s: float = ALLOWED_S) -> Scan:
    """Scan everything; of the I2C buses, only `only_bus` if it is given."""
    findings: list[Finding] = []
    failures: list[SensorError] = []
    adapters = i2c_adapters(board)
    chosen = [a for a in adapters if a.for_sensors]
    if only_bus is not None:
        chosen = [a for a in adapters if a.number == only_bus]
        if not chosen:
            there = ", ".join(f"/dev/i2c-{a.number}" for a in adapters) or "none"
            failures.append(
                SensorNotFound(f"/dev/i2c-{only_bus} does not exist", f"there is {there}")
            )
    for adapter in chosen:
        bus_scan = _scan_adapter(board, adapter, allowed_s)
        findings += [_finding(adapter.number, answer) for answer in bus_scan.answers]
        if bus_scan.failure is not None:
            failures.append(bus_scan.failure)
    for info in _scanning_drivers():
        try:
            findings += _bounded(info.scan_s, info.name, partial(_scan_by, info, board))
        except Exception as error:  # noqa: BLE001, another package may raise anything
            failures.append(as_sensor_error(error, info.name))
    if trouble := one_wire_trouble(board):
        failures.append(trouble)
    alone = [a for a in adapters if only_bus is None and not a.for_sensors]
    notes = [
        f'I2C bus {a.number} ("{a.name}") was left alone: it is a display\'s or the '
        f"mainboard's. --bus {a.number} scans it."
        for a in alone
    ]
    if any(board.path("/sys/class/bluetooth").glob("hci*")) and not is_installed("bleak"):
        needs = install_command("ble")
        notes.append(f"Bluetooth thermometers were not listened to. That needs: {needs}")
    return Scan(
        tuple(findings), tuple(switched_off(board)), tuple(notes), (*failures, *forbidden(board))
    )


def _bounded(seconds: float, where: str, work: Callable[[], _Result]) -> _Result:
    """Return what `work` returns, or raise its exception.

    Raises:
        SensorTimeout: `work` did not finish within `seconds`; its thread is abandoned.
    """
    outcome: queue.SimpleQueue[tuple[_Result | None, Exception | None]] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            outcome.put((work(), None))
        except Exception as error:  # noqa: BLE001, raised again in the waiting thread
            outcome.put((None, error))

    threading.Thread(target=attempt, name=f"scan {where}", daemon=True).start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise SensorTimeout(
            f"{where}: no answer within {seconds:g} s",
            "the kernel's driver hangs; look into dmesg, and switch the power off and on",
        ) from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _scan_adapter(board: Board, adapter: I2CAdapter, allowed_s: float) -> BusScan:
    where = f"I2C bus {adapter.number}"
    try:
        return _bounded(
            allowed_s + _BEYOND_DEADLINE_S,
            where,
            lambda: scan_bus(board.i2c(adapter.number), where, allowed_s=allowed_s),
        )
    except Exception as error:  # noqa: BLE001, shown; the other buses are scanned
        return BusScan((), as_sensor_error(error, where))


def _finding(bus: int, answer: Answer) -> Finding:
    options: dict[str, str | int] = {"address": answer.address}
    if bus != 1:
        options = {"bus": bus, **options}
    return Finding(
        f"I2C bus {bus} address 0x{answer.address:02x}",
        _found(answer.identified, options) if answer.identified else None,
        tuple(_found(name, options) for name in answer.possible),
        answer.note,
    )


def _found(name: str, options: dict[str, str | int]) -> Found:
    row = next(row for row in CATALOGUE if row.name == name)
    return Found(name, row.summary, options, "" if is_installed(row.module) else row.name)


def _scanning_drivers() -> list[DriverInfo]:
    """Return the drivers with a `scan` function, except those that cannot be loaded."""
    in_catalogue = {row.name for row in CATALOGUE}
    infos = []
    for name in driver_names():
        if name not in in_catalogue:
            try:
                infos.append(find_driver(name))
            except MissingSupport:
                continue
    return [info for info in infos if info.scan is not None]


def _scan_by(info: DriverInfo, board: Board) -> list[Finding]:
    assert info.scan is not None
    findings = []
    for attached in info.scan(board):
        if not isinstance(attached, Attached):
            attached = Attached(options=attached, summary="")
        where = msgspec.convert(attached.options, info.options).where()
        found = Found(
            info.name,
            attached.summary,
            attached.options,
            may_be_foreign=attached.may_be_foreign,
        )
        findings.append(Finding(where, found))
    return findings
