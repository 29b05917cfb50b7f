"""A board without a living part: a driver must not mistake anything on it for a reading."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from drivers.base import Options, Simulate
from drivers.bus import Advertisement, ByteStream, Clock, DhtSensor, Radio, SerialSettings
from drivers.errors import SensorTimeout
from drivers.owned_bus import I2CBus, SPIBus
from drivers.sim.board import SimulatedBoard
from drivers.sim.dht_line import DhtLine, LibraryDht
from drivers.sim.faults import Fault
from drivers.sim.i2c import SimulatedI2C
from drivers.sim.kernel_tree import EIO, serve
from drivers.sim.one_wire import w1_slave_text
from drivers.sim.spi import SimulatedSPI

__all__ = ["DEATHS", "ConstantChip", "DeadBoard", "DeadStream", "Death"]

Death = Literal["absent", "zeros", "ones", "held"]
DEATHS: tuple[Death, ...] = get_args(Death)
"""Nothing answers; every byte is 0x00, or 0xFF; each transaction fails, as on a held bus."""


class ConstantChip:
    """A dead bus, I2C or SPI: every byte that is read is the same."""

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def write(self, sent: bytes) -> None:
        """Do nothing: the bus is dead."""

    def read(self, length: int) -> bytes:
        return bytes([self._byte]) * length

    def exchange(self, sent: bytes) -> bytes:
        return bytes([self._byte]) * len(sent)


_UUIDS = (0xFCD2, 0x181A, 0xFE95, 0xFDCD, 0xFD3D)
_COMPANIES = (0x0499, 0xEC88, 0x0001, 0x8801, 0x0969)


class _DeadRadio:
    """A radio that hears nothing, or nothing but one byte, or that fails."""

    def __init__(self, death: Death, level: int, clock: Clock) -> None:
        self._death = death
        self._content = bytes([level]) * 24
        self._company = level << 8 | level
        self._clock = clock
        self._ears: dict[str, Callable[[Advertisement], None]] = {}

    def listen(self, address: str, hear: Callable[[Advertisement], None], *, passive: bool) -> None:
        self._ears[address] = hear

    def leave(self, address: str) -> None:
        self._ears.pop(address, None)

    def check(self) -> None:
        if self._death == "held":
            raise SensorTimeout("bluetoothd does not answer", "restart it")
        if self._death == "absent":
            return
        for address, hear in self._ears.items():
            for length in range(6, len(self._content)):
                content = self._content[:length]
                hear(
                    Advertisement(
                        address=address,
                        service_data=dict.fromkeys(_UUIDS, content),
                        manufacturer_data=dict.fromkeys((*_COMPANIES, self._company), content),
                        heard_s=self._clock.monotonic(),
                    )
                )

    def describe(self) -> str:
        return "dead"

    def survey(self, seconds: float) -> list[Advertisement]:
        return []


class DeadStream:
    """A serial line or connection on which nothing comes, or one byte without end, or an error."""

    def __init__(self, death: Death, clock: Clock) -> None:
        self.timeout = 0.0
        self._death = death
        self._clock = clock

    def write(self, sent: bytes) -> None:
        if self._death == "held":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def read(self, size: int) -> bytes:
        self.write(b"")
        if self._death == "absent":
            self._clock.sleep(self.timeout)
            return b""
        return bytes([0xFF if self._death == "ones" else 0x00]) * size

    def reset_input_buffer(self) -> None:
        self.write(b"")

    def close(self) -> None:
        """Do nothing: the line is dead."""


class DeadBoard(SimulatedBoard):
    """A board whose buses and files are all dead in the way of `death`.

    gpiozero's pins are low. `attach` only makes the files of a sensor exist. `used` is true once a
    driver has asked for anything but the clock.
    """

    def __init__(self, death: Death, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.used = False
        self._death = death
        self._level = 0xFF if death == "ones" else 0x00

    def attach(
        self,
        driver: str,
        options: Options,
        faults: Sequence[Fault] = (),
        *,
        simulate: Simulate | None = None,
    ) -> None:
        if simulate is None:
            super().attach(driver, options, faults)
        # The CRC of zeros is zero, so the kernel accepts a line that is held low as a good answer.
        text = w1_slave_text(bytes([self._level]) * 8, crc_right=not self._level)
        text = "" if self._death == "held" else text
        for address in self.one_wire.text:
            self.one_wire.text[address] = lambda: text
            self.one_wire.unplugged[address] = lambda: self._death == "absent"
        for chip in self.analog_chips.values():  # 99 V: the highest code
            chip.volts = dict.fromkeys(range(8), lambda: 99.0 if self._level else 0.0)

    def _transaction(self, *_: object) -> None:
        if self._death == "held":
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def i2c(self, bus: int) -> I2CBus:
        self.used = True
        port = SimulatedI2C()
        port.before_answer = self._transaction
        if self._death in ("zeros", "ones"):
            port.chips = dict.fromkeys(range(0x80), ConstantChip(self._level))
        return I2CBus(port, self.clock)

    def spi(self, bus: int, select: int) -> SPIBus:
        self.used = True
        port = SimulatedSPI()
        port.before_answer = self._transaction
        port.chip = None if self._death == "absent" else ConstantChip(self._level)
        return SPIBus(port, self.clock)

    def serial(self, port: str, settings: SerialSettings) -> ByteStream:
        self.used = True
        return DeadStream(self._death, self.clock)

    def tcp(self, host: str, port: int, *, within_s: float) -> ByteStream:
        self.used = True
        return DeadStream(self._death, self.clock)

    def dht(self, model: str, pin: int, backend: str) -> DhtSensor:
        self.used = True
        line = DhtLine(model, lambda: self.room.at("nowhere"))
        silent = self._death == "absent"
        line.frame = lambda: None if silent else bytes([self._level]) * 5
        line.before_answer = self._transaction
        return LibraryDht(line)

    def radio(self, adapter: str) -> Radio:
        self.used = True
        return _DeadRadio(self._death, self._level, self.clock)

    def pin_factory(self) -> Any:
        self.used = True
        return super().pin_factory()

    def path(self, absolute: str) -> Path:
        self.used = True
        there = super().path(absolute)
        if self.one_wire.text and absolute.startswith("/sys/bus/w1/"):
            return there
        for file in (there,) if there.is_file() else (f for f in there.rglob("*") if f.is_file()):
            if self._death == "absent":
                serve(file, None)
            else:
                serve(file, EIO if self._death == "held" else chr(self._level) * 8)
        return there
