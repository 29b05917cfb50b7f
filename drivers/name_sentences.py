"""Words that are not driver names, and how to read what they name: kinds, boards, kernel chips.

Data and its lookup; does not import any driver.
"""

from __future__ import annotations

from drivers.kernel_recipes import RECIPES

__all__ = ["SENTENCES", "about", "spelled"]

_ANALOG = (
    'is an analog sensor, and needs a converter: driver = "mcp3008" (SPI) or "ads1115" (I2C), '
    'with sensor = "{}"'
)
_BOARD = "is a board with several chips; each has a driver of its own: "
_BY_LINUX = (
    "is read by a driver of Linux's: {}; then sensor-node scan prints its table, which is driver = "
    '"sysfs" and name = "{}"'
)
_MODBUS = 'speaks Modbus: driver = "modbus" with model = "{}"'
_NOT_READ = "is not read by any driver here"


def spelled(word: str) -> str:
    """Reduce a sensor's name to its letters and digits: "DS18B20+" and "ds-18b20" are equal."""
    return "".join(c for c in word.casefold() if c.isascii() and c.isalnum())


# Words, as `spelled` returns them, and their meaning.
SENTENCES: tuple[tuple[str, str], ...] = (
    *(
        (
            " ".join(spelled(chip) for chip in recipe.chips.split(", ")),
            _BY_LINUX.format(recipe.loaded_by, recipe.name),
        )
        for recipe in RECIPES
    ),
    ("tmp36 mcp9700", _ANALOG.format("tmp36")),
    ("tmp35", _ANALOG.format("tmp35")),
    ("tmp37", _ANALOG.format("tmp37")),
    ("lm35", _ANALOG.format("lm35")),
    ("ntc thermistor ky013 ky028", _ANALOG.format("thermistor") + " and its beta"),
    (
        "analog adc",
        'is read through a converter: driver = "mcp3008" (SPI) or "ads1115" (I2C), with sensor = '
        '"tmp36", "lm35" or "thermistor"',
    ),
    (
        "pt100 pt1000 rtd",
        'is a resistor, and needs a MAX31865: driver = "max31865" (SPI); nominal_ohms = 100 is a '
        "Pt100, 1000 a Pt1000",
    ),
    (
        "thermocouple typek ktype typej typet",
        'needs a converter: driver = "max31855" or "max31856" (SPI), or "mcp9600" (I2C)',
    ),
    (
        "w1 1wire onewire",
        'is a bus; on it are DS18B20 and its relatives: driver = "ds18b20"',
    ),
    (
        "ds2482 ds2484 ds9490r ds2490",
        'is a 1-Wire master that Linux drives, and needs no table: driver = "ds18b20" finds the '
        "sensors on it as on GPIO 4",
    ),
    (
        "tca9548 tca9548a pca9548 pca9548a tca9546 multiplexer mux",
        "is an I2C multiplexer, and needs no table: a sensor behind it has mux = { address = 0x70, "
        "channel = 3 }, or the bus = N that Linux makes of a channel",
    ),
    ("i2c spi gpio bus", "is a way to wire sensors; the driver is named by the chip"),
    ("dht", 'is a family: driver = "dht22" (white; also AM2302) or "dht11" (blue)'),
    ("gy21", 'has one of two chips: driver = "htu21d" or "si7021"'),
    ("sensehat", _BOARD + '"hts221" (humidity) and "lps25" (pressure), both with a temperature'),
    ("sensehatb", _BOARD + '"shtc3" (humidity) and "lps22" (pressure), both with a temperature'),
    ("enviro enviroplus envirohat weatherhat", _BOARD + '"bme280" reads what it has for weather'),
    ("xymd02 xymd01 md02", _MODBUS.format("xy-md02")),
    ("xymd03", _MODBUS.format("xy-md03")),
    ("xymd04", _MODBUS.format("xy-md04")),
    ("sht20rs485 sht20modbus", _MODBUS.format("sht20")),
    ("cwt cwtth cwtth01s cwtth02s cwtth03s cwtth04s cwtth05s", _MODBUS.format("cwt-th")),
    ("rsws rswsn01 rswsn01x renke", _MODBUS.format("rs-ws")),
    ("r4dcb08 eletechsup", _MODBUS.format("r4dcb08")),
    ("pt21a01", _MODBUS.format("pt21a01")),
    ("pta8c04", _MODBUS.format("pta8c04")),
    ("pta8d08", _MODBUS.format("pta8d08")),
    ("cwttm8pt cwttm8pt100 cwttm8pt1000", _MODBUS.format("cwt-tm-8pt")),
    (
        "am2311 am2315 sht1x sht10 sht11 sht15 sht7x sht71 sht75 bme690 mlx90615 mlx90621 "
        "mlx90641 sen50 lps22hh ccs811 sgp30 sgp40 sgp41 bh1750 "
        "tsl2561 mhz19 mhz19b pms5003",
        _NOT_READ,
    ),
)


def about(word: str) -> str:
    """Return a sentence about a known word that is not a driver's name; "" for other words.

    The sentence follows the word: `is an analog sensor, and needs a converter: ...`.
    """
    key = spelled(word)
    return next((text for words, text in SENTENCES if key in words.split()), "")
