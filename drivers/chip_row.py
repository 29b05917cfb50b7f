"""The structure of a catalogue row, which describes a chip; `drivers.catalogue` has the rows.

A row is data: the package, class and properties, and the chip's ranges. Everything beyond reading
properties is a function in `drivers.chip_checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from drivers.base import Channel
from drivers.owned_bus import OwnedBus

__all__ = ["ChipOption", "ChipRow", "Mark", "Reads", "Witness"]


class Reads(msgspec.Struct, frozen=True):
    """A channel, and its place in the library's object."""

    channel: Channel
    attribute: str
    """A property, or a method without arguments; read once per reading."""
    index: int | str | None = None
    """Which element, if the attribute holds several quantities of one measurement."""
    mended: Callable[[float], float] | None = None
    """Corrects a value that the library decodes wrong."""


class Witness(msgspec.Struct, frozen=True):
    """A register that proves something about the chip: that it is there, that it measures, or that
    it has measured.

    `expected` has the register's possible values, most significant byte first, under `mask`; None
    accepts any value except all zeros and all ones.
    """

    register: int
    """The register's number; two bytes if above 0xFF."""
    length: int
    expected: tuple[int, ...] | None
    mask: int = -1
    identifies: bool = True
    """Whether `expected` identifies this chip, and not only shows that a chip works."""

    def accepts(self, content: int) -> bool:
        """Return whether the register may have this content."""
        ones = self.mask & (1 << 8 * self.length) - 1
        content &= ones
        return 0 < content < ones if self.expected is None else content in self.expected


class Mark(msgspec.Struct, frozen=True):
    """A value written to a register where it does not have an effect, such as a disabled limit.

    The value is lost when the chip loses its power; afterwards, the chip's output may be a power-on
    value.
    """

    register: int
    value: int
    length: int = 1

    @property
    def witness(self) -> Witness:
        """The witness to check after each reading."""
        return Witness(self.register, self.length, (self.value,), identifies=False)


class ChipOption(msgspec.Struct, frozen=True):
    """A key of the sensor's table that goes to the constructor as `argument`."""

    name: str
    annotation: Any
    default: str | int | float
    argument: str
    enumeration: str = ""
    """The class in the library's module whose attribute, named by the value, is passed."""
    meaning: dict[str, Any] = {}
    """What to pass for each value, if the library expects something else."""


class ChipRow(msgspec.Struct, frozen=True, kw_only=True):
    """One chip, read through its Adafruit CircuitPython driver, or its maker's."""

    name: str
    """Name of the driver, and of this project's extra with `package`."""
    summary: str
    aliases: tuple[str, ...] = ()
    """As in `DriverInfo`."""
    is_die: bool = False
    """As in `DriverInfo`."""
    package: str
    """The distribution on PyPI."""
    module: str
    class_name: str
    construct: Literal["address", "addr", "fixed", "device", "spi"] = "address"
    """`cls(bus, address=)`, `cls(bus, addr=)`, `cls(bus)` for a chip whose address cannot be
    chosen, `cls(I2CDevice(bus, address))`, or `cls(bus, chip_select)`."""
    made_by: Callable[[OwnedBus, Any, int], Any] | None = None
    """Constructs the library's class on a bus at an address, where none of these does."""
    addresses: tuple[int, ...] = ()
    """I2C addresses the chip can have, the library's default first; none on SPI."""
    also_uses: tuple[int, ...] = ()
    """Further addresses that the chip answers at."""
    sleeps: bool = False
    """Whether the chip acknowledges its address only at the second call."""
    repeated_start: bool = True
    """Whether the chip may be written to and read from without a stop in between."""
    options: tuple[ChipOption, ...] = ()
    reads: tuple[Reads, ...]
    """The channels, in reading order."""
    accuracy: str
    source: str
    """The datasheet that ranges, resolution and accuracy are from, with the section."""
    settle_s: float = 0.0
    """How long the first reading is unusable after the set-up, in addition to the library's own
    wait."""
    start: str = ""
    """A method that begins periodic measurements."""
    ready: str = ""
    """A property that is true if there is an unread measurement."""
    min_interval_s: float = 0.0
    asked: bool = False
    """Whether each reading triggers a measurement; else the chip measures by itself, or another
    flag says so."""
    memory_s: float = 0.0
    """The chip answers with the measurement from its previous request; if that was longer ago than
    this, it is asked twice, `min_interval_s` apart. 0: it measures when it is asked."""
    crc: Literal["", "library", "here"] = ""
    """Who checks the CRC (or PEC) that the chip sends with its values."""
    noisy: bool = False
    """The chip's last bit is noise, so a long run of equal measurements means a frozen chip."""
    budget_s: float = 3.0
    """How long one reading may take, including the set-up of the chip."""
    witness: Witness | None = None
    """Checked after each reading, and by scans that identify the chip."""
    fresh: Witness | None = None
    """Awaited before each reading: a flag that a measurement sets and that reading it clears."""
    running: Witness | None = None
    """Checked after each reading: the chip is in the mode in which it measures."""
    mark: Mark | None = None
    prepare: Callable[[Any, OwnedBus, dict[str, Any]], Any] | None = None
    """Turns the library's object, with the options, into the object that is read."""
    check: Callable[[Any, OwnedBus, int], None] | None = None
    """Asks the chip for its faults after each reading; raises SensorError."""
    invalid: Callable[[Any, OwnedBus, int], tuple[str, ...]] | None = None
    """Returns the channels that the chip marks as invalid in this reading; they are left out."""
    checked: str = ""
    """What `prepare`, `check` and `invalid` check, for the table of the proofs of a value."""
    faults: tuple[tuple[str, str], ...] = ()
    """Errors of the library that report a fault of the chip, each with its remedy."""
    quirks: str = ""
    """What a person should know about the chip or its library."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(reads.channel for reads in self.reads)
