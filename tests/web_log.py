"""Logs of readings for the tests of the status page, written as the node writes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec

from node.outbox.file import OutboxFile
from node.outbox.records import Batch, Event, Ledger
from node.outbox.store import FILE_NAME
from node.reading import Layout, Reading
from node.system.clock import SystemClock

__all__ = ["Described", "health_text", "log_of", "make_log"]

Described = tuple[
    tuple[str, ...],
    tuple[str, ...],
    Callable[[float], tuple[float, ...]],
    Callable[[float], bool],
]

_CLOCK = SystemClock()
LAYOUT = (("temperature", "humidity"), ("°C", "%"))


def make_log(
    folder: Path,
    *,
    sensors: int = 2,
    hours: float = 48.0,
    interval_s: float = 30.0,
    layout: tuple[tuple[str, ...], tuple[str, ...]] = LAYOUT,
    synced: bool = True,
    value: Callable[[int, float], float] | None = None,
    keep: Callable[[float], bool] = lambda age_s: True,
    health: str = "",
    events: tuple[Event, ...] = (),
) -> Ledger:
    """A log whose newest readings are of now; `keep(age_s)` leaves out those of a gap.

    `value(sensor, age_s)` is that of each channel, shifted by ten from one to the next.
    """
    shape = value or (lambda sensor, age_s: 20 + sensor + 3 * math.sin(age_s / 13000 + sensor))

    def numbers_of(sensor: int) -> Callable[[float], tuple[float, ...]]:
        def numbers(age_s: float) -> tuple[float, ...]:
            first = shape(sensor, age_s)
            return tuple(round(first + 10 * n, 2) for n in range(len(layout[0])))

        return numbers

    described = {f"s{n}": (*layout, numbers_of(n), keep) for n in range(sensors)}
    return log_of(
        folder,
        described,
        hours=hours,
        interval_s=interval_s,
        synced=synced,
        health=health,
        events=events,
    )


def log_of(
    folder: Path,
    sensors: dict[str, Described],
    *,
    hours: float = 48.0,
    interval_s: float = 30.0,
    synced: bool = True,
    health: str = "",
    events: tuple[Event, ...] = (),
) -> Ledger:
    """A log of these sensors: id -> channels, units, values by age, and which ages there are."""
    folder.mkdir(exist_ok=True)
    now_boot_ms, now_ms = round(_CLOCK.boot_s() * 1000), round(_CLOCK.utc_s() * 1000)
    layouts = {name: Layout(name, *described[:2]) for name, described in sensors.items()}
    log = OutboxFile(folder / FILE_NAME, new_stream="5f2c000000000001")
    log._db.execute("PRAGMA synchronous = OFF")  # the tests need no power cut
    ledger = log.ledger
    for tick in range(int(hours * 3600 / interval_s), -1, -1):
        age_s = tick * interval_s
        age_ms = round(age_s * 1000)
        batch: list[Reading] = []
        for name, (_, _, numbers, keep) in sensors.items():
            if not keep(age_s):
                continue
            ledger.last_seq += 1
            batch.append(
                Reading(
                    seq=ledger.last_seq,
                    layout=layouts[name],
                    numbers=numbers(age_s),
                    boot_id=_CLOCK.boot_id,
                    boot_ms=now_boot_ms - age_ms,
                    utc_ms=now_ms - age_ms,
                    synced=synced,
                )
            )
        if batch:  # the node commits the readings of a tick together
            log.commit(Batch(batch), ledger, stream=log.stream, keep_ledger=False)
    ledger.health = health
    ledger.cursor = ledger.last_seq
    log.commit(Batch(events=events), ledger, stream=log.stream, keep_ledger=True)
    log.close()
    return ledger


def health_text(sensors: dict[str, bool], *, process: int, **more: object) -> str:
    """The health of a node with these sensors, online or not, as its log has it."""
    health = {
        "node": "test",
        "process": process,
        "version": "0.1.0",
        "config": "",
        "time": "2026-11-24T12:00:00.000Z",
        "clock": "synced",
        "uptime_s": 60,
        "cpu_temperature": 45.5,
        "wifi_dbm": None,
        "under_voltage": None,
        "throttled": None,
        "broker": "connected, MQTT 5",
        "connected": True,
        "outbox_readings": 0,
        "outbox_oldest_s": 0.0,
        "read": 1,
        "rejected": 0,
        "committed": 1,
        "sent": 1,
        "dropped_readings": 0,
        "dead_letters": 0,
        "problems": [],
        "sensors": {
            name: {
                "online": online,
                "ok": 10,
                "failed": 0 if online else 3,
                "rejected": 0,
                "rejected_for": {},
                "last_error": None if online else f"{name}: no answer; check the wires",
            }
            for name, online in sensors.items()
        },
        **more,
    }
    return msgspec.json.encode(health).decode()
