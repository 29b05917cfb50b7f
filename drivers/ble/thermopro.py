"""ThermoPro TP350, TP351, TP357, TP358, TP359, TP393 and their successors.

ThermoPro does not publish the format. Source: https://github.com/Bluetooth-Devices/thermopro-ble
(parser.py and the captures in its tests). The values begin in the company identifier: its low byte
is always 0xC2, and its high byte is the low byte of the temperature.
"""

from __future__ import annotations

from drivers.ble.advertisement import Advertisement, Decoded, Undecodable, plausible

__all__ = ["decode"]

_MARK = 0xC2
_SHORTEST, _LONGEST = 6, 7
_BATTERY = {0: 1, 1: 50, 2: 100}  # %
_NAMES = ("TP35", "TP39")


def decode(advertisement: Advertisement, _key: bytes | None) -> Decoded | None:
    """Decode ThermoPro's format; see `drivers.ble.advertisement.Decoder`."""
    if advertisement.name and not advertisement.name.startswith(_NAMES):
        return None
    found = [
        frame
        for company, data in advertisement.manufacturer_data.items()
        if company & 0xFF == _MARK
        and _SHORTEST <= len(frame := company.to_bytes(2, "little") + data) <= _LONGEST
    ]
    if not found:
        return None
    if len(found) > 1:
        raise Undecodable("several measurements came at once, in no order", "wait for the next")
    frame = found[0]
    tenths, humidity = int.from_bytes(frame[1:3], "little", signed=True), frame[3]
    battery = _BATTERY.get(frame[4] & 0x03)
    # Before it has measured, it sends zeros or ones.
    values = {"temperature": tenths / 10, "humidity": humidity} if 0 < humidity <= 100 else {}
    return Decoded(plausible({**values, "battery": battery}))
