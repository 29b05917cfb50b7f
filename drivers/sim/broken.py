"""How a fault appears on each kind of wire; the driver above meets it as it would on a Pi.

Each function puts a `FaultPlan` under one simulated part. Faults that a part cannot have are
ignored: `drivers.sim.faults.fault_kinds` lists the possible ones.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from drivers.one_wire import FAMILIES
from drivers.sim.bosch import SimulatedBmp280
from drivers.sim.dht_line import DhtLine
from drivers.sim.faults import FaultPlan
from drivers.sim.i2c import SimulatedChip
from drivers.sim.kernel_tree import EIO, Content, SimulatedDevice
from drivers.sim.one_wire import POWER_ON_SCRATCHPAD, OneWireTree, w1_slave_text
from drivers.sim.spi import SimulatedSpiChip

__all__ = [
    "FaultyChip",
    "FaultySpiChip",
    "break_device",
    "break_dht",
    "break_one_wire",
    "faulty_file",
    "faulty_volts",
]

_BUS_TIMEOUT_S = 1.0  # as in Linux: i2c-core-base.c, i2c_register_adapter()
_SHORTEST_WITH_CRC = 3


def break_dht(line: DhtLine, plan: FaultPlan) -> None:
    """Simulate silence, a wrong checksum, or a capture that returns late or never."""
    healthy = line.frame

    def frame() -> bytes | None:
        sent = healthy()
        if sent is None or plan.has("unplug"):
            return None
        return sent[:4] + bytes([sent[4] ^ 0xFF]) if plan.has("crc") else sent

    def before_answer() -> None:
        plan.hang()
        plan.be_late()

    line.frame, line.before_answer = frame, before_answer


def break_one_wire(tree: OneWireTree, address: str, plan: FaultPlan) -> None:
    """Simulate an absent sensor, a CRC of "NO", 85 °C, or a `w1_slave` that is slow or blocks."""
    healthy = tree.text[address]
    family = address[:2]

    def text() -> str:
        plan.hang()
        plan.be_late()
        if plan.has("power-on"):
            scratchpad = FAMILIES[family].power_on + POWER_ON_SCRATCHPAD[2:]
            return w1_slave_text(scratchpad, family=family)
        if plan.has("crc"):
            scratchpad = bytes.fromhex(healthy()[:24])
            return w1_slave_text(scratchpad, crc_right=False, family=family)
        return healthy()

    tree.text[address] = text
    tree.unplugged[address] = lambda: plan.has("unplug")


class FaultyChip:
    """A chip on I2C, made by `make`, and made again after a loss of power.

    An unplugged chip does not acknowledge its address. A hanging chip holds the clock low until the
    adapter gives up; a slow one stretches it.
    """

    def __init__(self, make: Callable[[], SimulatedChip], plan: FaultPlan) -> None:
        self._make = make
        self._chip = make()
        self._plan = plan
        self._lost_power = False

    def _address(self) -> None:
        """Raise OSError as the kernel does: EREMOTEIO for a NACK, ETIMEDOUT for a held bus."""
        if self._plan.has("unplug"):
            self._lost_power = True
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        if self._lost_power:
            self._chip, self._lost_power = self._make(), False
        if self._plan.has("hang"):
            self._plan.pause(_BUS_TIMEOUT_S)
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        self._plan.be_late()

    def write(self, sent: bytes) -> None:
        self._address()
        self._chip.write(sent)
        if isinstance(self._chip, SimulatedBmp280) and self._plan.has("power-on"):
            self._chip.power_on()

    def read(self, length: int) -> bytes:
        self._address()
        answer = self._chip.read(length)
        if length >= _SHORTEST_WITH_CRC and self._plan.has("crc"):
            return answer[:-1] + bytes([answer[-1] ^ 0xFF])
        return answer


class FaultySpiChip:
    """A chip on SPI; MISO floats high while it is unplugged."""

    def __init__(self, chip: SimulatedSpiChip, plan: FaultPlan) -> None:
        self._chip = chip
        self._plan = plan

    def exchange(self, sent: bytes) -> bytes:
        return b"\xff" * len(sent) if self._plan.has("unplug") else self._chip.exchange(sent)


def faulty_volts(
    volts: Callable[[], float], plan: FaultPlan, open_volts: float
) -> Callable[[], float]:
    """Return the voltage at a converter's input; `open_volts` if unplugged."""
    return lambda: open_volts if plan.has("unplug") else volts()


def faulty_file(content: Content, plan: FaultPlan) -> Content:
    """Simulate a kernel file that is gone, fails with EIO for damaged data, blocks, or is slow."""

    def read() -> str | Path | None:
        plan.hang()
        plan.be_late()
        if plan.has("unplug"):
            return None
        return EIO if plan.has("crc") else content()

    return read


def break_device(device: SimulatedDevice, plan: FaultPlan) -> None:
    """Simulate an IIO or hwmon device that is gone, fails with EIO, blocks, or is slow.

    A DHT's device belongs to the overlay, so it stays when the sensor is unplugged: its files fail.
    """
    is_dht = device.name.partition("@")[0] == "dht11"

    def damaged(content: Content) -> Content:
        return lambda: EIO if plan.has("crc") or (is_dht and plan.has("unplug")) else content()

    def before_answer() -> None:
        plan.hang()
        plan.be_late()

    device.files = {name: damaged(content) for name, content in device.files.items()}
    device.before_answer = before_answer
    if not is_dht:
        device.unplugged = lambda: plan.has("unplug")
