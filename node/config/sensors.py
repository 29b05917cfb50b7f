"""The `[[sensor]]` tables: drivers and their options, channels, and what sensors may not share."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from drivers.base import Channel, Claim, DriverInfo, Options, fault_of
from drivers.errors import MissingSupport
from drivers.registry import UnknownDriver, find_driver
from node.config.reader import TableReader, fields_of
from node.config.schema import DEFAULT_INTERVAL, ChannelTable, SensorTable
from node.config.values import did_you_mean, is_called, nearest
from node.derive.parts import Derived
from node.filters import channel_problems
from node.units import Seconds, duration_text, unit_called

if TYPE_CHECKING:
    from node.config.toml_lines import KeyPath

__all__ = ["Claimed", "check_claims", "check_expiry", "read_sensors"]

MIN_INTERVAL_S = 0.1
_YEAR = 365

_COMMON_KEYS = ("id", "driver", "interval", "power_pin")
_SENSOR_KEYS = (*_COMMON_KEYS, "channel", "derive")


Claimed = tuple[Claim, str, "KeyPath"]
"""A piece of hardware, its owner, and the key that claims it."""


def read_sensors(
    reader: TableReader, written: object, claimed: list[Claimed]
) -> list[tuple[int, SensorTable]]:
    """Return the valid sensors, each with its index in the file.

    The hardware of every sensor is added to `claimed`, also if the sensor is otherwise invalid.
    """
    if not isinstance(written, list):
        reader.problem(("sensor",), "expected tables: write [[sensor]], in double brackets")
        return []
    sensors: list[tuple[int, SensorTable]] = []
    first_with: dict[str, int] = {}
    for index, table in enumerate(written):
        identity = table.get("id") if isinstance(table, dict) else None
        # Any other text may be a password.
        if isinstance(identity, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", identity):
            reader.sensor_ids[index] = identity
        sensor = _read_sensor(reader, index, table, claimed)
        if isinstance(identity, str):
            if identity in first_with:
                other = reader.line_of(("sensor", first_with[identity]))
                message = f"is already the id of the sensor at line {other}"
                reader.problem(("sensor", index, "id"), message)
            first_with.setdefault(identity, index)
        if sensor is not None:
            sensors.append((index, sensor))
    if not written and not reader.problems:
        reader.notes.append("no [[sensor]] is configured: only the node's status is published")
    return sensors


def _read_sensor(
    reader: TableReader, index: int, written: object, claimed: list[Claimed]
) -> SensorTable | None:
    path: KeyPath = ("sensor", index)
    if not isinstance(written, dict):
        reader.problem(path, "expected a table")
        return None
    before = len(reader.problems)
    common = reader.right_keys(SensorTable, written, path, only=_COMMON_KEYS)
    owner = f'sensor "{reader.sensor_ids.get(index, f"#{index + 1}")}"'
    if "power_pin" in common:
        power = Claim(f"GPIO {common['power_pin']}", "power")
        claimed.append((power, f"power_pin of {owner}", (*path, "power_pin")))
    if written.get("id") == "cmd":
        reader.problem((*path, "id"), '"cmd" is reserved for the topics of commands')
    options: Options | None = None
    info: DriverInfo | None = None
    try:
        info = _find_driver(reader, written, (*path, "driver"))
        if info is None:
            return None
        options = _read_options(reader, info, written, path)
    except _Faulty as faulty:
        from node.config.faulty_driver import stand_in

        name, what = written["driver"], str(faulty)
        if info is not None:
            name, what = info.name, f"the driver {info.name} is faulty: {faulty}"
        reader.remark(path, f"{what}; this sensor stays offline")
        info, options = stand_in(name, what, info)
    common["driver"] = info.name
    if options is not None:
        claimed += [(claim, owner, path) for claim in options.claims()]
    measured = info.channels if options is None else info.channels_with(options)
    known: dict[str, Channel | None] = {channel.name: channel for channel in measured}
    if info.computed and options is not None:
        from node.config.derive import agreed_name

        known[agreed_name(options)] = None
    derived: tuple[Derived, ...] = ()
    if "derive" in written:
        from node.config.derive import read_derived

        derived = read_derived(
            reader,
            written["derive"],
            (*path, "derive"),
            known,
            more_channels=info.more_channels,
        )
        known |= {d.channel.name: d.channel if d.channel.unit else None for d in derived}
    channels = _read_channels(reader, info, known, written.get("channel", {}), (*path, "channel"))
    if any("alarm" in written["channel"][name] for name in channels):
        from node.config.alarms import read_alarms  # most nodes have none

        interval_s = common.get("interval", DEFAULT_INTERVAL)
        channels, claims = read_alarms(
            reader, written["channel"], channels, known, (*path, "channel"), interval_s, owner
        )
        claimed += claims
    shortest_s = max(MIN_INTERVAL_S, info.min_interval_s)
    if common.get("interval", 30.0) < shortest_s:
        message = f"{info.name} cannot be read more often than every {shortest_s:g} s"
        reader.problem((*path, "interval"), message)
    if options is None or len(reader.problems) > before:
        return None
    if info.computed:
        common.setdefault("interval", Seconds(0))  # as long as that of its sensors
    return SensorTable(**common, channel=channels, derive=derived, info=info, options=options)


class _Faulty(Exception):
    """A driver of another package does not keep the contract, or cannot be loaded."""


def _find_driver(reader: TableReader, written: dict[str, Any], path: KeyPath) -> DriverInfo | None:
    name = written.get("driver")
    if name is None:
        for key in (key for key in written if is_called(key, "driver")):
            reader.problem((*path[:-1], key), "unknown key; did you mean driver?")
    if not isinstance(name, str):
        return None
    try:
        return find_driver(name)
    except UnknownDriver:
        from drivers.name_sentences import about
        from drivers.names import driver_called, suggestion  # not needed for a known name

        known_as = driver_called(name)
        if known_as is not None:
            reader.remark(path, f'"{name}" is read by {known_as}: driver = "{known_as}"')
            return find_driver(known_as)
        hint = suggestion(name, bus=_bus_of(written))
        # A text that resembles no name may be a password.
        meant = about(name) or hint.startswith("did you mean")
        called = f'driver "{name}"' if meant else "driver"
        reader.problem(path, f"unknown {called}; {hint}")
    except MissingSupport as error:
        raise _Faulty(str(error)) from error
    return None


def _bus_of(written: dict[str, Any]) -> str:
    """Return the bus that the other keys of the sensor imply; "" if they imply none."""
    if "pin" in written:
        return "GPIO"
    if "select" in written or "clock_pin" in written:
        return "SPI"
    if "port" in written:
        return "serial"
    if "address" in written:
        address = str(written["address"])
        return "Bluetooth" if ":" in address else "1-Wire" if "-" in address else "I2C"
    return ""


def _read_options(
    reader: TableReader, info: DriverInfo, written: dict[str, Any], path: KeyPath
) -> Options | None:
    """Return the options; None if they are wrong, after reporting why.

    Raises:
        _Faulty: the driver itself is.
    """
    own = {key: value for key, value in written.items() if key not in _SENSOR_KEYS}
    try:
        known = [field.encode_name for field in fields_of(info.options)]
        for key in [key for key in own if key not in known]:
            of_what = f" of the driver {info.name}"
            reader.unknown_key((*path, key), [*known, *_SENSOR_KEYS], of_what)
            del own[key]
        for key, former, now in info.former:
            if own.get(key) == former:
                told = f'"{former}" is no longer there: read as {key} = "{now}"'
                reader.remark((*path, key), told)
                own[key] = now
        values = reader.table(info.options, own, path)
        if values is None:
            return None
        options = info.options(**values)
    except ValueError as error:  # each is valid, but the combination is not
        reader.problem(path, str(error))
        return None
    except Exception as error:
        raise _Faulty(f"its options raise {type(error).__name__}: {error}") from error
    if fault := fault_of(options):
        raise _Faulty(fault)
    return options


def _read_channels(
    reader: TableReader,
    info: DriverInfo,
    known: dict[str, Channel | None],
    written: object,
    path: KeyPath,
) -> dict[str, ChannelTable]:
    """`known`: the channels by name; None for one of which only the name is known."""
    if not isinstance(written, dict):
        reader.problem(path, "expected tables: [sensor.channel.temperature]")
        return {}
    tables: dict[str, ChannelTable] = {}
    for name, table in written.items():
        if name not in known and not info.more_channels:
            hint = did_you_mean(name, known)
            where = reader.words_for((*path, name) if nearest(name, known) else path)
            reader.problem((*path, name), f"{info.name} does not have this channel; {hint}", where)
            continue
        if not isinstance(table, dict):
            where = reader.words_for((*path, name) if name in known else path)
            reader.problem((*path, name), "expected a table", where)
            continue
        table = _misplaced_out(reader, info, table, (*path, name))
        if isinstance(table.get("unit"), str):
            table["unit"] = unit_called(table["unit"])
        table.pop("alarm", None)  # tables of their own, read by `alarms`
        # The valid keys are checked even if others are wrong.
        tables[name] = ChannelTable(**reader.right_keys(ChannelTable, table, (*path, name)))
        _note_old_calibration(reader, tables[name], (*path, name))
        for key, message in channel_problems(tables[name], known.get(name)):
            reader.problem((*path, name, key) if key else (*path, name), message)
    return tables


def _note_old_calibration(reader: TableReader, table: ChannelTable, path: KeyPath) -> None:
    """Note a calibration of more than a year ago; a clock that is not set is before any of them."""
    if table.calibrated is None:
        return
    import datetime  # few configurations have the key

    days = (datetime.datetime.now(datetime.UTC).date() - table.calibrated).days
    if days > _YEAR:
        sensor = reader.sensor_ids.get(int(path[1]), "SENSOR")
        reader.notes.append(
            f"{reader.words_for(path)}: was calibrated on {table.calibrated}, more than a year "
            f"ago; repeat it: sensor-node calibrate {sensor} --channel {path[-1]}"
        )


def _misplaced_out(
    reader: TableReader, info: DriverInfo, table: dict[str, Any], path: KeyPath
) -> dict[str, Any]:
    """Return the table without the keys that belong to its sensor; report each of those.

    In TOML a key belongs to the header above it, and a channel's header is the last of a sensor.
    """
    own = {field.encode_name for field in fields_of(ChannelTable)}
    of_sensor = {*_SENSOR_KEYS, *(field.encode_name for field in fields_of(info.options))} - own
    for key in table.keys() & of_sensor:
        above = f"put it above [{path[0]}.channel.{path[-1]}]"
        reader.problem((*path, key), f"belongs to the sensor, not to its channel: {above}")
    return {key: value for key, value in table.items() if key not in of_sensor}


def check_expiry(
    reader: TableReader, sensors: list[tuple[int, SensorTable]], retain_for_s: float
) -> None:
    """Report heartbeats that come after the broker forgets the reading that they renew."""
    if not retain_for_s:
        return
    for index, sensor in sensors:
        kept_s = sensor.kept_for_s(retain_for_s)
        for name, table in sensor.channel.items():
            if table.delta is None:
                continue
            if table.longest_gap_s(sensor.interval) >= kept_s:
                message = (
                    f"the broker forgets a reading after {duration_text(kept_s)} "
                    f"(retain_for); the heartbeat, {duration_text(table.heartbeat_s)}, must come "
                    "sooner"
                )
                reader.problem(("sensor", index, "channel", name, "heartbeat"), message)


def check_claims(reader: TableReader, claimed: list[Claimed]) -> None:
    """Report parts that share a pin or an address."""
    holders: dict[str, tuple[Claim, str]] = {}
    for wanted, owner, path in claimed:
        if wanted.resource not in holders:
            holders[wanted.resource] = (wanted, owner)
            continue
        held, holder = holders[wanted.resource]
        if holder == owner:
            reader.problem(path, f"{wanted.resource} is used twice by {owner}")
        elif not held.shared_as or held.shared_as != wanted.shared_as:
            message = f"{wanted.resource} is used by {holder} already"
            if held.shared_as and wanted.shared_as:
                message += f", with {held.shared_as}; with {wanted.shared_as} they cannot share it"
            reader.problem(path, message)
