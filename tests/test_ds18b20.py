"""DS18B20: the decoder on texts of the kernel's, and the driver on a simulated 1-Wire tree."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ds18b20 import DS18B20, Ds18b20Options
from drivers.errors import BadFrame, ImplausibleValue, SensorError, SensorFault, SensorNotFound
from drivers.one_wire import FAMILIES, celsius_of, scratchpad_of
from drivers.scanning import scan
from drivers.sim.one_wire import POWER_ON_SCRATCHPAD, crc8, w1_slave_text
from drivers.sim.room import Air

ADDRESS = "28-0316a2795bff"


def decode(text: str, address: str = ADDRESS) -> float:
    return celsius_of(address, scratchpad_of(text))


def scratchpad(raw: int, byte_6: int | None = None) -> bytes:
    low, high = raw.to_bytes(2, "little", signed=True)
    return bytes(
        [low, high, 0x4B, 0x46, 0x7F, 0xFF, 16 - (raw & 15) if byte_6 is None else byte_6, 0x10]
    )


def test_a_text_of_a_real_sensor_is_decoded():
    """From Adafruit's lesson 11 for the Raspberry Pi, "DS18B20 Temperature Scheduler"."""
    text = "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n"
    assert decode(text) == 23.125


def test_the_simulation_computes_the_crc_of_that_sensor():
    assert crc8(bytes.fromhex("72014b467fff0e10")) == 0x57


@pytest.mark.parametrize(
    ("raw", "celsius"),
    [
        (0x07D0, 125.0),
        (0x0550, 85.0),
        (0x0191, 25.0625),
        (8, 0.5),
        (0, 0.0),
        (-8, -0.5),
        (-0x370, -55.0),
    ],
)
def test_the_table_of_the_datasheet_is_decoded(raw, celsius):
    """DS18B20 datasheet, table 1; 85.0 is a temperature like any other after a conversion."""
    assert decode(w1_slave_text(scratchpad(raw))) == celsius


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", BadFrame, "is empty"),
        ("\n", BadFrame, "is empty"),
        ("91 01 4b 46", BadFrame, "reads '91 01"),
        (w1_slave_text(scratchpad(0x0191), crc_right=False), BadFrame, "CRC error"),
        (w1_slave_text(POWER_ON_SCRATCHPAD), ImplausibleValue, "power-on value"),
        (w1_slave_text(bytes(8)), ImplausibleValue, "all zeros"),
        (w1_slave_text(scratchpad(-100 * 16)), ImplausibleValue, "outside the -55 to 125"),
        (w1_slave_text(scratchpad(-127 * 16)), SensorNotFound, "unplugged"),
        (w1_slave_text(scratchpad(2047)), SensorNotFound, "unplugged"),
        (f"{'ff ' * 9}: crc=ff YES\n{'ff ' * 9}t=-62\n", SensorNotFound, "unplugged"),
    ],
)
def test_what_the_sensor_cannot_mean_is_refused(text, error, says):
    with pytest.raises(error, match=says) as caught:
        decode(text)
    assert "pull-up" in str(caught.value)


def test_85_degrees_are_refused_by_the_scratchpad_and_not_by_the_value():
    """Negative control: the same temperature with the byte 6 of a real conversion."""
    assert decode(w1_slave_text(scratchpad(0x0550))) == 85.0
    with pytest.raises(ImplausibleValue):
        decode(w1_slave_text(scratchpad(0x0550, byte_6=0x0C)))


@given(st.integers(-55 * 16, 125 * 16))
def test_every_temperature_makes_the_round_trip(raw):
    assert decode(w1_slave_text(scratchpad(raw))) == raw / 16


@given(st.text(alphabet="0123456789abcdef :=YESNOcrt\n", max_size=90))
def test_no_text_makes_the_decoder_raise_anything_else(text):
    with contextlib.suppress(SensorError):
        decode(text)


def test_the_only_sensor_needs_no_address(board):
    board.attach("ds18b20", Ds18b20Options())
    assert 10 < DS18B20.open(Ds18b20Options(), board).read()["temperature"] < 30


