"""Checks and settings that some chips of the catalogue need in addition to reading properties.

Each function belongs to a row (`ChipRow.prepare`, `ChipRow.check`) and is called on the thread
of the chip's bus, inside the deadline of a reading.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from drivers.errors import BadFrame, ImplausibleValue, SensorFault
from drivers.owned_bus import I2CBus, OwnedBus, SPIBus

__all__ = [
    "ads1x15_input",
    "ads1015_in_range",
    "ads1115_in_range",
    "bme680_invalid",
    "bosch_has_converted",
    "max31855_is_there",
    "max31856_faults",
    "max31865_faults",
    "max31865_limits",
    "mcp9600_faults",
    "mlx90632_in_range",
    "sen6x_invalid",
    "stcc4_faults",
    "tmp102_in_normal_mode",
]

# -- Bosch ---------------------------------------------------------------------------------------

_BOSCH_DATA = 0xF7  # press, temp: 20 bits each, as in BST-BME280-DS002, §5.4.7
_UNMEASURED = b"\x80\x00\x00"


def bosch_has_converted(device: Any, bus: OwnedBus, address: int) -> None:
    """Refuse the reset values of a BME280 or BMP280, which decode to a plausible room.

    Both registers hold them until a conversion (BST-BMP280-DS001, §4.3.6 and §4.3.7), for example
    after a brown-out that the library did not notice. Either one alone may also be measured.
    """
    assert isinstance(bus, I2CBus)
    registers = bytearray(6)
    bus.writeto_then_readfrom(address, bytes([_BOSCH_DATA]), registers)
    if registers == 2 * _UNMEASURED:
        raise ImplausibleValue(
            f"the chip at 0x{address:02x} still holds power-on values",
            "it lost its power for a moment; check the 3V3 supply",
        )


_BME680_VARIANT = 0xF0  # 1: a BME688 (BST-BME688-DS000, §5.3.1)
_BME680_GAS_LSB = {0: 0x2B, 1: 0x2D}
_GAS_VALID, _HEATER_STABLE = 0x20, 0x10  # BST-BME680-DS001, §5.3.5.4 and §5.3.5.5


def bme680_invalid(device: Any, bus: OwnedBus, address: int) -> tuple[str, ...]:
    """Return the gas channel if it was not measured, or before the heater was hot enough.

    The library reads a value in any case, at power-up 12.9 MΩ.
    """
    assert isinstance(bus, I2CBus)
    answer = bytearray(1)
    bus.writeto_then_readfrom(address, bytes([_BME680_VARIANT]), answer)
    register = _BME680_GAS_LSB.get(answer[0], _BME680_GAS_LSB[0])
    bus.writeto_then_readfrom(address, bytes([register]), answer)
    sound = _GAS_VALID | _HEATER_STABLE
    return () if answer[0] & sound == sound else ("gas_resistance",)


# -- Sensirion -----------------------------------------------------------------------------------

_STCC4_FAULTS = (  # STCC4 datasheet, "Sensor status"
    (0x0001, "its supply voltage is out of range", "check the 3V3 supply"),
    (0x0010, "its SHT4x is not connected", "check the wires between the two chips"),
    (0x0060, "its memory is damaged", "switch its power off and on; else it is broken"),
    (0x4000, "it is in its testing mode", "switch its power off and on"),
)


def stcc4_faults(device: Any, bus: OwnedBus, address: int) -> None:
    """Raise the faults in the measurement's status, which the library keeps but ignores."""
    for bit, what, remedy in _STCC4_FAULTS:
        if device.status & bit:
            raise SensorFault(what, remedy)


_SEN6X_FAULTS = {  # SEN6x datasheet, "Device status register"
    "rht_sensor_error": "its sensor of temperature and humidity is faulty",
    "fan_error": "its fan is blocked or broken, so that it does not measure the air",
}


def sen6x_invalid(device: Any, bus: OwnedBus, address: int) -> tuple[str, ...]:
    """Return CO2 if the device status shows its sensor as faulty; the library still reads it.

    Raises:
        SensorFault: none of the values can be trusted.
    """
    status = device.device_status
    if status.errors:
        device.clear_device_status()  # the flags stay until then
    for name, what in _SEN6X_FAULTS.items():
        if getattr(status, name):
            raise SensorFault(what, "switch its power off and on; else it is broken")
    return ("co2",) if status.co2_sensor_1_error or status.co2_sensor_2_error else ()


# -- Chips without an identification --------------------------------------------------------------


def max31855_is_there(device: Any, bus: OwnedBus, address: int) -> None:
    """Read the 32 bits once more: a bus that has died in between gives 0 °C.

    Bits D17 and D3 are always 0 (19-5793, table 3), so all ones are not an answer, either.
    """
    assert isinstance(bus, SPIBus)
    answer = bus.exchange(bytes(4))
    if answer == bytes(4) or answer[1] & 0x02 or answer[3] & 0x08:
        raise BadFrame(f"the chip answers 0x{answer.hex()}", "check MISO, CLK, CS and power")


