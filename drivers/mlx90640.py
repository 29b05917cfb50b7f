"""The MLX90640, a camera of 32 x 24 infrared pixels: what the Adafruit library does not guard.

The library computes the pixels from 832 words of calibration in the chip (Melexis MLX90640 rev. 12,
§11.2). From a dead bus's words it would compute forever, without a transaction that could meet the
deadline, so the words are looked at first. It keeps its list of bad pixels in its class, where it
grows with each object, and leaves pixels as they were when it misses half of a picture.
"""

from __future__ import annotations

import math
from typing import Any

from drivers.errors import BadFrame
from drivers.owned_bus import I2CBus, OwnedBus

__all__ = ["HeatPicture", "camera_on", "heat_picture"]

_PIXELS = 768
_STATUS, _TAKEN = 0x8000, 0x0030  # clears "new data", and lets the chip overwrite it (§10.1)
_NEW_DATA = 0x08
_POLL_S = 0.05
_ATTEMPTS = 3
_4_HZ = 0b011  # a half every 0.25 s
_NEVER_EMPTY = {
    0x2407: "its id",
    0x2421: "its sensitivity",
    0x2430: "its gain",
    0x2433: "its supply voltage",
    0x2434: "its change with the voltage",
}
"""Words of the calibration."""
_NO_PIXEL = -273.15


def camera_on(bus: OwnedBus, library_class: Any, address: int) -> Any:
    """Return the library's object, after a look at the calibration.

    Raises:
        BadFrame: the calibration cannot be that of a living chip.
    """
    assert isinstance(bus, I2CBus)
    for register, what in _NEVER_EMPTY.items():
        word = bytearray(2)
        bus.writeto_then_readfrom(address, register.to_bytes(2, "big"), word)
        if bytes(word) in (b"\x00\x00", b"\xff\xff"):
            raise BadFrame(f"{what} reads 0x{word.hex()}", "check SDA, SCL and power")
    library_class.brokenPixels = []
    library_class.outlierPixels = []
    return library_class(bus, address)


class HeatPicture:
    """The pixels of one picture, as three numbers."""

    def __init__(self, device: Any, bus: I2CBus, address: int) -> None:
        self._device = device
        self._bus = bus
        self._address = address

    @property
    def picture(self) -> dict[str, float]:
        """Return the mean, lowest and highest temperature of a new picture, in °C.

        Raises:
            BadFrame: half of the picture was missed again and again.
        """
        pixels = [math.nan] * _PIXELS
        status = _STATUS.to_bytes(2, "big")
        # What was measured before does not count.
        self._bus.writeto(self._address, status + _TAKEN.to_bytes(2, "big"))
        word = bytearray(2)
        while not word[1] & _NEW_DATA:  # the library would ask without a pause
            self._bus.pause(_POLL_S)
            self._bus.writeto_then_readfrom(self._address, status, word)
        for _ in range(_ATTEMPTS):
            self._device.getFrame(pixels)
            if not any(map(math.isnan, pixels)):
                break
        else:
            raise BadFrame("half of the picture is missing", "this computer is too busy for it")
        seen = [celsius for celsius in pixels if celsius != _NO_PIXEL]
        return {"mean": math.fsum(seen) / len(seen), "lowest": min(seen), "highest": max(seen)}


def heat_picture(device: Any, bus: OwnedBus, options: dict[str, Any]) -> HeatPicture:
    """Return what is read in place of the library's object."""
    assert isinstance(bus, I2CBus)
    device.refresh_rate = _4_HZ
    return HeatPicture(device, bus, options["address"])
