"""`sensor-node status`: shows the state of the node on this machine, from its log."""

from __future__ import annotations

import argparse
import math
import os
import sys
import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from node.cli.arguments import add_state_dir_argument
from node.cli.help_text import CommandHelp
from node.health import Health, age_of, alarm_texts, backlog_text, host_texts, update_text
from node.outbox.log_file import LogFile, is_damage
from node.outbox.reader import LOG_TROUBLE, health_of, look_into, written_s
from node.outbox.records import Event, Ledger
from node.outbox.store import FILE_NAME
from node.reading import Reading
from node.system.clock import SystemClock, local_text, utc_text
from node.system.rights import remedy
from node.system.state_dir import find_state_dir, lock_holder
from node.system.terminal import count, table, visible
from node.units import duration_text

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_LOOKED_AT = 5000
"""How far back to look for the newest reading of a sensor."""
_EVENTS = 10
_LONG_S = 180.0
"""A running node writes to its log at least once a minute, if it can write at all."""
_WIDTH = 80
_HEALTH_WITHIN_S = 2.0
"""The log's health may be this much younger than its whole seconds say."""


class _Known(msgspec.Struct):
    """The contents of the log that are shown."""

    clock: SystemClock
    file: Path
    written_s: float
    """How long ago the log was written to."""
    process: int | None
    ledger: Ledger
    health: Health | None
    newest: dict[str, Reading]
    """Sensor -> its newest reading."""
    oldest: Reading | None
    """The oldest reading that the broker has not acknowledged."""
    events: list[Event]