_LM75_CONFIGURATION = 0x01
_TMP102_BITS, _TMP102_EXTENDED = 0x600F, 0x0010  # TI SBOS397, table 10: R1 and R0 are always 1


def tmp102_in_normal_mode(device: Any, bus: OwnedBus, address: int) -> None:
    """Refuse a TMP102 in extended mode, whose values an LM75's driver halves.

    An LM75's register has one byte, whose bits 5 and 6 are 0; a TMP1075 has ones in the second.
    """
    assert isinstance(bus, I2CBus)
    content = bytearray(2)
    bus.writeto_then_readfrom(address, bytes([_LM75_CONFIGURATION]), content)
    word = content[0] << 8 | content[1]
    if word & _TMP102_BITS == 0x6000 and word & _TMP102_EXTENDED:
        raise SensorFault(
            "it is a TMP102 in its extended mode, in which its values would be read as half",
            "switch its power off and on; another program has set that mode",
        )


# -- Infrared ------------------------------------------------------------------------------------

_MLX90632_RAM = range(0x4003, 0x4009)  # RAM_4 to RAM_9: both measurements of the medical mode
_ENDS_OF_SCALE = (b"\x7f\xff", b"\x80\x00")


def mlx90632_in_range(device: Any, bus: OwnedBus, address: int) -> None:
    """Refuse a measurement at the very end of the scale, and note that it was read.

    Each measurement sets the flag `new_data` of REG_STATUS, and only a write clears it (3901090632,
    "Measurement status"). The library reads a value in any case.
    """
    assert isinstance(bus, I2CBus)
    word = bytearray(2)
    for register in _MLX90632_RAM:
        bus.writeto_then_readfrom(address, register.to_bytes(2, "big"), word)
        if bytes(word) in _ENDS_OF_SCALE:
            raise ImplausibleValue(
                "the radiation is beyond the scale of the converter",
                "is the object, or the sensor itself, hotter or colder than its range?",
            )
    device.reset_data_ready()


# -- Thermocouples -------------------------------------------------------------------------------

_SHORT_REMEDY = "look for bare wire that touches metal, a damp junction, or a wrong supply"
_MAX31856_FAULTS = {
    "open_tc": (
        "the thermocouple is open",
        "check its screws and wires; it needs 10 nF across T+ and T-",
    ),
    "voltage": ("a thermocouple input is above the supply or below ground", _SHORT_REMEDY),
    "tc_range": (
        "the thermocouple is outside the range of its type",
        "is thermocouple set to the type that is wired, with + at T+?",
    ),
    "cj_range": (
        "the chip itself is outside -55 to 125 °C",
        "move the board away from the heat",
    ),
}


def max31856_faults(device: Any, bus: OwnedBus, address: int) -> None:
    """Raise the faults in the fault status register (datasheet 19-7534, "Fault Status Register").

    The library reads a value with or without a fault. While all is well, CR0 keeps the library's
    setting: open-circuit detection on, automatic conversion off. The thresholds (D5 to D2) stay at
    their power-on values; a reading that crosses one also crosses a range.
    """
    flags: Mapping[str, bool] = device.fault
    assert isinstance(bus, SPIBus)
    configuration = bus.exchange(b"\x00\x00")[1]
    if configuration & 0x90 != 0x10:
        raise BadFrame(
            f"CR0 is 0x{configuration:02x}: the chip has forgotten how it was set up",
            "it lost its power for a moment; check MISO, CLK, CS and power",
        )
    _raise_first(flags, _MAX31856_FAULTS)


def _raise_first(flags: Mapping[str, bool], faults: dict[str, tuple[str, str]]) -> None:
    for name, (what, remedy) in faults.items():
        if flags[name]:
            raise SensorFault(what, remedy)


_MCP9600_STATUS = 0x04  # datasheet DS20005426, "Status register"
_MCP9600_INPUT_RANGE = 0x10  # in an MCP9601, also an open circuit
_MCP9601_SHORT = 0x20
_LOOKS, _BETWEEN_LOOKS_S = 3, 0.1


def mcp9600_faults(device: Any, bus: OwnedBus, address: int) -> None:
    """Raise the faults in the status register, which the library ignores.

    An MCP9601's bits flicker with a sound thermocouple, so only a bit that stays is a fault.
    """
    assert isinstance(bus, I2CBus)
    status, faults = bytearray(1), _MCP9601_SHORT | _MCP9600_INPUT_RANGE
    for look in range(_LOOKS):
        if look:
            bus.pause(_BETWEEN_LOOKS_S)
        bus.writeto_then_readfrom(address, bytes([_MCP9600_STATUS]), status)
        faults &= status[0]
        if not faults:
            return
    if faults & _MCP9601_SHORT:
        raise SensorFault("the thermocouple is shorted to supply or ground", _SHORT_REMEDY)
    raise SensorFault(
        "the thermocouple is open, or outside the range of its type",
        "check its screws and wires, and that thermocouple is the type that is wired",
    )


# -- Resistance thermometers ---------------------------------------------------------------------

