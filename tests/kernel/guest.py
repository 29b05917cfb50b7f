"""Runs in the guest: sets registers, and asks the kernel's driver and ours what they mean.

The two have nothing in common but the datasheet. Prints a line per chip, and ends with 1 if any
two answers differ by more than the chip's resolution and rounding.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
from smbus import StubBus

from drivers.bus import Board, SystemTime
from drivers.errors import SensorError
from drivers.owned_bus import I2CBus
from drivers.registry import find_driver

# ruff: noqa: T201

Registers = dict[int, bytes]
SEED = 20261124


class Chip(msgspec.Struct, frozen=True):
    """One chip, as the kernel (`device`) and we (`driver`) know it."""

    driver: str
    device: str
    address: int
    vectors: Callable[[random.Random], Iterator[Registers]]
    files: dict[str, tuple[str, float]]
    """Channel -> the kernel's file, and what its number is to be multiplied with."""
    tolerance: dict[str, float]
    words: bool = False
    anew: bool = False
    """The kernel reads a calibration when it finds the chip: find it anew for each vector."""


def lm75_words(chance: random.Random) -> Iterator[Registers]:
    """Temperature in the upper bits of register 0, two's complement (NXP PCT2075, §7.4.3)."""
    for raw in (-55 * 8, -1, 1, 125 * 8, *(chance.randint(-440, 1000) for _ in range(16))):
        thresholds = {0x02: b"\x4b\x00", 0x03: b"\x50\x00"}
        yield {0x00: struct.pack(">h", raw << 5), 0x01: b"\0", **thresholds}


def jc42_words(chance: random.Random) -> Iterator[Registers]:
    """Sign and twelve bits below three flags (Microchip DS25095, §5.1.3)."""
    for raw in (-40 * 16, -1, 1, 125 * 16, *(chance.randint(-640, 2000) for _ in range(16))):
        flags = chance.randrange(8) << 13
        yield {
            0x01: b"\0\0",
            0x00: struct.pack(">H", 0x001D),
            0x05: struct.pack(">H", (raw & 0x1FFF) | flags),
            0x06: struct.pack(">H", 0x0054),
            0x07: struct.pack(">H", 0x0400),
        }


def _near(chance: random.Random, spread: float, value: float) -> int:
    return round(value * chance.uniform(1 - spread, 1 + spread))


def bosch(chance: random.Random, chip_id: int) -> Iterator[Registers]:
    """Calibrations near those of real chips, and raw values (BME280 BST-BME280-DS002, §4.2)."""
    for number in range(12):
        spread = 0.0 if number == 0 else 0.04
        near = partial(_near, chance, spread)
        temperature = [near(value) for value in (27504, 26435, -1000)]
        pressure = [
            near(value) for value in (36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)
        ]
        h4, h5 = near(340), chance.randint(-60, 60)
        humid = struct.pack(
            "<hBbBbb", near(364), 0, h4 >> 4, (h4 & 15) | (h5 & 15) << 4, h5 >> 4, 30
        )
        t, p, h = near(519888), near(415148), chance.randint(26000, 33000)
        raw = struct.pack(">I", p << 12)[:3] + struct.pack(">I", t << 12)[:3] + struct.pack(">H", h)
        yield {
            0x88: struct.pack("<Hhh", *temperature) + struct.pack("<Hhhhhhhhh", *pressure),
            0xA1: b"\x4b",
            0xD0: bytes([chip_id]),
            0xE1: humid,
            0xF2: b"\0\0\0\0",
            0xF7: raw,
        }


CHIPS = (
    Chip(
        driver="pct2075",
        device="pct2075",
        address=0x48,
        vectors=lm75_words,
        words=True,
        files={"temperature": ("hwmon/hwmon*/temp1_input", 1e-3)},
        tolerance={"temperature": 0.001},
    ),
    Chip(
        driver="mcp9808",
        device="jc42",
        address=0x18,
        vectors=jc42_words,
        words=True,
        files={"temperature": ("hwmon/hwmon*/temp1_input", 1e-3)},
        tolerance={"temperature": 0.001},
    ),
    Chip(
        driver="bme280",
        device="bme280",
        address=0x76,
        vectors=lambda chance: bosch(chance, 0x60),
        anew=True,
        files={
            "temperature": ("iio:device*/in_temp_input", 1e-3),
            "pressure": ("iio:device*/in_pressure_input", 10.0),
            "humidity": ("iio:device*/in_humidityrelative_input", 1e-3),
        },
        tolerance={"temperature": 0.011, "pressure": 0.02, "humidity": 0.05},
    ),
    Chip(
        driver="bmp280",
        device="bmp280",
        address=0x77,
        vectors=lambda chance: bosch(chance, 0x58),
        anew=True,
        files={
            "temperature": ("iio:device*/in_temp_input", 1e-3),
            "pressure": ("iio:device*/in_pressure_input", 10.0),
        },
        tolerance={"temperature": 0.011, "pressure": 0.02},
    ),
)


