"""What a row of the catalogue says of a chip; `drivers.catalogue` has the rows.

A row is data: which package, class and properties, and what the chip can mean. What has to be
done beyond reading properties is a function of `drivers.chip_checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from drivers.base import Channel
from drivers.owned_bus import OwnedBus

__all__ = ["ChipOption", "ChipRow", "Mark", "Reads", "Witness"]


class Reads(msgspec.Struct, frozen=True):
    """A channel, and where the library's object has its value."""

    channel: Channel
    attribute: str
    """A property, or a method without arguments; read once in a reading."""
    index: int | str | None = None
    """Which element, where the attribute has several quantities of one measurement."""
    mended: Callable[[float], float] | None = None
    """Makes the true value of one that the library decodes wrong."""


class Witness(msgspec.Struct, frozen=True):
    """A register that shows something of the chip: that it was there, that it measures, that it
    has measured.

    `expected` has the values that it can have, most significant byte first, under `mask`; None
    where any will do that is neither all zeros nor all ones.
    """

    register: int
    """Its number; above 0xFF, one of two bytes."""
    length: int
    expected: tuple[int, ...] | None
    mask: int = -1
    identifies: bool = True
    """Whether `expected` tells this chip from others, and not only a living one from a dead one."""

    def accepts(self, content: int) -> bool:
        """Whether the register may have that."""
        ones = self.mask & (1 << 8 * self.length) - 1
        content &= ones
        return 0 < content < ones if self.expected is None else content in self.expected


class Mark(msgspec.Struct, frozen=True):
    """A value that is left in a register where it has no effect, such as a limit that is off.

    It is gone when the chip has lost its power, and what that chip says then need not have been
    measured.
    """

    register: int
    value: int
    length: int = 1

    @property
    def witness(self) -> Witness:
        """What to look for after each reading."""
        return Witness(self.register, self.length, (self.value,), identifies=False)


class ChipOption(msgspec.Struct, frozen=True):
    """A key of the sensor's table that goes to the constructor as `argument`."""

    name: str
    annotation: Any
    default: str | int | float
    argument: str
    enumeration: str = ""
    """The class, in the library's module, whose attribute of the option's value is passed."""
    meaning: dict[str, Any] = {}
    """What is passed for each value, where the library wants something else."""


class ChipRow(msgspec.Struct, frozen=True, kw_only=True):
    """One chip, by way of its Adafruit CircuitPython driver."""

    name: str
    """Of the driver, and of this project's extra that brings `package`."""
    summary: str
    aliases: tuple[str, ...] = ()
    """As in `DriverInfo`."""
    package: str
    """The distribution on PyPI."""
    module: str
    class_name: str
    construct: Literal["address", "addr", "fixed", "device", "spi"] = "address"
    """`cls(bus, address=)`, `cls(bus, addr=)`, `cls(bus)` for a chip whose address cannot be
    chosen, `cls(I2CDevice(bus, address))`, or `cls(bus, chip_select)`."""
    addresses: tuple[int, ...] = ()
    """I2C addresses the chip can have, the library's default first; none on SPI."""
    also_uses: tuple[int, ...] = ()
    """Further addresses that the chip answers at."""
    sleeps: bool = False
    """Whether it acknowledges its address only when it is called a second time."""
    repeated_start: bool = True
    """Whether it may be written to and read from without a stop in between."""
    options: tuple[ChipOption, ...] = ()
    reads: tuple[Reads, ...]
    """Read in this order."""
    accuracy: str
    source: str
    """The datasheet that ranges, resolution and accuracy are from, with the section."""
    settle_s: float = 0.0
    """How long after it was set up the first reading is worth anything, beyond what the
    library waits for by itself."""
    start: str = ""
    """A method that begins periodic measurements."""
    ready: str = ""
    """A property that tells whether there is a measurement that was not read before."""
    min_interval_s: float = 0.0
    asked: bool = False
    """Whether each reading makes it measure; else it does by itself, or another flag says so."""
    memory_s: float = 0.0
    """The chip answers with what it measured when it was asked before; so where that is longer
    ago than this, it is asked twice, `min_interval_s` apart. 0: it measures when it is asked."""
    crc: Literal["", "library", "here"] = ""
    """Who checks the CRC (or PEC) that the chip sends with its values."""
    noisy: bool = False
    """Its last bit is noise, so that the same measurement again and again means a frozen chip."""
    budget_s: float = 3.0
    """How long one reading may take, setting the chip up included."""
    witness: Witness | None = None
    """Looked at after each reading, and by those who ask what chip it is."""
    fresh: Witness | None = None
    """Waited for before each reading: a flag that a new measurement sets and reading it clears."""
    running: Witness | None = None
    """Looked at after each reading: that the chip is in the mode in which it measures."""
    mark: Mark | None = None
    prepare: Callable[[Any, OwnedBus, dict[str, Any]], Any] | None = None
    """Given the library's object and the options, makes of it what is read."""
    check: Callable[[Any, OwnedBus, int], None] | None = None
    """Asks the chip for its faults after each reading; raises SensorError."""
    invalid: Callable[[Any, OwnedBus, int], tuple[str, ...]] | None = None
    """The channels that the chip itself calls invalid in this reading: they are left out."""
    checked: str = ""
    """What `prepare`, `check` and `invalid` look at, for the table of what proves a value."""
    faults: tuple[tuple[str, str], ...] = ()
    """Errors of the library that are faults the chip reports, each with its remedy."""
    quirks: str = ""
    """What a person should know of the chip or its library."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(reads.channel for reads in self.reads)