_CONFIG, _HIGH_LIMIT, _LOW_LIMIT, _FAULTS = 0x00, 0x03, 0x05, 0x07  # MAX31865, 19-6478, table 1
_WRITE = 0x80
_BIAS, _CYCLE_BITS, _AUTOMATIC_CYCLE = 0x80, 0x0C, 0x04  # table 2, table 3
_KEPT = 0x11  # three wires, mains filter
_BIAS_SETTLES_S = 0.01
_LOWEST_RATIO, _HIGHEST_RATIO = 0.1852, 3.9048  # R(-200 °C), R(850 °C) over R(0): IEC 60751

_OPEN_REMEDY = "check the wires of the sensor, and the jumpers of the board for 2, 3 or 4 wires"
# Fault status register (07h), decoded by tables 10 to 12; the first bit that is set names the
# cause best.
_MAX31865_FAULTS = (
    (0x04, "an RTD input is above the supply or below ground", _SHORT_REMEDY),
    (0x20, "the sensor or a wire to it is open", _OPEN_REMEDY),
    (0x10, "RTDIN- is shorted to ground", _SHORT_REMEDY),
    (0x08, "RTDIN+ or RTDIN- is shorted to ground", _SHORT_REMEDY),
    (0x80, "the resistance is above that of 850 °C: the sensor is open", _OPEN_REMEDY),
    (
        0x40,
        "the resistance is below that of -200 °C: the sensor is shorted",
        "look for wires that touch; are nominal_ohms and reference_ohms those of the board?",
    ),
)


def max31865_limits(device: Any, bus: OwnedBus, options: dict[str, Any]) -> Any:
    """Set the fault thresholds to the ends of the IEC 60751 scale. Return `device`.

    The power-on thresholds are 0 and full scale, which a shorted or open sensor may not reach.
    """
    assert isinstance(bus, SPIBus)
    full_scale = 32768 * options["nominal_ohms"] / options["reference_ohms"]
    for register, ratio in ((_HIGH_LIMIT, _HIGHEST_RATIO), (_LOW_LIMIT, _LOWEST_RATIO)):
        limit = min(0x7FFE, int(full_scale * ratio)) << 1
        bus.exchange(bytes([_WRITE | register]) + limit.to_bytes(2, "big"))
    return device


def max31865_faults(device: Any, bus: OwnedBus, address: int) -> None:
    """Run the automatic fault-detection cycle, and raise the faults that it finds.

    Without the cycle, the chip checks only the thresholds and over-voltage (19-6478, "Fault
    Detection Cycle"), and the library reads a value in any case.
    """
    assert isinstance(bus, SPIBus)
    kept = bus.exchange(bytes([_CONFIG, 0]))[1] & _KEPT
    faults = bus.exchange(bytes([_FAULTS, 0]))[1]  # of the conversion; the cycle adds its own
    bus.exchange(bytes([_WRITE | _CONFIG, kept | _BIAS]))
    bus.pause(_BIAS_SETTLES_S)
    bus.exchange(bytes([_WRITE | _CONFIG, kept | _BIAS | _AUTOMATIC_CYCLE]))
    while bus.exchange(bytes([_CONFIG, 0]))[1] & _CYCLE_BITS:
        bus.pause(0.001)
    faults |= bus.exchange(bytes([_FAULTS, 0]))[1]
    bus.exchange(bytes([_WRITE | _CONFIG, kept]))
    limit = bus.exchange(bytes([_HIGH_LIMIT, 0, 0]))[1:]
    if limit in (b"\x00\x00", b"\xff\xff"):
        raise BadFrame(
            f"the upper threshold is 0x{limit.hex()}: the chip has forgotten it",
            "it lost its power for a moment; check MISO, CLK, CS and power",
        )
    for bit, what, remedy in _MAX31865_FAULTS:
        if faults & bit:
            device.clear_faults()
            raise SensorFault(what, remedy)


# -- Analog --------------------------------------------------------------------------------------


def ads1x15_input(device: Any, bus: OwnedBus, options: dict[str, Any]) -> Any:
    """Return the library's object for the configured input."""
    analog_in: Any = importlib.import_module("adafruit_ads1x15.analog_in")
    return analog_in.AnalogIn(device, options["input"])


def ads1115_in_range(device: Any, bus: OwnedBus, address: int) -> None:
    """Refuse a conversion at the very end of the scale (TI SBAS444, table 3).

    The voltage may be anywhere beyond it.
    """
    _refuse_ends(bus, address, 0x7FFF)


def ads1015_in_range(device: Any, bus: OwnedBus, address: int) -> None:
    """As there, with 12 bits, which are the high ones (TI SBAS473, table 3)."""
    _refuse_ends(bus, address, 0x7FF0)


def _refuse_ends(bus: OwnedBus, address: int, highest: int) -> None:
    assert isinstance(bus, I2CBus)
    conversion = bytearray(2)
    bus.writeto_then_readfrom(address, b"\x00", conversion)
    if int.from_bytes(conversion, "big") in (highest, 0x8000):
        raise ImplausibleValue("the voltage is beyond full_scale", "set a higher full_scale")
