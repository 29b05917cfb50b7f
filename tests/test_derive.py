"""Derived channels: the formulas against other sources, and where their parts come from."""

from __future__ import annotations

import math
from typing import Any

import psychrolib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.derive.functions import function_called, functions
from node.derive.parts import Derived, OutOfRange, OverWindow, parts_of
from node.sensors.derived import Window
from node.units import Seconds

psychrolib.SetUnitSystem(psychrolib.SI)

warm = st.floats(5, 60)
humid = st.floats(10, 100)


def value(name: str, keys: dict[str, Any] | None = None, **parts: float) -> float:
    kind = function_called(name)
    assert kind is not None
    return Derived(kind.channel, kind(**keys or {}), {}).value(parts)


# -- the formulas. psychrolib follows the ASHRAE Handbook of 2017, with other vapour pressures than
# those of the WMO: they differ by 0.3 % at most, above 0 °C.


@given(warm, humid)
def test_the_dew_point_is_that_of_psychrolib(t, rh):
    theirs = psychrolib.GetTDewPointFromRelHum(t, rh / 100)
    if theirs > 0.1:  # below it, psychrolib goes on over ice
        assert value("dew_point", temperature=t, humidity=rh) == pytest.approx(theirs, abs=0.1)


@pytest.mark.parametrize(
    ("t", "rh", "dew_point"),
    [(-10.0, 100.0, -10.0), (-10.0, 50.0, -18.46), (0.0, 50.0, -9.18), (20.0, 20.0, -3.62)],
)
def test_the_dew_point_in_frost_is_that_over_water(t, rh, dew_point):
    """The vapour pressure of Sonntag, 1990, in full, halved down to the dew point."""
    assert value("dew_point", temperature=t, humidity=rh) == pytest.approx(dew_point, abs=0.06)


@given(warm, humid)
def test_absolute_humidity_is_that_of_psychrolib(t, rh):
    ratio = psychrolib.GetHumRatioFromRelHum(t, rh / 100, 101325)
    theirs = 1000 * ratio / psychrolib.GetMoistAirVolume(t, ratio, 101325)
    assert value("absolute_humidity", temperature=t, humidity=rh) == pytest.approx(theirs, rel=0.01)


@given(warm, humid)
def test_the_vapour_pressure_deficit_is_that_of_psychrolib(t, rh):
    ratio = psychrolib.GetHumRatioFromRelHum(t, rh / 100, 101325)
    theirs = psychrolib.GetVaporPressureDeficit(t, ratio, 101325) / 1000
    assert value("vpd", temperature=t, humidity=rh) == pytest.approx(theirs, rel=0.01, abs=0.001)


@given(st.floats(5, 50), humid, st.floats(700, 1050))
def test_the_wet_bulb_is_that_of_psychrolib(t, rh, hpa):
    theirs = psychrolib.GetTWetBulbFromRelHum(t, rh / 100, 100 * hpa)
    if theirs > 0.2:
        ours = value("wet_bulb", temperature=t, humidity=rh, pressure=hpa)
        assert ours == pytest.approx(theirs, abs=0.1)


@given(st.floats(-40, 0), humid)
def test_the_wet_bulb_in_frost_is_between_dew_point_and_temperature(t, rh):
    wet = value("wet_bulb", temperature=t, humidity=rh)
    assert value("dew_point", temperature=t, humidity=rh) - 0.01 <= wet <= t + 0.01


@given(st.floats(-300, 1500), st.floats(-20, 40), st.floats(850, 1050))
def test_dry_pressure_at_sea_level_is_that_of_psychrolib(metres, t, hpa):
    theirs = psychrolib.GetSeaLevelPressure(100 * hpa, metres, t) / 100
    ours = value("sea_level_pressure", {"altitude": metres}, temperature=t, pressure=hpa)
    assert ours == pytest.approx(theirs, abs=0.05)


