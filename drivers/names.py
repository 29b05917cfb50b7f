"""What people call a sensor: from a word to its driver, or to a sentence that says what reads it.

`registry` has the drivers by name; this adds their aliases (`DriverInfo.aliases`), the words that
name a kind, a board or a chip of the kernel's, and what was meant by a word that is misspelt. Two
part numbers that differ in a digit are two chips, so what is near by spelling is only asked about,
and only on the bus that the sensor is wired to.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

import msgspec

from drivers.base import DriverInfo
from drivers.errors import MissingSupport
from drivers.registry import driver_names, find_driver, spelled

__all__ = ["about", "all_drivers", "bus_kind", "driver_called", "drivers_matching", "suggestion"]

_HOW_TO_LIST = "sensor-node drivers lists all"
_NEAR = 0.72
"""difflib's ratio of two words of which one may be the other, mistyped: three of four letters."""
_FAR = 0.5
_MOST = 3

_ANALOG = (
    'is an analog sensor, and needs a converter: driver = "mcp3008" (SPI) or "ads1115" (I2C), '
    'with sensor = "{}"'
)
_BOARD = "is a board with several chips; each has a driver of its own: "
_BY_LINUX = (
    "is read by a driver of Linux's: put dtoverlay={} into config.txt, and reboot; then "
    'sensor-node scan prints its table, with driver = "sysfs"'
)
_NEW_DEVICE = (
    "is read by a driver of Linux's, where the system has it: echo {} | sudo tee "
    "/sys/bus/i2c/devices/i2c-1/new_device, after each boot; then sensor-node scan prints its "
    'table, with driver = "sysfs"'
)
_NOT_READ = "is not read by any driver here"

# Words, as `spelled` has them, and what they are.
_SENTENCES: tuple[tuple[str, str], ...] = (
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
    ("i2c spi gpio bus", "is a way to wire sensors; the driver is named by the chip"),
    ("dht", 'is a family: driver = "dht22" (white; also AM2302) or "dht11" (blue)'),
    ("gy21", 'has one of two chips: driver = "htu21d" or "si7021"'),
    ("sensehat", _BOARD + '"hts221" (humidity) and "lps25" (pressure), both with a temperature'),
    ("sensehatb", _BOARD + '"shtc3" (humidity) and "lps22" (pressure), both with a temperature'),
    ("enviro enviroplus envirohat weatherhat", _BOARD + '"bme280" reads what it has for weather'),
    ("bmp180", _BY_LINUX.format("i2c-sensor,bmp180")),
    ("bmp085 gy68", _BY_LINUX.format("i2c-sensor,bmp085")),
    (
        "hdc1000 hdc1008 hdc1010 hdc1050 hdc1080 hdc10xx hdc100x",
        _BY_LINUX.format("i2c-sensor,hdc100x"),
    ),
    ("ds1621", _BY_LINUX.format("i2c-sensor,ds1621")),
    ("ms5637", _BY_LINUX.format("i2c-sensor,ms5637")),
    ("ms5803", _BY_LINUX.format("i2c-sensor,ms5803")),
    ("ms5805", _BY_LINUX.format("i2c-sensor,ms5805")),
    ("ms5837", _BY_LINUX.format("i2c-sensor,ms5837")),
    ("max6675", _BY_LINUX.format("maxtherm,spi0-0,max6675")),
    ("ms5611 gy63", _NEW_DEVICE.format("ms5611 0x77")),
    ("ms5607", _NEW_DEVICE.format("ms5607 0x77")),
    ("ds1631", _NEW_DEVICE.format("ds1631 0x48")),
    ("ds1721", _NEW_DEVICE.format("ds1721 0x48")),
    ("ds1731", _NEW_DEVICE.format("ds1731 0x48")),
    ("sts3x sts30 sts31 sts35", _NEW_DEVICE.format("sts3x 0x4a")),
    ("hdc2010", _NEW_DEVICE.format("hdc2010 0x40")),
    ("hdc2080", _NEW_DEVICE.format("hdc2080 0x40")),
    ("tsys01", _NEW_DEVICE.format("tsys01 0x77")),
    (
        "ble bluetooth bthome ruuvi ruuvitag govee switchbot mijia xiaomi lywsd03mmc thermopro",
        f"speaks Bluetooth, and {_NOT_READ}",
    ),
    ("modbus rs485 xymd02 xymd03 xymd04", f"speaks Modbus, and {_NOT_READ}"),
    (
        "dht12 am2311 am2315 sht1x sht10 sht11 sht15 sht7x sht71 sht75 bme690 mlx90615 mlx90621 "
        "mlx90640 mlx90641 ads1015 sen50 sen54 sen55 lps22hh ccs811 sgp30 sgp40 sgp41 bh1750 "
        "tsl2561 mhz19 mhz19b pms5003",
        _NOT_READ,
    ),
)


