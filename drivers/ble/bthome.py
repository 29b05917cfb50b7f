"""BTHome version 2: Shelly BLU, pvvx firmware, b-parasite, and what people build themselves.

Source: https://bthome.io/format/ (object identifiers, lengths, factors) and
https://bthome.io/encryption/ (nonce and counter).
"""

from __future__ import annotations

from collections.abc import Iterator

from drivers.ble.advertisement import Advertisement, Decoded, Undecodable, plausible
from drivers.ble.aes_ccm import decrypted

__all__ = ["decode"]

_UUID = 0xFCD2
_UUID_BYTES = b"\xd2\xfc"
_VERSION = 2

_PACKET_ID = 0x00
# Object -> quantity, factor, whether it is signed.
_QUANTITIES = {
    0x01: ("battery", 1.0, False),
    0x02: ("temperature", 0.01, True),
    0x03: ("humidity", 0.01, False),
    0x04: ("pressure", 0.01, False),
    0x12: ("co2", 1.0, False),
    0x2E: ("humidity", 1.0, False),
    0x45: ("temperature", 0.1, True),
    0x57: ("temperature", 1.0, True),
    0x58: ("temperature", 0.35, True),
}
# Bytes -> the objects that have so many.
_LENGTHS = {
    1: (
        0x00,
        0x01,
        0x09,
        *range(0x0F, 0x12),
        *range(0x15, 0x30),
        0x3A,
        0x46,
        0x57,
        0x58,
        0x59,
        0x60,
    ),
    2: (
        *(0x02, 0x03, 0x06, 0x07, 0x08, 0x0C, 0x0D, 0x0E, 0x12, 0x13, 0x14, 0x3C, 0x3D, 0x3F, 0x40),
        *(0x41, 0x43, 0x44, 0x45, 0x47, 0x48, 0x49, 0x4A, 0x51, 0x52, 0x56, 0x5A, 0x5D, 0x5E, 0x5F),
        *(0x61, 0xF0),
    ),
    3: (0x04, 0x05, 0x0A, 0x0B, 0x42, 0x4B, 0xF2),
    4: (0x3E, 0x4C, 0x4D, 0x4E, 0x4F, 0x50, 0x55, 0x5B, 0x5C, 0xF1),
}
_LENGTH_OF = {number: length for length, numbers in _LENGTHS.items() for number in numbers}
_WITH_LENGTH = (0x53, 0x54)  # text and raw: their first byte is their length
_MAX_PROBES = 9


def decode(advertisement: Advertisement, key: bytes | None) -> Decoded | None:
    """Decode BTHome; see `drivers.ble.advertisement.Decoder`."""
    service = advertisement.service_data.get(_UUID)
    if service is None:
        return None
    if not service:
        raise Undecodable("its BTHome data are empty", "update its firmware")
    about, payload, mac = service[0], service[1:], advertisement.mac
    if (version := about >> 5) != _VERSION:
        raise Undecodable(f"it sends BTHome version {version}", "set its firmware to version 2")
    if about & 0x02:  # the address is in the data
        mac, payload = payload[:6][::-1], payload[6:]
    rising = None
    if about & 0x01:
        counter, tag = payload[-8:-4], payload[-4:]
        nonce = mac + _UUID_BYTES + bytes([about]) + counter
        payload = decrypted(key, nonce.ljust(13, b"\0"), payload[:-8] + tag)
        rising = int.from_bytes(counter, "little")
    elif key is not None:
        # Anyone could send it: whoever configures a key relies on it.
        raise Undecodable(
            "it sends data that are not encrypted, although a key is configured",
            "leave out the key, or switch encryption on in its app",
        )
    return _content(payload, rising)


def _content(payload: bytes, rising: int | None) -> Decoded:
    counter = None
    values: dict[str, float | None] = {}
    for number, content in _objects(payload):
        if number == _PACKET_ID:
            counter = content[0]
        elif number in _QUANTITIES:
            name, factor, signed = _QUANTITIES[number]
            probe = 1 + sum(other.partition("_")[0] == name for other in values)
            if probe <= _MAX_PROBES:
                value = int.from_bytes(content, "little", signed=signed) * factor
                values[name if probe == 1 else f"{name}_{probe}"] = round(value, 2)
    return Decoded(plausible(values), counter, rising)


def _objects(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the objects up to the first unknown one: the length of that is unknown, too.

    Raises:
        Undecodable: the payload ends within an object.
    """
    start = 0
    while start < len(payload):
        number, start = payload[start], start + 1
        if number in _WITH_LENGTH and start < len(payload):
            length, start = payload[start], start + 1
        elif number in _LENGTH_OF:
            length = _LENGTH_OF[number]
        else:
            return
        if start + length > len(payload):
            raise Undecodable(f"its BTHome data end within object 0x{number:02x}", "is it BTHome?")
        yield number, payload[start : start + length]
        start += length
