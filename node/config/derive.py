"""The `[sensor.derive]` tables and the driver `agree`: which channels are computed of which.

`read_derived` reads one table, beside the other keys of its sensor. `find_parts` follows, with all
sensors, because a part may be the channel of another one, or be computed itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from drivers.agree import Agreed, AgreeOptions
from drivers.base import CO2, HUMIDITY, PRESSURE, TEMPERATURE, Channel, Options
from node.config.reader import TableReader
from node.config.schema import ChannelTable, SensorTable
from node.config.values import did_you_mean, is_like_a_key, nearest
from node.derive.functions import function_called, functions
from node.derive.parts import Derived, Function, OverWindow, parts_of
from node.reading import TAKEN_NAMES
from node.units import Seconds, convertible, duration_text

if TYPE_CHECKING:
    from node.config.toml_lines import KeyPath

__all__ = ["agreed_name", "find_parts", "read_derived"]

_USUAL = {channel.name: channel for channel in (TEMPERATURE, HUMIDITY, PRESSURE, CO2)}
"""What a sensor may have whose channels are known only after a read."""

Ref = tuple[str, str]
"""A sensor and its channel."""


def read_derived(
    reader: TableReader,
    written: object,
    path: KeyPath,
    measured: Mapping[str, object],
    *,
    more_channels: bool = False,
) -> tuple[Derived, ...]:
    """Return the valid channels of one table, without their parts.

    `measured`: what the sensor measures, with `more_channels` for all that is known. A channel
    without a unit gets that of its part.
    """
    if not isinstance(written, dict):
        reader.problem(path, "expected a table: [sensor.derive]")
        return ()
    found: list[Derived] = []
    for name, value in written.items():
        if value is False:
            continue
        function = _function(reader, name, value, (*path, name))
        if function is None:
            continue
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or name in TAKEN_NAMES:
            reader.problem((*path, name), "cannot be the name of a channel; choose another")
        elif name in measured or (more_channels and name in _USUAL):
            reader.problem(
                (*path, name), "is a channel that the sensor measures; choose another name"
            )
        else:
            found.append(Derived(_channel_of(function, name, None), function, {}))
    return tuple(found)


def _function(reader: TableReader, name: str, written: object, path: KeyPath) -> Function | None:
    """Return the function of one key, with its own keys; None if anything is wrong."""
    table = _table(written)
    called = table.pop("function", name)
    kind = function_called(called) if isinstance(called, str) else None
    if kind is None:
        _unknown_function(reader, called, "function" in _table(written), path)
        return None
    if written is not True and not isinstance(written, dict):
        reader.problem(path, f"expected true, or a table: {_example(kind)}")
        return None
    values = reader.table(kind, table, path)
    if values is None:
        return None
    function = kind(**values)
    problems = list(function.problems())
    for key, message in problems:
        reader.problem((*path, key), message)
    return None if problems else function


def _table(written: object) -> dict[str, Any]:
    return dict(written) if isinstance(written, dict) else {}


def _unknown_function(reader: TableReader, called: object, has_key: bool, path: KeyPath) -> None:
    names = [alias for kind in functions().values() for alias in (kind.name, *kind.aliases)]
    known = "known here: " + ", ".join(functions())
    close = nearest(called, names) if isinstance(called, str) else None
    hint = f"did you mean {close}?" if close else known
    if has_key:
        reader.problem((*path, "function"), f"unknown function; {hint}")
        return
    holder = next((k.name for k in functions().values() if path[-1] in _keys_of(k)), None)
    if holder is not None:
        hint = f"it is a key of {holder}: {holder} = {{{path[-1]} = ...}}"
    elif not close:
        hint = f'choose its function, as in {{function = "max", ...}}; {known}'
    where = reader.words_for(path if is_like_a_key(str(path[-1]), names) else path[:-1])
    reader.problem(path, f"is not the name of a function; {hint}", where)


def _keys_of(kind: type[Function]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


def _example(kind: type[Function]) -> str:
    if issubclass(kind, OverWindow):
        return f'{{function = "{kind.name}", of = "temperature", window = "24h"}}'
    parts = ", ".join(f'{key} = "SENSOR/{key}"' for key, p in parts_of(kind).items() if p.needed)
    return f"{{{parts}}}"


def _channel_of(function: Function, name: str, part: Channel | None) -> Channel:
    """Return the channel under its name; of a function over a window, as that of its part."""
    if not isinstance(function, OverWindow):
        return msgspec.structs.replace(function.channel, name=name)
    if part is None:
        return Channel(name, "", (0.0, 0.0), 0)
    return msgspec.structs.replace(part, name=name)


def agreed_name(options: Options) -> str:
    """Return the name of the channel of the driver `agree`: that of the first that it compares."""
    assert isinstance(options, AgreeOptions)
    return options.of[0].partition("/")[2]


def find_parts(
    reader: TableReader, sensors: list[tuple[int, SensorTable]]
) -> list[tuple[int, SensorTable]]:
    """Return the sensors with the parts of their derived channels; report those not found."""
    finder = _Finder(reader, sensors)
    return [(index, finder.completed(table)) for index, table in sensors]


class _Finder:
    """Finds the parts of computed channels, each after those that it is computed of."""

    def __init__(self, reader: TableReader, sensors: list[tuple[int, SensorTable]]) -> None:
        self._reader = reader
        self._index = {table.id: index for index, table in sensors}
        self._tables = {table.id: table for _, table in sensors}
        self._written = {(t.id, d.channel.name): d for _, t in sensors for d in t.derive}
        self._agreeing = {(t.id, agreed_name(t.options)) for _, t in sensors if t.info.computed}
        self._done: dict[Ref, Derived | Channel | None] = {}
        """In the order in which they were completed; None if a part was not found."""
        self._under_way: list[Ref] = []

    def completed(self, table: SensorTable) -> SensorTable:
        """Return a sensor with the parts of its derived channels."""
        if table.info.computed:
            table = self._agreed(table)
        for derived in table.derive:
            self._complete((table.id, derived.channel.name))
        found = [
            derived
            for (sensor, _), derived in self._done.items()
            if sensor == table.id and isinstance(derived, Derived)
        ]
        channels = {**table.channel}
        for derived in found:
            name = derived.channel.name
            unit = self._unit_of_parts(derived)
            if unit and channels.get(name, ChannelTable()).unit is None:
                table_of = channels.get(name, ChannelTable())
                channels[name] = msgspec.structs.replace(table_of, unit=unit)
        return msgspec.structs.replace(table, derive=tuple(found), channel=channels)

    def _unit_of_parts(self, derived: Derived) -> str | None:
        """Return the unit that the configuration chose for a part, if it fits the channel too."""
        for sensor, name in derived.sources.values():
            chosen = self._tables[sensor].channel.get(name, ChannelTable()).unit
            if chosen and chosen in convertible(derived.channel.unit):
                return chosen
        return None

    def _complete(self, ref: Ref) -> Channel | None:
        """Return a computed channel whose parts are found; None if one is not."""
        if ref not in self._done:
            self._under_way.append(ref)
            find = self._agreement if ref in self._agreeing else self._with_parts
            found = find(ref)
            self._done[ref] = found
            self._under_way.pop()
        done = self._done[ref]
        return done.channel if isinstance(done, Derived) else done

    def _with_parts(self, ref: Ref) -> Derived | None:
        written = self._written[ref]
        path = ("sensor", self._index[ref[0]], "derive", ref[1])
        kind = type(written.function)
        sources: dict[str, Ref] = {}
        channels: list[Channel] = []
        parts = {"of": None} if issubclass(kind, OverWindow) else parts_of(kind)
        before = len(self._reader.problems)
        complete = True
        for key, part in parts.items():
            named = getattr(written.function, key)
            source = self._source(ref[0], named or key)
            needed = part is None or part.needed
            if not named and not self._has(source, usual=needed):
                if needed:
                    self._reader.problem(path, self._lacks(key))
                continue
            channel = self._channel(source, (*path, key) if named else path)
            if channel is None:
                complete = False
            elif part is not None and channel.unit != part.unit:
                where = (*path, key) if named else path
                message = f"expected a channel in {part.unit}; {key} is in {channel.unit}"
                self._reader.problem(where, message)
            else:
                sources[key] = source
                channels.append(channel)
        if not complete or len(self._reader.problems) > before:
            return None
        channel = _channel_of(written.function, ref[1], channels[0])
        quantity = kind.name
        if "of" in sources:
            inner = self._done.get(sources["of"])
            quantity = inner.quantity if isinstance(inner, Derived) else sources["of"][1]
        return Derived(channel, written.function, sources, quantity)

    # -- the driver `agree`

    def _agreed(self, table: SensorTable) -> SensorTable:
        """Return a sensor of the driver `agree` with its channel and its interval."""
        channel = self._complete((table.id, agreed_name(table.options)))
        options = table.options
        assert isinstance(options, AgreeOptions)
        if channel is not None:
            options = Agreed(of=options.of, within=options.within, channel=channel)
        path: KeyPath = ("sensor", self._index[table.id])
        if table.power_pin is not None:
            message = "agree has no hardware: put power_pin where the sensor is"
            self._reader.problem((*path, "power_pin"), message)
        longest_s = self._interval_s(table.id)
        if channel is not None and 0 < table.interval < longest_s:
            message = (
                f"is shorter than that of one of its sensors, {duration_text(longest_s)}; "
                "leave it out, and it is the longest of theirs"
            )
            self._reader.problem((*path, "interval"), message)
        interval = Seconds(max(table.interval, longest_s if channel is not None else 1.0))
        return msgspec.structs.replace(table, options=options, interval=interval)

    def _interval_s(self, sensor: str) -> float:
        """Return the longest interval of the sensors that a sensor of `agree` compares."""
        table = self._tables[sensor]
        if not isinstance(table.options, AgreeOptions) or None in self._done.values():
            return table.interval
        parts = {name.partition("/")[0] for name in table.options.of}
        return max(
            max(self._tables[part].interval, self._interval_s(part))
            for part in parts
            if part in self._tables
        )

    def _agreement(self, ref: Ref) -> Channel | None:
        """Return the channel of an agreement: it may have any value that one of its parts may."""
        options = self._tables[ref[0]].options
        assert isinstance(options, AgreeOptions)
        path = ("sensor", self._index[ref[0]], "of")
        if len(set(options.of)) < len(options.of):
            self._reader.problem(path, "has a channel twice")
            return None
        found = [self._channel(self._source("", name), path, name) for name in options.of]
        channels = [channel for channel in found if channel is not None]
        if len(channels) < len(found):
            return None
        units = {channel.unit: None for channel in channels}
        if len(units) > 1:
            message = f"expected channels in one unit; they are in {' and '.join(units)}"
            self._reader.problem(path, message)
            return None
        return Channel(
            ref[1],
            channels[0].unit,
            (min(c.plausible[0] for c in channels), max(c.plausible[1] for c in channels)),
            max(c.decimals for c in channels),
            max(c.overshoot for c in channels),
        )

    # -- the channels

    @staticmethod
    def _source(sensor: str, name: str) -> Ref:
        of_sensor, slash, channel = name.rpartition("/")
        return (of_sensor, channel) if slash else (sensor, name)

    @staticmethod
    def _lacks(key: str) -> str:
        return f'this sensor has no channel {key}: name one, {{{key} = "SENSOR/CHANNEL"}}'

    def _has(self, ref: Ref, *, usual: bool) -> bool:
        computed = ref in self._written or ref in self._agreeing
        return computed or ref[1] in self._measured(ref[0], usual=usual)

    def _measured(self, sensor: str, *, usual: bool = True) -> dict[str, Channel]:
        """Return the channels that a sensor measures; the `usual` ones too, if it may have them."""
        table = self._tables[sensor]
        channels = table.info.channels_with(table.options)
        more = _USUAL if usual and table.info.more_channels else {}
        return {**more, **{channel.name: channel for channel in channels}}

    def _guessed(self, ref: Ref) -> Channel | None:
        """Return a channel that only the hardware knows, by the beginning of its name."""
        sensor, name = ref
        if not self._tables[sensor].info.more_channels:
            return None
        like = next((c for c in _USUAL.values() if name.startswith(c.name)), None)
        return None if like is None else msgspec.structs.replace(like, name=name)

    def _channel(self, ref: Ref, path: KeyPath, written: str = "") -> Channel | None:
        """Return a channel; None if it is not known, which is reported.

        `written`: its name, for a key with several.
        """
        sensor, name = ref
        which = f"{written}: " if written else ""
        if sensor not in self._tables:
            ids = self._reader.sensor_ids.values()
            if sensor not in ids:
                hint = did_you_mean(sensor, ids)
                self._reader.problem(path, f"{which}there is no sensor of this name; {hint}")
            return None  # otherwise its own problem is reported
        if ref in self._under_way:
            circle = self._under_way[self._under_way.index(ref) :]
            way = " from ".join("/".join(each) for each in (*circle, ref))
            self._reader.problem(path, f"is a circle: {way}")
            return None
        if ref in self._written or ref in self._agreeing:
            return self._complete(ref)
        measured = self._measured(sensor)
        channel = measured.get(name) or self._guessed(ref)
        if channel is None:
            computed = [c for s, c in (*self._written, *self._agreeing) if s == sensor]
            hint = did_you_mean(name, [*measured, *computed])
            self._reader.problem(path, f"{which}{sensor} does not have this channel; {hint}")
        return channel