def about(word: str) -> str:
    """What is to be said of a word that is no driver's, and known all the same; "" of others.

    A sentence that goes on behind the word: `is an analog sensor, and needs a converter: ...`.
    """
    key = spelled(word)
    return next((text for words, text in _SENTENCES if key in words.split()), "")


def driver_called(word: str) -> str | None:
    """The name of the driver whose alias, or whose name in other letters, is `word`."""
    key = spelled(word)
    if not key:
        return None
    for name in driver_names():
        if spelled(name) == key:
            return name
    return next((info.name for info in all_drivers() if key in info.aliases), None)


def all_drivers() -> Iterator[DriverInfo]:
    """Every driver that can be loaded, by name."""
    for name in driver_names():
        try:
            yield find_driver(name)
        except MissingSupport:
            continue


def drivers_matching(word: str) -> list[DriverInfo]:
    """The drivers with `word` in their name, their aliases, or what they say of themselves.

    Also those that the sentence about the word names.
    """
    key, words = spelled(word), word.casefold().split()
    named = re.findall(r'"(\w+)"', about(word))

    def matches(info: DriverInfo) -> bool:
        if info.name in named:
            return True
        if key and any(key in name for name in (spelled(info.name), *info.aliases)):
            return True
        summary = info.summary.casefold()
        return bool(words) and all(part in summary for part in words)

    return [info for info in all_drivers() if matches(info)]


def bus_kind(info: DriverInfo) -> str:
    """ "I2C", "SPI", "1-Wire" or "GPIO", by the options of the driver; "" of others."""
    keys = set(info.options.__struct_encode_fields__)
    if keys & {"select", "clock_pin"}:
        return "SPI"
    if {"bus", "address"} <= keys:
        return "I2C"
    if "pin" in keys:
        return "GPIO"
    return "1-Wire" if "address" in keys else ""


def suggestion(word: str, *, bus: str = "") -> str:
    """What may be meant by a word that is no driver's, or how to find what there is.

    `bus` is what the sensor is known to be wired to, as `bus_kind` has it: what is on another one
    is not suggested. Without it, the nearest name decides.
    """
    sentence = about(word)
    if sentence:
        return f"it {sentence}"
    near = [
        found for found in _nearest(spelled(word)) if not bus or bus_kind(found.info) in (bus, "")
    ]
    if not near:
        return f"it is like no name that is known here; {_HOW_TO_LIST}"
    best = near[0]
    kind = bus_kind(best.info)
    names = dict.fromkeys(found.info.name for found in near if bus_kind(found.info) == kind)
    if best.likeness < _NEAR:
        return f"the nearest names are {', '.join([*names][:_MOST])}; {_HOW_TO_LIST}"
    remarks = [] if best.called == spelled(best.info.name) else [f"it reads {best.called.upper()}"]
    remarks += [f"on {kind}"] * bool(kind and not bus)
    also = dict.fromkeys(
        found.info.name
        for found in near
        if found.likeness >= _NEAR and bus_kind(found.info) == kind and found.info != best.info
    )
    remarks += [f"near it: {', '.join([*also][: _MOST - 1])}"] * bool(also)
    remark = f" ({'; '.join(remarks)});" if remarks else ""
    return f"did you mean {best.info.name}?{remark} {_HOW_TO_LIST}"


class _Near(msgspec.Struct, frozen=True):
    """A name or an alias that is spelled nearly so."""

    called: str
    info: DriverInfo
    likeness: float


def _nearest(key: str) -> list[_Near]:
    """What is spelled nearly so, the nearest first; of two, what begins alike."""
    infos = list(all_drivers())
    known = {name: info for info in infos for name in info.aliases}
    known |= {spelled(info.name): info for info in infos}
    close = difflib.get_close_matches(key, known, n=5 * _MOST, cutoff=_FAR)
    near = [
        _Near(name, known[name], difflib.SequenceMatcher(None, name, key).ratio()) for name in close
    ]
    near.sort(key=lambda n: (n.likeness, _alike_at_first(n.called, key)), reverse=True)
    return near


def _alike_at_first(one: str, other: str) -> int:
    """How many letters are the same before the first that is not."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
