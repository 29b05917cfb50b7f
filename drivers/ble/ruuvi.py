"""RuuviTag, data format 5 (RAWv2).

Source: https://docs.ruuvi.com/communication/bluetooth-advertisements/data-format-5-rawv2: what is
not available has the largest number if it is unsigned, else the smallest.
"""

from __future__ import annotations

import struct

from drivers.ble.advertisement import Advertisement, Decoded, Undecodable, plausible

__all__ = ["decode"]

_COMPANY = 0x0499
_RAW_V2 = struct.Struct(">BhHH3hHBH6s")
_FORMAT = 5
_NO_TEMPERATURE = -0x8000
_NO_WORD = 0xFFFF
_NO_VOLTAGE = 0x7FF


def decode(advertisement: Advertisement, _key: bytes | None) -> Decoded | None:
    """Decode RAWv2; see `drivers.ble.advertisement.Decoder`."""
    content = advertisement.manufacturer_data.get(_COMPANY)
    if not content:
        return None
    if content[0] != _FORMAT:
        raise Undecodable(
            f"it sends Ruuvi's data format {content[0]}; only format 5 (RAWv2) is read here",
            "update its firmware in Ruuvi's app, or choose the format there",
        )
    if len(content) != _RAW_V2.size:
        raise Undecodable(f"its data have {len(content)} bytes in place of {_RAW_V2.size}")
    _, steps, humidity, pascals, _, _, _, power, _, sequence, _ = _RAW_V2.unpack(content)
    volts = power >> 5
    values = {
        "temperature": None if steps == _NO_TEMPERATURE else round(steps * 0.005, 3),
        "humidity": None if humidity == _NO_WORD else round(humidity * 0.0025, 4),
        "pressure": None if pascals == _NO_WORD else (pascals + 50_000) / 100,
        "battery_voltage": None if volts == _NO_VOLTAGE else (volts + 1600) / 1000,
    }
    return Decoded(plausible(values), None if sequence == _NO_WORD else sequence)
