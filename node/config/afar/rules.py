"""What nobody may change from afar, whatever `[commands]` allows.

Who may publish a command could otherwise have the node run a program, read a file of this computer,
connect to another one, switch an output, or take the command away from others. So this lists what
may be changed, and all else must stay as it is: a table of a later version is closed until it is
listed here. Pure; it compares what `tomllib` reads, before anything else looks at the new text.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from drivers.registry import driver_names, is_built_in
from node.config.toml_lines import KeyPath

__all__ = ["GUARDED_OPTIONS", "Refusal", "allows_broker", "refusals"]

Refusal = tuple[KeyPath, str]
"""A key of the new text, and why it cannot have this value."""
Table = dict[str, Any]

_SETTINGS = {
    "mqtt": {"payload", "retain_for", "keepalive", "reconnect_spread"},
    "outbox": {"max_readings", "keep", "history_interval", "drain_rate"},
    "homeassistant": {"enabled"},
}
_BROKER = {
    "node": {"name"},
    "mqtt": {
        *("host", "port", "username", "password", "password_valid_for", "client_id"),
        *("transport", "path", "proxy", "base_topic", "protocol", "servers"),
    },
    "homeassistant": {"prefix", "configuration_url"},
}
"""What `[commands] config_broker` opens: where the node is found, and who it says that it is."""
_FREE = ("sensor", "simulation")

_COMMON = ("id", "driver", "interval", "channel", "derive")
"""The keys of a sensor that are not its driver's. Not `power_pin`, which is an output."""
GUARDED_OPTIONS = ("path", "port", "host", "tcp_port", "key_file", "adapter", "power_pin")
"""Options of our own drivers that name a file, a device, a computer or an output."""
_GUARDED_OF_ALARMS = ("exec", "gpio")
_AT_THE_NODE = "cannot be changed from afar; change it in the file, on the node's computer"


def allows_broker(present: Table) -> bool:
    """Return whether the present configuration also opens the way to the broker."""
    commands = present.get("commands")
    return isinstance(commands, dict) and commands.get("config_broker") is True


def refusals(present: Table, new: Table) -> list[Refusal]:
    """Return each change that must not be made from afar; `present` is a valid configuration."""
    found: list[Refusal] = []
    for name in {**present, **new}:
        if name in _FREE:
            continue
        before, after = present.get(name, {}), new.get(name, {})
        if before == after:
            continue
        if not isinstance(after, dict):
            found.append(((name,), _AT_THE_NODE))
            continue
        found += _table_refusals(name, before, after, broker=allows_broker(present))
    sensors = new.get("sensor", [])
    if isinstance(sensors, list):
        former = present.get("sensor", [])
        for index, sensor in enumerate(sensors):
            if isinstance(sensor, dict):
                found += [
                    (("sensor", index, *path), why)
                    for path, why in _sensor_refusals(former, sensor)
                ]
    return found


def _table_refusals(name: str, before: Table, after: Table, *, broker: bool) -> Iterator[Refusal]:
    opened = _SETTINGS.get(name, set()) | (_BROKER.get(name, set()) if broker else set())
    for key in {**before, **after}:
        if key in opened or (key in before and key in after and before[key] == after[key]):
            continue
        why = _AT_THE_NODE
        if key in _BROKER.get(name, ()):
            why += ", or allow it there: [commands] config_broker = true"
        if key not in after:
            why = f"cannot be taken out from afar; {why.partition('; ')[2]}"
        yield (name, key), why


def _sensor_refusals(former: list[Table], sensor: Table) -> Iterator[Refusal]:
    """Yield what is wrong with one sensor; paths are those below its table."""
    same = next((s for s in former if s.get("id") == sensor.get("id")), {})
    yield from _alarm_refusals(same, sensor)
    driver = sensor.get("driver")
    if not isinstance(driver, str):
        return  # the check of the new text says what is missing
    if not is_built_in(driver) and _has_others():
        if same.get("driver") != driver:
            why = (
                "only drivers of this program can be chosen from afar, by the names that "
                "sensor-node drivers lists"
            )
            yield ("driver",), why
        elif _options(same) != _options(sensor):
            yield (), f"the options of the driver {driver}, from another package, {_AT_THE_NODE}"
        return
    for key, value in sensor.items():
        if key not in GUARDED_OPTIONS or (key in same and same[key] == value):
            continue
        if key == "path" and _is_in_sys(value):
            continue
        known = [s[key] for s in former if key in s]
        if key == "power_pin" or value not in known:
            yield (key,), _AT_THE_NODE


def _has_others() -> bool:
    """Return whether a driver of another package is installed, which any unknown name may mean."""
    return not all(map(is_built_in, driver_names()))


def _options(sensor: Table) -> Table:
    return {key: value for key, value in sensor.items() if key not in _COMMON}


def _is_in_sys(path: object) -> bool:
    """Return whether a path is one of the kernel's own files, where every file is a value."""
    return isinstance(path, str) and posixpath.normpath(path).startswith("/sys/")


def _alarm_refusals(same: Table, sensor: Table) -> Iterator[Refusal]:
    """Yield the programs and outputs of alarms that its channel does not have at present."""
    for channel, index, alarm in _alarms(sensor):
        known = [old for name, _, old in _alarms(same) if name == channel]
        for key in _GUARDED_OF_ALARMS:
            if key in alarm and not any(key in old and old[key] == alarm[key] for old in known):
                yield ("channel", channel, "alarm", index, key), _AT_THE_NODE


def _alarms(sensor: Table) -> Iterator[tuple[str, int, Table]]:
    """Yield (channel, number, table) of each alarm, as far as the tables are such."""
    channels = sensor.get("channel")
    for name, channel in channels.items() if isinstance(channels, dict) else ():
        alarms = channel.get("alarm") if isinstance(channel, dict) else None
        for index, alarm in enumerate(alarms if isinstance(alarms, list) else ()):
            if isinstance(alarm, dict):
                yield name, index, alarm
