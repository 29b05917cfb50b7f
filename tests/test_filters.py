"""The filters of a channel, each by itself and in their order."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.base import HUMIDITY, PRESSURE, TEMPERATURE, Channel
from node.config.schema import ChannelTable
from node.filters import ChannelFilters, Rejected, calibrated, filters_by_key
from node.units import Rate, Seconds

finite = st.floats(-50, 150)


def pipeline(**keys: Any) -> ChannelFilters:
    return ChannelFilters(TEMPERATURE, ChannelTable(**keys))


@given(finite)
def test_without_settings_a_plausible_value_is_rounded_and_nothing_else(value):
    assert pipeline().accept(value, 0) == round(value, 1) + 0.0


@given(st.floats().filter(lambda v: not -55 <= v <= 150))
def test_what_the_sensor_cannot_mean_never_passes(value):
    """NaN and infinities included."""
    with pytest.raises(Rejected) as caught:
        pipeline(offset=100.0, range=(-1e9, 1e9)).accept(value, 0)
    assert caught.value.reason == "implausible"


def test_no_decimals_means_a_whole_number():
    assert str(pipeline(decimals=0).accept(21.4, 0)) == "21"
    assert str(pipeline(decimals=0).accept(-0.4, 0)) == "0"


def test_minus_zero_is_zero():
    assert str(pipeline().accept(-0.01, 0)) == "0.0"


def test_offset_counts_in_the_configured_unit():
    assert pipeline(unit="°F", offset=-2.0).accept(20.0, 0) == 66.0


def test_a_unit_of_pressure_is_converted():
    mmhg = ChannelFilters(PRESSURE, ChannelTable(unit="mmHg", decimals=2))
    assert mmhg.accept(1013.25, 0) == 760.0


def test_two_points_correct_offset_and_slope():
    points = [(98.9, 100.0), (0.3, 0.0)]
    assert calibrated(0.3, points) == pytest.approx(0.0)
    assert calibrated(98.9, points) == pytest.approx(100.0)
    assert calibrated(49.6, points) == pytest.approx(50.0)
    assert calibrated(-10.0, points) == pytest.approx(-10.446, abs=0.001)


@given(
    st.lists(
        st.tuples(st.integers(-50, 150), finite),
        min_size=2,
        max_size=6,
        unique_by=lambda point: point[0],
    )
)
def test_calibration_meets_every_point(points):
    for measured, true in points:
        assert calibrated(measured, points) == pytest.approx(true, abs=1e-6)


@pytest.mark.parametrize(
    ("raw", "keys", "value"),
    [
        (99.5, {"offset": 2.0}, 100.0),
        (1.0, {"offset": -3.0}, 0.0),
        (98.0, {"calibrate": [(30.0, 33.0), (75.0, 79.0)]}, 100.0),
        (101.7, {}, 100.0),
        (50.0, {"offset": 2.0}, 52.0),
    ],
)
def test_a_humidity_is_not_calibrated_beyond_its_ends(raw, keys, value):
    """Nor is what a sensor measures a little beyond them."""
    assert ChannelFilters(HUMIDITY, ChannelTable(**keys)).accept(raw, 0) == value


def test_range_is_inclusive_and_comes_after_calibration():
    channel = pipeline(offset=5.0, range=(0.0, 30.0))
    assert channel.accept(25.0, 0) == 30.0
    with pytest.raises(Rejected, match="outside the configured range 0 to 30") as caught:
        channel.accept(25.1, 0)
    assert caught.value.reason == "range"


class TestMaxRate:
    """5 °C a minute."""

    def channel(self) -> ChannelFilters:
        return pipeline(max_rate=Rate.parse("5/min"))

    def test_a_slow_change_passes(self):
        channel = self.channel()
        assert [channel.accept(20.0 + n, n * 12.0) for n in range(5)] == [20, 21, 22, 23, 24]

    def test_a_single_spike_is_rejected(self):
        channel = self.channel()
        channel.accept(20.0, 0)
        with pytest.raises(Rejected) as caught:
            channel.accept(80.0, 10)
        assert caught.value.reason == "rate"
        assert channel.accept(20.1, 20) == 20.1

    def test_a_jump_that_repeats_is_believed(self):
        channel = self.channel()
        channel.accept(20.0, 0)
        with pytest.raises(Rejected):
            channel.accept(30.0, 10)
        assert channel.accept(30.1, 20) == 30.1

    def test_two_spikes_of_different_height_are_both_rejected(self):
        channel = self.channel()
        channel.accept(20.0, 0)
        for value, at_s in ((80.0, 10), (-40.0, 20), (85.0, 30)):
            with pytest.raises(Rejected):
                channel.accept(value, at_s)

    def test_without_the_setting_a_spike_passes(self):
        """Negative control."""
        channel = pipeline()
        channel.accept(20.0, 0)
        assert channel.accept(80.0, 10) == 80.0


def test_median_of_three_drops_a_spike():
    channel = pipeline(median=3)
    assert [channel.accept(v, 0) for v in (20.0, 20.2, 90.0, 20.4)] == [20.0, 20.2, 20.2, 20.4]


@given(st.lists(finite, min_size=1, max_size=30), st.sampled_from([1, 3, 5, 7]))
def test_a_median_is_one_of_the_last_values(values, count):
    channel = pipeline(median=count, decimals=6)
    for index, value in enumerate(values):
        result = channel.accept(value, 0)
        window = [round(v, 6) for v in values[max(0, index - count + 1) : index + 1]]
        assert any(math.isclose(result, v, abs_tol=1e-9) for v in window)


@given(st.lists(finite, min_size=1, max_size=30), st.integers(1, 12))
def test_an_average_is_the_mean_of_the_last_values(values, count):
    channel = pipeline(average=count, decimals=6)
    for index, value in enumerate(values):
        result = channel.accept(value, 0)
        window = values[max(0, index - count + 1) : index + 1]
        assert result == pytest.approx(sum(window) / len(window), abs=1e-6)


def test_the_average_comes_after_the_median():
    """A spike that the median drops is not in the mean either."""
    channel = pipeline(median=3, average=2)
    assert [channel.accept(v, 0) for v in (20.0, 20.0, 90.0, 20.0)][-1] == 20.0


def test_after_an_outage_or_a_true_jump_the_average_begins_afresh():
    channel = pipeline(average=5, max_rate=Rate.parse("1/s"))
    channel.accept(20.0, 0)
    with pytest.raises(Rejected):
        channel.accept(40.0, 1)
    assert channel.accept(40.0, 2) == 40.0
    channel.forget()
    assert channel.accept(41.0, 3) == 41.0


@given(
    st.lists(st.floats(-200, 200), max_size=40),
    st.floats(-50, 0),
    st.floats(0, 50),
    st.floats(-5, 5),
)
def test_what_passes_lies_in_the_range_whatever_the_other_filters_make_of_it(
    values, low, high, offset
):
    channel = pipeline(offset=offset, range=(low, high), median=3, average=3, decimals=6)
    for value in values:
        with contextlib.suppress(Rejected):
            assert low - 1e-6 <= channel.accept(value, 0) <= high + 1e-6


@given(st.lists(st.floats(-50, 150), min_size=2, max_size=40))
def test_no_lone_value_passes_that_is_faster_than_max_rate(values):
    """Of two neighbours that both pass, the second is reachable, or repeats one rejected."""
    channel = pipeline(max_rate=Rate.parse("1/s"), decimals=6)
    last: tuple[float, int] | None = None
    rejected: float | None = None
    for second, value in enumerate(values):
        try:
            channel.accept(value, second)
        except Rejected:
            rejected = value
            continue
        if last is not None and abs(value - last[0]) > second - last[1] + 1e-6:
            assert rejected is not None
            assert abs(value - rejected) <= 1 + 1e-6
        last, rejected = (value, second), None


@given(st.lists(st.tuples(finite, st.floats(0, 30)), max_size=40), st.floats(0.1, 5))
def test_subscribers_are_never_further_off_than_delta_nor_longer_than_the_heartbeat(steps, delta):
    channel = pipeline(delta=delta, heartbeat=Seconds(60))
    now_s, told = 0.0, None
    for value, step_s in steps:
        now_s += step_s
        if channel.worth_publishing(value, now_s):
            channel.published(value, now_s)
            told = (value, now_s)
        assert told is not None
        assert abs(value - told[0]) < delta + 1e-6
        assert now_s - told[1] < 60


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 100)), max_size=30))
def test_only_plausible_numbers_with_their_decimals_come_out(steps):
    channel = pipeline(max_rate=Rate.parse("10/min"), median=5, average=4, decimals=2)
    for value, at_s in steps:
        try:
            result = channel.accept(value, at_s)
        except Rejected:
            continue
        assert -55 <= result <= 150
        assert result == round(result, 2)


def test_a_rejected_value_does_not_reach_the_median():
    channel = pipeline(median=3, range=(0.0, 50.0))
    channel.accept(20.0, 0)
    with pytest.raises(Rejected):
        channel.accept(60.0, 1)
    channel.accept(21.0, 2)
    assert channel.accept(22.0, 3) == 21.0


def test_delta_holds_small_changes_back_until_the_heartbeat():
    channel = pipeline(delta=0.5, heartbeat=Seconds(60))
    assert channel.worth_publishing(20.0, 0)
    channel.published(20.0, 0)
    assert not channel.worth_publishing(20.4, 10)
    assert channel.worth_publishing(20.5, 10)
    assert channel.worth_publishing(19.5, 10)
    assert not channel.worth_publishing(20.0, 59.9)
    assert channel.worth_publishing(20.0, 60)


def test_without_delta_everything_is_worth_publishing():
    channel = pipeline()
    channel.published(20.0, 0)
    assert channel.worth_publishing(20.0, 1)


def test_a_change_of_delta_itself_counts_in_spite_of_floating_point():
    """20.3 - 20.2 is a little less than 0.1."""
    channel = pipeline(delta=0.1)
    channel.published(20.2, 0)
    assert channel.worth_publishing(20.3, 1)


@pytest.mark.parametrize(
    ("unit", "decimals"), [("hPa", 1), ("kPa", 2), ("inHg", 3), ("mmHg", 1), ("Pa", 0), ("mbar", 1)]
)
def test_another_unit_has_as_many_decimals_as_it_takes(unit, decimals):
    """A step of the sensor's is a step in any unit; 0.1 inHg would be 3.4 hPa."""
    pressure = Channel("pressure", "hPa", (300.0, 1100.0), 1)
    assert ChannelFilters(pressure, ChannelTable(unit=unit)).decimals == decimals
    assert ChannelFilters(pressure, ChannelTable(unit=unit, decimals=4)).decimals == 4


# -- one object a filter ---------------------------------------------------------------------------


def test_every_key_of_a_channel_is_a_filter():
    """So a key that is new has its check and its row of the README, or this fails."""
    assert list(filters_by_key()) == [field.name for field in msgspec.structs.fields(ChannelTable)]


@pytest.mark.parametrize("key", filters_by_key())
def test_the_readme_says_of_a_key_what_its_filter_says(key):
    text = Path(__file__).parents[1].joinpath("node", "config", "README.md").read_text()
    (said,) = re.findall(rf"^\|[^|]*\| `{key}` \|[^|]*\|(.*)\|$", text, re.MULTILINE)
    assert said.strip() == filters_by_key()[key].help


def test_a_channel_without_keys_costs_two_steps():
    """What does nothing is not called: plausibility and rounding are all there is."""
    assert [type(step).__name__ for step in pipeline()._changing] == ["Plausible", "Decimals"]
    assert [type(step).__name__ for step in pipeline(median=3, unit="°F")._changing] == [
        "Plausible",
        "InUnit",
        "Median",
        "Decimals",
    ]
