"""DS18B20 on the kernel's 1-Wire bus, through its `w1_slave` file.

The file holds the nine bytes of the scratchpad twice, the kernel's verdict on the CRC, and the
temperature (kernel Documentation/w1/slaves/w1_therm.rst):

    72 01 4b 46 7f ff 0e 10 57 : crc=57 YES
    72 01 4b 46 7f ff 0e 10 57 t=23125

Opening it starts a conversion, 750 ms at 12 bits, so the read blocks for that long. All sensors
of the bus share one worker.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec

from drivers.base import Channel, Claim, DriverInfo, Measurement, Options
from drivers.bus import Board
from drivers.errors import BadFrame, ImplausibleValue, SensorNotFound, as_sensor_error

__all__ = ["DS18B20", "Ds18b20", "Ds18b20Options", "decode_w1_slave"]

_BUS = "the 1-Wire bus"
_DEVICES = "/sys/bus/w1/devices"
_ENABLE = "switch 1-Wire on with dtoverlay=w1-gpio in config.txt, and check the 4.7 kΩ pull-up"
_PULL_UP = "check 3V3, the data wire and the 4.7 kΩ pull-up"

_SCRATCHPAD = re.compile(r"((?:[0-9a-f]{2} ){8}[0-9a-f]{2}) : crc=[0-9a-f]{2} (YES|NO)")
_MILLIDEGREES = re.compile(r"\bt=(-?\d+)")

# DS18B20 datasheet, table 1 and "Scratchpad": 85 °C and byte 6 = 0x0C are the power-on state;
# after a conversion byte 6 is 16 minus the low four bits of byte 0, which is 0x10 - 0 for 85.0.
_POWER_ON_TEMPERATURE = bytes.fromhex("5005")
_POWER_ON_BYTE_6 = 0x0C

_CHANNEL = Channel("temperature", "°C", (-55.0, 125.0), 2)


_Address = Annotated[
    str,
    msgspec.Meta(pattern=r"^28-[0-9a-f]{12}\Z", description='an address like "28-0316a2795bff"'),
]


class Ds18b20Options(Options, frozen=True, kw_only=True):
    """`address` as the kernel writes it, "28-0316a2795bff"; may be left out for an only sensor."""

    address: _Address | None = None

    def bus(self) -> str:
        return "w1"

    def where(self) -> str:
        return f"1-Wire {self.address or 'bus'}"

    def claims(self) -> tuple[Claim, ...]:
        if self.address is None:
            return (Claim(_BUS),)  # it is the only one
        return (Claim(_BUS, "by address"), Claim(f"1-Wire address {self.address}"))


def decode_w1_slave(text: str) -> float:
    """Temperature in °C from the text of a `w1_slave` file.

    Raises:
        BadFrame: empty, cut short, or the kernel found the CRC wrong.
        SensorNotFound: -127 °C or 127.94 °C, which a line with nothing on it reads as.
        ImplausibleValue: a scratchpad of zeros, or the power-on state: 85 °C is refused by the
            bytes of the scratchpad, not by the value, since a sensor may truly be that hot.
    """
    frame = _SCRATCHPAD.search(text)
    millidegrees = _MILLIDEGREES.search(text)
    if frame is None or millidegrees is None:
        seen = "is empty" if not text.strip() else f"reads {text[:40]!r}"
        raise BadFrame(f"w1_slave {seen}", f"the conversion failed; {_PULL_UP}")
    if frame[2] != "YES":
        raise BadFrame(f"CRC error in the scratchpad {frame[1]}", _PULL_UP)
    scratchpad = bytes.fromhex(frame[1])
    celsius = int(millidegrees[1]) / 1000
    if not any(scratchpad):
        raise ImplausibleValue("the scratchpad is all zeros", f"the line is held low; {_PULL_UP}")
    if celsius == -127.0 or celsius >= 127.9 or set(scratchpad) == {0xFF}:
        raise SensorNotFound(f"{celsius:g} °C means unplugged", _PULL_UP)
    if scratchpad[:2] == _POWER_ON_TEMPERATURE and scratchpad[6] == _POWER_ON_BYTE_6:
        raise ImplausibleValue(
            "85.0 °C is the power-on value: no conversion took place",
            "check 3V3 and the 4.7 kΩ pull-up; parasite power needs a strong one",
        )
    return celsius


class Ds18b20:
    """One DS18B20 in the device folder of the kernel's 1-Wire driver."""

    channels = (_CHANNEL,)

    def __init__(self, options: Ds18b20Options, board: Board) -> None:
        self._options = options
        self._board = board

    def read(self) -> Measurement:
        """Convert and read, °C with a step of 0.0625 at 12 bits."""
        root = self._board.path(_DEVICES)
        file = root / (self._options.address or self._only_address(root)) / "w1_slave"
        try:
            text = file.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError as error:
            raise SensorNotFound(f"{file.parent.name} is not on the bus", _PULL_UP) from error
        except OSError as error:
            raise as_sensor_error(error, str(file), _PULL_UP) from error
        return {"temperature": decode_w1_slave(text)}

    def _only_address(self, root: Path) -> str:
        found = sorted(device.name for device in root.glob("28-*"))
        if not found:
            raise SensorNotFound("no DS18B20 on the 1-Wire bus", _ENABLE)
        if len(found) > 1:
            raise SensorNotFound(
                f"{len(found)} DS18B20 on the bus and no address is configured",
                "set address to one of " + ", ".join(found),
            )
        return found[0]

    def close(self) -> None:
        """Nothing stays open between readings."""


DS18B20 = DriverInfo(
    name="ds18b20",
    summary="DS18B20 on 1-Wire: temperature (±0.5 °C)",
    options=Ds18b20Options,
    channels=(_CHANNEL,),
    open=Ds18b20,
    example='driver = "ds18b20"\naddress = "28-0316a2795bff"',
    read_budget_s=5.0,
)
