"""Topics and payloads, as pure functions; the contract with subscribers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from node.reading import ALARM_ACKNOWLEDGED, ALARM_OFF, AlarmOf, Reading
from node.system.clock import utc_text

__all__ = [
    "NO_COMMAND",
    "OFFLINE",
    "ONLINE",
    "UPDATE_PIECE",
    "Topics",
    "alarm_payload",
    "availability",
    "history_payload",
    "plain_value",
    "state_payload",
]

ONLINE = b"online"
OFFLINE = b"offline"
NO_COMMAND = "doctor"
"""A command that does nothing and is not answered; the doctor tests delivery with it."""

UPDATE_PIECE = "update-piece"
"""The command that brings a piece of a bundle; see `node.updates`."""

_encode = msgspec.json.Encoder().encode


class Topics(msgspec.Struct, frozen=True):
    """The topics of one node: `<base>/<node>/...`."""

    base: str
    node: str

    @property
    def root(self) -> str:
        """Return the beginning of all topics of the node."""
        return f"{self.base}/{self.node}"

    def is_state(self, topic: str) -> bool:
        """Return whether a topic is the state of a sensor."""
        sensor = topic.removeprefix(f"{self.root}/").removesuffix("/state")
        return topic == self.state(sensor) and "/" not in sensor

    @property
    def status(self) -> str:
        return f"{self.base}/{self.node}/status"

    @property
    def history(self) -> str:
        return f"{self.base}/{self.node}/history"

    @property
    def health(self) -> str:
        return f"{self.base}/{self.node}/health"

    @property
    def command_filter(self) -> str:
        """Return the filter that matches every command, but not the results."""
        return f"{self.base}/{self.node}/cmd/+"

    def command(self, name: str) -> str:
        return f"{self.base}/{self.node}/cmd/{name}"

    def command_result(self, name: str) -> str:
        return f"{self.base}/{self.node}/cmd/{name}/result"

    def state(self, sensor: str) -> str:
        return f"{self.base}/{self.node}/{sensor}/state"

    def availability(self, sensor: str) -> str:
        return f"{self.base}/{self.node}/{sensor}/availability"

    def channel(self, sensor: str, channel: str) -> str:
        return f"{self.base}/{self.node}/{sensor}/{channel}"

    def alarm(self, sensor: str, name: str) -> str:
        return f"{self.base}/{self.node}/{sensor}/alarm/{name}"


_CLOCK = ("unsynced", "synced")
_SIMULATED: tuple[dict[str, bool], dict[str, bool]] = ({}, {"simulated": True})


def availability(online: bool) -> bytes:
    return ONLINE if online else OFFLINE


def state_payload(
    reading: Reading, stream: str, missing: Iterable[str] = (), *, simulated: bool = False
) -> bytes:
    """Return the newest reading as JSON: a key per channel, then time, clock, seq and stream.

    `missing` channels are null: they have been without a value for too long. A reading of
    `simulated` hardware has an additional key that says so.
    """
    content: dict[str, object] = {**reading.values}
    for name in missing:
        content.setdefault(name, None)
    content["time"] = utc_text(reading.utc_ms)
    content["clock"] = _CLOCK[reading.synced]
    content["seq"] = reading.seq
    content["stream"] = stream
    if simulated:
        content["simulated"] = True
    return _encode(content)


def history_payload(
    stream: str,
    readings: list[Reading],
    *,
    accuracy: Mapping[str, Mapping[str, float]] | None = None,
    simulated: bool = False,
) -> bytes:
    """Return a batch of readings as JSON; consumers recognise duplicates by (stream, seq).

    `accuracy`: sensor -> channel -> how far its values may be off, where that is new.

    A record of an alarm has `alarm`, an object, in place of values. The last reading of each row of
    a chained log has a `hash`.
    """
    return _encode(
        {
            "stream": stream,
            **_SIMULATED[simulated],
            **({"accuracy": accuracy} if accuracy else {}),
            "readings": [
                {**_content_of(r), "hash": r.hash.hex()} if r.hash else _content_of(r)
                for r in readings
            ],
        }
    )


def alarm_payload(
    record: Reading | None, stream: str, *, known: bool, simulated: bool = False
) -> bytes:
    """Return the state of an alarm as JSON.

    `record` is its newest one; None if it was never on. `known`: a value has proved lately that an
    alarm that is off is off.
    """
    end = {"stream": stream, **_SIMULATED[simulated]}
    if record is None:
        nothing = dict.fromkeys(("condition", "limit", "unit", "value", "since", "clock", "seq"))
        return _encode({"state": "off" if known else "unknown", "acknowledged": False} | nothing)
    said = _state_of_alarm(record)
    if said["state"] == "off" and not known:
        said["state"] = "unknown"
    time = _time_of(record)
    since = {"since": time["time"], "clock": time["clock"]}
    return _encode({**said, **since, "seq": record.seq, **end})


def _content_of(reading: Reading) -> dict[str, object]:
    if reading.layout.alarm is not None:
        return _alarm_record(reading, reading.layout.alarm)
    return {
        "seq": reading.seq,
        "sensor": reading.layout.sensor,
        "time": utc_text(reading.utc_ms),
        "clock": _CLOCK[reading.synced],
        **reading.values,
    }


def _alarm_record(record: Reading, of: AlarmOf) -> dict[str, object]:
    alarm = {"name": of.name, "channel": of.channel}
    said = {**alarm, **_state_of_alarm(record)}
    return {"seq": record.seq, "sensor": record.sensor, **_time_of(record), "alarm": said}


def _state_of_alarm(record: Reading) -> dict[str, object]:
    assert record.layout.alarm is not None
    code, limit, *values = record.numbers
    return {
        "state": "off" if code == ALARM_OFF else "on",
        "acknowledged": code == ALARM_ACKNOWLEDGED,
        "condition": record.layout.alarm.condition,
        "limit": limit,
        "unit": record.layout.units[1],
        "value": values[0] if values else None,
    }


def _time_of(reading: Reading) -> dict[str, str]:
    return {
        "time": utc_text(reading.utc_ms),
        "clock": _CLOCK[reading.synced],
    }


def plain_value(value: float) -> bytes:
    """Return a value as a plain number."""
    return _encode(value)
