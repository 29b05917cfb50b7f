"""A simulated tree of the kernel's 1-Wire driver, with the kernel's timing.

As in the kernel (drivers/w1/slaves/w1_therm.c), opening `w1_slave` converts, unless a bulk read has
converted the sensor since its last reading: then the sensor gives that result. A file is served
when a board is asked for its path.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from drivers.bus import Clock
from drivers.one_wire import FAMILIES
from drivers.sim.room import Air

__all__ = ["OneWireTree", "crc8", "w1_slave_text"]

POWER_ON_SCRATCHPAD = bytes.fromhex("50054b467fff0c10")

_MASTER = "w1_bus_master1"


def crc8(block: bytes) -> int:
    """Return Dallas/Maxim's CRC-8: x^8 + x^5 + x^4 + 1, reversed (DS18B20 datasheet, "CRC")."""
    crc = 0
    for byte in block:
        for bit in range(8):
            mix = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ (0x8C if mix else 0)
    return crc


def w1_slave_text(scratchpad: bytes, *, crc_right: bool = True, family: str = "28") -> str:
    """Return the text of a `w1_slave` file for the first eight bytes of a scratchpad."""
    crc = crc8(scratchpad)
    frame = (scratchpad + bytes([crc if crc_right else crc ^ 0xFF])).hex(" ")
    verdict = "YES" if crc_right else "NO"
    return f"{frame} : crc={crc:02x} {verdict}\n{frame} t={_kernels_t(family, scratchpad)}\n"


def _kernels_t(family: str, scratchpad: bytes) -> int:
    """Return m°C as w1_therm.c computes it, with integer division towards zero."""
    raw = int.from_bytes(scratchpad[:2], "little", signed=True)
    if family == "10":
        remain, per_degree = scratchpad[6], scratchpad[7]
        fine = int(1000 * (per_degree - remain) / per_degree) if per_degree else 0
        return (raw >> 1) * 1000 - 250 + fine if per_degree else 0
    if family == "3b" and scratchpad[4] & 0x80:
        raw &= ~0b11
    return int(raw * 1000 / 16)


_EEPROM = b"\x4b\x46"
"""The alarm bytes in the datasheet's example: 75 and 70 °C."""


def _scratchpad(family: str, celsius: float, resolution: int, alarms: bytes = _EEPROM) -> bytes:
    if family == "10":
        # raw >> 1 is the whole degree below celsius + 0.25; the counters hold the rest.
        sixteenths = round((celsius + 0.25) * 16)
        whole, fraction = divmod(sixteenths, 16)
        low, high = (whole * 2).to_bytes(2, "little", signed=True)
        return bytes([low, high, *alarms, 0xFF, 0xFF, 16 - fraction, 16])
    unused = 12 - resolution
    raw = round(celsius * 16) >> unused << unused
    low, high = raw.to_bytes(2, "little", signed=True)
    configuration = (resolution - 9) << 5 | 0x1F
    return bytes([low, high, *alarms, configuration, 0xFF, 16 - (raw & 0xF), 0x10])


