"""What the node says of itself: the payload of the health topic, and of `sensor-node status`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from node import __version__
from node.reading import Reading
from node.system.clock import Clock, utc_text

if TYPE_CHECKING:  # whoever only reads a health needs no link and no log to write
    from drivers.bus import Board
    from node.mqtt.connection import Link
    from node.outbox.outbox import Outbox
    from node.report.history import History
    from node.sensors.state import SensorState

__all__ = ["Health", "SensorHealth", "age_of", "take_health"]


class SensorHealth(msgspec.Struct, frozen=True):
    """One sensor; the counts are since the node was started."""

    online: bool
    ok: int
    """Reads that gave a value."""
    failed: int
    """Reads that gave none."""
    rejected: int
    """Values that did not pass a filter."""
    rejected_for: dict[str, int]
    """The same by reason."""
    last_error: str | None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of `B/N/health`."""

    node: str
    process: int
    version: str
    config: str
    """The digest of the configuration file it was started with, see `schema.Config`."""
    time: str
    clock: str
    uptime_s: int
    cpu_temperature: float | None
    """°C."""
    wifi_dbm: int | None
    under_voltage: bool | None
    throttled: bool | None
    broker: str
    outbox_readings: int
    """Readings that the broker has not acknowledged."""
    outbox_oldest_s: float | None
    """The age of the oldest of them; 0 without any, null where nobody knows."""
    read: int
    """Reads that gave a value, of all sensors."""
    rejected: int
    """Values that did not pass a filter, of all sensors."""
    committed: int
    """Readings written to the log."""
    sent: int
    """Readings that the broker has acknowledged."""
    dropped_readings: int
    """Readings lost to the bound of the log, in its life."""
    dead_letters: int
    """Messages that the broker would not take, in the life of the log."""
    problems: list[str]
    """What is wrong with the node itself."""
    sensors: dict[str, SensorHealth]


def take_health(
    node: str,
    *,
    config: str,
    clock: Clock,
    started_s: float,
    board: Board,
    link: Link,
    outbox: Outbox,
    history: History,
    sensors: list[SensorState],
    notice: str = "",
    bad_configuration: str = "",
) -> Health:
    """The health of now; `started_s` is the monotonic time at which the node began.

    `config` is the digest of the configuration file; `notice` a problem that was there before it
    began (`node.system.update_notice`); `bad_configuration` what is wrong with the configuration,
    where the node runs on the last good one.
    """
    from node.system.host import read_vitals

    oldest = outbox.read(outbox.cursor, 1)
    vitals = read_vitals(board)
    if bad_configuration:
        bad_configuration += ": the node runs on the last good configuration"
    problems = [text for text in (bad_configuration, notice, outbox.problem) if text]
    problems += [f"a log that could not be used was set aside as {n}" for n in outbox.set_aside]
    if outbox.dropped:
        problems.append(f"the outbox was full: {outbox.dropped} readings were dropped")
    if outbox.dead_letters:
        problems.append(f"the broker did not take {outbox.dead_letters} messages")
    if vitals.under_voltage:
        problems.append(
            "the supply is too weak (under-voltage): use a better one, or a shorter cable"
        )
    return Health(
        node=node,
        process=os.getpid(),
        version=__version__,
        config=config,
        time=utc_text(round(clock.utc_s() * 1000)),
        clock="synced" if clock.synced() else "unsynced",
        uptime_s=round(clock.monotonic() - started_s),
        cpu_temperature=vitals.cpu_temperature,
        wifi_dbm=vitals.wifi_dbm,
        under_voltage=vitals.under_voltage,
        throttled=vitals.throttled,
        broker=link.described,
        outbox_readings=outbox.unsent,
        outbox_oldest_s=age_of(oldest[0], clock) if oldest else 0.0,
        read=sum(sensor.ok for sensor in sensors),
        rejected=sum(sensor.rejected_for.total() for sensor in sensors),
        committed=outbox.committed,
        sent=history.sent,
        dropped_readings=outbox.dropped,
        dead_letters=outbox.dead_letters,
        problems=problems,
        sensors={
            sensor.table.id: SensorHealth(
                online=sensor.online,
                ok=sensor.ok,
                failed=sensor.failed,
                rejected=sensor.rejected_for.total(),
                rejected_for=sensor.rejected_for,
                last_error=sensor.last_error,
            )
            for sensor in sensors
        },
    )


def age_of(reading: Reading, clock: Clock) -> float | None:
    """How long ago it was taken, in seconds: by the time since boot, else by the date.

    None where neither is known.
    """
    if reading.boot_id == clock.boot_id:
        return round(max(0.0, clock.boot_s() - reading.boot_ms / 1000), 1)
    if reading.synced and clock.synced():
        return round(max(0.0, clock.utc_s() - reading.utc_ms / 1000), 1)
    return None
