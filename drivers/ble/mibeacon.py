"""Xiaomi's MiBeacon, versions 2 to 5: LYWSDCGQ, LYWSD02, LYWSD03MMC as sold, and many others.

Sources: Xiaomi's "BLE object definition"
(https://iot.mi.com/new/doc/accesses/direct-access/embedded-development/ble/object-definition),
https://github.com/Bluetooth-Devices/xiaomi-ble (parser.py and the captures in its tests).
A thermometer sends one or two quantities at a time.
"""

from __future__ import annotations

import math
import struct

from drivers.ble.advertisement import Advertisement, Decoded, Undecodable, plausible
from drivers.ble.aes_ccm import decrypted

__all__ = ["decode"]

_UUID = 0xFE95
_HEADER = 5  # frame control, product, counter
# Frame control.
_ENCRYPTED, _HAS_MAC, _HAS_CAPABILITY, _HAS_OBJECT, _MESH = 0x08, 0x10, 0x20, 0x40, 0x80
_CAPABILITY_IO = 0x20
_OLDEST_WITH_TAG = 4
_TAIL = 7  # three bytes more of the counter, and the tag

# Object -> length, and what it has: quantity, struct format, divisor.
_OBJECTS: dict[int, tuple[tuple[str, str, int], ...]] = {
    0x1004: (("temperature", "<h", 10),),
    0x1006: (("humidity", "<H", 10),),
    0x100A: (("battery", "<B", 1),),
    0x100D: (("temperature", "<h", 10), ("humidity", "<H", 10)),
    0x4801: (("temperature", "<f", 1),),
    0x4802: (("humidity", "<B", 1),),
    0x4803: (("battery", "<B", 1),),
    0x4808: (("humidity", "<f", 1),),
    0x4C01: (("temperature", "<f", 1),),
    0x4C02: (("humidity", "<B", 1),),
    0x4C03: (("battery", "<B", 1),),
    0x4C08: (("humidity", "<f", 1),),
}


def decode(advertisement: Advertisement, key: bytes | None) -> Decoded | None:
    """Decode MiBeacon; see `drivers.ble.advertisement.Decoder`."""
    service = advertisement.service_data.get(_UUID)
    if service is None:
        return None
    if len(service) < _HEADER:
        raise Undecodable("its MiBeacon data are too short")
    control, counter = int.from_bytes(service[:2], "little"), service[4]
    if control & _MESH or not control & _HAS_OBJECT:
        return Decoded({})
    start = _objects_at(service, control)
    mac = service[_HEADER : _HEADER + 6] if control & _HAS_MAC else advertisement.mac[::-1]
    if mac[::-1] != advertisement.mac:
        raise Undecodable("its data have another address", "is something repeating its data?")
    if not control & _ENCRYPTED:
        if key is not None:
            raise Undecodable(
                "it sends data that are not encrypted, although a key is configured",
                "leave out the key",
            )
        return Decoded(_values(service[start:]), counter)
    if control >> 12 < _OLDEST_WITH_TAG:
        raise Undecodable(
            "it encrypts in MiBeacon's old way, which proves nothing and is not read here"
        )
    if len(service) < start + _TAIL:
        raise Undecodable("its MiBeacon data are too short")
    more, tag = service[-_TAIL:-4], service[-4:]
    sealed = service[start:-_TAIL] + tag
    opened = decrypted(key, mac + service[2:_HEADER] + more, sealed, b"\x11")
    return Decoded(_values(opened), int.from_bytes(more, "little") << 8 | counter)


def _objects_at(service: bytes, control: int) -> int:
    start = _HEADER + (6 if control & _HAS_MAC else 0)
    if control & _HAS_CAPABILITY:
        has_io = start < len(service) and service[start] & _CAPABILITY_IO
        start += 2 if has_io else 1
    return start


def _values(objects: bytes) -> dict[str, float]:
    values: dict[str, float | None] = {}
    while len(objects) >= 3:
        number, length = int.from_bytes(objects[:2], "little"), objects[2]
        content, objects = objects[3 : 3 + length], objects[3 + length :]
        fields = _OBJECTS.get(number, ())
        if len(content) < length or sum(struct.calcsize(f) for _, f, _ in fields) != length:
            continue
        for name, form, divisor in fields:
            (value,) = struct.unpack_from(form, content)
            content = content[struct.calcsize(form) :]
            values[name] = round(value / divisor, 2) if math.isfinite(value) else None
    return plausible(values)
