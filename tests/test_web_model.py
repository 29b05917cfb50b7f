"""The pure parts of the status page: buckets, plots, texts, tables; by example and by property."""

from __future__ import annotations

import csv
import io
import itertools
import re
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.plot.buckets import SPANS, Bucket, Buckets, merged
from node.plot.scales import time_text, time_ticks, value_scale
from node.plot.series import Mark, Moment, decimals_of
from node.plot.svg import Plot, render, segments, standalone
from node.plot.text import age_text, esc, number_text
from node.plot.times import LocalZone, parse_since
from node.reading import Layout, Reading
from node.web.export import _lines, safe_cell
from node.web.login import Login
from node.web.metrics import _number
from node.web.summary import Summary

WIDTH_MS = 1000
readings = st.lists(
    st.tuples(st.integers(0, 40_000), st.floats(-50, 50, width=32), st.booleans()), max_size=80
)


def by_hand(
    taken: list[tuple[int, float, bool]], count: int
) -> dict[int, list[tuple[float, bool]]]:
    """The readings by bucket, of the newest `count` buckets at the time when each came."""
    kept: dict[int, list[tuple[float, bool]]] = {}
    newest: int | None = None
    for at_ms, value, unsynced in taken:
        number = at_ms // WIDTH_MS
        newest = number if newest is None else max(newest, number)
        kept = {n: those for n, those in kept.items() if n > newest - count}
        if number > newest - count:
            kept.setdefault(number, []).append((value, unsynced))
    return kept