def test_two_sensors_need_an_address_and_are_named(board):
    for address in (ADDRESS, "28-000000000001"):
        board.attach("ds18b20", Ds18b20Options(address=address))
    with pytest.raises(SensorNotFound, match=f"28-000000000001, {ADDRESS}"):
        DS18B20.open(Ds18b20Options(), board).read()
    assert DS18B20.open(Ds18b20Options(address=ADDRESS), board).read()


def test_a_sensor_that_is_unplugged_and_plugged_in_again(board):
    """Not found while it is away, read again when it is back, by the same driver object."""
    board.attach("ds18b20", Ds18b20Options(address=ADDRESS))
    sensor = DS18B20.open(Ds18b20Options(address=ADDRESS), board)
    sensor.read()
    text = board.one_wire.text.pop(ADDRESS)
    with pytest.raises(SensorNotFound, match="not on the bus"):
        sensor.read()
    board.one_wire.text[ADDRESS] = text
    assert sensor.read()


@pytest.mark.parametrize(
    ("raw", "celsius"),
    [
        (0x00AA, 85.0),
        (0x0032, 25.0),
        (0x0001, 0.5),
        (0x0000, 0.0),
        (0xFFFF, -0.5),
        (0xFFCE, -25.0),
        (0xFF92, -55.0),
    ],
)
def test_the_table_of_a_ds18s20_is_decoded(raw, celsius):
    """DS18S20 datasheet, table 1; counters in the middle of a half degree add nothing to it."""
    remain = 12 if raw % 2 == 0 else 4
    low, high = raw.to_bytes(2, "little")
    text = w1_slave_text(bytes([low, high, 0x4B, 0x46, 0xFF, 0xFF, remain, 16]), family="10")
    if raw == 0x00AA:
        with pytest.raises(ImplausibleValue, match="power-on"):
            decode(text, "10-000802be73fa")
        return
    assert decode(text, "10-000802be73fa") == celsius
    assert f"t={celsius * 1000:.0f}\n" in text


def test_the_power_on_bytes_of_a_ds18s20_are_those_that_the_kernel_knew():
    """`bad_roms` of drivers/w1/slaves/w1_therm.c (Linux 2.6): aa 00 4b 46 ff ff 0c 10 87."""
    assert crc8(bytes.fromhex("aa004b46ffff0c10")) == 0x87
    with pytest.raises(ImplausibleValue, match="power-on"):
        decode(w1_slave_text(bytes.fromhex("aa004b46ffff0c10")), "10-000802be73fa")
    near = bytes.fromhex("aa004b46ffff0b10")
    assert decode(w1_slave_text(near), "10-000802be73fa") == 85.0625, "negative control"


@pytest.mark.parametrize("counters", [(4, 0), (17, 16)])
def test_counters_of_a_ds18s20_that_cannot_be_are_refused(counters):
    """For none per degree the kernel gives t=0, which is no temperature."""
    with pytest.raises(BadFrame, match="counters"):
        decode(
            w1_slave_text(bytes([50, 0, 0x4B, 0x46, 0xFF, 0xFF, *counters]), family="10"),
            "10-000802be73fa",
        )


@given(st.integers(-110, 250), st.integers(0, 255), st.integers(1, 255))
def test_a_ds18s20_is_decoded_as_the_kernel_does(raw, remain, per_degree):
    """Property: the kernel's formula in integers is the oracle, to its millidegree."""
    low, high = raw.to_bytes(2, "little", signed=True)
    text = w1_slave_text(
        bytes([low, high, 0x4B, 0x46, 0xFF, 0xFF, remain, per_degree]), family="10"
    )
    with contextlib.suppress(SensorError):
        assert decode(text, "10-000802be73fa") == pytest.approx(
            int(text.rsplit("=", 1)[1]) / 1000, abs=0.0011
        )


@pytest.mark.parametrize("family", ["22", "28", "3b", "42"])
@pytest.mark.parametrize(
    ("raw", "celsius"), [(0x0191, 25.0625), (0x00A2, 10.125), (-0xA2, -10.125), (-0x191, -25.0625)]
)
def test_the_tables_of_the_others_are_decoded(family, raw, celsius):
    """DS1822, DS18B20, DS1825 and DS28EA00 datasheets, "Temperature/Data Relationship"."""
    assert decode(w1_slave_text(scratchpad(raw)), f"{family}-000000000001") == celsius


