"""Qingping (ClearGrass) thermometers, clocks and air monitors with Qingping's own format.

Those that are paired with Xiaomi's app send MiBeacon instead. Sources:
https://github.com/Bluetooth-Devices/qingping-ble (parser.py and the captures in its tests),
https://github.com/pvvx/ATC_MiThermometer (reading of CGG1 and CGDK2).
"""

from __future__ import annotations

from drivers.ble.advertisement import Advertisement, Decoded, Undecodable, plausible

__all__ = ["decode"]

_UUID = 0xFDCD
_HEADER = 8  # frame control, device, address
_TEMPERATURE_AND_HUMIDITY, _BATTERY, _PRESSURE, _PACKET, _CO2 = 0x01, 0x02, 0x07, 0x0F, 0x13
_EXTERNAL_POWER = 0xFF


def decode(advertisement: Advertisement, _key: bytes | None) -> Decoded | None:
    """Decode Qingping's format; see `drivers.ble.advertisement.Decoder`."""
    service = advertisement.service_data.get(_UUID)
    if service is None:
        return None
    if len(service) < _HEADER:
        raise Undecodable("its data are too short")
    values: dict[str, float | None] = {}
    counter = None
    rest = service[_HEADER:]
    while len(rest) >= 2:
        kind, content = rest[0], rest[2 : 2 + rest[1]]
        if len(content) < rest[1]:
            raise Undecodable(f"its data end within field 0x{kind:02x}")
        rest = rest[2 + len(content) :]
        if kind == _TEMPERATURE_AND_HUMIDITY and len(content) == 4:
            values["temperature"] = int.from_bytes(content[:2], "little", signed=True) / 10
            values["humidity"] = int.from_bytes(content[2:], "little") / 10
        elif kind == _BATTERY and len(content) == 1:
            values["battery"] = None if content[0] == _EXTERNAL_POWER else content[0]
        elif kind == _PRESSURE and len(content) == 2:
            values["pressure"] = int.from_bytes(content, "little") / 10
        elif kind == _CO2 and len(content) == 2:
            values["co2"] = int.from_bytes(content, "little")
        elif kind == _PACKET and len(content) == 1:
            counter = content[0]
    return Decoded(plausible(values), counter)
