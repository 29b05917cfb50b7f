"""Chips behind a multiplexer that the node switches: real drivers on a simulated TCA9548A."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import TickingClock, put_libraries_on

from drivers.base import Driver
from drivers.errors import SensorNotFound
from drivers.sim.board import SimulatedBoard
from drivers.sim.i2c import SimulatedMux
from drivers.sim.room import Air
from node.config.load import ConfigError, load

CHIPS = """\
[mqtt]
host = "h"
[[sensor]]
id = "a"
driver = "mcp9808"
mux = { channel = 0 }
[[sensor]]
id = "b"
driver = "mcp9808"
mux = { address = 0x70, channel = 3 }
[[sensor]]
id = "c"
driver = "mcp9808"
mux = { address = 0x71, channel = 3 }
"""


CELSIUS = {"mux 0x70 channel 0": 20.0, "mux 0x70 channel 3": 21.0, "mux 0x71 channel 3": 22.0}


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> SimulatedBoard:
    clock = TickingClock()
    put_libraries_on(clock, monkeypatch)
    return SimulatedBoard(clock)


def sensors_of(tmp_path: Path, board: SimulatedBoard) -> list[Driver]:
    """The drivers of `CHIPS`, each chip in air of its own."""

    def air(spot: str) -> Air:
        (celsius,) = (celsius for where, celsius in CELSIUS.items() if where in spot)
        return Air(celsius, 50.0, 1000.0)

    board.room.at = air  # type: ignore[assignment, method-assign]
    file = tmp_path / "node.toml"
    file.write_text(CHIPS)
    opened = []
    for sensor in load(file).sensors:
        board.attach(sensor.driver, sensor.options)
        opened.append(sensor.info.open(sensor.options, board))
    return opened


def test_chips_of_one_address_are_read_behind_their_channels(tmp_path, board):
    """Two channels of one multiplexer, and a second one: each reads its own, in any order."""
    a, b, c = sensors_of(tmp_path, board)
    for sensor, celsius in [(a, 20), (b, 21), (c, 22), (b, 21), (a, 20), (c, 22)]:
        assert sensor.read()["temperature"] == pytest.approx(celsius, abs=0.1)
    muxes = [board.i2c_ports[1].chips[address] for address in (0x70, 0x71)]
    assert [mux.control for mux in muxes if isinstance(mux, SimulatedMux)] == [0, 1 << 3]


def test_a_multiplexer_that_lost_its_power_is_switched_again(tmp_path, board):
    _, b, _ = sensors_of(tmp_path, board)
    b.read()
    mux = board.i2c_ports[1].chips[0x70]
    assert isinstance(mux, SimulatedMux)
    mux.control = 0
    assert b.read()["temperature"] == pytest.approx(21, abs=0.1)


def test_a_multiplexer_that_is_not_there_says_so(tmp_path, board):
    a, b, _ = sensors_of(tmp_path, board)
    chips = board.i2c_ports[1].chips
    mux = chips.pop(0x70)
    with pytest.raises(SensorNotFound, match="no multiplexer answers at address 0x70") as caught:
        a.read()
    assert "used by bus = N, without mux" in caught.value.hint
    chips[0x70] = mux
    assert b.read()


def test_a_chip_that_is_missing_behind_its_channel_is_named_with_it(tmp_path, board):
    a, _, _ = sensors_of(tmp_path, board)
    mux = board.i2c_ports[1].chips[0x70]
    assert isinstance(mux, SimulatedMux)
    mux.channels[0].clear()
    with pytest.raises(SensorNotFound, match=r"I2C bus 1 mux 0x70 channel 0 address 0x18"):
        a.read()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("", ""),
        ('driver = "mcp9808"\n', "I2C bus 1 address 0x18 is used by sensor"),
        ('driver = "mcp9808"\naddress = 0x19\n', ""),
        ('driver = "mcp9808"\nbus = 3\n', ""),
        ('driver = "shtc3"\n', "I2C bus 1 address 0x70 is used by sensor"),
        ('driver = "mcp9808"\nmux = { channel = 3 }\n', "mux 0x70 channel 3 address 0x18 is used"),
        (
            'driver = "mcp9808"\nmux = { channel = 8 }\n',
            "mux.channel: expected a whole number <= 7",
        ),
        ('driver = "mcp9808"\nmux = { adress = 0x70, channel = 1 }\n', "mux.adress: unknown key"),
        ('driver = "mcp9808"\nmux = { address = 0x40, channel = 1 }\n', "mux.address: expected"),
        ('driver = "mcp9808"\nmux = { address = 0x70 }\n', "mux.channel: is missing"),
        ('driver = "mcp9808"\nmux = 0x70\n', "mux: expected a table"),
        ('driver = "max31855"\nmux = { channel = 1 }\n', "mux: unknown key"),
    ],
)
def test_what_a_multiplexer_leaves_free(tmp_path, more, says):
    """A chip in front of it would answer along with one behind it."""
    file = tmp_path / "node.toml"
    file.write_text(CHIPS + (f'[[sensor]]\nid = "d"\n{more}' if more else ""))
    if not says:
        assert load(file)
        return
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert says in caught.value.report()
