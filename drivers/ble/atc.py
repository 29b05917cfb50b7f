"""The custom firmware of Xiaomi's LYWSD03MMC and its kin, in the formats atc1441 and pvvx.

Sources: https://github.com/atc1441/ATC_MiThermometer ("Advertising format of the custom
firmware"), https://github.com/pvvx/ATC_MiThermometer ("Custom format", and src/ble.h and
src/custom_beacon.c for the encrypted forms).
"""

from __future__ import annotations

import struct

from drivers.ble.advertisement import Advertisement, Decoded, Undecodable, plausible
from drivers.ble.aes_ccm import decrypted

__all__ = ["decode_atc", "decode_pvvx"]

_UUID = 0x181A  # Environmental Sensing
_ATC = struct.Struct(">6shBBHB")
_PVVX = struct.Struct("<6shHHBBB")
_PVVX_SEALED = struct.Struct("<hHBB")
_ATC_SEALED = struct.Struct("BBB")
_SEALED_OVERHEAD = 5  # the counter, and the tag
# The AD structure's length (all but itself), its type, and the UUID are part of the nonce.
_AD_TYPE_AND_UUID = b"\x16\x1a\x18"


def decode_atc(advertisement: Advertisement, key: bytes | None) -> Decoded | None:
    """Decode the format of atc1441, 13 bytes, or 8 if encrypted."""
    service = advertisement.service_data.get(_UUID, b"")
    if len(service) == _ATC.size:
        mac, tenths, humidity, battery, millivolts, counter = _ATC.unpack(service)
        _check(advertisement, mac, key)
        return Decoded(
            plausible(
                {
                    "temperature": tenths / 10,
                    "humidity": humidity,
                    "battery": battery,
                    "battery_voltage": millivolts / 1000,
                }
            ),
            counter,
        )
    if len(service) == _ATC_SEALED.size + _SEALED_OVERHEAD:
        temperature, humidity, battery = _ATC_SEALED.unpack(_opened(advertisement, service, key))
        values = {
            "temperature": temperature / 2 - 40,
            "humidity": humidity / 2,
            "battery": battery & 0x7F,
        }
        return Decoded(plausible(values), service[0])
    return None


def decode_pvvx(advertisement: Advertisement, key: bytes | None) -> Decoded | None:
    """Decode the custom format of pvvx, 15 bytes, or 11 if encrypted."""
    service = advertisement.service_data.get(_UUID, b"")
    if len(service) == _PVVX.size:
        mac, hundredths, humidity, millivolts, battery, counter, _ = _PVVX.unpack(service)
        _check(advertisement, mac[::-1], key)
        return Decoded(
            plausible(
                {
                    "temperature": hundredths / 100,
                    "humidity": humidity / 100,
                    "battery": battery,
                    "battery_voltage": millivolts / 1000,
                }
            ),
            counter,
        )
    if len(service) == _PVVX_SEALED.size + _SEALED_OVERHEAD:
        opened = _opened(advertisement, service, key)
        hundredths, humidity, battery, _ = _PVVX_SEALED.unpack(opened)
        values = {
            "temperature": hundredths / 100,
            "humidity": humidity / 100,
            "battery": battery & 0x7F,
        }
        return Decoded(plausible(values), service[0])
    return None


def _check(advertisement: Advertisement, mac: bytes, key: bytes | None) -> None:
    if mac != advertisement.mac:
        raise Undecodable("its data have another address", "is something repeating its data?")
    if key is not None:
        raise Undecodable(
            "it sends data that are not encrypted, although a key is configured",
            "leave out the key, or switch encryption on in its firmware",
        )


def _opened(advertisement: Advertisement, service: bytes, key: bytes | None) -> bytes:
    header = bytes([len(service) + len(_AD_TYPE_AND_UUID)]) + _AD_TYPE_AND_UUID
    nonce = advertisement.mac[::-1] + header + service[:1]
    return decrypted(key, nonce, service[1:], b"\x11")
