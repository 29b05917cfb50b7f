"""A simulated tree of the kernel's 1-Wire driver: `/sys/bus/w1/devices`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from drivers.sim.room import Air

__all__ = ["OneWireTree", "crc8", "w1_slave_text"]

POWER_ON_SCRATCHPAD = bytes.fromhex("50054b467fff0c10")


def crc8(block: bytes) -> int:
    """Dallas/Maxim CRC-8, x^8 + x^5 + x^4 + 1, bits reversed (DS18B20 datasheet, "CRC")."""
    crc = 0
    for byte in block:
        for bit in range(8):
            mix = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ (0x8C if mix else 0)
    return crc


def w1_slave_text(scratchpad: bytes, *, crc_right: bool = True) -> str:
    """The text of a `w1_slave` file for the first eight bytes of a scratchpad at 12 bits."""
    crc = crc8(scratchpad)
    frame = (scratchpad + bytes([crc if crc_right else crc ^ 0xFF])).hex(" ")
    raw = int.from_bytes(scratchpad[:2], "little", signed=True)
    verdict = "YES" if crc_right else "NO"
    return f"{frame} : crc={crc:02x} {verdict}\n{frame} t={raw * 1000 // 16}\n"


def _scratchpad(celsius: float) -> bytes:
    raw = round(celsius * 16)
    low, high = raw.to_bytes(2, "little", signed=True)
    return bytes([low, high, 0x4B, 0x46, 0x7F, 0xFF, 16 - (raw & 0xF), 0x10])


class OneWireTree:
    """A folder per sensor; `text` decides what each one's `w1_slave` holds.

    Replace the function in `text[address]` to inject a fault; remove the entry to unplug.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.text: dict[str, Callable[[], str]] = {}
        self.before_answer: Callable[[], object] = lambda: None

    def attach(self, address: str, air: Callable[[], Air]) -> None:
        self.text[address] = lambda: w1_slave_text(_scratchpad(air().temperature))

    def refresh(self) -> None:
        """Bring the files up to date, as the kernel does when one is opened."""
        self.before_answer()
        self._root.mkdir(parents=True, exist_ok=True)
        for folder in self._root.glob("28-*"):
            if folder.name not in self.text:
                shutil.rmtree(folder)
        for address, text in self.text.items():
            folder = self._root / address
            folder.mkdir(exist_ok=True)
            (folder / "w1_slave").write_text(text(), encoding="ascii")
