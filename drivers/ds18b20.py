"""DS18B20 and its relatives on the kernel's 1-Wire bus (`dtoverlay=w1-gpio`).

An address begins with its family: 10 DS18S20, 22 DS1822, 28 DS18B20, 3b DS1825 and MAX31850,
42 DS28EA00. `drivers.one_wire` decodes their bytes, and `drivers.one_wire_bus` has the shared
conversions. All sensors share one worker.
"""

from __future__ import annotations

import weakref
from typing import Annotated

import msgspec

from drivers.base import Channel, Claim, DriverInfo, Measurement, Options
from drivers.bus import Board
from drivers.errors import MissingSupport, SensorError, SensorNotFound, as_sensor_error
from drivers.one_wire import (
    PULL_UP,
    WIDEST_CHANNEL,
    celsius_of,
    channel_of,
    family_of,
    may_be_power_on,
    power_on_error,
    resolution_of,
    scratchpad_of,
)
from drivers.one_wire_bus import DEVICES, OneWireBus, one_wire_trouble

__all__ = ["DS18B20", "Ds18b20", "Ds18b20Options"]

_BUS = "the 1-Wire bus"
_GONE = "is not on the bus"
_NOBODY = f"1-Wire is on, but nothing answers; {PULL_UP}"
_ENABLE = "switch 1-Wire on: dtoverlay=w1-gpio in config.txt, and reboot"

# Lowest and highest, °C: values that are not used for real alarms.
_MARKS = ((-54, 124), (-53, 123))
# Closer (°C) than the accuracy, and at most this long (s) after the last reading.
_NEIGHBOUR_WITHIN, _NEIGHBOUR_FOR_S = 0.5, 600.0

_Address = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(10|22|28|3b|42)-[0-9a-f]{12}\Z",
        description='an address like "28-0316a2795bff"',
    ),
]
_Resolution = Annotated[int, msgspec.Meta(ge=9, le=12)]


class Ds18b20Options(Options, frozen=True, kw_only=True):
    """`address` as the kernel writes it, "28-0316a2795bff"; optional if there is only one sensor.

    `resolution` in bits: 9 bits convert in 94 ms, and each further bit doubles the time.
    """

    address: _Address | None = None
    resolution: _Resolution | None = None

    def __post_init__(self) -> None:
        if self.resolution is not None and self.address is not None:
            family = family_of(self.address)
            if not family.resolution_can_be_set:
                raise ValueError(f"the resolution of a {family.model} cannot be set")

    def bus(self) -> str:
        return "w1"

    def where(self) -> str:
        return f"1-Wire {self.address or 'bus'}"

    def accuracy(self) -> str:
        if self.address is None:
            return ""
        if self.address.startswith("3b"):
            return "that of a DS1825 (0.5 °C), or of a MAX31850 and its thermocouple (2 °C)"
        return family_of(self.address).accuracy

    def claims(self) -> tuple[Claim, ...]:
        if self.address is None:
            return (Claim(_BUS),)  # the only sensor
        return (Claim(_BUS, "by address"), Claim(f"1-Wire address {self.address}"))


