"""Govee's thermometers: H5072, H5074, H5075, H5051, H5052, H5071, H5100 to H5105, H5174 to H5179.

Govee does not publish the format. Source: https://github.com/Bluetooth-Devices/govee-ble
(parser.py and the captures in its tests), and https://github.com/Thrilleratplay/GoveeWatcher for
the sign of packed values.
"""

from __future__ import annotations

import struct

from drivers.ble.advertisement import Advertisement, Decoded, Undecodable, plausible

__all__ = ["decode"]

_COMPANY = 0xEC88
_COMPANY_H5179 = 0x8801
# Nokia's identifier, which others use as well. The same six bytes mean something else in an H5106.
_COMPANY_SHARED = 0x0001
_LIKE_H5101 = ("5100", "5101", "5102", "5103", "5104", "5105", "5110", "5174", "5177")
_H5178 = "5178"

_PACKED, _WORDS, _LONG_WORDS = 6, 7, 9
_HUNDREDTHS = struct.Struct("<hHB")
# The scan response has an iBeacon, which some receivers append.
_BEACON, _BEACON_BYTES = b"INTELLI_ROCKS", 25
_FAULT = 0x80  # of the battery byte


def decode(advertisement: Advertisement, _key: bytes | None) -> Decoded | None:
    """Decode Govee's formats; see `drivers.ble.advertisement.Decoder`."""
    data = {company: _own(d) for company, d in advertisement.manufacturer_data.items()}
    if _COMPANY in data:
        return _with_own_company(data[_COMPANY])
    if len(h5179 := data.get(_COMPANY_H5179, b"")) == _LONG_WORDS:
        return _words(h5179[4:])
    shared, name = data.get(_COMPANY_SHARED, b""), advertisement.name
    if not shared.startswith(b"\x01\x01"):
        return None
    if len(shared) == _PACKED and any(model in name for model in _LIKE_H5101):
        return _packed(shared[2:5], shared[5])
    if len(shared) == _LONG_WORDS and _H5178 in name:
        return _packed(shared[3:6], shared[6], probe=1 + shared[2])
    if not name:
        raise Undecodable("its name has not been heard, and the meaning of its data depends on it")
    return None


def _own(data: bytes) -> bytes:
    is_glued = len(data) > _BEACON_BYTES and _BEACON in data
    return data[:-_BEACON_BYTES] if is_glued else data


def _with_own_company(data: bytes) -> Decoded | None:
    if len(data) == _PACKED:
        return _packed(data[1:4], data[4])
    if len(data) in (_WORDS, _LONG_WORDS):
        return _words(data[1:])
    return None


def _packed(three: bytes, battery: int, *, probe: int = 1) -> Decoded:
    """Decode °C * 10,000 and %RH * 10 in one number of 24 bits: 213442 is 21.3 °C and 44.2 %."""
    if battery & _FAULT:
        raise Undecodable("it reports that its sensor is broken or unplugged", "is its probe in?")
    if probe not in (1, 2):
        raise Undecodable(f"it sends data of a probe {probe}", "is it an H5178?")
    number = int.from_bytes(three, "big")
    size = number & 0x7F_FFFF
    celsius = size // 1000 / 10 * (-1 if number & 0x80_0000 else 1)
    suffix = "" if probe == 1 else f"_{probe}"
    values = plausible({f"temperature{suffix}": celsius})
    if values:  # otherwise the digits of the humidity mean nothing, either
        values |= plausible({f"humidity{suffix}": size % 1000 / 10})
    return Decoded({**values, **plausible({"battery": battery})})


def _words(data: bytes) -> Decoded:
    celsius, humidity, battery = _HUNDREDTHS.unpack(data[: _HUNDREDTHS.size])
    values = {"temperature": celsius / 100, "humidity": humidity / 100, "battery": battery}
    return Decoded(plausible(values))
