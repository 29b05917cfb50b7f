"""Which leg of a sensor goes to which pin of the Pi's 40-pin header, for the most common sensors.

Data only, and a drawing of it as text, which `sensor-node drivers NAME` prints. The pictures in
deploy/GUIDE.md are made of the same data by tests/wiring_pictures.py.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEADER", "WIRINGS", "Bridge", "Pad", "Part", "Wiring", "as_text", "wirings_of"]

# fmt: off
HEADER = (
    "3V3",     "5V",
    "GPIO 2",  "5V",
    "GPIO 3",  "GND",
    "GPIO 4",  "GPIO 14",
    "GND",     "GPIO 15",
    "GPIO 17", "GPIO 18",
    "GPIO 27", "GND",
    "GPIO 22", "GPIO 23",
    "3V3",     "GPIO 24",
    "GPIO 10", "GND",
    "GPIO 9",  "GPIO 25",
    "GPIO 11", "GPIO 8",
    "GND",     "GPIO 7",
    "GPIO 0",  "GPIO 1",
    "GPIO 5",  "GND",
    "GPIO 6",  "GPIO 12",
    "GPIO 13", "GND",
    "GPIO 19", "GPIO 16",
    "GPIO 26", "GPIO 20",
    "GND",     "GPIO 21",
)
# fmt: on
"""The names of the pins 1 to 40; GPIOs by their BCM numbers. The same on every Pi with 40 pins."""

_POWER, _GROUND = 1, 6


@dataclass(frozen=True)
class Pad:
    """A leg of a part, or a pad of a module: by its name, and by its number in the datasheet."""

    name: str
    leg: int | None = None
    pin: int | None = None
    """The pin of the header that it is wired to."""
    joins: str = ""
    """What it is wired to in place of a pin: a pad of the first part of the wiring."""

    @property
    def label(self) -> str:
        return self.name if self.leg is None else f"{self.leg} {self.name}"

    @property
    def goes_to(self) -> str:
        return self.joins if self.pin is None else f"pin {self.pin}, {HEADER[self.pin - 1]}"


@dataclass(frozen=True)
class Part:
    """What is bought: `left` are its pads that go to the Pi, `right` the others."""

    name: str
    left: tuple[Pad, ...]
    right: tuple[Pad, ...] = ()
    view: str = ""
    """How to hold it, so that its legs come in this order."""


@dataclass(frozen=True)
class Bridge:
    """A small part between two pads of the first part: `first` and `second` are neighbours."""

    value: str
    first: str
    second: str


@dataclass(frozen=True)
class Wiring:
    """A sensor that is wired as `example`, the keys of its `[[sensor]]` table, says."""

    name: str
    title: str
    drivers: tuple[str, ...]
    example: str
    parts: tuple[Part, ...]
    bridge: Bridge | None = None


def _mcp3008(*parts: Part) -> tuple[Part, ...]:
    """Return the converter with CH0 in use: MCP3004/3008 datasheet (DS21295), package types."""
    legs = ("DGND", _GROUND), ("CS", 24), ("DIN", 19), ("DOUT", 21), ("CLK", 23), ("AGND", _GROUND)
    supply = ("VREF", _POWER), ("VDD", _POWER)
    left = (Pad(name, leg, pin) for leg, (name, pin) in enumerate((*legs, *supply), 9))
    right = (Pad(f"CH{leg - 1}", leg) for leg in range(8, 0, -1))
    return Part("MCP3008", tuple(left), tuple(right), "its notch down"), *parts


WIRINGS = (
    # AM2302 datasheet, "Pin assignment": 1 VDD, 2 SDA, 3 NC, 4 GND.
    Wiring(
        "dht22",
        "DHT22, AM2302 or DHT11, with pin = 23",
        ("dht22", "dht11"),
        'driver = "dht22"\npin = 23',
        (
            Part(
                "DHT22",
                (
                    Pad("VCC", 1, _POWER),
                    Pad("DATA", 2, 16),
                    Pad("not used", 3),
                    Pad("GND", 4, _GROUND),
                ),
                view="grid facing you, legs down: 1, 2, 3, 4",
            ),
        ),
        Bridge("4.7 to 10 kΩ", "VCC", "DATA"),
    ),
    # DS18B20 datasheet (19-7487), "Pin configurations", TO-92: 1 GND, 2 DQ, 3 VDD.
    Wiring(
        "ds18b20",
        "DS18B20 on 1-Wire",
        ("ds18b20",),
        'driver = "ds18b20"',
        (
            Part(
                "DS18B20",
                (Pad("GND", 1, _GROUND), Pad("DQ", 2, 7), Pad("VDD", 3, _POWER)),
                view="flat side facing you, legs down: 1, 2, 3",
            ),
        ),
        Bridge("4.7 kΩ", "DQ", "VDD"),
    ),
    Wiring(
        "i2c",
        "BME280, SHT3x, SHT4x and other modules on I2C",
        ("bme280", "bmp280", "bme680", "sht31d", "sht4x", "ahtx0", "mcp9808"),
        'driver = "bme280"',
        (
            Part(
                "Module on I2C",
                (
                    Pad("VIN or VCC", None, _POWER),
                    Pad("SDA", None, 3),
                    Pad("SCL", None, 5),
                    Pad("GND", None, _GROUND),
                ),
                view="the order differs: go by the labels",
            ),
        ),
    ),
    # TMP35/36/37 datasheet, TO-92 bottom view: 1 +VS, 2 VOUT, 3 GND.
    Wiring(
        "mcp3008-tmp36",
        "TMP36 at an MCP3008",
        ("mcp3008",),
        'driver = "mcp3008"\nchannel_number = 0\nsensor = "tmp36"',
        _mcp3008(
            Part(
                "TMP36",
                (Pad("+VS", 1, _POWER), Pad("GND", 3, _GROUND)),
                (Pad("VOUT", 2, joins="CH0"),),
                "flat side facing you, legs down: 1, 2, 3",
            )
        ),
    ),
    Wiring(
        "mcp3008-thermistor",
        "Thermistor at an MCP3008",
        ("mcp3008",),
        'driver = "mcp3008"\nchannel_number = 0\nsensor = "thermistor"',
        _mcp3008(
            Part(
                "Resistor, 10 kΩ",
                (Pad("one end", None, _POWER),),
                (Pad("other end", joins="CH0"),),
                "either way round",
            ),
            Part(
                "Thermistor, 10 kΩ",
                (Pad("one end", None, _GROUND),),
                (Pad("other end", joins="CH0"),),
                "either way round",
            ),
        ),
    ),
    Wiring(
        "max31855",
        "MAX31855 for a thermocouple",
        ("max31855",),
        'driver = "max31855"\nselect = 0',
        (
            Part(
                "Module with MAX31855",
                (
                    Pad("VIN or VCC", None, _POWER),
                    Pad("GND", None, _GROUND),
                    Pad("DO", None, 21),
                    Pad("CS", None, 24),
                    Pad("CLK", None, 23),
                ),
                (Pad("T+"), Pad("T-")),
                "the order differs: go by the labels",
            ),
            Part(
                "Thermocouple",
                (),
                (Pad("its + wire", joins="T+"), Pad("its - wire", joins="T-")),
                "10 nF across it, if the module has none",
            ),
        ),
    ),
)


def wirings_of(driver: str) -> list[Wiring]:
    """Return the drawings that there are for a driver, by its own name."""
    return [wiring for wiring in WIRINGS if driver in wiring.drivers]


def as_text(wiring: Wiring) -> str:
    """Return the drawing of a wiring as lines: a wire each, from the pin to the pad."""
    lines = [wiring.title]
    for part in wiring.parts:
        lines += [f"  {part.name} ({part.view})" if part.view else f"  {part.name}"]
        pads = [*part.left, *(pad for pad in part.right if pad.joins)]
        for pad in sorted(pads, key=lambda pad: pad.leg or 0):
            if wiring.bridge is not None and pad.name == wiring.bridge.second:
                value = wiring.bridge.value
                lines.append(" " * (_KNOT - len(value) // 2) + value)
            lines.append(_wire(wiring, pad))
    return "\n".join(lines)


_KNOT = 25
"""The column of the text in which a bridge touches a wire."""


def _wire(wiring: Wiring, pad: Pad) -> str:
    if not pad.goes_to:
        return f"{'':{_KNOT + 7}}{pad.label}"
    bridge = wiring.bridge
    knots = {} if bridge is None else {bridge.first: "┬", bridge.second: "┴"}
    start = f"    {_start(wiring, pad)} "
    return f"{start:─<{_KNOT}}{knots.get(pad.name, '─')}───── {pad.label}"


def _start(wiring: Wiring, pad: Pad) -> str:
    if not pad.joins:
        return pad.goes_to
    (other,) = (other for other in wiring.parts[0].right if other.name == pad.joins)
    return pad.joins if other.leg is None else f"leg {other.leg}, {pad.joins}"
