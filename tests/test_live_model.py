"""What a subscriber makes of the messages, and how it is shown as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.live_model import LiveModel, Message, values_in
from node.terminal import sparkline, table


def message(topic: str, payload: str | bytes, *, retained: bool = False) -> Message:
    return Message(topic, payload if isinstance(payload, bytes) else payload.encode(), retained)


def state(sensor: str, payload: str, **keys: bool) -> Message:
    return message(f"home/sensors/n/{sensor}/state", payload, **keys)


@pytest.fixture
def model() -> LiveModel:
    return LiveModel("home/sensors", {("n", "air", "temperature"): "°F"})


def test_a_state_is_a_row_per_channel_with_its_unit(model):
    model.take(state("air", '{"temperature":70.5,"humidity":45,"time":"x","seq":3}'), 100.0)
    model.take(message("home/sensors/n/air/availability", "online"), 100.0)
    rows = model.rows(103.0)
    assert [(r.channel, r.value, r.unit, r.age_s, r.status) for r in rows] == [
        ("temperature", 70.5, "°F", 3.0, "online"),
        ("humidity", 45.0, "", 3.0, "online"),
    ]


def test_a_plain_value_is_a_row(model):
    model.take(message("home/sensors/n/air/pressure", "1013.2"), 0.0)
    assert [(r.channel, r.value, r.unit) for r in model.rows(0.0)] == [("pressure", 1013.2, "")]


def test_an_empty_plain_value_takes_the_row_back(model):
    model.take(message("home/sensors/n/air/pressure", "1013.2"), 0.0)
    model.take(message("home/sensors/n/air/pressure", ""), 1.0)
    assert model.rows(1.0) == []


def test_a_dead_node_makes_all_its_sensors_offline(model):
    model.take(state("air", '{"temperature":1}'), 0.0)
    model.take(message("home/sensors/n/air/availability", "online"), 0.0)
    model.take(message("home/sensors/n/status", "offline"), 0.0)
    assert model.rows(0.0)[0].status == "offline"


def test_a_retained_reading_is_as_old_as_it_says(model):
    text = '{"temperature":1,"time":"1970-01-01T00:01:00.000Z","clock":"%s"}'
    model.take(state("air", text % "synced", retained=True), 100.0)
    assert model.rows(100.0)[0].age_s == 40.0
    model.take(state("air", text % "unsynced", retained=True), 100.0)
    assert model.rows(100.0)[0].age_s is None


@given(st.binary(max_size=40), st.text(max_size=40))
def test_no_message_disturbs_the_model(payload, topic):
    model = LiveModel("home/sensors")
    for name in (topic, f"home/sensors/{topic}", "home/sensors/n/air/state"):
        noise = Message(name, payload, retained=True)
        model.take(noise, 0.0)
        assert isinstance(noise.text, str)
        assert isinstance(values_in(noise), dict)
    model.rows(0.0)


def test_sparkline_runs_from_lowest_to_highest():
    assert sparkline([1, 2, 3]) == "▁▅█"
    assert sparkline([5, 5]) == "▁▁"
    assert sparkline([]) == ""


def test_a_table_is_aligned():
    assert table([("A", "LONG"), ("xx", "y")]) == "A   LONG\nxx  y"
