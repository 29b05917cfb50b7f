"""The options of a chip of the catalogue: its wiring, and the options that its row adds."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import msgspec

from drivers.base import Claim, Options
from drivers.bus import Board
from drivers.chip_row import ChipRow
from drivers.i2c_mux import Mux, muxed
from drivers.owned_bus import I2CBus, OwnedBus, SPIBus

__all__ = ["ChipOptions", "I2CChipOptions", "SPIChipOptions", "example_of", "options_type"]


class ChipOptions(Options, frozen=True, kw_only=True):
    """The common options of I2C and SPI chips."""

    def open_bus(self, board: Board) -> OwnedBus:
        """Return the bus object for the chip's driver."""
        raise NotImplementedError

    def wiring(self) -> str:
        """The wires to check, in words."""
        raise NotImplementedError

    def i2c_address(self) -> int:
        """The I2C address; -1 on SPI."""
        return -1

    def given(self) -> dict[str, Any]:
        """Return every option by its field's name."""
        return msgspec.structs.asdict(self)


class I2CChipOptions(ChipOptions, frozen=True, kw_only=True):
    """`bus` is the number in /dev/i2c-<bus>; `address` is the chip's 7-bit address.

    `mux` is the channel of a multiplexer that the chip is behind.
    """

    bus_number: Annotated[int, msgspec.Meta(ge=0)] = msgspec.field(default=1, name="bus")
    address: int
    mux: Mux | None = None

    def bus(self) -> str:
        return f"i2c{self.bus_number}"

    def where(self) -> str:
        return self.place(self.address)

    def place(self, address: int) -> str:
        """Return where a chip with `address` is, on the same wires, in words."""
        behind = "" if self.mux is None else f" {self.mux}"
        return f"I2C bus {self.bus_number}{behind} address 0x{address:02x}"

    def claims(self) -> tuple[Claim, ...]:
        pins = (2, 3) if self.bus_number == 1 else ()  # SDA and SCL of the 40-pin header
        shared = tuple(Claim(f"GPIO {pin}", "I2C bus 1") for pin in pins)
        return (*self.address_claims(self.address), *shared)

    def address_claims(self, address: int) -> tuple[Claim, ...]:
        """Return the claims on an address.

        A chip behind a multiplexer must not have the address of one in front of it, because both
        would answer.
        """
        if self.mux is None:
            return (Claim(self.place(address)),)
        trunk = f"I2C bus {self.bus_number} address 0x"
        return (
            Claim(self.place(address)),
            Claim(f"{trunk}{address:02x}", "a chip behind a multiplexer"),
            Claim(f"{trunk}{self.mux.address:02x}", "a multiplexer"),
        )

    def open_bus(self, board: Board) -> I2CBus:
        if self.mux is None:
            return board.i2c(self.bus_number)
        return muxed(board, self.bus_number, self.mux)

    def wiring(self) -> str:
        return "SDA, SCL and power"

    def i2c_address(self) -> int:
        return self.address


class SPIChipOptions(ChipOptions, frozen=True, kw_only=True):
    """`bus` and `select` are the numbers in /dev/spidev<bus>.<select>."""

    bus_number: Annotated[int, msgspec.Meta(ge=0)] = msgspec.field(default=0, name="bus")
    select: Annotated[int, msgspec.Meta(ge=0, le=2)] = 0

    def bus(self) -> str:
        # The same name as for an MCP3008 on these pins, because they share the wires.
        return "spi11" if self.bus_number == 0 else f"spidev{self.bus_number}"

    def where(self) -> str:
        return f"SPI bus {self.bus_number} CE{self.select}"

    def claims(self) -> tuple[Claim, ...]:
        if self.bus_number != 0:
            return (Claim(self.where()),)
        shared = (Claim(f"GPIO {pin}", "SPI on GPIO 11") for pin in (9, 10, 11))
        selects = (Claim(f"GPIO {8 - self.select}"),) if self.select < 2 else ()
        return (Claim(self.where()), *shared, *selects)

    def open_bus(self, board: Board) -> SPIBus:
        return board.spi(self.bus_number, self.select)

    def wiring(self) -> str:
        return "MISO, CLK, CS and power"


def options_type(row: ChipRow) -> type[Options]:
    """Return the schema of the options of `row`."""
    fields: list[Any] = [(o.name, o.annotation, o.default) for o in row.options]
    base: type[ChipOptions] = SPIChipOptions
    if row.construct != "spi":
        base = I2CChipOptions
        fields.insert(0, ("address", _address_type(row.addresses), row.addresses[0]))
    namespace: dict[str, Any] = {}
    if row.also_uses:
        namespace["claims"] = lambda self: (
            *base.claims(self),
            *(claim for a in row.also_uses for claim in self.address_claims(a)[:2]),
        )
    made = msgspec.defstruct(
        "ChipOptions", fields, bases=(base,), namespace=namespace, frozen=True, kw_only=True
    )
    return cast("type[Options]", made)


def _address_type(addresses: tuple[int, ...]) -> Any:
    """Return a type for one of `addresses`, described as a range if there are many."""
    low, high = min(addresses), max(addresses)
    if len(addresses) > 9 and sorted(addresses) == list(range(low, high + 1)):
        return Annotated[int, msgspec.Meta(ge=low, le=high, description=f"0x{low:x} to 0x{high:x}")]
    return Literal[addresses]


def example_of(row: ChipRow) -> str:
    """Return the lines of a `[[sensor]]` table."""
    lines = [f'driver = "{row.name}"']
    if row.construct == "spi":
        lines.append("select = 0")
    elif len(row.addresses) > 1:
        lines.append(f"address = 0x{row.addresses[0]:02x}")
    for option in row.options:
        value = f'"{option.default}"' if isinstance(option.default, str) else option.default
        lines.append(f"{option.name} = {value}")
    return "\n".join(lines)
