"""The wiring pictures: what they name is what the drivers use, and what the documents say.

The pins are taken out of the SVG files and of the text that `sensor-node drivers` prints, as a
reader takes them.
"""

from __future__ import annotations

import re
import subprocess
from xml.etree import ElementTree

import msgspec
import pytest
from gpiozero.pins.mock import MockFactory
from shown import ROOT, blocks_of
from support import SENSOR_NODE
from wiring_pictures import PICTURES, picture

from drivers.registry import find_driver
from drivers.wiring import HEADER, WIRINGS, Pad, Wiring, as_text, wirings_of

GUIDE = "deploy/GUIDE.md"
SVG = "{http://www.w3.org/2000/svg}"
README = (ROOT / "drivers" / "README.md").read_text().partition("\n## Wiring\n")[2]
every_wiring = pytest.mark.parametrize("wiring", WIRINGS, ids=lambda wiring: wiring.name)

LEGS = {
    # Aosong AM2302 datasheet, pin assignment
    "DHT22": {1: "VCC", 2: "DATA", 3: "not used", 4: "GND"},
    # Maxim DS18B20 (19-7487), pin configurations, TO-92
    "DS18B20": {1: "GND", 2: "DQ", 3: "VDD"},
    # Analog Devices TMP35/TMP36/TMP37, figure 4, TO-92
    "TMP36": {1: "+VS", 2: "VOUT", 3: "GND"},
    # Microchip MCP3004/3008 (DS21295), package types, MCP3008 PDIP
    "MCP3008": {
        **{leg: f"CH{leg - 1}" for leg in range(1, 9)},
        9: "DGND",
        10: "CS",
        11: "DIN",
        12: "DOUT",
        13: "CLK",
        14: "AGND",
        15: "VREF",
        16: "VDD",
    },
}
ROW_OF = {"dht22": "`dht22`", "ds18b20": "`ds18b20`", "i2c": "`bme280`", "max31855": "`max31855`"}


def texts_of(wiring: Wiring) -> list[str]:
    """Each text of the picture's file."""
    root = ElementTree.fromstring((PICTURES / f"{wiring.name}.svg").read_text())
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def pins_in(texts: list[str]) -> dict[str, str]:
    """The pads and pins that stand together, `2 DATA pin 16, GPIO 23`: by the pad's name."""
    found = {}
    for text in texts:
        if match := re.fullmatch(r"(?:\d+ )?(.+) pin (\d+), (.+)", text):
            assert HEADER[int(match[2]) - 1] == match[3], text
            found[match[1]] = match[3]
    return found


def gpios(wiring: Wiring) -> set[int]:
    named = pins_in(texts_of(wiring)).values()
    return {int(name.split()[1]) for name in named if name.startswith("GPIO")}


def options_of(wiring: Wiring):
    table = dict(line.split(" = ") for line in wiring.example.splitlines())
    keys = {key: msgspec.json.decode(value) for key, value in table.items()}
    return msgspec.convert(keys, find_driver(keys.pop("driver")).options)


@every_wiring
def test_every_line_leads_from_the_pin_to_the_pad_that_names_it(wiring):
    """As drawn: the pin in whose circle a line begins, and the text at whose height it ends."""
    root = ElementTree.fromstring((PICTURES / f"{wiring.name}.svg").read_text())
    texts = [
        (float(text.get("x", 0)), float(text.get("y", 0)), "".join(text.itertext()))
        for text in root.iter(f"{SVG}text")
    ]
    pins = {(x, y - 3): text for x, y, text in texts if text.isdecimal()}
    assert len(pins) == 40
    wanted = {y - 4: m[1] for _, y, text in texts if (m := re.search(r" pin (\d+), ", text))}
    found = {}
    for path in root.iter(f"{SVG}path"):
        line = re.fullmatch(r"M(\d+),(\d+)(?:L\d+,(\d+)H(\d+))?V(\d+)H350", path.get("d", ""))
        if line is None or not path.get("class", "").startswith("w "):
            continue
        if line[3]:
            x, y = int(line[1]) - 6, int(line[2])
            pin = next(pins[x, y + side] for side in (6, -6) if (x, y + side) in pins)
            lane = line[4], line[3]
        else:  # a branch, from the same upright wire as the line before
            assert (line[1], line[2]) == lane
        found[float(line[5])] = pin
    assert found == wanted


def test_the_header_is_that_of_the_board():
    """gpiozero has it for every Pi with 40 pins."""
    pins = MockFactory().board_info.headers["J8"].pins
    assert [name.replace(" ", "") for name in HEADER] == [pins[n + 1].name for n in range(40)]


@every_wiring
def test_the_pictures_are_as_they_are_drawn(wiring):
    """If not: tests/.venv/bin/python tests/wiring_pictures.py."""
    assert (PICTURES / f"{wiring.name}.svg").read_text() == picture(wiring)


def test_there_is_no_other_picture():
    assert {file.stem for file in PICTURES.iterdir()} == {wiring.name for wiring in WIRINGS}


@every_wiring
def test_the_legs_are_those_of_the_datasheets(wiring):
    for part in wiring.parts:
        pads = (*part.left, *part.right)
        if part.name in LEGS:
            assert {pad.leg: pad.name for pad in pads} == LEGS[part.name]
        else:
            assert {pad.leg for pad in pads} == {None}


@every_wiring
def test_the_gpios_are_those_that_the_driver_takes_with_this_configuration(wiring):
    claims = {
        int(claim.resource.split()[1])
        for claim in options_of(wiring).claims()
        if claim.resource.startswith("GPIO")
    }
    if wiring.name == "ds18b20":  # the kernel's, by w1-gpio
        claims = {4}
    if wiring.name == "max31855":  # the bus has MOSI, the chip does not
        claims.remove(10)
    assert gpios(wiring) == claims