@given(readings, st.integers(1, 12))
def test_a_ring_of_buckets_is_what_sorting_by_hand_gives(taken, count):
    """Lowest, highest, mean, count and unsynced of each, whatever the order of the readings."""
    ring = Buckets(WIDTH_MS, count)
    for at_ms, value, unsynced in taken:
        ring.add(at_ms, value, unsynced=unsynced)
    expected = by_hand(taken, count)
    found = ring.between(0, 50_000)
    assert [bucket.start_ms // WIDTH_MS for bucket in found] == sorted(expected)
    for bucket in found:
        values = [value for value, _ in expected[bucket.start_ms // WIDTH_MS]]
        assert bucket.count == len(values)
        assert bucket.low == pytest.approx(min(values), rel=1e-6, abs=1e-6)
        assert bucket.high == pytest.approx(max(values), rel=1e-6, abs=1e-6)
        assert bucket.mean == pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-4)
        assert bucket.unsynced == any(u for _, u in expected[bucket.start_ms // WIDTH_MS])


@given(readings)
def test_wider_buckets_are_those_that_the_readings_would_have_made(taken):
    fine, wide = Buckets(WIDTH_MS, 50), Buckets(4 * WIDTH_MS, 50)
    for at_ms, value, unsynced in taken:
        fine.add(at_ms, value, unsynced=unsynced)
        wide.add(at_ms, value, unsynced=unsynced)
    expected = wide.between(0, 100_000)
    found = merged(fine.between(0, 100_000), 4 * WIDTH_MS)
    assert [(b.start_ms, b.low, b.high, b.count, b.unsynced) for b in found] == [
        (b.start_ms, b.low, b.high, b.count, b.unsynced) for b in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.mean == pytest.approx(other.mean, rel=1e-4, abs=1e-4)


def bucket(second: int, mean: float = 20.0, *, unsynced: bool = False) -> Bucket:
    return Bucket(second * 1000, mean - 1, mean + 1, mean, 2, unsynced)


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans()), unique_by=lambda t: t[0]))
def test_runs_have_no_gap_and_no_reading_is_lost_between_them(taken):
    buckets = [bucket(second, unsynced=unsynced) for second, unsynced in sorted(taken)]
    runs = segments(buckets, 7000)
    in_runs = [b.start_ms for run in runs for b in run]
    assert sorted(set(in_runs)) == [b.start_ms for b in buckets]
    for run in runs:
        assert all(b.start_ms - a.start_ms <= 7000 for a, b in itertools.pairwise(run))
        assert len({b.unsynced for b in run[1:]}) <= 1, "the first may be of the run before"


def plot(buckets: list[Bucket], **more: object) -> Plot:
    settings: dict[str, object] = {
        "key": "k",
        "title": "air",
        "unit": "°C",
        "buckets": buckets,
        "width_ms": 1000,
        "start_ms": 0,
        "end_ms": 300_000,
        "gap_ms": 7000,
        "decimals": 1,
    }
    return Plot(**{**settings, **more})  # type: ignore[arg-type]


def elements(svg: str, kind: str) -> list[str]:
    return re.findall(rf'class="{kind}" d="([^"]*)"', svg)


def test_a_gap_is_a_gap_in_the_plot_and_is_told_to_who_cannot_see_it():
    with_gap = [bucket(s) for s in range(100) if not 40 <= s < 60]
    svg = render(plot(with_gap))
    assert len(elements(svg, "line")) == len(elements(svg, "band")) == 2
    assert "1 gap." in svg
    assert len(elements(render(plot([bucket(s) for s in range(100)])), "line")) == 1


def test_unsynced_readings_are_dashed_and_rejected_values_are_marked():
    marks = [Mark(50_000, 3), Mark(50_010, 1), Mark(999_000, 1)]
    buckets = [bucket(s, unsynced=s < 30) for s in range(100)]
    svg = render(plot(buckets, marks=marks))
    assert len(elements(svg, "line unsynced")) == len(elements(svg, "line")) == 1
    assert re.findall(r"<title>(\d+ values?) rejected", svg) == ["4 values"]
    assert "Dashed: read while the clock was not set. 4 values rejected by a filter." in svg


@given(
    st.lists(st.tuples(st.integers(0, 299), st.floats(-1e5, 1e5)), unique_by=lambda t: t[0]),
    st.text(max_size=30),
    st.integers(0, 4),
)
def test_every_plot_is_sound_xml_within_its_frame(taken, title, decimals):
    """Whatever the values are, and whatever a sensor calls itself."""
    buckets = [bucket(second, mean) for second, mean in sorted(taken)]
    drawn = plot(buckets, title=title, unit=title, decimals=decimals)
    root = ET.fromstring(standalone(drawn))
    assert root.tag.endswith("svg")
    svg = render(drawn)
    ET.fromstring(svg)
    for path in elements(svg, "line"):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path)]
        assert all(0 <= x <= 640 for x in numbers[::2])
        assert all(0 <= y <= 150 for y in numbers[1::2])


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_an_axis_holds_its_values_and_has_some_round_numbers(low, height):
    scale = value_scale(low, low + height, resolution=0.1)
    assert scale.low <= low <= low + height <= scale.high
    assert 2 <= len(scale.ticks) <= 12
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        (None, ["21:00", "25 Nov", "03:00"]),
        (UTC, ["21:00", "25 Nov", "03:00"]),
        (timezone(timedelta(hours=5, minutes=30)), ["03:00", "06:00", "09:00"]),
    ],
)
def test_ticks_are_at_round_times_of_the_zone(zone, expected):
    start_ms = 1_795_550_400_000  # 2026-11-24T20:00Z
    end_ms = start_ms + 9 * 3_600_000
    ticks = time_ticks(start_ms, end_ms, zone, 4)
    assert [time_text(at, zone, long_ms=end_ms - start_ms) for at in ticks][:3] == expected


@pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24"])
@pytest.mark.parametrize("zone", [ZoneInfo("Europe/Berlin"), LocalZone()])
def test_labels_are_right_before_and_after_a_change_of_the_clocks(zone, day, monkeypatch):
    """Each is at the round time that it says, two days round the change."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        start_ms = round(datetime.fromisoformat(f"{day}T00:00Z").timestamp() * 1000)
        end_ms = start_ms + 2 * 86_400_000
        ticks = time_ticks(start_ms, end_ms, zone, 12)
        labels = [time_text(at, zone, long_ms=end_ms - start_ms) for at in ticks]
        berlin = ZoneInfo("Europe/Berlin")
        for at_ms, label in zip(ticks, labels, strict=True):
            there = datetime.fromtimestamp(at_ms / 1000, berlin)
            assert there.minute == there.hour % 4 == 0 or there.hour == 3, "what the clocks skip"
            assert label in (f"{there:%H:%M}", f"{there.day} {there:%b}")
        assert {"04:00", "08:00", "12:00", "20:00"} <= set(labels)
        assert len(ticks) >= 12
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text())
def test_no_text_can_leave_its_place_in_html(text):
    escaped = esc(text)
    assert not set(escaped) & set("<>\"'")
    assert all(c.isprintable() for c in escaped)


def test_numbers_and_ages_as_people_write_them():
    assert number_text(-3.456, 1) == "−3.5"
    assert number_text(-0.04, 1) == "0.0"
    assert age_text(None) == "age unknown"
    assert age_text(0.4) == "now"
    assert age_text(75) == "1m 15s ago"


@given(st.text())
def test_no_cell_of_the_csv_is_a_formula_and_all_of_it_comes_back(text):
    cell = safe_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cell in (text, "'" + text)
    content = _lines([["seq", cell]]).decode("utf-8", "surrogatepass") if text.isprintable() else ""
    if content:
        assert list(csv.reader(io.StringIO(content, newline=""))) == [["seq", cell]]


def test_since_is_a_duration_or_a_date():
    now_ms = 1_795_550_400_000
    assert parse_since("24h", now_ms) == now_ms - 86_400_000
    assert parse_since("2026-11-24T20:00Z", now_ms) == now_ms
    assert parse_since("2026-11-24T21:00:00 01:00", now_ms) == now_ms, "a + of a query is a space"
    assert parse_since("2026-11-24", now_ms) == now_ms - 20 * 3_600_000
    for wrong in ("", "yesterday", "-1h", "2026-13-01"):
        with pytest.raises(ValueError, match="expected a duration"):
            parse_since(wrong, now_ms)


def basic(password: str) -> str:
    import base64

    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_wrong_passwords_make_their_sender_wait_and_nobody_else():
    login = Login("sesame")
    assert not login.admits(basic("wrong"))
    for _ in range(5):
        assert login.refuse("10.0.0.1") == 0
    assert 0 < login.refuse("10.0.0.1") <= 60
    assert login.refuse("10.0.0.2") == 0
    assert login.admits(basic("sesame"))


def test_a_network_of_ipv6_is_one_sender_and_the_memory_of_senders_is_bounded():
    login = Login("sesame")
    for number in range(5):
        login.refuse(f"2001:db8::{number}")
    assert login.refuse("2001:db8::ffff") > 0
    assert login.refuse("2001:db8:0:1::1") == 0
    for number in range(3000):
        login.refuse(f"10.0.{number // 256}.{number % 256}")
    assert len(login._wrong) <= 1000


def test_who_guesses_for_days_waits_a_minute_each_time(monkeypatch):
    """No count of wrong passwords is too large for the wait to be told."""
    login = Login("sesame")
    now_s = 1000.0
    monkeypatch.setattr("node.web.login.time.monotonic", lambda: now_s)
    for _ in range(1500):
        now_s += 61
        assert login.refuse("10.0.0.1") == 0
    assert login.refuse("10.0.0.1") == 60


@pytest.mark.parametrize("header", ["", "Basic", "Basic !", "Bearer sesame", "Basic c2VzYW1l"])
def test_what_is_no_login_is_not_admitted(header):
    assert not Login("sesame").admits(header)


NOW = Moment(utc_ms=1_795_550_400_000, boot_ms=5_000_000, boot_id="this")


def reading(seq: int, *, age_s: float = 0, synced: bool = True, boot: str = "this") -> Reading:
    return Reading(
        seq=seq,
        layout=Layout("air", ("temperature",), ("°C",)),
        numbers=(20.0 + seq / 10,),
        boot_id=boot,
        boot_ms=round(5_000_000 - age_s * 1000),
        utc_ms=round(NOW.utc_ms - age_s * 1000) if synced else 1000,
        synced=synced,
    )


def test_a_reading_without_a_true_time_is_where_its_age_since_boot_says():
    summary = Summary()
    summary.add([reading(1, age_s=600, synced=False)], NOW)
    [channel] = summary.sensors["air"].channels.values()
    [found] = channel.buckets.of(SPANS["hour"], NOW.utc_ms)
    assert abs(found.start_ms - (NOW.utc_ms - 600_000)) <= 15_000
    assert found.unsynced
    assert summary.unsynced_boots == {"this"}


def test_readings_of_an_impossible_time_are_in_no_plot():
    summary = Summary()
    summary.add([reading(1, age_s=-86_400), reading(2, synced=False, boot="another")], NOW)
    [channel] = summary.sensors["air"].channels.values()
    assert channel.buckets.of(SPANS["2days"], NOW.utc_ms) == []
    assert channel.value == 20.2


def test_rejections_are_marked_when_their_count_grows_within_one_run_of_the_node():
    summary = Summary()
    summary.add([reading(1)], NOW)
    for count, process in ((5, 1), (5, 1), (8, 1), (2, 2), (3, 2)):
        summary.mark_rejections({"air": count, "gone": count}, process, NOW.utc_ms)
    assert [mark.count for mark in summary.sensors["air"].marks] == [3, 1]


def test_what_has_not_been_read_for_two_days_is_forgotten():
    summary = Summary()
    summary.add([reading(1, age_s=172_700)], NOW)
    summary.forget_old(NOW)
    assert "air" in summary.sensors
    later = Moment(NOW.utc_ms + 200_000, NOW.boot_ms + 200_000, "this")
    summary.forget_old(later)
    assert summary.sensors == {}


def test_the_number_of_channels_is_bounded(monkeypatch):
    monkeypatch.setattr("node.web.summary.MAX_CHANNELS", 3)
    summary = Summary()
    for number in range(5):
        layout = Layout(f"s{number}", ("temperature",), ("°C",))
        one = reading(number)
        summary.add(
            [Reading(**{f: getattr(one, f) for f in one.__struct_fields__} | {"layout": layout})],
            NOW,
        )
    assert sum(len(s.channels) for s in summary.sensors.values()) == 3
    assert summary.left_out == {"s3", "s4"}


@pytest.mark.parametrize("value", [1e300, -1e300, 3.4028235e38])
def test_a_value_beyond_single_precision_is_drawn_at_its_edge(value):
    """Else it were infinite there, and no page with its plot could be made."""
    buckets = Buckets(WIDTH_MS, 10)
    buckets.add(1000, value)
    buckets.add(1001, -value)
    buckets.add(2000, value)
    plot = Plot(
        key="k", title="t", unit="u", buckets=buckets.between(0, 9000), width_ms=WIDTH_MS,
        start_ms=0, end_ms=9000, gap_ms=5000, decimals=1,
    )  # fmt: skip
    text = standalone(plot)
    ET.fromstring(text)
    assert "nan" not in text
    assert "inf" not in text


def test_a_value_that_python_writes_with_an_exponent_has_its_decimals():
    assert [decimals_of(number) for number in (5e-05, 1e-06, 0.25, 20.0, 1e22)] == [5, 6, 2, 0, 0]


@pytest.mark.parametrize("number", [12_345_678_901, 101325.123456, -0.000001, 0, True, 1e22])
def test_metrics_have_all_digits_of_a_number(number):
    assert float(_number(number)) == number
    assert not _number(number).endswith(".0")
