"""Collects the node's present health from its parts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from drivers.bus import Board
from node import __version__
from node.config.schema import TlsTable
from node.health import AlarmHealth, Health, SensorHealth, UpdateHealth, age_of
from node.mqtt.connection import BrokerConnection
from node.outbox.outbox import Outbox
from node.report.history import History
from node.sensors.state import SensorState
from node.system.clock import Clock, utc_text

__all__ = ["collect_health"]


def collect_health(
    node: str,
    *,
    config: str,
    clock: Clock,
    started_s: float,
    started: str | None,
    board: Board,
    link: BrokerConnection,
    outbox: Outbox,
    history: History,
    sensors: list[SensorState],
    simulated: bool,
    left_out: Mapping[str, str],
    alarms: Mapping[str, Mapping[str, AlarmHealth]],
    tls: TlsTable | None,
    name_problem: str = "",
    device_problem: str = "",
    notices: Sequence[str] = (),
    bad_configuration: str = "",
    update: UpdateHealth | None = None,
) -> Health:
    """Return the present health; `started_s` is the monotonic time at which the node began, and
    `started` the time of day.

    `config`: the digest of the configuration file. `simulated`: the hardware is not real. `tls`
    names the certificates of the node. `name_problem`: a problem with the node's name. `left_out`:
    topic -> why the broker rejects it, for topics whose loss costs no reading. `alarms`: sensor ->
    name -> alarm. `device_problem`: a
    problem with Home Assistant's device. `notices`: problems from before the start
    (`node.system.update_notice`, `node.config.afar.trial`). `bad_configuration`: the problem of the
    configuration, if the node runs on the last good one.
    """
    from node.system.host import read_vitals

    oldest = outbox.read(outbox.cursor, 1)
    vitals = read_vitals(board)
    configuration_problem = ""
    if bad_configuration:
        configuration_problem = f"{bad_configuration}: the node runs on the last good configuration"
    told = (
        *(configuration_problem, name_problem, device_problem, *notices, outbox.problem),
        link.problem,
    )
    problems = [text for text in told if text]
    problems += [f"{s.table.id}: {s.concern}" for s in sensors if s.concern and s.online]
    if not link.guarded:
        problems.append(
            "this paho-mqtt is newer than this program: packets of the broker are not bounded "
            "before they are parsed; install paho-mqtt 2.2"
        )
    problems += [f"a log that could not be used was set aside as {n}" for n in outbox.set_aside]
    if outbox.dropped:
        problems.append(f"the outbox was full: {outbox.dropped} readings were dropped")
    if history.refusal:
        problems.append(f"the broker rejects history at present: {history.refusal}")
    problems += _rejected(left_out)
    if outbox.dead_letters:
        problems.append(f"the broker rejected {outbox.dead_letters} messages")
    if tls is not None:
        from node.config.certificates import ending_soon

        problems += ending_soon(tls, clock.utc_s())
    if vitals.under_voltage:
        problems.append(
            "the supply is too weak (under-voltage): use a better supply, or a shorter cable"
        )
    return Health(
        node=node,
        process=os.getpid(),
        version=__version__,
        config=config,
        configuration_problem=configuration_problem,
        time=utc_text(round(clock.utc_s() * 1000)),
        clock="synced" if clock.synced() else "unsynced",
        simulated=simulated,
        uptime_s=round(clock.monotonic() - started_s),
        started=started,
        **msgspec.structs.asdict(vitals),
        broker=link.described,
        connected=link.connected,
        mqtt_version=link.mqtt_version,
        server=link.server,
        short_connections=link.short_connections,
        outbox_readings=outbox.unsent,
        outbox_oldest_s=age_of(oldest[0], clock) if oldest else 0.0,
        history_interval_s=history.interval_s,
        read=sum(sensor.ok for sensor in sensors),
        rejected=sum(sensor.rejected_for.total() for sensor in sensors),
        name_problem=name_problem,
        alarms=sum(alarm.state == "on" for some in alarms.values() for alarm in some.values()),
        stream=outbox.stream,
        seq=outbox.last_seq,
        chain_seq=outbox.chain_head[0] if outbox.chain_head else None,
        chain_hash=outbox.chain_head[1].hex() if outbox.chain_head else None,
        committed=outbox.committed,
        sent=history.sent,
        dropped_readings=outbox.dropped,
        dead_letters=outbox.dead_letters,
        update=update,
        problems=problems,
        sensors={
            sensor.table.id: SensorHealth(
                online=sensor.online,
                ok=sensor.ok,
                failed=sensor.failed,
                rejected=sensor.rejected_for.total(),
                rejected_for=sensor.rejected_for,
                last_error=sensor.last_error,
                alarms=dict(alarms.get(sensor.table.id, {})),
                accuracy=sensor.accuracy() if sensor.online else {},
            )
            for sensor in sensors
        },
    )


def _rejected(left_out: Mapping[str, str]) -> list[str]:
    """Return a problem for each reason: with a message for each entity there may be many topics."""
    topics_of: dict[str, list[str]] = {}
    for topic, why in left_out.items():
        topics_of.setdefault(why, []).append(topic)
    return [
        f"the broker rejected {first}{f' and {len(others)} more' if others else ''}: {why}"
        for why, (first, *others) in topics_of.items()
    ]
