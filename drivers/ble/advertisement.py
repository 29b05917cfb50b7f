"""What a decoder returns, and the quantities that a thermometer may send."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

import msgspec

from drivers.base import CO2, HUMIDITY, PRESSURE, TEMPERATURE, Channel, Measurement
from drivers.bus import Advertisement
from drivers.errors import BadFrame

__all__ = [
    "RSSI",
    "Advertisement",
    "Decoded",
    "Decoder",
    "Undecodable",
    "channel_called",
    "is_measured",
    "plausible",
]

_BLE_TEMPERATURE = msgspec.structs.replace(TEMPERATURE, plausible=(-60.0, 150.0), decimals=2)
_BATTERY = Channel("battery", "%", (0.0, 100.0), 0, diagnostic=True)
_BATTERY_VOLTAGE = Channel("battery_voltage", "V", (0.5, 6.0), 2, diagnostic=True)
RSSI = Channel("rssi", "dBm", (-126.0, 20.0), 0, diagnostic=True)
"""The strength of the signal; -127 and 127 mean that it is unknown (Core 5.4 Vol 4 E 7.7.65.2)."""

_CHANNELS = {
    channel.name: channel
    for channel in (
        _BLE_TEMPERATURE,
        HUMIDITY,
        PRESSURE,
        CO2,
        _BATTERY,
        _BATTERY_VOLTAGE,
        RSSI,
    )
}


class Decoded(msgspec.Struct, frozen=True):
    """The content of an advertisement."""

    values: Measurement
    """Quantity -> value in the unit of `channel_called`; each one plausible. May be empty."""
    counter: int | None = None
    """A number that differs in the next measurement, if the format has one."""
    rising: int | None = None
    """A number that rises with each encrypted advertisement, so that an old one is recognized."""


class Undecodable(BadFrame):
    """An advertisement of a known format that cannot be decoded, or must not be believed."""


Decoder = Callable[[Advertisement, bytes | None], Decoded | None]
"""Return the content of an advertisement, decrypted with a key; None for another format.

Raises:
    Undecodable: it is of this format, but without a usable content.
"""


@functools.cache
def channel_called(name: str) -> Channel:
    """Return the channel of a quantity: `temperature`, and `temperature_2` of a second probe."""
    base = re.sub(r"_[2-9]\Z", "", name)
    return msgspec.structs.replace(_CHANNELS[base], name=name)


def is_measured(name: str) -> bool:
    """Return whether a quantity is what the thermometer is for, not a diagnostic one."""
    return not channel_called(name).diagnostic


def plausible(values: Mapping[str, float | None]) -> Measurement:
    """Return the values that the sensor can mean; an overshoot of humidity is cut off.

    None, and a value outside the range of its channel, stand for "not measured": the marks that
    formats have for that (0x8000, 0xFFFF) lie outside.
    """
    believed: Measurement = {}
    for name, value in values.items():
        if value is None:
            continue
        channel = channel_called(name)
        low, high = channel.plausible
        if low <= (value := channel.cut_off(value)) <= high:
            believed[name] = value
    return believed