@pytest.mark.parametrize("family", ["22", "28", "3b", "42"])
def test_the_others_too_begin_with_85_degrees(family):
    """DS28EA00 datasheet, figure 4: 50h 05h ... FFh 0Ch 10h."""
    with pytest.raises(ImplausibleValue, match="power-on"):
        decode(w1_slave_text(POWER_ON_SCRATCHPAD), f"{family}-000000000001")


def test_each_family_is_held_to_its_own_range():
    """DS28EA00: -40 to 85 °C."""
    hot = w1_slave_text(scratchpad(100 * 16))
    assert decode(hot, "28-000000000001") == 100
    with pytest.raises(ImplausibleValue, match="-40 to 85 of a DS28EA00"):
        decode(hot, "42-000000000001")
    with pytest.raises(ImplausibleValue, match="-55 to 125 of a DS1825"):
        decode(w1_slave_text(scratchpad(-60 * 16)), "3b-000000000001")


@pytest.mark.parametrize(
    ("configuration", "celsius"), [(0x7F, 25.4375), (0x5F, 25.375), (0x3F, 25.25), (0x1F, 25.0)]
)
def test_bits_that_the_resolution_leaves_undefined_are_cleared(configuration, celsius):
    """DS18B20 datasheet, table 2 and "Configuration Register"; 0197h with all bits below set."""
    frame = bytes([0x97, 0x01, 0x4B, 0x46, configuration, 0xFF, 9, 0x10])
    assert decode(w1_slave_text(frame)) == celsius


def test_a_gx20mh01_has_two_bits_more():
    """w1_therm.c: bit 7 of the configuration, and its two lowest bits."""
    frame = bytes([0x91, 0x01, 0x4B, 0x46, 0xBF, 0xFF, 0x0F, 0x10])
    assert decode(w1_slave_text(frame)) == 25.0625 + 3 / 64


def max31850(thermocouple: int, internal: int = 0x0190) -> str:
    """Words as of the datasheet's table 3 and 4, before the fault bits."""
    words = thermocouple.to_bytes(2, "little") + internal.to_bytes(2, "little")
    return w1_slave_text(words + bytes.fromhex("f0ffffff"), family="3b")


@pytest.mark.parametrize(
    ("word", "celsius"),
    [
        (0x6400, 1600.0),
        (0x3E80, 1000.0),
        (0x064C, 100.75),
        (0x0190, 25.0),
        (0x0000, 0.0),
        (0xFFFC, -0.25),
        (0xFFF0, -1.0),
        (0xF060, -250.0),
        (0x0550, 85.0),
        (0x07F0, 127.0),
    ],
)
def test_the_table_of_the_max31850_is_decoded(word, celsius):
    """Datasheet p. 13, table 3; what is special to the others (85, 127) is not special here."""
    text = max31850(word | 0b10)  # the reserved bit counts for nothing
    assert decode(text, "3b-000000000001") == celsius
    assert f"t={celsius * 1000:.0f}\n" in text


@pytest.mark.parametrize(
    ("bits", "says"),
    [(1, "is open"), (2, "to GND"), (4, "to the supply"), (6, "to GND and shorted to the s")],
)
def test_a_broken_thermocouple_is_a_fault(bits, says):
    """Datasheet p. 13: bit 0 of byte 0, and which one in byte 2."""
    with pytest.raises(SensorFault, match=says):
        decode(max31850(0x7FF1, 0x0190 | bits), "3b-000000000001")


def test_a_max31850_without_a_conversion_is_refused():
    with pytest.raises(ImplausibleValue, match="no conversion"):
        decode(max31850(0, 0), "3b-000000000001")


@given(st.binary(min_size=8, max_size=8), st.sampled_from(sorted(FAMILIES)))
def test_no_scratchpad_of_any_family_raises_anything_else(scratchpad_bytes, family):
    with contextlib.suppress(SensorError):
        assert -270 <= decode(w1_slave_text(scratchpad_bytes), f"{family}-000000000001") <= 1800


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_simulated(board, family):
    options = Ds18b20Options(address=f"{family}-000000000001")
    board.attach("ds18b20", options)
    sensor = DS18B20.open(options, board)
    assert 15 < sensor.read()["temperature"] < 27
    assert (sensor.channels[0].plausible[1] > 125) == (family == "3b")