class OneWireTree:
    """A folder per sensor; `text` returns the content of `w1_slave` after a conversion.

    Replace the function in `text[address]` to inject a fault ("": the sensor does not answer), or
    remove the entry to unplug it. `before_answer` is called at each transaction on the wire.
    """

    CONVERSION_S = 0.75  # at 12 bits: DS18B20 datasheet, table 2
    TRAFFIC_S = 0.012  # reset, match ROM, and nine bytes, at 65 µs a bit

    def __init__(self, listed_in: Path, clock: Clock) -> None:
        self._listed_in = listed_in
        self._master = listed_in.parent.parent.parent / "devices" / _MASTER
        self._clock = clock
        self.text: dict[str, Callable[[], str]] = {}
        self.before_answer: Callable[[], object] = lambda: None
        self.unplugged: dict[str, Callable[[], bool]] = {}
        """Address -> whether the sensor is off the bus now."""
        self.resolutions: dict[str, int] = {}
        self.fixed: set[str] = set()
        """Addresses whose resolution is fixed, as in some copies."""
        self.converted: Callable[[bytes], bytes] = lambda scratchpad: scratchpad
        """Turns a DS18B20's scratchpad after a conversion into that of a copy."""
        self.has_bulk_read = True
        self.has_alarms = True
        """Whether the kernel has the file for alarms (since Linux 5.8)."""
        self.alarms: dict[str, bytes] = {}
        """Address -> TH and TL in the sensor's memory."""
        self.power_on: dict[str, bytes] = {}
        """Address -> the power-on scratchpad, if it differs from the usual one."""
        self.loses_power: dict[str, Callable[[], bool]] = {}
        """Address -> whether the next conversion overloads the sensor's supply."""
        self.conversions = 0
        self._converted: dict[str, str] = {}
        """Address -> the unread result of a bulk read in the sensor's memory."""

    def attach(self, address: str, air: Callable[[], Air]) -> None:
        family = address[:2]
        self.resolutions[address] = 12
        self.alarms[address] = _EEPROM

        def text() -> str:
            if address in self.loses_power and self.loses_power[address]():
                self.alarms[address] = _EEPROM
                start = FAMILIES[family].power_on + POWER_ON_SCRATCHPAD[2:]
                return w1_slave_text(self.power_on.get(address, start), family=family)
            resolution, alarms = self.resolutions[address], self.alarms[address]
            scratchpad = self.converted(_scratchpad(family, air().temperature, resolution, alarms))
            return w1_slave_text(scratchpad, family=family)

        self.text[address] = text

    def refresh(self, absolute: str) -> None:
        """Serve the file `absolute`, and update the folders."""
        self._list()
        file = self._listed_in / os.path.relpath(absolute, "/sys/bus/w1/devices")
        address = file.parent.name
        if not file.exists():
            return
        if file.name == "therm_bulk_read":
            self._serve_bulk_read(file)
        elif file.name == "resolution":
            self._serve_resolution(address, file)
        elif file.name == "alarms":
            self._serve_alarms(address, file)
        elif file.name == "w1_slave":
            file.write_text(self._read(address), encoding="ascii")

    def _list(self) -> None:
        if not self.text and not self._master.exists():
            return  # 1-Wire is off
        self._listed_in.mkdir(parents=True, exist_ok=True)
        self._master.mkdir(parents=True, exist_ok=True)
        present = self._present()
        for folder in self._master.glob("??-*"):
            if folder.name not in present:
                shutil.rmtree(folder)
                (self._listed_in / folder.name).unlink()
        for address in present:
            folder = self._master / address
            if not folder.exists():
                folder.mkdir()
                (folder / "w1_slave").touch()
                if address in self.alarms and self.has_alarms:
                    (folder / "alarms").touch()
                if address in self.resolutions and FAMILIES[address[:2]].resolution_can_be_set:
                    (folder / "resolution").write_text(f"{self.resolutions[address]}\n")
        for folder in (self._master, *self._master.glob("??-*")):
            link = self._listed_in / folder.name
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(folder, self._listed_in))
        bulk_read = self._master / "therm_bulk_read"
        if not (self.has_bulk_read and self._together()):
            bulk_read.unlink(missing_ok=True)
        elif not bulk_read.exists():
            bulk_read.write_text("0\n", encoding="ascii")

    def _present(self) -> list[str]:
        return [a for a in self.text if a not in self.unplugged or not self.unplugged[a]()]

    def _together(self) -> list[str]:
        known = (a for a in self._present() if a[:2] in FAMILIES)  # others: phantoms
        return [a for a in known if FAMILIES[a[:2]].converts_together]

    def _read(self, address: str) -> str:
        self.before_answer()
        if address in self._converted:
            text = self._converted.pop(address)
        else:
            text = self.text[address]()
            self._convert([address] if text else [])
        self._clock.sleep(self.TRAFFIC_S)
        return text

    def _convert(self, addresses: list[str]) -> None:
        if addresses:
            self.conversions += 1
            bits = max(self.resolutions.get(address, 12) for address in addresses)
            self._clock.sleep(self.CONVERSION_S / 2 ** (12 - bits))

    def _serve_bulk_read(self, file: Path) -> None:
        # The kernel also compares the length, and ignores unknown words.
        if file.read_bytes() == b"trigger\n":
            self.before_answer()
            self._converted = {address: self.text[address]() for address in self._together()}
            self._convert([address for address, text in self._converted.items() if text])
        left = any(address in self.text for address in self._converted)
        file.write_text("1\n" if left else "0\n", encoding="ascii")

    def _serve_resolution(self, address: str, file: Path) -> None:
        wanted = file.read_text(encoding="ascii").strip()
        if address not in self.fixed and wanted in ("9", "10", "11", "12"):
            self.resolutions[address] = int(wanted)
        file.write_text(f"{self.resolutions[address]}\n", encoding="ascii")

    def _serve_alarms(self, address: str, file: Path) -> None:
        """Accept a written "-10 85"; show lowest and highest (w1_therm.c, alarms_show)."""
        if written := file.read_text(encoding="ascii").split():
            low, high = sorted(map(int, written))
            self.alarms[address] = bytes([high & 0xFF, low & 0xFF])
        th, tl = struct.unpack("bb", self.alarms[address])
        file.write_text(f"{tl} {th}\n", encoding="ascii")