class Ds18b20:
    """One thermometer in the device folder of the kernel's 1-Wire driver."""

    def __init__(self, options: Ds18b20Options, board: Board, bus: OneWireBus) -> None:
        self._board = board
        self._bus = bus
        self._address = options.address or self._only_address()
        self._resolution = options.resolution
        self._resolution_is_set = options.resolution is None
        self._mark = b""
        """The alarm bytes that were written to the sensor; lost when it loses its power."""
        self._believed: tuple[float, float] | None = None
        """The last value, °C, and its time; None after an error."""
        self.channels: tuple[Channel, ...] = (channel_of(self._address),)
        bus.join(self._address)

    def read(self) -> Measurement:
        """Convert, and return the temperature in °C.

        Sensors that are read one after another share one conversion, so the temperature may have
        been measured up to a second before the call.
        """
        believed, self._believed = self._believed, None
        scratchpad = self._scratchpad()
        is_suspect = may_be_power_on(self._address, scratchpad)
        if is_suspect:
            scratchpad = self._proved(scratchpad, believed)
        celsius = celsius_of(self._address, scratchpad, is_converted=is_suspect)
        self._bus.converted_in_vain.discard(self._address)
        self._believed = celsius, self._board.clock.monotonic()
        return {"temperature": celsius}

    def _scratchpad(self) -> bytes:
        """Return the scratchpad after a conversion.

        Raises:
            SensorError: the scratchpad cannot be read.
        """
        try:
            if not self._resolution_is_set:
                self._set_resolution()
            text = self._bus.read(self._address)
        except FileNotFoundError as error:
            raise self._absent(_GONE) from error
        if not text.strip() and self._bus.strangers():
            raise self._absent("does not answer")
        scratchpad = scratchpad_of(text)
        if self._resolution is not None:
            # After a loss of power, the sensor uses the resolution in its EEPROM.
            self._resolution_is_set = resolution_of(scratchpad) == self._resolution
        return scratchpad

    def _proved(self, scratchpad: bytes, believed: tuple[float, float] | None) -> bytes:
        """Return a scratchpad that proves a conversion; the given one does not.

        The sensor's alarm bytes are in a memory that is lost with the power. If the bytes that this
        driver wrote are still there after another conversion, the conversion took place. If the
        kernel does not have a writable file for them, a different value is a proof, and so is a
        very similar earlier value. A sensor without any proof is not converted again at each
        reading, because others wait for the bus.

        Raises:
            ImplausibleValue: the sensor has not converted, or there is no proof that it has.
        """
        if self._mark and scratchpad[2:4] == self._mark:
            return scratchpad
        is_marked = self._leave_mark(scratchpad)
        if self._address in self._bus.converted_in_vain:
            raise power_on_error(celsius_of(self._address, scratchpad, is_converted=True))
        self._bus.converted_in_vain.add(self._address)
        again = self._scratchpad()
        if not may_be_power_on(self._address, again):
            return again
        celsius = celsius_of(self._address, again, is_converted=True)
        if is_marked:
            if again[2:4] == self._mark:
                return again
        elif believed is not None:
            value, at_s = believed
            is_recent = self._board.clock.monotonic() - at_s <= _NEIGHBOUR_FOR_S
            if is_recent and abs(value - celsius) <= _NEIGHBOUR_WITHIN:
                return again
        raise power_on_error(celsius)

    def _leave_mark(self, scratchpad: bytes) -> bool:
        """Write alarm bytes that are not there yet. Return False if that fails.

        The kernel writes them to the sensor's memory, not to its EEPROM (kernel
        Documentation/w1/slaves/w1_therm.rst, "alarms"). The alarms themselves are not used.
        """
        low, high = next(m for m in _MARKS if bytes([m[1], m[0] & 0xFF]) != scratchpad[2:4])
        path = f"{DEVICES}/{self._address}/alarms"
        try:
            with open(self._board.path(path), "r+", encoding="ascii") as file:
                file.write(f"{low} {high}\n")
            found = self._board.path(path).read_text(encoding="ascii").split()
        except OSError:
            return False
        if found != [f"{low}", f"{high}"]:  # a copy that keeps its own
            return False
        self._mark = bytes([high, low & 0xFF])
        return True

    def _only_address(self) -> str:
        found = self._bus.addresses()
        if not found:
            if trouble := one_wire_trouble(self._board):
                raise SensorNotFound(
                    f"no thermometer on the 1-Wire bus; {trouble.what}", trouble.hint
                )
            is_on = any(self._board.path(DEVICES).glob("w1_bus_master*"))
            hint = _NOBODY if is_on else _ENABLE
            raise SensorNotFound("no thermometer on the 1-Wire bus", hint)
        if len(found) > 1:
            raise SensorNotFound(
                f"{len(found)} thermometers on the 1-Wire bus and no address is configured",
                "set address to one of " + ", ".join(found),
            )
        return found[0]

    def _absent(self, how: str) -> SensorError:
        """Name the sensors that are there instead, unread ones first: one may be the new one."""
        if how == _GONE and self._address in self._bus.addresses():
            return MissingSupport(
                f"{self._address} is there, and the kernel's driver for it is not",
                "load it: modprobe w1-therm",
            )
        if trouble := one_wire_trouble(self._board):
            return SensorNotFound(f"{self._address} {how}; {trouble.what}", trouble.hint)
        if strangers := self._bus.strangers():
            hint = f"there is {', '.join(strangers)}, which is not read by any other sensor: "
            hint += f"was it swapped? Else {PULL_UP}"
        elif others := [a for a in self._bus.addresses() if a != self._address]:
            hint = f"there is {', '.join(others)}; {PULL_UP}"
        else:
            hint = f"there is no other; {PULL_UP}"
        return SensorNotFound(f"{self._address} {how}", hint)

    def _set_resolution(self) -> None:
        """Write the resolution to the sensor's memory, if it differs.

        Raises:
            MissingSupport: the sensor's resolution is fixed, or it keeps the old one.
            FileNotFoundError: the sensor is not there.
        """
        path = f"{DEVICES}/{self._address}/resolution"
        file = self._board.path(path)
        wanted = f"{self._resolution}"
        try:
            found = file.read_text(encoding="ascii").strip()
            if found != wanted:
                file.write_text(wanted, encoding="ascii")
                # Some kernels accept a resolution that the sensor refuses.
                found = self._board.path(path).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if not file.parent.exists():
                raise
            found = "fixed"
        except PermissionError as error:
            hint = "deploy/README.md has the rule that lets the node write it"
            raise MissingSupport(f"{path}: {error.strerror}", hint) from error
        except OSError as error:
            raise as_sensor_error(error, path, f"{PULL_UP}, or leave out resolution") from error
        if found != wanted:
            raise MissingSupport(
                f"the resolution of {self._address} is {found} and cannot be set to {wanted}",
                "leave out resolution",
            )
        self._resolution_is_set = True

    def close(self) -> None:
        """Do nothing: nothing stays open between readings."""
        self._bus.leave(self._address)


