"""The thermometers that the kernel's w1_therm supports, by family: from scratchpad to °C. Pure.

The nine bytes of a scratchpad come from `w1_slave` (kernel Documentation/w1/slaves/w1_therm.rst):

    72 01 4b 46 7f ff 0e 10 57 : crc=57 YES
    72 01 4b 46 7f ff 0e 10 57 t=23125

The bytes are decoded here. The kernel's `t=` is not used: older kernels give wrong values for a
MAX31850, and never mask the bits that are undefined at resolutions below 12.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from drivers.base import Channel
from drivers.errors import BadFrame, ImplausibleValue, SensorFault, SensorNotFound

__all__ = [
    "FAMILIES",
    "PULL_UP",
    "WIDEST_CHANNEL",
    "Family",
    "celsius_of",
    "channel_of",
    "family_of",
    "may_be_power_on",
    "power_on_error",
    "resolution_of",
    "scratchpad_of",
]

PULL_UP = "check 3V3, the data wire and the 4.7 kΩ pull-up"

_SCRATCHPAD = re.compile(r"((?:[0-9a-f]{2} ){8}[0-9a-f]{2}) : crc=[0-9a-f]{2} (YES|NO)")
_NOT_CONVERTED_BYTE_6 = 0x0C
_CONFIGURATION = 4
_EXTENDED = 0x80  # of the configuration: MAX31850 datasheet p. 13; GX20MH01 (kernel w1_therm.c)


class Family(msgspec.Struct, frozen=True):
    """One 1-Wire family code."""

    model: str
    channel: Channel
    power_on: bytes
    """Bytes 0 and 1 before the first conversion: 85 °C."""
    decode: Callable[[bytes], float]
    accuracy: str = "±0.5 °C (-10 to 85 °C)"
    """In most of these datasheets: "Thermometer Error" in the table of DC characteristics."""
    resolution_can_be_set: bool = True
    converts_together: bool = True
    """Whether the kernel's bulk read includes this family (w1_therm.c, `bulk_read`)."""


def _sixteenths(scratchpad: bytes) -> float:
    """Decode two's complement, 1/16 °C at 12 bits (DS18B20 datasheet, figure 4).

    The lowest bit at 11 bits, two at 10 and three at 9 are undefined (table 2). Bit 7 of the
    configuration marks a GX20MH01, which has the two lowest of its 14 bits in the configuration.
    """
    raw = int.from_bytes(scratchpad[:2], "little", signed=True)
    configuration = scratchpad[_CONFIGURATION]
    if configuration & _EXTENDED:
        return (raw * 4 + (configuration & 0b11)) / 64
    undefined_bits = 12 - resolution_of(scratchpad)
    return (raw >> undefined_bits << undefined_bits) / 16


def _halves_and_counters(scratchpad: bytes) -> float:
    """Decode 1/2 °C, refined by bytes 6 and 7 (DS18S20 datasheet, "Measuring Temperature").

    Raises:
        BadFrame: a conversion cannot give these counters.
    """
    raw = int.from_bytes(scratchpad[:2], "little", signed=True)
    count_remain, count_per_degree = scratchpad[6], scratchpad[7]
    if not 0 < count_per_degree >= count_remain:
        raise BadFrame(f"counters {count_remain} of {count_per_degree} in the scratchpad", PULL_UP)
    return (raw >> 1) - 0.25 + (count_per_degree - count_remain) / count_per_degree


def _quarters(scratchpad: bytes) -> float:
    """Decode 1/4 °C in the upper 14 bits, above the junctions' faults (MAX31850 datasheet, p. 13).

    Raises:
        SensorFault: the thermocouple is open or shorted.
    """
    if scratchpad[0] & 1:
        faults = ((1, "open"), (2, "shorted to GND"), (4, "shorted to the supply"))
        seen = [text for bit, text in faults if scratchpad[2] & bit]
        raise SensorFault(
            f"the thermocouple is {' and '.join(seen) or 'at fault'}", "check its wires and clamps"
        )
    if not any(scratchpad[:4]):
        raise ImplausibleValue("both junctions at exactly 0 °C: no conversion took place", PULL_UP)
    return (int.from_bytes(scratchpad[:2], "little", signed=True) >> 2) / 4


_DEGREES_85 = bytes.fromhex("5005")
_FULL_RANGE = Channel("temperature", "°C", (-55.0, 125.0), 2)
_THERMOCOUPLE = Family(
    "MAX31850",
    Channel("temperature", "°C", (-270.0, 1800.0), 2),
    b"",
    _quarters,
    "±2 °C (type K, -200 to 700 °C), and that of the thermocouple",
)