def test_the_wires_of_spi_are_not_exchanged():
    """MISO is the chip's output; the names are those of the options."""
    for wiring in WIRINGS:
        pads = pins_in(texts_of(wiring))
        if "CLK" in pads:
            assert pads["CLK"] == "GPIO 11"
            assert pads["CS"] == "GPIO 8"
            assert pads.get("DOUT", pads.get("DO")) == "GPIO 9"
            assert pads.get("DIN", "GPIO 10") == "GPIO 10"


def test_the_wires_of_i2c_are_not_exchanged():
    (wiring,) = wirings_of("bme280")
    pads = pins_in(texts_of(wiring))
    assert (pads["SDA"], pads["SCL"]) == ("GPIO 2", "GPIO 3")


@every_wiring
def test_power_goes_to_3v3_and_ground_to_ground(wiring):
    """By the names of the pads; nothing is wired to 5V, which a GPIO does not survive."""
    for pad, name in pins_in(texts_of(wiring)).items():
        if re.search("VCC|VDD|VREF|VS|VIN", pad):
            assert name == "3V3", pad
        if "GND" in pad:
            assert name == "GND", pad
        assert name != "5V"


@pytest.mark.parametrize("name", ROW_OF)
def test_the_table_of_the_drivers_names_the_same(name):
    (wiring,) = (wiring for wiring in WIRINGS if wiring.name == name)
    row = next(line for line in README.splitlines() if line.startswith(f"| {ROW_OF[name]}"))
    named = {int(number) for number in re.findall(r"GPIO (\d+)", row)}
    if name == "max31855":
        named -= {10, 7}  # a MAX31855 has no DI; GPIO 7 is that of select = 1
    if name == "dht22":
        assert "data to any GPIO" in row
    else:
        assert gpios(wiring) == named
    for gpio, pin in re.findall(r"GPIO (\d+) \(pin (\d+)\)", row):
        assert HEADER[int(pin) - 1] == f"GPIO {gpio}"
    if wiring.bridge is not None:
        assert wiring.bridge.value in row


def test_the_table_names_the_pins_of_the_converter_and_of_power():
    converter = next(line for line in README.splitlines() if line.startswith("| `mcp3008`"))
    for wiring in wirings_of("mcp3008"):
        assert gpios(wiring) == {int(n) for n in re.findall(r"GPIO (\d+)", converter)}
    assert "10 kΩ from the input to 3V3" in converter
    power, ground = re.findall(r"\(pin (\d+)\)", README.partition("All sensors take")[2])[:2]
    assert (HEADER[int(power) - 1], HEADER[int(ground) - 1]) == ("3V3", "GND")
    used = {pad.pin for w in WIRINGS for part in w.parts for pad in part.left}
    assert {pin for pin in used if pin and HEADER[pin - 1] in ("3V3", "GND")} == {
        int(power),
        int(ground),
    }


def test_the_converters_input_is_that_of_the_default():
    for wiring in wirings_of("mcp3008"):
        options = options_of(wiring)
        joined = {pad.joins for part in wiring.parts for pad in part.right} - {""}
        assert joined == {f"CH{options.channel_number}"}
        assert options == type(options)(sensor=options.sensor)


@every_wiring
def test_every_wire_is_in_the_text_as_in_the_picture(wiring):
    lines = as_text(wiring).splitlines()
    wires = [re.fullmatch(r" +pin \d+, (.+?) ─+[┬┴]?─+ (?:\d+ )?(.+)", line) for line in lines]
    drawn = {(match[2], match[1]) for match in wires if match}
    pads = [pad for part in wiring.parts for pad in part.left if pad.pin is not None]
    assert drawn == set(pins_in(texts_of(wiring)).items()) | {
        (pad.name, HEADER[(pad.pin or 0) - 1]) for pad in pads
    }
    assert len([match for match in wires if match]) == len(pads)
    assert max(map(len, lines)) < 80


def test_the_command_prints_the_drawing_of_its_driver():
    done = subprocess.run(
        [SENSOR_NODE, "drivers", "am2302"], capture_output=True, text=True, check=True
    )
    assert as_text(wirings_of("dht22")[0]) in done.stdout
    done = subprocess.run(
        [SENSOR_NODE, "drivers", "cpu"], capture_output=True, text=True, check=True
    )
    assert "Wiring" not in done.stdout


@every_wiring
def test_the_guide_shows_the_picture_and_then_its_configuration(wiring):
    text = (ROOT / GUIDE).read_text()
    before, picture_of_it, after = text.partition(f"](wiring/{wiring.name}.svg)")
    assert picture_of_it, f"{GUIDE} does not show {wiring.name}.svg"
    described = before.rpartition("![")[2]
    for pin, name in re.findall(r"pin (\d+) \(([^)]+)\)", described):
        assert HEADER[int(pin) - 1] == name
    if "as above" not in described:
        used = {pad.pin for part in wiring.parts for pad in part.left} - {None}
        assert {int(pin) for pin in re.findall(r"pin (\d+)", described)} == used
    tables = [block for block in blocks_of(GUIDE) if block.language == "toml"]
    follows = next(block for block in tables if block.start > len(before))
    assert wiring.example in follows.text
    assert "![" not in after[: follows.start - len(before) - len(picture_of_it)]


def test_a_wrong_wire_would_be_found():
    """The control: the table of pins notices a GPIO that is not at its pin."""
    with pytest.raises(AssertionError):
        pins_in(["2 DATA pin 18, GPIO 23"])
    assert Pad("DATA", 2, 18).goes_to == "pin 18, GPIO 24"