def test_an_absent_bus_says_how_to_switch_it_on(board):
    with pytest.raises(SensorNotFound, match="dtoverlay=w1-gpio"):
        DS18B20.open(Ds18b20Options(), board).read()


@pytest.mark.parametrize("address", [None, ADDRESS])
def test_phantoms_on_the_bus_mean_a_missing_pull_up(board, address):
    """raspberrypi/firmware issue 348: the bus is on, and floats."""
    for phantom in ("00-200000000000", "00-a00000000000", "00-600000000000", "00-e00000000000"):
        board.one_wire.text[phantom] = lambda: ""
    with pytest.raises(SensorNotFound, match=r"what cannot be there: 00-2.*, \.\.\.; .*pull-up"):
        DS18B20.open(Ds18b20Options(address=address), board).read()
    (finding,) = [f for f in scan(board).failures if "1-Wire" in f.what]
    assert "no pull-up" in finding.hint


def test_a_bus_that_is_on_and_empty_is_not_to_be_switched_on(board):
    board.attach("ds18b20", Ds18b20Options())
    board.one_wire.unplugged["28-0316a2795bff"] = lambda: True
    with pytest.raises(SensorNotFound, match="1-Wire is on, but nothing answers; check 3V3"):
        DS18B20.open(Ds18b20Options(), board).read()


# -- What a sensor begins with -------------------------------------------------------------------

UMW, NOVOSENSE = "28-0316a2795bff", "28-01187a9f7c00"
MAXIM = "28-00000bbb9b13"
POWER_ON = {
    "A1, Maxim's own": (MAXIM, "50054b467fff0c10"),
    "A1, never trimmed": ("28-000003cb9e9b", "500500001fff0c10"),
    "A2": ("28-005bb7000019", "5005aa557fff0c10"),
    "A3": ("28-0000005a43e1", "50054b467fff0c10"),
    "B1, GXCAS and UMW": (UMW, "50054b467fff0c10"),
    "B1, written to": (UMW, "50054b467fff7f10"),
    "B2, 7Q-Tek": ("28-0416615a7cff", "50054b467fff0c10"),
    "C": ("28-f296cd1d64ff", "500555007fff0c10"),
    "D1, with a supercap": ("28-0204771d2491", "900155057f7e8166"),
    "D2": ("28-03009779fe90", "900155057fa22066"),
    "NS18B20": (NOVOSENSE, "50054b467fff1010"),
    "GX20MH01": (UMW, "50054b46ffff0c10"),
    "DS18S20": ("10-000802be73fa", "aa004b46ffff0c10"),
    "DS1822": ("22-000802be73fa", "50054b467fff0c10"),
    "DS1825": ("3b-000802be73fa", "50054b467fff0c10"),
    "DS28EA00": ("42-000802be73fa", "50054b467fff0c10"),
}
"""cpetrich/counterfeit_DS18B20, "Initial Scratchpad"; DavidAntliff/esp32-ds18b20 issue 16."""


def sensor_at(board, address: str, celsius: float):
    board.attach("ds18b20", Ds18b20Options(address=address))
    board.room.at = lambda *_: Air(celsius, 50, 1000)
    return DS18B20.open(Ds18b20Options(address=address), board)


def keeps_byte_6(scratchpad: bytes) -> bytes:
    """What copies of family B and C have after a conversion."""
    return scratchpad[:6] + b"\x0c" + scratchpad[7:]


def is_noisy(scratchpad: bytes) -> bytes:
    """What copies of family D have after a conversion."""
    return scratchpad[:5] + b"\x7e\x81\x66"


