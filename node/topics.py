"""Topics and payloads, as pure functions; the contract with whoever subscribes."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from node.reading import Reading
from node.system.clock import utc_text

__all__ = [
    "NO_COMMAND",
    "OFFLINE",
    "ONLINE",
    "Topics",
    "availability",
    "history_payload",
    "plain_value",
    "state_payload",
]

ONLINE = b"online"
OFFLINE = b"offline"
NO_COMMAND = "doctor"
"""The command that does nothing and is not answered: whether commands arrive is tried with it."""

_encode = msgspec.json.Encoder().encode


class Topics(msgspec.Struct, frozen=True):
    """The topics of one node: `<base>/<node>/...`."""

    base: str
    node: str

    @property
    def root(self) -> str:
        """What all topics of the node begin with."""
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
        """The filter that matches every command, and no result."""
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


_SIMULATED: tuple[dict[str, bool], dict[str, bool]] = ({}, {"simulated": True})


def availability(online: bool) -> bytes:
    return ONLINE if online else OFFLINE


def state_payload(
    reading: Reading, stream: str, missing: Iterable[str] = (), *, simulated: bool = False
) -> bytes:
    """The newest reading as JSON: a key per channel, then time, clock, seq and its stream.

    `missing` channels are null: they have had no value for too long. A reading of `simulated`
    hardware says so, in a key that others do not have.
    """
    values = reading.values
    nothing = {name: None for name in missing if name not in values}
    end = {"seq": reading.seq, "stream": stream, **_SIMULATED[simulated]}
    return _encode({**values, **nothing, **_time_of(reading), **end})


def history_payload(stream: str, readings: list[Reading], *, simulated: bool = False) -> bytes:
    """A batch of readings as JSON; (stream, seq) is what a consumer knows a duplicate by."""
    return _encode(
        {
            "stream": stream,
            **_SIMULATED[simulated],
            "readings": [
                {"seq": r.seq, "sensor": r.sensor, **_time_of(r), **r.values} for r in readings
            ],
        }
    )


def _time_of(reading: Reading) -> dict[str, str]:
    return {
        "time": utc_text(reading.utc_ms),
        "clock": "synced" if reading.synced else "unsynced",
    }


def plain_value(value: float) -> bytes:
    """A value as a plain number."""
    return _encode(value)
