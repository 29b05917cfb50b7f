"""SwitchBot Meter, Meter Plus, Outdoor Meter, Meter Pro and Meter Pro CO2.

Sources: https://github.com/OpenWonderLabs/SwitchBotAPI-BLE, devicetypes/meter.md ("Meter broadcast
message format"), and for the newer models https://github.com/sblibs/pySwitchbot
(switchbot/adv_parsers/meter.py). They send the values in their scan response, so they need an
active scan.
"""

from __future__ import annotations

from drivers.ble.advertisement import Advertisement, Decoded, plausible

__all__ = ["decode"]

_UUIDS = (0xFD3D, 0x0D00)
_COMPANY = 0x0969
_MODELS = b"Tti45w"
_CO2_MODEL = ord("5")
_OF_SERVICE, _OF_MANUFACTURER, _CO2_AT = slice(3, 6), slice(8, 11), slice(13, 15)
_VALUES = 3


def decode(advertisement: Advertisement, _key: bytes | None) -> Decoded | None:
    """Decode SwitchBot's format; see `drivers.ble.advertisement.Decoder`."""
    service = next(
        (advertisement.service_data[u] for u in _UUIDS if u in advertisement.service_data), b""
    )
    if not service or (model := service[0] & 0x7F) not in _MODELS:
        return None
    own = advertisement.manufacturer_data.get(_COMPANY, b"")
    values: dict[str, float | None] = {}
    for three in (service[_OF_SERVICE], own[_OF_MANUFACTURER]):
        if len(three) == _VALUES and any(three):  # zeros until it has measured
            values |= _temperature_and_humidity(three)
    if model == _CO2_MODEL and len(own[_CO2_AT]) == 2:
        values["co2"] = int.from_bytes(own[_CO2_AT], "big")
    values["battery"] = service[2] & 0x7F if len(service) > 2 else None
    return Decoded(plausible(values))


def _temperature_and_humidity(three: bytes) -> dict[str, float | None]:
    tenths, whole, humidity = three[0] & 0x0F, three[1] & 0x7F, three[2] & 0x7F
    celsius = (whole + tenths / 10) * (1 if three[1] & 0x80 else -1)
    return {
        "temperature": celsius if tenths <= 9 else None,
        "humidity": humidity or None,
    }
