"""Alarms: when one is on, by values and by time, and what the configuration may say of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.alarms.rule import AlarmChange, AlarmRule
from node.alarms.table import AlarmTable
from node.config.load import ConfigError, load
from node.config.schema import SensorTable
from node.units import Rate, Seconds

CONFIG = """
[mqtt]
host = "127.0.0.1"
[[sensor]]
id = "freezer"
driver = "dht22"
pin = 4
interval = "30s"
[sensor.channel.temperature]
{channel}
"""


def rule(*, patience_s: float = 0.0, now_s: float = 0.0, **keys: Any) -> AlarmRule:
    for key in ("for_", "no_value"):
        if key in keys:
            keys[key] = Seconds(keys[key])
    return AlarmRule(AlarmTable(name="x", **keys), now_s=now_s, patience_s=patience_s)


def changes(one: AlarmRule, values: list[float], step_s: float = 10.0) -> list[tuple[int, str]]:
    """Feed the values, `step_s` apart; return (index, condition or "over") of each change."""
    found = []
    for index, value in enumerate(values):
        change = one.feed(value, index * step_s)
        if change is not None:
            found.append((index, change.kind if change.on else "over"))
    return found


def test_the_first_value_counts():
    change = rule(above=8.0).feed(9.1, 0)
    assert change is not None
    assert (change.on, change.kind, change.value) == (True, "above", 9.1)


def test_the_limit_itself_is_allowed():
    assert changes(rule(above=8.0, below=2.0), [8.0, 2.0, 8.01, 8.0, 1.99, 2.0]) == [
        (2, "above"),
        (3, "over"),
        (4, "below"),
        (5, "over"),
    ]


def test_hysteresis_keeps_an_alarm_on_and_does_not_begin_one():
    values = [7.6, 8.1, 7.6, 7.51, 7.5, 7.9, 8.1]
    assert changes(rule(above=8.0, hysteresis=0.5), values) == [
        (1, "above"),
        (4, "over"),
        (6, "above"),
    ]


def test_a_jump_from_one_limit_to_the_other_is_a_change_of_its_own():
    assert changes(rule(above=8.0, below=2.0, hysteresis=1.0), [9, 0, 2.5, 3.0]) == [
        (0, "above"),
        (1, "below"),
        (3, "over"),
    ]


def test_for_counts_from_the_first_value_beyond_the_limit():
    assert changes(rule(above=8.0, for_=30), [9, 9, 9, 7, 9, 9, 9, 9, 7]) == [
        (7, "above"),
        (8, "over"),
    ]


def test_for_allows_for_reads_that_are_a_moment_early():
    one = rule(above=8.0, for_=30)
    assert [one.feed(9.0, at_s) is not None for at_s in (0.0, 10.0, 20.0, 29.8)] == [
        False,
        False,
        False,
        True,
    ]


def test_an_outage_of_the_sensor_does_not_begin_a_for_again():
    one = rule(above=8.0, for_=600)
    assert one.feed(9.0, 0) is None
    change = one.feed(9.0, 4000)
    assert change is not None
    assert change.on


def test_the_rate_is_the_change_within_its_time_up_or_down():
    """Five degrees within a minute: not from one value to the next alone, and not over hours."""
    per_minute = Rate.parse("5/min")
    assert changes(rule(rate=per_minute), [20, 22, 24, 26, 28]) == [(3, "rate")]
    assert changes(rule(rate=per_minute), [28, 26, 24, 22]) == [(3, "rate")]
    assert changes(rule(rate=per_minute), [20 + 0.7 * n for n in range(100)]) == []
    assert changes(rule(rate=per_minute), [20, 26, *[26] * 8]) == [(1, "rate"), (7, "over")]


def test_the_rate_of_a_sensor_that_is_read_more_seldom_counts_from_value_to_value():
    per_minute = Rate.parse("5/min")
    assert changes(rule(rate=per_minute), [20, 44, 70], step_s=300) == [(2, "rate")]


@given(st.lists(st.floats(-50, 50), max_size=300), st.sampled_from([0.1, 1.0, 7.0, 90.0]))
def test_the_memory_of_a_rate_is_bounded(values, step_s):
    one = rule(rate=Rate.parse("1/h"))
    changes(one, values, step_s)
    assert one._fastest is not None
    assert len(one._fastest._parts) <= 62


def test_no_value_is_noticed_in_time_and_ends_with_the_next_value():
    one = rule(no_value=600, patience_s=90)
    assert one.feed(5.0, 100) is None
    assert one.next_look_s(100) == 400  # when a later process would have to know of the silence
    assert one.look(400) is None
    assert one.next_look_s(400) == 700
    change = one.look(700)
    assert change is not None
    assert (change.on, change.kind, change.value) == (True, "no_value", None)
    assert one.look(5000) is None, "once"
    change = one.feed(5.0, 5010)
    assert change is not None
    assert (change.on, change.kind, change.value) == (False, "no_value", 5.0)


def test_a_sensor_that_never_gives_a_value_is_noticed_too():
    one = rule(no_value=600, patience_s=90, now_s=50.0)
    assert one.look(649) is None
    assert one.look(650) is not None


def test_silence_does_not_end_an_alarm_and_adds_none_to_it():
    one = rule(above=8.0, no_value=600)
    assert one.feed(9.0, 0) is not None
    assert one.look(10_000) is None
    assert one.kind == "above"


def test_the_value_that_ends_a_silence_may_be_an_alarm_itself():
    one = rule(above=8.0, no_value=600)
    assert one.look(600) is not None
    change = one.feed(9.0, 700)
    assert change is not None
    assert (change.on, change.kind) == (True, "above")


@given(
    st.lists(st.tuples(st.floats(-30, 30), st.booleans()), max_size=60),
    st.sampled_from([0.0, 25.0, 100.0]),
    st.booleans(),
)
def test_a_restart_after_any_value_changes_nothing(steps, held_s, has_rate):
    """A rule with what is kept, and the newest readings, says the same as one that never ended."""
    keys: dict[str, Any] = {"above": 8.0, "below": 2.0, "hysteresis": 1.0, "for_": held_s}
    if has_rate:
        keys["rate"] = Rate.parse("20/min")
    whole, part = rule(**keys), rule(**keys)
    for index, (value, restarts) in enumerate(steps):
        at_s = index * 10.0
        assert part.feed(value, at_s) == whole.feed(value, at_s)
        if restarts:
            kept = part.kept(at_s)
            part = rule(now_s=at_s, **keys)
            part.restore(*kept)
            for older in range(max(0, index - 30), index + 1):
                part.recall(steps[older][0], older * 10.0)
            assert part.kind == whole.kind


def test_a_for_that_is_longer_than_what_is_recalled_outlives_a_restart():
    """Because a condition is kept once it has held for five minutes, or for half of its time."""
    for for_s, kept_s in ((400, 200), (7200, 300)):
        first = rule(above=8.0, for_=for_s)
        for at_s in range(0, kept_s + 1, 100):
            assert first.feed(9.0, at_s) is None
        later = rule(above=8.0, for_=for_s, now_s=kept_s + 30)
        later.restore(*first.kept(kept_s))
        assert later.feed(9.0, for_s - 10) is None
        assert later.feed(9.0, for_s) is not None


def test_values_of_an_unknown_time_say_nothing_about_a_rate():
    """They may be hours apart, and all that is known is that they were before."""
    one = rule(rate=Rate.parse("5/min"), now_s=1000.0)
    for value in (20.0, 26.0, 32.0):
        one.recall(value, 1000, dated=False)
    assert one.feed(33.0, 1010) is None
    assert one.feed(39.0, 1020) is not None


def test_a_date_that_becomes_known_moves_only_what_holds_without_a_break():
    one = rule(above=8.0, for_=600, now_s=1000.0)
    assert one.recall(9.0, 1000) == {"above": 1000}
    one.redate("above", 1000, 500)
    assert one.feed(9.0, 1050) is None
    assert one.feed(9.0, 1100) is not None
    one = rule(above=8.0, for_=600, now_s=1000.0)
    one.recall(9.0, 1000)
    one.feed(7.0, 1010)
    one.feed(9.0, 1020)
    one.redate("above", 1000, 500)
    assert one.feed(9.0, 1100) is None


# -- the configuration


def alarms(tmp_path: Path, *tables: str, channel: str = "") -> SensorTable:
    header = "[[sensor.channel.temperature.alarm]]\n"
    file = tmp_path / "node.toml"
    file.write_text(CONFIG.format(channel=channel) + "".join(header + t + "\n" for t in tables))
    return load(file).sensors[0]


def test_a_table_is_read_as_it_is_written(tmp_path):
    sensor = alarms(
        tmp_path,
        'name = "too-warm"\nabove = -15\nfor = "10m"\nhysteresis = 1\ngpio = 22\n'
        'exec = ["/usr/local/bin/on-alarm", "freezer"]',
        'no_value = "30m"\nrate = "5/min"',
    )
    (_, first), (channel, second) = sensor.alarms
    assert (first.called("temperature"), first.above, first.for_) == ("too-warm", -15.0, 600.0)
    assert (first.hysteresis, first.gpio) == (1.0, 22)
    assert first.exec_ == ["/usr/local/bin/on-alarm", "freezer"]
    assert second.called(channel) == "temperature_rate"
    assert first.described("°C") == ("above -15 °C for 10m; GPIO 22; runs /usr/local/bin/on-alarm")
    assert second.described("°C") == "changes faster than 5 °C/min, or no value for 30m"


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("", "has no condition: set above, below, rate or no_value"),
        ('above = "8"', "above: expected a number"),
        ("abov = 8", "unknown key; did you mean above?"),
        ("above = 200", "above: is out of reach: the values are between -40 and 80 °C"),
        ("below = -40", "below: cannot be exceeded"),
        ("above = 2\nbelow = 8", "below: must be less than above, 2"),
        ("above = 8\nbelow = 2\nhysteresis = 6", "hysteresis: must be less than above - below, 6"),
        ("above = 8\nhysteresis = 70", "hysteresis: is so large that the alarm would never end"),
        ("above = 8\nhysteresis = -1", "hysteresis: expected"),
        (
            'no_value = "1h"\nhysteresis = 1',
            "hysteresis: only applies together with above or below",
        ),
        ('no_value = "30s"', "no_value: must be longer than the interval of the sensor, 30s"),
        ('no_value = "1h"\nfor = "5m"', "for: only applies together with above, below or rate"),
        ('rate = "fast"', "rate: expected a rate above zero"),
        ('above = 8\nname = "a/b"', "name: expected letters, digits, - and _"),
        ("above = 8\ngpio = 40", "gpio: expected"),
        ("above = 8\ngpio = 4", 'gpio: GPIO 4 is used by sensor "freezer" already'),
        ("above = 8\nexec = []", "exec: expected"),
        ('above = 8\nexec = "/bin/true"', "exec: expected a list"),
        ('above = 8\nexec = ["true"]', "exec: the program must be an absolute path"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name_and_line(tmp_path, table, problem):
    with pytest.raises(ConfigError) as caught:
        alarms(tmp_path, 'name = "first"\nabove = 1', table)
    (said,) = caught.value.problems
    assert "[[sensor]] freezer channel.temperature.alarm #2" in said.where
    assert problem in str(said)
    second = CONFIG.format(channel="").count("\n") + 4
    assert second <= said.line, "the line of the second table, or of its key"


def test_limits_are_in_the_unit_of_the_channel(tmp_path):
    assert alarms(tmp_path, "above = 170", channel='unit = "°F"')
    with pytest.raises(ConfigError, match="1 problem"):
        alarms(tmp_path, "above = 200", channel='unit = "°F"')


def test_a_limit_beyond_the_accepted_range_is_out_of_reach(tmp_path):
    with pytest.raises(ConfigError) as caught:
        alarms(tmp_path, "above = 60", channel="range = [-30, 50]")
    (said,) = caught.value.problems
    assert said.message == "is out of reach: the values are between -30 and 50 °C"


def test_a_name_is_used_once_in_a_sensor(tmp_path):
    with pytest.raises(ConfigError) as caught:
        alarms(tmp_path, 'name = "x"\nabove = 8', 'name = "x"\nbelow = 2')
    (said,) = caught.value.problems
    assert "the alarm at line 11 is named x already" in said.message


def test_a_pin_may_be_shared_by_alarms_and_by_nothing_else(tmp_path):
    assert alarms(tmp_path, "above = 8\ngpio = 22", "below = 2\ngpio = 22")
    file = tmp_path / "node.toml"
    file.write_text(
        CONFIG.format(channel="")
        + "[[sensor.channel.temperature.alarm]]\nabove = 8\ngpio = 17\n[status_led]\npin = 17\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert "GPIO 17 is used by [status_led] already" in str(caught.value.problems[0])


def test_one_table_in_single_brackets_is_explained(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text(CONFIG.format(channel="") + "[sensor.channel.temperature.alarm]\nabove = 8\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    (said,) = caught.value.problems
    assert said.message == (
        "expected tables: write [[sensor.channel.NAME.alarm]], in double brackets"
    )


def test_a_change_is_a_value_that_can_be_compared():
    assert rule(above=8.0).feed(9.0, 0) == rule(above=8.0).feed(9.0, 0)
    assert isinstance(rule(above=8.0).feed(9.0, 0), AlarmChange)