# With the operating ranges of the datasheets.
FAMILIES = {
    "10": Family(
        "DS18S20",
        _FULL_RANGE,
        bytes.fromhex("aa00"),
        _halves_and_counters,
        resolution_can_be_set=False,
    ),
    "22": Family("DS1822", _FULL_RANGE, _DEGREES_85, _sixteenths, accuracy="±2 °C (-10 to 85 °C)"),
    "28": Family("DS18B20", _FULL_RANGE, _DEGREES_85, _sixteenths),
    "3b": Family("DS1825", _FULL_RANGE, _DEGREES_85, _sixteenths),
    "42": Family(
        "DS28EA00",
        msgspec.structs.replace(_FULL_RANGE, plausible=(-40.0, 85.0)),
        _DEGREES_85,
        _sixteenths,
        converts_together=False,
    ),
}
"""Family code, which an address begins with -> its properties."""

WIDEST_CHANNEL = _THERMOCOUPLE.channel


def family_of(address: str) -> Family:
    """Return the family of an address such as "28-0316a2795bff"."""
    return FAMILIES[address[:2]]


def channel_of(address: str) -> Channel:
    """Return the channel of an address; a "3b-" may turn out to be a thermocouple."""
    return WIDEST_CHANNEL if address.startswith("3b") else family_of(address).channel


def scratchpad_of(text: str) -> bytes:
    """Return the nine bytes in the text of a `w1_slave` file.

    Raises:
        BadFrame: the text is empty or cut short, or the kernel found the CRC wrong.
    """
    frame = _SCRATCHPAD.search(text)
    if frame is None:
        seen = "is empty" if not text.strip() else f"reads {text[:40]!r}"
        raise BadFrame(f"w1_slave {seen}", f"the conversion failed; {PULL_UP}")
    if frame[2] != "YES":
        raise BadFrame(f"CRC error in the scratchpad {frame[1]}", PULL_UP)
    return bytes.fromhex(frame[1])


def resolution_of(scratchpad: bytes) -> int:
    """Return the resolution in bits from the configuration (DS18B20 datasheet, figure 10)."""
    return 9 + (scratchpad[_CONFIGURATION] >> 5 & 0b11)


def power_on_error(celsius: float) -> ImplausibleValue:
    """Return the error for the value of a sensor that has not converted."""
    return ImplausibleValue(
        f"{celsius:.1f} °C is the power-on value: no conversion took place",
        "check 3V3 and the 4.7 kΩ pull-up; parasite power needs a strong one",
    )


_MAXIMS_OWN = re.compile(r"28-0000(?!00)")
"""Addresses of Maxim's parts; parts with 00 in the third byte are older than 2009, or copies."""
_DEGREES_25, _NOISY = bytes.fromhex("9001"), 0x66


def may_be_power_on(address: str, scratchpad: bytes) -> bool:
    """Return whether the sensor may not have converted since power-on.

    Of the copies sold as DS18B20 (cpetrich/counterfeit_DS18B20, families A to H), most begin with
    85 °C and always keep byte 6 at 0x0c. An NS18B20 begins with 0x10 in byte 6, the same as after
    a conversion to 85.00, and copies with 0x66 in byte 7 begin with 25 °C. For Maxim's own parts,
    byte 6 is enough (`celsius_of`).
    """
    if address.startswith("3b") and scratchpad[_CONFIGURATION] & _EXTENDED:
        return False
    if address.startswith("28") and scratchpad[:2] == _DEGREES_25:
        return scratchpad[7] == _NOISY
    return scratchpad[:2] == family_of(address).power_on and not _MAXIMS_OWN.match(address)


def celsius_of(address: str, scratchpad: bytes, *, is_converted: bool = False) -> float:
    """Return the temperature in °C in a scratchpad whose CRC was right.

    `is_converted`: the caller has proof of a conversion, so `may_be_power_on` does not matter.

    Raises:
        SensorNotFound: -127 °C or 127.94 °C, which an empty line reads as.
        ImplausibleValue: all zeros, a value outside the family's range, or the power-on state.
            85 °C is refused by the bytes of the scratchpad, not by the value, because a sensor may
            truly be that hot: after a conversion, byte 6 of most sensors is 16 minus the low four
            bits of byte 0.
        SensorFault: a thermocouple is open or shorted.
        BadFrame: a conversion cannot give these bytes.
    """
    if not any(scratchpad):
        raise ImplausibleValue("the scratchpad is all zeros", f"the line is held low; {PULL_UP}")
    if set(scratchpad) == {0xFF}:
        raise SensorNotFound("a scratchpad of ones means unplugged", PULL_UP)
    family = family_of(address)
    if address.startswith("3b") and scratchpad[_CONFIGURATION] & _EXTENDED:
        family = _THERMOCOUPLE
    celsius = family.decode(scratchpad)
    if (
        scratchpad[:2] == family.power_on
        and scratchpad[6] == _NOT_CONVERTED_BYTE_6
        and not is_converted
    ):
        raise power_on_error(celsius)
    low, high = family.channel.plausible
    if low <= celsius <= high:
        return celsius
    if celsius == -127.0 or celsius >= 127.9:
        raise SensorNotFound(f"{celsius:g} °C means unplugged, or no power", PULL_UP)
    raise ImplausibleValue(
        f"{celsius:g} °C is outside the {low:g} to {high:g} of a {family.model}", PULL_UP
    )