class _Opener:
    """Opens sensors, and gives all open sensors of a board the same bus."""

    def __init__(self) -> None:
        self._buses: weakref.WeakValueDictionary[int, OneWireBus] = weakref.WeakValueDictionary()
        """Buses by the id of the board, which the bus keeps alive."""

    def __call__(self, options: Ds18b20Options, board: Board) -> Ds18b20:
        bus = self._buses.get(id(board))
        if bus is None:
            bus = self._buses[id(board)] = OneWireBus(board)
        return Ds18b20(options, board, bus)


def _scan(board: Board) -> list[dict[str, str | int]]:
    return [{"address": address} for address in OneWireBus(board).addresses()]


DS18B20 = DriverInfo(
    name="ds18b20",
    summary="DS18B20, DS18S20, DS1822, DS1825, DS28EA00, MAX31850 on 1-Wire",
    aliases=(
        *("ds18s20", "ds18b20par", "ds1820", "ds1822", "ds1825"),
        *("ds28ea00", "max31850", "max31820", "gx18b20", "ky001", "dallas"),
    ),
    options=Ds18b20Options,
    channels=(WIDEST_CHANNEL,),
    open=_Opener(),
    example='driver = "ds18b20"\naddress = "28-0316a2795bff"',
    accuracy="±0.5 °C (-10 to 85 °C); DS1822 ±2 °C; MAX31850 ±2 °C and the thermocouple's own",
    source="Maxim DS18B20 (19-7487), DC electrical characteristics, and those of its relatives",
    quirks="85 °C is what it has at power-on, 25 °C some copies: refused, unless it was measured",
    read_budget_s=5.0,
    scan=_scan,
)
