"""The thermometers that the kernel's w1_therm knows, by family: from scratchpad to °C. Pure.

The nine bytes of a scratchpad come from `w1_slave` (kernel Documentation/w1/slaves/w1_therm.rst):

    72 01 4b 46 7f ff 0e 10 57 : crc=57 YES
    72 01 4b 46 7f ff 0e 10 57 t=23125

They are decoded here, and the kernel's `t=` is not used: older kernels give wrong ones for a
MAX31850, and for none do they leave out the bits that a resolution below 12 leaves undefined.
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
    """As of each of these but two: "Thermometer Error" in the table of DC characteristics."""
    resolution_can_be_set: bool = True
    converts_together: bool = True
    """Whether the kernel's bulk read takes it along (w1_therm.c, `bulk_read`)."""


def _sixteenths(scratchpad: bytes) -> float:
    """DS18B20 datasheet, figure 4: two's complement, 1/16 °C at 12 bits.

    The lowest bit at 11 bits, two at 10 and three at 9 are undefined (table 2). With bit 7 of
    the configuration set it is a GX20MH01, whose two lowest bits of 14 stand there.
    """
    raw = int.from_bytes(scratchpad[:2], "little", signed=True)
    configuration = scratchpad[_CONFIGURATION]
    if configuration & _EXTENDED:
        return (raw * 4 + (configuration & 0b11)) / 64
    undefined_bits = 12 - resolution_of(scratchpad)
    return (raw >> undefined_bits << undefined_bits) / 16


def _halves_and_counters(scratchpad: bytes) -> float:
    """DS18S20 datasheet, "Measuring Temperature": 1/2 °C, refined by bytes 6 and 7.

    Raises:
        BadFrame: the counters cannot be those of a conversion.
    """
    raw = int.from_bytes(scratchpad[:2], "little", signed=True)
    count_remain, count_per_degree = scratchpad[6], scratchpad[7]
    if not 0 < count_per_degree >= count_remain:
        raise BadFrame(f"counters {count_remain} of {count_per_degree} in the scratchpad", PULL_UP)
    return (raw >> 1) - 0.25 + (count_per_degree - count_remain) / count_per_degree


def _quarters(scratchpad: bytes) -> float:
    """MAX31850 datasheet, p. 13: 1/4 °C in the upper 14 bits, and below the two junctions' faults.

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
"""Family code, as an address begins with it -> what is there."""

WIDEST_CHANNEL = _THERMOCOUPLE.channel


def family_of(address: str) -> Family:
    """The family of an address such as "28-0316a2795bff"."""
    return FAMILIES[address[:2]]


def channel_of(address: str) -> Channel:
    """What can be measured at an address; a "3b-" may turn out to be a thermocouple."""
    return WIDEST_CHANNEL if address.startswith("3b") else family_of(address).channel


def scratchpad_of(text: str) -> bytes:
    """The nine bytes in the text of a `w1_slave` file.

    Raises:
        BadFrame: empty, cut short, or the kernel found the CRC wrong.
    """
    frame = _SCRATCHPAD.search(text)
    if frame is None:
        seen = "is empty" if not text.strip() else f"reads {text[:40]!r}"
        raise BadFrame(f"w1_slave {seen}", f"the conversion failed; {PULL_UP}")
    if frame[2] != "YES":
        raise BadFrame(f"CRC error in the scratchpad {frame[1]}", PULL_UP)
    return bytes.fromhex(frame[1])


def resolution_of(scratchpad: bytes) -> int:
    """Bits of resolution that the configuration register says (DS18B20 datasheet, figure 10)."""
    return 9 + (scratchpad[_CONFIGURATION] >> 5 & 0b11)


def power_on_error(celsius: float) -> ImplausibleValue:
    """What is raised for the value of a sensor that has not converted."""
    return ImplausibleValue(
        f"{celsius:.1f} °C is the power-on value: no conversion took place",
        "check 3V3 and the 4.7 kΩ pull-up; parasite power needs a strong one",
    )


_MAXIMS_OWN = re.compile(r"28-0000(?!00)")
"""Addresses of Maxim's parts; those with 00 in the third place are of before 2009, or copies."""
_DEGREES_25, _NOISY = bytes.fromhex("9001"), 0x66


def may_be_power_on(address: str, scratchpad: bytes) -> bool:
    """Whether a scratchpad may be that of a sensor that has not converted since it got power.

    Of the copies that are sold as DS18B20 (cpetrich/counterfeit_DS18B20, families A to H), most
    begin with 85 °C and keep byte 6 at 0x0c for ever, an NS18B20 begins with 0x10 there, which is
    what a conversion to 85.00 leaves, and those with 0x66 in byte 7 begin with 25 °C. For Maxim's
    own, byte 6 is enough (`celsius_of`).
    """
    if address.startswith("3b") and scratchpad[_CONFIGURATION] & _EXTENDED:
        return False
    if address.startswith("28") and scratchpad[:2] == _DEGREES_25:
        return scratchpad[7] == _NOISY
    return scratchpad[:2] == family_of(address).power_on and not _MAXIMS_OWN.match(address)


def celsius_of(address: str, scratchpad: bytes, *, is_converted: bool = False) -> float:
    """The temperature in a scratchpad whose CRC was right.

    `is_converted`: somebody has seen to it that it is none of `may_be_power_on`.

    Raises:
        SensorNotFound: -127 °C or 127.94 °C, which a line with nothing on it reads as.
        ImplausibleValue: all zeros, a value outside the family's range, or the power-on state.
            85 °C is refused by the bytes of the scratchpad, not by the value, since a sensor may
            truly be that hot: after a conversion, byte 6 of most is 16 minus the low four bits of
            byte 0.
        SensorFault: a thermocouple is open or shorted.
        BadFrame: bytes that no conversion leaves.
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