def test_vapour_makes_the_column_lighter():
    """340 m, 20 °C, 50 %: es Ch = 1.4 K, so 0.48 % of the difference of 39 hPa less."""
    keys = {"altitude": 340.0}
    dry = value("sea_level_pressure", keys, temperature=20.0, pressure=975.0)
    wet = value("sea_level_pressure", keys, temperature=20.0, pressure=975.0, humidity=50.0)
    assert dry - wet == pytest.approx(0.187, abs=0.005)


@pytest.mark.parametrize(
    ("t", "rh", "index"),
    [(80, 40, 80), (90, 50, 95), (90, 70, 105), (96, 50, 108), (100, 40, 109), (86, 90, 105)],
)
def test_the_heat_index_is_that_of_the_chart(t, rh, index):
    """The chart of the National Weather Service, in °F and whole degrees."""
    ours = value("heat_index", temperature=(t - 32) / 1.8, humidity=rh)
    assert 1.8 * ours + 32 == pytest.approx(index, abs=1.3)


@pytest.mark.parametrize(
    ("t", "dew_point", "humidex"), [(30, 15, 34), (30, 20, 37), (30, 25, 42), (25, 20, 32)]
)
def test_the_humidex_is_that_of_the_table(t, dew_point, humidex):
    """Environment Canada's table of temperature and dew point, in whole degrees."""
    rh = 100 * psychrolib.GetRelHumFromTDewPoint(t, dew_point)
    assert value("humidex", temperature=t, humidity=rh) == pytest.approx(humidex, abs=0.8)


@pytest.mark.parametrize("name", [n for n, kind in functions().items() if parts_of(kind)])
def test_every_value_of_a_formula_is_within_the_limits_of_its_channel(name):
    """Corner by corner of what the formula is valid for, or it says that it does not apply."""
    kind = functions()[name]
    keys = {"altitude": 0.0} if name == "sea_level_pressure" else {}
    corners: list[dict[str, float]] = [{}]
    for key, part in parts_of(kind).items():
        steps = [part.low + (part.high - part.low) * n / 8 for n in range(9)]
        steps = [870.0, 1085.0] if key == "pressure" else steps
        corners = [{**c, key: step} for c in corners for step in steps]
    low, high = kind.channel.plausible
    for corner in corners:
        try:
            found = value(name, keys, **corner)
        except OutOfRange:
            continue
        assert low <= found <= high, corner


def test_outside_its_range_a_formula_says_so():
    with pytest.raises(OutOfRange, match="heat_index is defined for a temperature of 20 to 50 °C"):
        value("heat_index", temperature=19.0, humidity=50.0)
    with pytest.raises(OutOfRange, match="humidity of 1 to 100 %, and it is 0"):
        value("dew_point", temperature=19.0, humidity=0.0)
    with pytest.raises(OutOfRange, match="the dew point is -"):
        value("humidex", temperature=21.0, humidity=10.0)


# -- the window


def window(name: str, seconds: float) -> Window:
    kind = function_called(name)
    assert kind is not None
    assert issubclass(kind, OverWindow)
    made = Window(kind(of="temperature", window=Seconds(seconds)))
    made.is_complete = True
    return made


@given(st.lists(st.tuples(st.floats(1, 200), st.floats(-50, 50)), min_size=1, max_size=80))
def test_a_window_has_what_a_list_of_its_values_has(steps):
    """Within its step of 1/240: a value that is older than the window is never in it."""
    lowest, highest, mean = (window(name, 2400) for name in ("min", "max", "mean"))
    now_s, values = 0.0, []
    for step_s, number in steps:
        now_s += step_s
        values.append((now_s, number))
        for one in (lowest, highest, mean):
            one.add(now_s, number)
        inside = [v for at_s, v in values if math.floor(at_s / 10) >= (now_s - 2400) / 10]
        assert lowest.value(now_s) == min(inside)
        assert highest.value(now_s) == max(inside)
        assert mean.value(now_s) == pytest.approx(sum(inside) / len(inside), abs=1e-9)


def test_a_window_remembers_no_more_than_its_steps():
    one = window("max", 3600)
    for second in range(20_000):
        one.add(float(second), 1.0)
    assert len(one._buckets) <= 241