class StubBoard:
    """`drivers.bus.Board` with the stub's bus and nothing else."""

    def __init__(self, port: StubBus) -> None:
        self.clock = SystemTime()
        self._bus = I2CBus(port, self.clock, lambda: port)

    def i2c(self, bus: int) -> I2CBus:
        return self._bus


def main() -> int:
    adapter = next(
        folder
        for folder in Path("/sys/bus/i2c/devices").glob("i2c-*")
        if (folder / "name").read_text().startswith("SMBus stub")
    )
    port = StubBus(int(adapter.name[4:]), {chip.address for chip in CHIPS if chip.words})
    failures = 0
    for chip in CHIPS:
        began_s = time.monotonic()
        compared, differing = compare(chip, adapter, port)
        failures += len(differing) + (compared == 0)
        for line in differing[:5]:
            print(f"  {line}")
        verdict = "differ" if differing or not compared else "agree"
        print(
            f"{chip.driver}: {compared} values, ours and those of the kernel's {chip.device} "
            f"{verdict} ({time.monotonic() - began_s:.1f} s)",
            flush=True,
        )
    return 1 if failures else 0


def compare(chip: Chip, adapter: Path, port: StubBus) -> tuple[int, list[str]]:
    """How many values were compared, and those that differ."""
    device = adapter / f"{adapter.name[4:]}-{chip.address:04x}"
    compared, differing = 0, []
    vectors = list(chip.vectors(random.Random(SEED)))
    for vector in vectors:
        write(port, chip, vector)
        if chip.anew and device.exists():
            (adapter / "delete_device").write_text(f"{chip.address:#x}")
        if not device.exists():
            (adapter / "new_device").write_text(f"{chip.device} {chip.address:#x}")
        wrong = differences(chip, device, port)
        differing += [f"{told(vector)}: {text}" for text in wrong]
        compared += len(chip.files)
    # The control: registers that have changed since the kernel looked must be seen to differ.
    write(port, chip, vectors[0])
    theirs = {name: kernel_value(device, file) * by for name, (file, by) in chip.files.items()}
    write(port, chip, vectors[1])
    if not differences(chip, device, port, theirs):
        differing.append("the control: other registers, and no difference was seen")
    return compared, differing


def write(port: StubBus, chip: Chip, vector: Registers) -> None:
    for register, content in vector.items():
        port.write_register(chip.address, register, content)


def differences(
    chip: Chip, device: Path, port: StubBus, theirs: dict[str, float] | None = None
) -> list[str]:
    """Where our driver makes something else of the registers than the kernel (`theirs`: before)."""
    info = find_driver(chip.driver)
    try:
        ours = info.open(info.options(address=chip.address), cast(Board, StubBoard(port))).read()
    except SensorError as error:
        return [str(error)]
    found = []
    for channel, (file, factor) in chip.files.items():
        kernel = theirs[channel] if theirs else kernel_value(device, file) * factor
        if abs(ours[channel] - kernel) > chip.tolerance[channel]:
            found.append(f"{channel} {ours[channel]}, the kernel has {kernel:.4f}")
    return found


def kernel_value(device: Path, file: str) -> float:
    """What the kernel says; its file comes up a moment after the chip."""
    deadline_s = time.monotonic() + 5
    while not (found := sorted(device.glob(file))):
        if time.monotonic() > deadline_s:
            raise FileNotFoundError(f"{device}/{file}")
        time.sleep(0.05)
    return float(found[0].read_text())


def told(vector: Registers) -> Any:
    return {f"{register:#04x}": content.hex() for register, content in vector.items()}


if __name__ == "__main__":
    sys.exit(main())