HELP = CommandHelp(
    details="""\
Shows the state of the node on this machine: its broker, how much is still to be sent, the newest
value of each sensor, and its last errors. All of it comes from the log of readings; a running
node is not disturbed.
""",
    examples={
        "sudo sensor-node status": "the node of the service",
        "sensor-node status --state-dir ./state --json": "another node, for programs",
    },
    exit_codes={0: "the node runs", 1: "it does not run, or its log cannot be read"},
    without=(78,),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_state_dir_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the state; exit code 1 if the log cannot be read, or no node runs on it."""
    folder = find_state_dir(arguments.state_dir)
    file = folder / FILE_NAME
    try:
        if not file.exists():
            raise FileNotFoundError(
                "it does not exist; name the node's folder with --state-dir, or start the node"
            )
        process = lock_holder(folder)
        known = look_into(file, lambda log: _known_from(log, file, process))
    except LOG_TROUBLE as error:
        print(f"cannot read the log {file}: {_why_not(file, error)}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(_as_json(known)).decode() if arguments.json else _as_text(known))
    return 0 if known.process else 1


def _why_not(file: Path, error: Exception) -> str:
    """Return why the log cannot be read, and what to do."""
    what_to_do = remedy(file)
    if what_to_do:
        return f"Permission denied; {what_to_do}"
    if is_damage(error):
        return f"{error} (it is damaged; the node sets it aside)"
    return f"{error} (try again with sudo, or as the node's user)"


def _known_from(log: LogFile, file: Path, process: int | None) -> _Known:
    oldest = log.readings_after(log.ledger.cursor, 1)
    return _Known(
        clock=SystemClock(),
        file=file,
        written_s=written_s(file),
        process=process,
        ledger=log.ledger,
        health=health_of(log.ledger, process),
        newest={
            reading.sensor: reading
            for reading in log.newest_readings(_LOOKED_AT)
            if reading.layout.alarm is None
        },
        oldest=oldest[0] if oldest else None,
        events=log.events(_EVENTS),
    )


def _age_text(reading: Reading, clock: SystemClock) -> str:
    age_s = age_of(reading, clock)
    return "?" if age_s is None else duration_text(age_s)


def _as_json(known: _Known) -> dict[str, Any]:
    ledger = known.ledger
    return {
        "log": str(known.file),
        "log_written_s": round(known.written_s, 1),
        "process": known.process,
        "outbox_readings": ledger.last_seq - ledger.cursor,
        "outbox_oldest_s": age_of(known.oldest, known.clock) if known.oldest else 0,
        "dropped_readings": ledger.dropped,
        "dead_letters": ledger.dead_letters,
        "sensors": {
            sensor: {
                "time": utc_text(reading.utc_ms),
                "clock": "synced" if reading.synced else "unsynced",
                "age_s": age_of(reading, known.clock),
                "seq": reading.seq,
                "values": reading.values,
                "units": dict(zip(reading.layout.channels, reading.layout.units, strict=True)),
            }
            for sensor, reading in known.newest.items()
        },
        "errors": [
            {"time": utc_text(event.utc_ms), "level": event.level, "message": event.message}
            for event in known.events
        ],
        "health": known.health,
    }


def _as_text(known: _Known) -> str:
    ledger, health = known.ledger, known.health
    oldest_s = age_of(known.oldest, known.clock) if known.oldest else None
    running = health if known.process else None
    outbox = backlog_text(ledger.last_seq - ledger.cursor, oldest_s, running)
    if ledger.dropped:
        outbox += f"; {ledger.dropped} dropped"
    if ledger.dead_letters:
        outbox += f"; {count(range(ledger.dead_letters), 'message')} refused by the broker"
    state = f"runs as process {known.process}" if known.process else "does not run"
    lines = [f"node     {health.node if health else '?'}, {state}"]
    if health is not None:
        then = "" if known.process or not health.time else f" (as of {_local(health.time)})"
        lines.append(f"broker   {visible(health.broker, 2000)}{then}")
    lines.append(f"outbox   {outbox}")
    if health is not None and known.process and (texts := host_texts(health)):
        lines.append("host     " + ", ".join(f"{name} {text}" for name, text in texts))
    if health is not None and (update := update_text(health.update)):
        lines.append(f"update   {visible(update, 2000)}")
    lines.append(f"log      {known.file}, written {duration_text(round(known.written_s))} ago")
    if known.process and known.written_s > _LONG_S:
        lines.append("problem  the log is not written: is the disk full, or read-only?")
    lines += [f"problem  {visible(text, 2000)}" for text in health.problems] if health else []
    lines += [f"ALARM    {visible(text)}" for text in alarm_texts(health)] if health else []
    if health is not None and health.simulated:
        lines.insert(1, "SIMULATED: the hardware is not real, and no reading is")
    if known.newest or (health and health.sensors):
        lines += ["", _sensor_table(known)]
    if known.events:
        lines += ["", "last errors:"]
        lines += [line for event in known.events for line in _event_lines(event)]
    return "\n".join(lines)


def _sensor_table(known: _Known) -> str:
    """Return a row for each channel: configured sensors in their order, then earlier ones.

    A sensor without a value has a row, too, from the first second on.
    """
    rows = [("SENSOR", "CHANNEL", "VALUE", "AGE", "STATUS")]
    configured = list(known.health.sensors) if known.health else []
    for sensor in dict.fromkeys([*configured, *sorted(known.newest)]):
        status, reading = _status_of(sensor, known), known.newest.get(sensor)
        if reading is None:
            rows.append((visible(sensor), "", "none lately", "", status))
            continue
        age = _age_text(reading, known.clock)
        for name, number, unit in zip(
            reading.layout.channels, reading.numbers, reading.layout.units, strict=True
        ):
            value = visible(f"{number:g} {unit}")
            rows.append((visible(sensor), visible(name), value, age, status))
    return table(rows)


def _status_of(sensor: str, known: _Known) -> str:
    """Return its present status; health in the log may be as old as the start of the node."""
    if known.process is None:
        return "offline"
    if known.health is None:
        return "starting"
    health = known.health.sensors.get(sensor)
    if health is None:
        return "not configured"
    if health.online:
        return "online"
    reading = known.newest.get(sensor)
    is_of_this_boot = reading is not None and reading.boot_id == known.clock.boot_id
    read_s = reading.boot_ms / 1000 if reading is not None and is_of_this_boot else -math.inf
    started_s = _started_s(known.process)
    if read_s >= started_s + known.health.uptime_s + _HEALTH_WITHIN_S:
        return "online"  # it was read after that health
    if health.failed or health.rejected or health.last_error:
        return "offline"
    # It has not failed since the start: either it has been read since, or not at all yet.
    return "online" if read_s >= started_s else "starting"


def _started_s(process: int) -> float:
    """Return when a process began, in seconds since boot (proc_pid_stat(5), field 22).

    0 if it is gone.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _local(time: str) -> str:
    return local_text(round(datetime.fromisoformat(time).timestamp() * 1000))


def _event_lines(event: Event) -> list[str]:
    when = local_text(event.utc_ms)
    text = f"{when}  {visible(event.message, 2000)}"
    return textwrap.wrap(text, _WIDTH, subsequent_indent=" " * (len(when) + 2))
