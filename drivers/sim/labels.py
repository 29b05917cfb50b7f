"""Simulated Bluetooth thermometers: the bytes that each format has for the air around one.

Sources as in the decoder of the same name in `drivers/ble`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from drivers.ble.formats import AUTO
from drivers.ble.inkbird import crc_of
from drivers.bus import Advertisement
from drivers.sim.room import Air

__all__ = ["LABEL_FORMATS", "advertised"]

_BATTERY = 87  # %
_MILLIVOLTS = 2950


class _Sent(msgspec.Struct, frozen=True):
    """What goes into an advertisement."""

    air: Air
    count: int
    """How many measurements it has taken."""
    mac: bytes
    key: bytes | None

    @property
    def tenths(self) -> int:
        return round(self.air.temperature * 10)

    @property
    def hundredths(self) -> int:
        return round(self.air.temperature * 100)


class _Parts(msgspec.Struct, frozen=True):
    """An advertisement without its address."""

    service_data: dict[int, bytes] = {}
    manufacturer_data: dict[int, bytes] = {}
    name: str = ""


def _sealed(key: bytes, nonce: bytes, content: bytes, associated: bytes | None = None) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM

    return AESCCM(key, tag_length=4).encrypt(nonce, content, associated)


def _bthome(sent: _Sent) -> _Parts:
    content = struct.pack(
        "<BBBBBhBH",
        *(0x00, sent.count & 0xFF, 0x01, _BATTERY),
        *(0x02, sent.hundredths, 0x03, round(sent.air.humidity * 100)),
    )
    if sent.key is None:
        return _Parts({0xFCD2: b"\x40" + content}, name="DIY-sensor")
    counter = struct.pack("<I", sent.count)
    sealed = _sealed(sent.key, sent.mac + b"\xd2\xfc\x41" + counter, content)
    return _Parts({0xFCD2: b"\x41" + sealed[:-4] + counter + sealed[-4:]}, name="DIY-sensor")


def _pvvx(sent: _Sent) -> _Parts:
    humidity = round(sent.air.humidity * 100)
    counter = bytes([sent.count & 0xFF])
    if sent.key is not None:
        content = struct.pack("<hHBB", sent.hundredths, humidity, _BATTERY, 0)
        nonce = sent.mac[::-1] + b"\x0e\x16\x1a\x18" + counter
        return _Parts({0x181A: counter + _sealed(sent.key, nonce, content, b"\x11")})
    content = struct.pack("<hHHB", sent.hundredths, humidity, _MILLIVOLTS, _BATTERY)
    return _Parts({0x181A: sent.mac[::-1] + content + counter + b"\x05"}, name="ATC_8D18B2")


def _atc(sent: _Sent) -> _Parts:
    humidity = round(sent.air.humidity)
    counter = bytes([sent.count & 0xFF])
    if sent.key is not None:
        half_degrees = round((sent.air.temperature + 40) * 2)
        content = bytes([half_degrees, humidity * 2, _BATTERY])
        nonce = sent.mac[::-1] + b"\x0b\x16\x1a\x18" + counter
        return _Parts({0x181A: counter + _sealed(sent.key, nonce, content, b"\x11")})
    content = struct.pack(">hBBH", sent.tenths, humidity, _BATTERY, _MILLIVOLTS)
    return _Parts({0x181A: sent.mac + content + counter}, name="ATC_8D18B2")


def _mibeacon(sent: _Sent) -> _Parts:
    content = struct.pack("<HBhH", 0x100D, 4, sent.tenths, round(sent.air.humidity * 10))
    product, counter = b"\x5b\x05", bytes([sent.count & 0xFF])
    if sent.key is None:
        return _Parts({0xFE95: b"\x50\x50" + product + counter + sent.mac[::-1] + content})
    more = struct.pack("<I", sent.count >> 8)[:3]
    nonce = sent.mac[::-1] + product + counter + more
    sealed = _sealed(sent.key, nonce, content, b"\x11")
    head = b"\x58\x58" + product + counter + sent.mac[::-1]
    return _Parts({0xFE95: head + sealed[:-4] + more + sealed[-4:]}, name="LYWSD03MMC")


def _qingping(sent: _Sent) -> _Parts:
    content = struct.pack("<BBhH", 0x01, 4, sent.tenths, round(sent.air.humidity * 10))
    battery = bytes([0x02, 1, _BATTERY])
    return _Parts({0xFDCD: b"\x08\x16" + sent.mac[::-1] + content + battery})


def _switchbot(sent: _Sent) -> _Parts:
    size = abs(sent.tenths)
    sign = 0x80 if sent.tenths >= 0 else 0
    three = bytes([size % 10, sign | size // 10, round(sent.air.humidity)])
    return _Parts(
        {0xFD3D: b"T\x00" + bytes([_BATTERY]) + three},
        {0x0969: sent.mac + bytes([sent.count & 0xFF, 0]) + three},
    )


def _ruuvi(sent: _Sent) -> _Parts:
    content = struct.pack(
        ">BhHH3hHBH",
        5,
        round(sent.air.temperature / 0.005),
        round(sent.air.humidity / 0.0025),
        round(sent.air.pressure * 100) - 50_000,
        *(0, 0, 1000),
        (_MILLIVOLTS - 1600) << 5 | 22,
        0,
        sent.count % 0xFFFF,
    )
    return _Parts(manufacturer_data={0x0499: content + sent.mac}, name="Ruuvi 884F")


def _govee(sent: _Sent) -> _Parts:
    size = abs(sent.tenths) * 1000 + round(sent.air.humidity * 10)
    packed = (0x80_0000 if sent.tenths < 0 else 0) | size
    content = b"\x00" + packed.to_bytes(3, "big") + bytes([_BATTERY, 0])
    return _Parts(manufacturer_data={0xEC88: content}, name="GVH5075_2762")


def _thermopro(sent: _Sent) -> _Parts:
    frame = b"\xc2" + struct.pack("<hBBB", sent.tenths, round(sent.air.humidity), 2, 0x2C)
    company = int.from_bytes(frame[:2], "little")
    return _Parts(manufacturer_data={company: frame[2:]}, name="TP357 (2142)")


def _inkbird(sent: _Sent) -> _Parts:
    frame = struct.pack("<hHB", sent.hundredths, round(sent.air.humidity * 100), 0)
    frame += struct.pack("<HBB", crc_of(frame), _BATTERY, 6)
    company = int.from_bytes(frame[:2], "little")
    return _Parts(manufacturer_data={company: frame[2:]}, name="sps")


LABEL_FORMATS: dict[str, Callable[[_Sent], _Parts]] = {
    AUTO: _bthome,
    "bthome": _bthome,
    "pvvx": _pvvx,
    "atc": _atc,
    "mibeacon": _mibeacon,
    "qingping": _qingping,
    "switchbot": _switchbot,
    "ruuvi": _ruuvi,
    "govee": _govee,
    "thermopro": _thermopro,
    "inkbird": _inkbird,
}
"""Configured format -> what a simulated thermometer sends."""


def advertised(
    form: str, air: Air, count: int, address: str, key: bytes | None, *, heard_s: float
) -> Advertisement:
    """Return the advertisement of the measurement number `count`."""
    mac = bytes.fromhex(address.replace(":", ""))
    parts = LABEL_FORMATS[form](_Sent(air, count, mac, key))
    return Advertisement(
        address=address,
        service_data=parts.service_data,
        manufacturer_data=parts.manufacturer_data,
        name=parts.name,
        rssi=-60 - mac[-1] % 30,
        heard_s=heard_s,
    )
