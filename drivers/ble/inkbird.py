"""Inkbird IBS-TH, IBS-TH Plus, IBS-TH2 and IBS-P01B.

Inkbird does not publish the format. Sources: https://github.com/Bluetooth-Devices/inkbird-ble
(parser.py and the captures in its tests), https://github.com/Ernst79/bleparser (inkbird.py). The
temperature is where the company identifier should be. A CRC proves that the data are Inkbird's;
with an external probe some models send another one, and are recognized by their name.
"""

from __future__ import annotations

import struct

from drivers.ble.advertisement import Advertisement, Decoded, plausible

__all__ = ["crc_of", "decode"]

_FRAME = struct.Struct("<hHBHBB")
_COVERED = 5  # bytes: temperature, humidity, probe
_NAMES = ("sps", "tps")


def crc_of(data: bytes) -> int:
    """Return the CRC of Modbus over `data`."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def decode(advertisement: Advertisement, _key: bytes | None) -> Decoded | None:
    """Decode Inkbird's format; see `drivers.ble.advertisement.Decoder`."""
    for company, data in advertisement.manufacturer_data.items():
        frame = company.to_bytes(2, "little") + data
        if len(frame) != _FRAME.size:
            continue
        celsius, humidity, _, crc, battery, _ = _FRAME.unpack(frame)
        if crc == crc_of(frame[:_COVERED]) or advertisement.name in _NAMES:
            values = {
                "temperature": celsius / 100,
                "humidity": humidity / 100 or None,  # models without a humidity sensor send 0
                "battery": battery,
            }
            return Decoded(plausible(values))
    return None
