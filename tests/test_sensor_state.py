"""When a sensor is online, when it goes offline, and what is logged of it."""

from __future__ import annotations

import logging

import msgspec
import pytest

from drivers.base import HUMIDITY, TEMPERATURE
from drivers.cpu import CPU, CpuOptions
from drivers.errors import BadFrame, SensorNotFound
from node.config.schema import ChannelTable, SensorTable
from node.reading import ReadOutcome
from node.sensors.state import SensorState
from node.units import Seconds


@pytest.fixture
def state(caplog) -> SensorState:
    caplog.set_level(logging.INFO)
    table = SensorTable(
        id="air",
        driver="cpu",
        interval=Seconds(10),
        channel={"temperature": ChannelTable(range=(0.0, 50.0))},
        info=CPU,
        options=CpuOptions(),
    )
    return SensorState(table)


def outcome(
    at_s: float, *, started_s: float | None = None, error=None, **values: float
) -> ReadOutcome:
    return ReadOutcome(
        sensor="air",
        started_s=at_s if started_s is None else started_s,
        ended_s=at_s,
        boot_s=at_s,
        utc_s=at_s,
        synced=True,
        measurement=values or None,
        channels=(TEMPERATURE, HUMIDITY),
        error=error,
    )


def test_the_first_good_reading_brings_it_online(state, caplog):
    assert not state.online
    assert state.accept(outcome(0, temperature=21.5)) == {"temperature": 21.5}
    assert state.online
    assert "air (cpu): online, temperature 21.5 °C" in caplog.text


def test_three_intervals_without_a_good_reading_bring_it_offline(state, caplog):
    state.accept(outcome(0, temperature=21.5))
    for at_s in (10, 20, 30):
        assert state.accept(outcome(at_s, error=BadFrame("CRC", "check the wire"))) == {}
        state.check(at_s, None)
        assert state.online, "two failures, or a third that has only just come, change nothing"
    assert 30 < state.next_check_s < 31
    state.check(state.next_check_s, None)
    assert not state.online
    assert "air (cpu): offline: CRC; check the wire" in caplog.text


def test_failures_of_an_online_sensor_are_not_logged(state, caplog):
    """Negative control: the same failure of an offline one is."""
    state.accept(outcome(0, temperature=21.5))
    caplog.clear()
    state.accept(outcome(10, error=BadFrame("CRC")))
    assert caplog.text == ""
    other = SensorState(state.table)
    other.accept(outcome(0, error=BadFrame("CRC")))
    assert "offline: CRC" in caplog.text


def test_while_offline_each_kind_of_problem_is_logged_once(state, caplog):
    for n in range(100):
        state.accept(outcome(n, error=BadFrame(f"CRC of frame {n}")))
        state.accept(outcome(n, error=SensorNotFound("gone")))
    assert len(caplog.records) == 2


def test_a_sensor_that_comes_back_says_so_and_may_complain_afresh(state, caplog):
    state.accept(outcome(0, error=BadFrame("CRC")))
    state.accept(outcome(1, temperature=20.0))
    state.check(state.next_check_s, None)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_a_read_that_does_not_end_is_said_once_its_budget_is_used_up(state, caplog):
    state.busy_since_s = 0.0
    assert state.next_check_s == CPU.read_budget_s
    state.check(2.5, 0.0)
    assert "no answer for 2.5s; check its wiring" in caplog.text
    assert state.next_check_s == float("inf")


def test_a_stuck_sensor_that_was_online_says_why_it_is_offline(state, caplog):
    state.accept(outcome(0, temperature=20.0))
    state.busy_since_s = 10.0
    state.check(state.next_check_s, 10.0)
    assert not state.online
    assert "offline: no answer for 20s" in caplog.text


def test_a_sensor_that_waits_for_its_bus_does_not_blame_its_own_wiring(state, caplog):
    state.busy_since_s = 0.0
    state.check(2.5, None)
    assert "its bus (cpu) is held up by other sensors" in caplog.text


def test_a_reading_that_took_too_long_is_not_used(state):
    """What it brings may have been measured when it began."""
    assert state.accept(outcome(100, started_s=60, temperature=20.0)) == {}
    assert state.accept(outcome(130, started_s=100, temperature=20.0)) == {"temperature": 20.0}


def test_a_rejected_channel_is_left_out_and_the_other_one_kept(state):
    assert state.accept(outcome(0, temperature=70.0, humidity=40.0)) == {"humidity": 40.0}
    assert state.online


def test_a_reading_with_nothing_left_is_a_failure(state, caplog):
    assert state.accept(outcome(0, temperature=70.0)) == {}
    assert state.failures_in_a_row == 1
    assert "outside the configured range" in caplog.text


def test_a_channel_that_stays_away_is_told_once(state, caplog):
    state.accept(outcome(0, temperature=20.0, humidity=40.0))
    for at_s in (10, 20, 30):
        state.accept(outcome(at_s, temperature=20.0))
        assert state.note_missing(at_s) == []
    state.accept(outcome(40, temperature=20.0))
    assert state.note_missing(40) == ["humidity"]
    assert state.note_missing(50) == []
    assert state.missing_channels == {"humidity"}
    assert "air (cpu): no humidity: the sensor does not give a value" in caplog.text
    state.accept(outcome(60, temperature=20.0, humidity=40.0))
    assert state.missing_channels == set()
    assert "humidity is back" in caplog.text


def test_a_channel_that_never_had_a_value_is_told_too(state):
    """A probe that is broken from the start."""
    for at_s in (0, 10, 20, 30, 40):
        state.accept(outcome(at_s, temperature=20.0))
    assert state.note_missing(40) == ["humidity"]


def noisy(state: SensorState) -> SensorState:
    """The same sensor, had it a driver that never says the same twice."""
    info = msgspec.structs.replace(state.table.info, frozen_after=5)
    return SensorState(msgspec.structs.replace(state.table, info=info))


def test_a_sensor_that_repeats_itself_to_the_last_bit_is_frozen_and_goes_offline(state, caplog):
    state = noisy(state)
    for n in range(4):
        assert state.accept(outcome(10 * n, temperature=21.53125))
    for n in range(4, 8):
        assert state.accept(outcome(10 * n, temperature=21.53125)) == {}
        state.check(10 * n, None)
    state.check(62, None)
    assert not state.online
    assert state.rejected_for == {"frozen": 4}
    assert "the same values to the last bit 8 times" in caplog.text
    assert "switch its power off and on" in state.last_error
    assert state.accept(outcome(80, temperature=21.5)), "it moves again"
    assert state.online


def test_a_driver_whose_sensor_may_repeat_itself_is_left_alone(state):
    """Negative control, and a DS18B20 in a cellar."""
    for n in range(200):
        assert state.accept(outcome(10 * n, temperature=21.53125))


def test_rejected_values_are_counted_by_reason(state):
    state.accept(outcome(0, temperature=21.0))
    state.accept(outcome(10, temperature=70.0))
    state.accept(outcome(20, temperature=999.0, humidity=40.0))
    assert state.rejected_for == {"range": 1, "implausible": 1}


def test_a_median_forgets_what_was_before_an_outage(state):
    """Else the first readings after it would be values of long ago."""
    table = msgspec.structs.replace(state.table, channel={"temperature": ChannelTable(median=3)})
    state = SensorState(table)
    for at_s in (0, 10, 20):
        state.accept(outcome(at_s, temperature=20.0))
    state.check(state.next_check_s, None)
    assert state.accept(outcome(7200, temperature=35.0)) == {"temperature": 35.0}