@pytest.mark.parametrize("has_alarms", [True, False])
@pytest.mark.parametrize("family", POWER_ON)
def test_what_each_family_begins_with_is_no_reading(board, family, has_alarms):
    """Its supply breaks down at each conversion, so that a second one says the same."""
    address, scratchpad_hex = POWER_ON[family]
    board.one_wire.has_alarms = has_alarms
    board.one_wire.power_on[address] = bytes.fromhex(scratchpad_hex)
    board.one_wire.loses_power[address] = lambda: True
    sensor = sensor_at(board, address, 21.5)
    for _ in range(3):
        with pytest.raises(ImplausibleValue, match=r"(85|25)\.0 °C is the power-on value"):
            sensor.read()
    board.one_wire.loses_power.clear()
    assert sensor.read() == {"temperature": 21.5}


@pytest.mark.parametrize("family", POWER_ON)
def test_a_supply_that_broke_down_once_costs_a_second_conversion(board, family):
    address, scratchpad_hex = POWER_ON[family]
    if family.startswith("A1"):
        return  # refused at once by its byte 6
    board.one_wire.power_on[address] = bytes.fromhex(scratchpad_hex)
    breaks_down = [True]
    board.one_wire.loses_power[address] = lambda: bool(breaks_down and breaks_down.pop())
    assert sensor_at(board, address, 21.5).read() == {"temperature": 21.5}


@pytest.mark.parametrize(
    ("address", "copy", "celsius"),
    [
        (MAXIM, None, 85.0),
        (NOVOSENSE, None, 85.0),
        (UMW, None, 85.0),
        (UMW, keeps_byte_6, 85.0),
        (UMW, is_noisy, 25.0),
        (UMW, is_noisy, 85.0),
        ("28-0000005a43e1", None, 85.0),
        ("10-000802be73fa", None, 85.0),
        ("22-000802be73fa", None, 85.0),
        ("3b-000802be73fa", None, 85.0),
        ("42-000802be73fa", None, 85.0),
        (UMW, None, 25.0),
    ],
)
def test_a_sensor_that_is_truly_as_hot_is_read(board, address, copy, celsius):
    """From the first reading on: its alarm bytes show that it kept its power."""
    if copy is not None:
        board.one_wire.converted = copy
    sensor = sensor_at(board, address, celsius)
    for _ in range(3):
        assert sensor.read() == {"temperature": celsius}


def test_a_mark_costs_one_conversion_and_not_one_at_each_reading(board):
    sensor = sensor_at(board, UMW, 85.0)
    sensor.read()
    before = board.one_wire.conversions
    for _ in range(5):
        sensor.read()
    assert board.one_wire.conversions - before == 5


def test_a_mark_that_is_gone_is_no_proof(board):
    """85.0 °C, truly; then the supply breaks down, and it says 85.0 °C again."""
    sensor = sensor_at(board, UMW, 85.0)
    sensor.read()
    board.one_wire.loses_power[UMW] = lambda: True
    with pytest.raises(ImplausibleValue, match="power-on"):
        sensor.read()


def test_without_a_file_for_marks_a_neighbouring_value_is_a_proof(board, clock):
    """An older kernel, or one without the rule of udev's."""
    board.one_wire.has_alarms = False
    sensor = sensor_at(board, UMW, 84.75)
    sensor.read()
    board.room.at = lambda *_: Air(85.0, 50, 1000)
    assert sensor.read() == {"temperature": 85.0}
    assert sensor.read() == {"temperature": 85.0}
    clock.sleep(3600)
    with pytest.raises(ImplausibleValue, match="power-on"):
        sensor.read()


@pytest.mark.parametrize("celsius", [21.5, 83.0])
def test_a_value_that_is_no_neighbour_is_none(board, celsius):
    board.one_wire.has_alarms = False
    sensor = sensor_at(board, UMW, celsius)
    sensor.read()
    board.one_wire.loses_power[UMW] = lambda: True
    with pytest.raises(ImplausibleValue, match="power-on"):
        sensor.read()


def test_the_eeprom_of_a_sensor_is_left_alone(board):
    """A mark is in its memory; what it was set to is there again after a loss of power."""
    sensor = sensor_at(board, UMW, 85.0)
    sensor.read()
    assert board.one_wire.alarms[UMW] == b"\x7c\xca", "124 and -54 °C"
    board.one_wire.loses_power[UMW] = lambda: True
    with pytest.raises(ImplausibleValue):
        sensor.read()
    assert board.one_wire.alarms[UMW] in (b"\x4b\x46",)
