"""The tables `[[sensor.channel.NAME.alarm]]` of one sensor. Imported only if there are any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from drivers.base import Channel, Claim
from node.alarms.table import AlarmTable, alarm_problems, duplicate_names
from node.config.reader import TableReader
from node.config.schema import ChannelTable

if TYPE_CHECKING:
    from node.config.toml_lines import KeyPath

__all__ = ["read_alarms"]


def read_alarms(
    reader: TableReader,
    written: dict[str, Any],
    channels: dict[str, ChannelTable],
    known: Mapping[str, Channel | None],
    path: KeyPath,
    interval_s: float,
    owner: str,
) -> tuple[dict[str, ChannelTable], list[tuple[Claim, str, KeyPath]]]:
    """Return the channels with their valid alarms, and the pins that the alarms claim.

    `written` are the tables of the channels as in the file, `channels` without their alarms;
    `owner` names the sensor.
    """
    complete = dict(channels)
    named: list[tuple[str, KeyPath]] = []
    claims: list[tuple[Claim, str, KeyPath]] = []
    for name, table in channels.items():
        found = []
        for index, keys in _tables_of(reader, written[name].get("alarm", []), (*path, name)):
            place: KeyPath = (*path, name, "alarm", index)
            values = reader.table(AlarmTable, keys, place)
            if values is None:
                continue
            alarm = AlarmTable(**values)
            _check(reader, alarm, table, known.get(name), place, interval_s)
            called = alarm.called(name)
            named.append((called, place))
            if alarm.gpio is not None:
                pin = Claim(f"GPIO {alarm.gpio}", "alarm")
                claims.append((pin, f"the alarm {called} of {owner}", (*place, "gpio")))
            found.append(alarm)
        complete[name] = msgspec.structs.replace(table, alarm=tuple(found))
    for again, first in duplicate_names([called for called, _ in named]):
        called, place = named[again]
        line = reader.line_of(named[first][1])
        message = f"the alarm at line {line} is named {called} already; give each its own name"
        reader.problem((*place, "name"), message)
    return complete, claims


def _tables_of(reader: TableReader, written: object, path: KeyPath) -> list[tuple[int, object]]:
    if isinstance(written, list):
        return list(enumerate(written))
    what = "expected tables: write [[sensor.channel.NAME.alarm]], in double brackets"
    reader.problem((*path, "alarm"), what)
    return []


def _check(
    reader: TableReader,
    alarm: AlarmTable,
    table: ChannelTable,
    channel: Channel | None,
    path: KeyPath,
    interval_s: float,
) -> None:
    unit = table.unit or (channel.unit if channel is not None else "")
    problems = alarm_problems(alarm, channel, unit, interval_s=interval_s, accepted=table.range)
    for key, message in problems:
        reader.problem((*path, key) if key else path, message)
