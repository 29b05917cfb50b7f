"""DS18B20: the decoder on texts of the kernel's, and the driver on a simulated 1-Wire tree."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ds18b20 import DS18B20, Ds18b20Options, decode_w1_slave
from drivers.errors import BadFrame, ImplausibleValue, SensorError, SensorNotFound
from drivers.sim.one_wire import POWER_ON_SCRATCHPAD, crc8, w1_slave_text

ADDRESS = "28-0316a2795bff"


def scratchpad(raw: int, byte_6: int | None = None) -> bytes:
    low, high = raw.to_bytes(2, "little", signed=True)
    return bytes(
        [low, high, 0x4B, 0x46, 0x7F, 0xFF, 16 - (raw & 15) if byte_6 is None else byte_6, 0x10]
    )


def test_a_text_of_a_real_sensor_is_decoded():
    """From Adafruit's lesson 11 for the Raspberry Pi, "DS18B20 Temperature Sensing"."""
    text = "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n"
    assert decode_w1_slave(text) == 23.125


def test_the_simulation_computes_the_crc_of_that_sensor():
    assert crc8(bytes.fromhex("72014b467fff0e10")) == 0x57


@pytest.mark.parametrize(
    ("raw", "celsius"),
    [
        (0x07D0, 125.0),
        (0x0550, 85.0),
        (0x0191, 25.062),
        (8, 0.5),
        (0, 0.0),
        (-8, -0.5),
        (-0x370, -55.0),
    ],
)
def test_the_table_of_the_datasheet_is_decoded(raw, celsius):
    """DS18B20 datasheet, table 1; 85.0 is a temperature like any other after a conversion."""
    assert decode_w1_slave(w1_slave_text(scratchpad(raw))) == celsius


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", BadFrame, "is empty"),
        ("\n", BadFrame, "is empty"),
        ("91 01 4b 46", BadFrame, "reads '91 01"),
        (w1_slave_text(scratchpad(0x0191), crc_right=False), BadFrame, "CRC error"),
        (w1_slave_text(POWER_ON_SCRATCHPAD), ImplausibleValue, "power-on value"),
        (w1_slave_text(bytes(8)), ImplausibleValue, "all zeros"),
        (w1_slave_text(scratchpad(-127 * 16)), SensorNotFound, "unplugged"),
        (w1_slave_text(scratchpad(2047)), SensorNotFound, "unplugged"),
        (f"{'ff ' * 9}: crc=ff YES\n{'ff ' * 9}t=-62\n", SensorNotFound, "unplugged"),
    ],
)
def test_what_the_sensor_cannot_mean_is_refused(text, error, says):
    with pytest.raises(error, match=says) as caught:
        decode_w1_slave(text)
    assert "pull-up" in str(caught.value)


def test_85_degrees_are_refused_by_the_scratchpad_and_not_by_the_value():
    """Negative control: the same temperature with the byte 6 of a real conversion."""
    assert decode_w1_slave(w1_slave_text(scratchpad(0x0550))) == 85.0
    with pytest.raises(ImplausibleValue):
        decode_w1_slave(w1_slave_text(scratchpad(0x0550, byte_6=0x0C)))


@given(st.integers(-55 * 16, 125 * 16))
def test_every_temperature_makes_the_round_trip(raw):
    assert decode_w1_slave(w1_slave_text(scratchpad(raw))) == pytest.approx(raw / 16, abs=0.001)


@given(st.text(alphabet="0123456789abcdef :=YESNOcrt\n", max_size=90))
def test_no_text_makes_the_decoder_raise_anything_else(text):
    with contextlib.suppress(SensorError):
        decode_w1_slave(text)


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


def test_an_absent_bus_says_how_to_switch_it_on(board):
    with pytest.raises(SensorNotFound, match="dtoverlay=w1-gpio"):
        DS18B20.open(Ds18b20Options(), board).read()
