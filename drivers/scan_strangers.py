"""Chips that our drivers do not support, and that a scan would otherwise take for others. Data.

`drivers.scan_i2c` reads their identification if a chip of the catalogue has the same address.
"""

from __future__ import annotations

import msgspec

from drivers.name_sentences import about

__all__ = ["MULTIPLEXER", "MULTIPLEXERS", "STRANGERS", "Stranger"]


class Stranger(msgspec.Struct, frozen=True):
    """A chip, and the register that identifies it: its content, most significant byte first."""

    name: str
    addresses: tuple[int, ...]
    register: int
    value: int
    length: int
    instead: str = ""
    """A note on the chip, used if `names` does not have one."""

    @property
    def note(self) -> str:
        return f"{self.name}; it {self.instead or about(self.name)}"


STRANGERS = (
    # TI SNAS643 (HDC1000) and SNAS672 (HDC1080), device id.
    Stranger("HDC1080", (0x40, 0x41, 0x42, 0x43), 0xFF, 0x1050, 2),
    Stranger("HDC1000", (0x40, 0x41, 0x42, 0x43), 0xFF, 0x1000, 2),
    # TI SBOS547, die id.
    Stranger(
        "INA226", tuple(range(0x40, 0x48)), 0xFF, 0x2260, 2, "measures current, and no temperature"
    ),
    # Bosch BST-BMP180-DS000 §4, chip id.
    Stranger("BMP180", (0x77,), 0xD0, 0x55, 1),
    # ScioSense SC-001224-DS §16.2.1, part id, least significant byte first.
    Stranger(
        "ENS160", (0x52, 0x53), 0x00, 0x6001, 2, "measures gases, and is told the temperature"
    ),
)
MULTIPLEXERS = range(0x70, 0x78)
"""Where a TCA9548A or PCA9548A may be (TI SCPS207, table 1)."""
MULTIPLEXER = (
    "a multiplexer (TCA9548A), or a display; the kernel makes buses of a multiplexer's channels: "
    "dtoverlay=i2c-mux,pca9548,addr=0x{0:02x}; then scan finds what is behind it; without that, a "
    "sensor behind it has mux = {{ address = 0x{0:02x}, channel = N }}"
)
