"""The table of drivers/README.md from the name on a chip to its lines of configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from drivers.base import DriverInfo
from drivers.kernel_recipes import RECIPES
from drivers.modbus_models import MODELS
from drivers.name_sentences import spelled
from drivers.names import all_drivers, bus_kind

__all__ = ["names_table"]

_HEADING = "| on the chip or its box | in `node.toml` | in `config.txt` |\n|---|---|---|\n"
_SWITCHED_ON_BY = {
    "I2C": "`dtparam=i2c_arm=on`",
    "SPI": "`dtparam=spi=on`",
    "1-Wire": "`dtoverlay=w1-gpio`",
}
_NOT_CHIPS = ("agree", "ble", "cpu", "modbus", "sysfs")


_OTHERS = (
    '| DS2482, DS2484 (1-Wire masters on I2C) | `driver = "ds18b20"` | '
    "`dtoverlay=ds2482` where the system has it |\n",
    '| DS9490R (1-Wire master on USB) | `driver = "ds18b20"` |  |\n',
    "| TCA9548A, PCA9548A (I2C multiplexers) | the chip's own, and "
    "`mux = { address = 0x70, channel = 3 }` | `dtparam=i2c_arm=on` |\n",
    '| TMP35, TMP36, TMP37, LM35, thermistor (NTC) | `driver = "mcp3008"` `sensor = "tmp36"`, or '
    "the same at an `ads1115` | `dtparam=spi=on` |\n",
)


def names_table() -> str:
    """Return Markdown with a line for each kind of chip, in the order of the alphabet."""
    lines = {*_of_drivers(), *_of_kernel_chips(), *_of_modbus(), *_OTHERS}
    return _HEADING + "".join(sorted(lines, key=str.casefold))


def _line(names: str, table: list[str], before: str) -> str:
    keys = " ".join(f"`{key}`" for key in table)
    return f"| {names} | {keys} | {before} |\n"


def _of_drivers() -> Iterator[str]:
    for info in all_drivers():
        if info.name not in _NOT_CHIPS and info.extra in ("", info.name):
            before = _SWITCHED_ON_BY.get(bus_kind(info), "")
            yield _line(_names_of(info), info.example.splitlines(), before)


def _names_of(info: DriverInfo) -> str:
    """Return the names in the summary, and the aliases that are not among them."""
    names = info.summary.partition(":")[0].removesuffix(" on SPI")
    told = spelled(names)
    more = [alias.upper() for alias in (*info.aliases, info.name) if spelled(alias) not in told]
    return ", ".join([names, *more])


def _of_kernel_chips() -> Iterator[str]:
    for recipe in RECIPES:
        by_hand = "none, but [a line after each boot](#chips-that-linux-drives)"
        before = f"`dtoverlay={recipe.overlay}`" if recipe.overlay else by_hand
        yield _line(recipe.chips, ['driver = "sysfs"', f'name = "{recipe.name}"'], before)


def _of_modbus() -> Iterator[str]:
    for name, model in MODELS.items():
        names = name.upper() if model.summary.startswith("XY-MD") else model.summary.split(":")[0]
        table = ['driver = "modbus"', 'port = "/dev/ttyUSB0"', f'model = "{name}"']
        yield _line(names, table, "")
