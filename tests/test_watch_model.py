"""What a subscriber makes of the messages, and how it is shown as text; the pure parts of watch."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from node.mqtt.topic_filters import check_filter, covers, without_covered
from node.system.terminal import sparkline, table, visible
from node.watch.discovery import device_in
from node.watch.gaps import HistoryLog, batch_in
from node.watch.model import LiveModel
from node.watch.payloads import Message, decimals_of, described, from_json, value_text, values_in
from node.watch.rows import TableRow, WatchTime
from node.watch.table import Picture, frame


def message(topic: str, payload: str | bytes, *, retained: bool = False) -> Message:
    return Message(topic, payload if isinstance(payload, bytes) else payload.encode(), retained)


def state(sensor: str, payload: str, **keys: bool) -> Message:
    return message(f"home/sensors/n/{sensor}/state", payload, **keys)


def at(seconds: float) -> WatchTime:
    """The same by both clocks."""
    return WatchTime(seconds, seconds)


@pytest.fixture
def model() -> LiveModel:
    return LiveModel("home/sensors", {("home/sensors/n/air/state", "temperature"): "°F"})


@pytest.fixture
def any_topic() -> LiveModel:
    return LiveModel("home/sensors", others=True)


# -- rows


def test_a_state_is_a_row_per_channel_with_its_unit(model):
    model.add(state("air", '{"temperature":70.5,"humidity":45,"time":"x","seq":3}'), at(100))
    model.add(message("home/sensors/n/air/availability", "online"), at(100))
    rows = model.rows(at(103))
    assert [(r.what, r.channel, r.text, r.age_s, r.status) for r in rows] == [
        ("n/air", "humidity", "45", 3.0, "online"),
        ("n/air", "temperature", "70.5 °F", 3.0, "online"),
    ]


def test_rows_are_sorted_by_node_sensor_and_channel(model):
    for node in ("b", "a-2", "a"):
        for sensor in ("y", "x"):
            model.add(message(f"home/sensors/{node}/{sensor}/state", '{"t":1,"h":2}'), at(0))
    shown = [(*row.what.split("/"), row.channel) for row in model.rows(at(0))]
    assert shown == sorted(shown)
    assert len(shown) == 12


def test_an_alarm_is_a_row_with_its_state(model):
    """And none when the topic is emptied; nothing hostile comes through."""
    topic = "home/sensors/n/air/alarm/too-warm"
    for payload, shown in (
        ('{"state":"on","acknowledged":false,"value":9.1}', "on"),
        ('{"state":"on","acknowledged":true,"value":9.1}', "on (seen)"),
        ('{"state":"\\u001b[2J"}', "\\x1b[2J"),
    ):
        model.add(message(topic, payload), at(0))
        (row,) = model.rows(at(0))
        assert (row.channel, row.value) == ("alarm too-warm", shown)
    model.add(message(topic, ""), at(0))
    assert model.rows(at(0)) == []


def test_a_plain_value_is_a_row(model):
    model.add(message("home/sensors/n/air/pressure", "1013.2"), at(0))
    assert [(r.channel, r.text) for r in model.rows(at(0))] == [("pressure", "1013.2")]


def test_an_empty_plain_value_takes_the_row_back(model):
    model.add(message("home/sensors/n/air/pressure", "1013.2"), at(0))
    model.add(message("home/sensors/n/air/pressure", ""), at(1))
    assert model.rows(at(1)) == []


def test_a_value_on_both_topics_is_counted_once(model):
    """With payload = "both" each reading comes twice; the state has its time."""
    for second in range(4):
        model.add(message("home/sensors/n/air/temperature", str(second)), at(second))
        model.add(state("air", f'{{"temperature":{second}}}'), at(second))
    (row,) = model.rows(at(4))
    assert row.history == (0.0, 0.0, 1.0, 2.0, 3.0)
    assert row.every_s == 1.0
    model.add(message("home/sensors/n/air/temperature", ""), at(4))
    assert len(model.rows(at(4))) == 1, "the state still has it"
    for second in (5, 6, 7):
        model.add(message("home/sensors/n/air/temperature", "9"), at(second))
    assert model.rows(at(7))[0].text == "9", "there are no states any more"


def test_the_decimal_point_does_not_move(model):
    for value in ("20.25", "21.0"):
        model.add(state("air", f'{{"temperature":{value}}}'), at(0))
    assert model.rows(at(0))[0].text == "21.00 °F"


def test_a_sensor_without_a_reading_and_a_node_without_a_sensor_are_there(model):
    model.add(message("home/sensors/n/air/availability", "offline"), at(0))
    model.add(message("home/sensors/n/status", "online"), at(0))
    model.add(message("home/sensors/m/status", "online"), at(0))
    assert [(r.what, r.text, r.status) for r in model.rows(at(0))] == [
        ("m", "no sensor", "online"),
        ("n/air", "no reading", "offline"),
    ]


def test_a_dead_node_makes_all_its_sensors_offline_and_they_age_on(model):
    model.add(state("air", '{"temperature":1}'), at(0))
    model.add(message("home/sensors/n/air/availability", "online"), at(0))
    model.add(message("home/sensors/n/status", "offline"), at(0))
    row = model.rows(at(60))[0]
    assert (row.status, row.age_s) == ("node offline", 60.0)


def test_a_node_whose_topics_are_emptied_is_gone(model):
    topics = {"status": "online", "air/availability": "online", "air/state": '{"temperature":1}'}
    for topic, payload in topics.items():
        model.add(message(f"home/sensors/n/{topic}", payload, retained=True), at(0))
    assert model.rows(at(0))
    for topic in topics:
        model.add(message(f"home/sensors/n/{topic}", ""), at(1))
    assert model.rows(at(1)) == []


def test_without_a_link_no_row_is_current(model):
    model.add(state("air", '{"temperature":1}'), at(0))
    model.add(message("home/sensors/n/air/availability", "online"), at(0))
    assert model.rows(at(0), linked=False)[0].status == "no link"
    model.forget_status()
    assert model.rows(at(0))[0].status == "?", "until the broker has told it again"


# -- ages


TIMED = '{"temperature":1,"time":"1970-01-01T00:01:00.000Z","clock":"%s","seq":1}'


@pytest.mark.parametrize("retained", [True, False])
def test_a_reading_is_as_old_as_it_says(model, retained):
    """A node sends its newest reading when it is back; it may be old, and is no news then."""
    model.add(state("air", TIMED % "synced", retained=retained), at(100))
    assert model.rows(at(100))[0].age_s == 40.0


def test_without_a_clock_a_retained_reading_has_no_age_and_a_live_one_that_since_it_came(model):
    model.add(state("air", TIMED % "unsynced", retained=True), at(100))
    assert model.rows(at(100))[0].age_s is None
    model.add(state("air", TIMED % "unsynced"), at(100))
    assert model.rows(at(101))[0].age_s == 1.0


def test_the_age_of_what_came_live_does_not_mind_a_clock_that_is_set(model):
    model.add(state("air", '{"temperature":1}'), WatchTime(boot_s=10, utc_s=1000))
    assert model.rows(WatchTime(boot_s=12, utc_s=9999))[0].age_s == 2.0


def test_a_reading_from_the_future_is_told_as_such(model):
    model.add(state("air", TIMED % "synced"), at(59))
    assert model.rows(at(59))[0].age_s == 0.0, "clocks differ a little"
    rows = model.rows(at(30))
    assert rows[0].age_s == -30.0
    lines = text_of(rows, 80, 24)
    assert "in 30s" in lines[2]
    assert "clock of their node or of this computer is wrong" in " ".join(lines)


def test_the_rate_is_that_of_the_messages_that_came_live(model):
    model.add(state("air", '{"temperature":1}', retained=True), at(0))
    for second in (3, 8, 13, 90, 95):
        model.add(state("air", f'{{"temperature":{second}}}'), at(second))
    assert model.rows(at(95))[0].every_s == 5.0, "one outage does not count"


# -- topics of others


def test_the_numbers_of_others_are_rows(any_topic):
    payload = '{"battery":97,"contact":true,"update":{"progress":3.5,"state":"idle"},"seen":"x"}'
    any_topic.add(message("zigbee2mqtt/door", payload), at(0))
    any_topic.add(message("plant/moisture", "41"), at(0))
    any_topic.add(message("plant/name", "Ficus"), at(0))
    assert [(r.what, r.channel, r.text, r.status) for r in any_topic.rows(at(0))] == [
        ("plant/moisture", "", "41", ""),
        ("plant/name", "", "Ficus", ""),
        ("zigbee2mqtt/door", "battery", "97", ""),
        ("zigbee2mqtt/door", "contact", "true", ""),
        ("zigbee2mqtt/door", "update.progress", "3.5", ""),
    ]


def test_others_are_left_out_when_they_are_not_asked_for(model):
    for topic in ("zigbee2mqtt/door", "home/sensors/n/health", "home/sensors/n/cmd/read"):
        model.add(message(topic, "1"), at(0))
    assert model.rows(at(0)) == []


def test_a_text_gives_way_when_the_values_are_back(any_topic):
    any_topic.add(message("a", "unavailable"), at(0))
    any_topic.add(message("a", '{"t":1}'), at(1))
    assert [(r.channel, r.text) for r in any_topic.rows(at(1))] == [("t", "1")]


def test_what_is_kept_is_bounded_and_the_view_says_so(any_topic):
    for number in range(2100):
        any_topic.add(message(f"t/{number}", "1"), at(0))
        any_topic.add(message(f"home/sensors/{number}/status", "online"), at(0))
    rows = any_topic.rows(at(0))
    assert len(rows) == 4000
    assert any_topic.full
    lines = text_of(rows, 80, 24, full=True)
    assert len(lines) == 24
    assert "3980 more rows" in lines[-2]
    assert "more topics than are kept" in lines[-1]


# -- units


DISCOVERY = {
    "~": "home/sensors/n",
    "cmps": {
        "a": {
            "stat_t": "~/air/state",
            "unit_of_meas": "°C",
            "val_tpl": "{{ value_json.temperature }}",
        },
        "b": {
            "state_topic": "home/sensors/n/air/state",
            "unit_of_measurement": "%",
            "value_template": "{{ value_json['humidity'] | round(1) }}",
        },
        "c": {"stat_t": "~/air/pressure", "unit_of_meas": "hPa"},
        "nested": {"stat_t": "x", "unit_of_meas": "V", "val_tpl": "{{ value_json.a['b'] }}"},
        "no unit": {"stat_t": "~/air/state", "val_tpl": "{{ value_json.seq }}"},
        "no component": 7,
        "odd": {"stat_t": 5, "unit_of_meas": ["°C"], "val_tpl": {}},
        "removed": {"p": "sensor"},
    },
}


def test_units_come_from_discovery():
    assert device_in(json.dumps(DISCOVERY).encode()).units == {
        ("home/sensors/n/air/state", "temperature"): "°C",
        ("home/sensors/n/air/state", "humidity"): "%",
        ("home/sensors/n/air/pressure", ""): "hPa",
        ("x", "a.b"): "V",
    }


def test_what_a_node_says_of_its_units_counts_more_than_a_configuration(model):
    model.add(state("air", '{"temperature":1.5,"humidity":2}'), at(0))
    config = "homeassistant/device/n/config"
    model.discovered.learn(config, json.dumps(DISCOVERY).encode())
    assert [r.text for r in model.rows(at(0))] == ["2 %", "1.5 °C"]
    model.discovered.learn(config, b"")
    assert [r.text for r in model.rows(at(0))] == ["2", "1.5 °F"]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["cmps", "~", "stat_t", "unit_of_meas", "val_tpl", "readings", "seq"])
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(anything)
def test_no_json_disturbs_what_reads_discovery_and_history(content):
    payload = json.dumps({"cmps": {"x": content}, "readings": [content], "stream": "s"}).encode()
    for key, unit in device_in(payload).units.items():
        assert isinstance(key, tuple)
        assert unit.isprintable()
    assert device_in(json.dumps(content).encode()) is not None
    batch = batch_in(payload)
    assert batch is not None
    assert len(batch.readings) + batch.misshapen == 1


# -- whatever arrives


hostile = st.text(
    st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Co", "Lu", "Nd", "Mn", "So"])
    | st.sampled_from("\x1b\x9b\x07\u202e\u2066/+#🌡️家"),
    max_size=40,
)


@given(st.binary(max_size=40) | hostile.map(str.encode), hostile, st.integers(1, 130))
def test_no_message_disturbs_the_model_or_reaches_the_terminal_as_a_command(payload, name, width):
    model = LiveModel("home/sensors", others=True)
    topics = (name, f"home/sensors/{name}", f"home/sensors/n/{name}/state", "home/sensors/n/a/b")
    for topic in (*topics, f"home/sensors/n/{name}/availability", "home/sensors/n/status"):
        model.add(Message(topic, payload, retained=True), at(0))
        model.add(Message(topic, payload, retained=False), at(1))
    log = HistoryLog()
    batch = batch_in(
        json.dumps({"stream": name, "readings": [{"seq": 1, "sensor": name}]}).encode()
    )
    assert batch is not None
    past = list(log.lines(name, batch, lambda *_: ""))
    picture = Picture(
        title=visible(name),
        topics=visible(name),
        connected=False,
        link=visible(name),
        link_s=0,
        rows=model.rows(at(2)),
        messages=1,
        history=past,
    )
    for height in (1, 5, 24):
        lines = frame(picture, width, height)
        assert len(lines) <= height
        for line in lines:
            assert line.plain.isprintable()
            assert line.cell_len <= width
    assert described(payload).isprintable()


@given(st.text())
def test_visible_text_is_printable_and_keeps_what_is_harmless(text):
    assert visible(text, 10_000).isprintable()
    if text.isprintable():
        assert visible(text, 10_000) == text


def test_visible_shows_what_a_terminal_would_obey():
    assert visible("\x1b[2J\x9b\u202eabc\n") == r"\x1b[2J\x9b\u202eabc\n"
    assert visible("x" * 300) == "x" * 199 + "…"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "(empty)"),
        (b"\xff\xfe\x00", "3 bytes, not UTF-8: ff fe 00"),
        (b"\xff", "1 byte, not UTF-8: ff"),
        (b"\xff" * 20_000, "20 kB, not UTF-8: " + "ff " * 16 + "..."),
        ("21.5 °C\n".encode(), r"21.5 °C\n"),
        (b"a" * 2_500_000, "(2.5 MB) " + "a" * 199 + "…"),
    ],
)
def test_payloads_are_described(payload, words):
    assert described(payload) == words


def test_numbers_of_any_size_are_shown_short():
    numbers = [(1013.0, "1013"), (21.299999237060547, "21.3"), (123456789.0, "123456789")]
    numbers += [(1e20, "1e+20"), (-0.5, "-0.5"), (5e-324, "4.940656e-324")]
    assert [value_text(value) for value, _ in numbers] == [text for _, text in numbers]
    assert [decimals_of(value) for value in (21.25, 1013.0, 1.5e-30)] == [2, 0, 0]
    assert values_in(from_json(b'{"a":' + b"9" * 400 + b"}")) == {}


# -- history


def batch(*numbers: int, stream: str = "s") -> bytes:
    readings = [
        {"seq": n, "sensor": "air", "time": "2026-11-24T03:13:00.123Z", "clock": "synced", "t": 1.5}
        for n in numbers
    ]
    return json.dumps({"stream": stream, "readings": readings}).encode()


def told(log: HistoryLog, payload: bytes) -> list[str]:
    content = batch_in(payload)
    assert content is not None
    return [line.text for line in log.lines("n", content, lambda sensor, path: "°C")]


def test_gaps_duplicates_and_late_readings_are_pointed_out():
    log = HistoryLog()
    assert told(log, batch(7, 8)) == [
        "seq 7  air  2026-11-24 03:13:00  t 1.5 °C",
        "seq 8  air  2026-11-24 03:13:00  t 1.5 °C",
    ]
    assert told(log, batch(11)) == [
        "seq 9 to 10 missing, 2 readings",
        "seq 11  air  2026-11-24 03:13:00  t 1.5 °C",
    ]
    assert (log.readings, log.missing, log.again) == (3, 2, 0)
    assert told(log, batch(8, 9))[0].endswith("  (duplicate)")
    assert told(log, batch(9, 10))[1].endswith("  (late)")
    assert (log.readings, log.missing, log.again) == (7, 0, 2)
    log.interrupted()
    assert told(log, batch(12, 14))[1] == "seq 13 missing, 1 reading", "it came after the outage"
    log.interrupted()
    assert told(log, batch(16))[0].endswith("after a loss of the link here")
    assert "a new stream, other" in told(log, batch(1, stream="other"))[0]


def test_numbers_of_any_size_are_counted():
    log = HistoryLog()
    told(log, batch(0))
    assert "missing, 9223372036854775806 readings" in told(log, batch((1 << 63) - 1))[0]
    assert told(log, batch(1 << 63, 10**30, -1)) == ["not readings: 3 items in this batch"]


@given(st.lists(st.integers(0, 60), max_size=80))
def test_what_is_missing_and_what_comes_again_is_counted_right(numbers):
    log = HistoryLog()
    seen: set[int] = set()
    for number in numbers:
        assert log.remark_on("n", "s", number).again == (number in seen)
        seen.add(number)
    assert log.again == len(numbers) - len(seen)
    assert log.missing == (max(seen) - min(seen) + 1 - len(seen) if seen else 0)


def test_the_history_of_many_streams_is_bounded_and_what_was_missing_stays_counted():
    log = HistoryLog()
    for number in range(1000):
        log.remark_on("n", "s", 3 * number)
        log.remark_on(f"n{number}", "s", 1)
    assert log.missing == 2 * 999
    assert len(log._seen) <= 200


# -- topic filters


@pytest.mark.parametrize("good", ["a", "a/b", "+", "#", "a/+/c/#", "/", "a//b", "$SYS/#", "é/+"])
def test_good_filters_are_taken(good):
    assert check_filter(good) == good


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("", "at least one"),
        ("a/#/b", "last level"),
        ("a#", "whole levels"),
        ("a/b+", "whole levels"),
        ("##", "whole levels"),
        ("a\0b", "control"),
        ("a" * 65_536, "65535"),
        ("$share/g/a", "shared"),
    ],
)
def test_bad_filters_are_refused_with_the_reason(bad, reason):
    with pytest.raises(ValueError, match=reason):
        check_filter(bad)


levels = st.sampled_from(["a", "b", "", "$SYS"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join)
filters = st.tuples(st.lists(levels | st.just("+"), min_size=1, max_size=3), st.booleans()).map(
    lambda parts: "/".join([*parts[0], "#"] if parts[1] else parts[0])
)


@given(filters, filters, topics)
def test_a_filter_that_covers_another_matches_all_that_it_matches(general, special, topic):
    import paho.mqtt.client as paho

    assert covers(general, topic) == paho.topic_matches_sub(general, topic)
    if covers(general, special) and covers(special, topic):
        assert covers(general, topic)


def test_what_another_filter_covers_is_not_subscribed_to_as_well():
    assert without_covered(["a/b/#", "a/+/#", "c", "a/x", "c"]) == ("a/+/#", "c")


# -- the table


def text_of(rows: list[TableRow], width: int, height: int, **more: object) -> list[str]:
    keys = {"title": "t", "topics": "t/#", "connected": True, "link": "connected", "link_s": 1.0}
    picture = Picture(rows=rows, messages=len(rows), **{**keys, **more})  # type: ignore[arg-type]
    lines = [line.plain for line in frame(picture, width, height)]
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    return lines


@pytest.fixture
def usual_rows(model: LiveModel) -> list[TableRow]:
    for second in range(30):
        for sensor in ("terrarium", "water"):
            model.add(state(sensor, f'{{"temperature":{20 + second / 8}}}'), at(second))
    for sensor in ("terrarium", "water"):
        model.add(message(f"home/sensors/n/{sensor}/availability", "online"), at(0))
    return model.rows(at(31))


def test_at_80_columns_everything_is_there(usual_rows):
    lines = text_of(usual_rows, 80, 24)
    assert lines[1].split() == ["SENSOR", "CHANNEL", "VALUE", "TREND", "AGE", "STATUS", "EVERY"]
    words = lines[2].split()
    assert words[:3] == ["n/terrarium", "temperature", "23.625"]
    assert words[4:] == ["2s", "online", "1s"]
    assert words[3].startswith("▁")
    assert words[3].endswith("█")


def test_at_40_columns_it_is_name_value_age_and_status(usual_rows):
    lines = text_of(usual_rows, 40, 24)
    assert lines[1].split() == ["SENSOR", "CHANNEL", "VALUE", "AGE", "STATUS"]
    assert lines[2].split()[2:] == ["23.625", "2s", "online"]


def test_a_trend_grows_with_the_window_and_no_further_than_its_history(usual_rows):
    assert len(text_of(usual_rows, 200, 24)[2].split()[3]) == 30
    assert max(map(cell_len, text_of(usual_rows, 200, 24))) < 130


def test_too_many_rows_are_cut_and_counted(usual_rows):
    lines = text_of(usual_rows * 10, 80, 12)
    assert len(lines) == 12
    assert lines[-1] == "... 11 more rows than this window has room for"


def test_what_is_offline_is_not_among_the_rows_that_are_cut(usual_rows):
    gone = msgspec.structs.replace(usual_rows[0], what="n/zebra", status="offline")
    far = msgspec.structs.replace(usual_rows[0], what="z/air", status="node offline")
    lines = text_of([*usual_rows * 10, gone, far], 80, 12)
    assert [line.split()[0] for line in lines[2:5]] == ["n/zebra", "z/air", "n/terrarium"]
    few = text_of([*usual_rows, gone], 80, 24)
    assert few[2].startswith("n/terrarium"), "in their order, where all fit"


def test_what_is_wrong_is_wrapped_and_not_cut():
    why = "no broker: 10.0.0.1:1883 does not answer; is the host up, and no firewall between?"
    lines = text_of([], 60, 24, connected=False, link=why)
    assert " ".join(lines[1:]) == f"{why} (for 1s)"


def test_after_a_while_of_nothing_it_says_what_that_may_be():
    lines = text_of([], 80, 24)
    assert lines[1:] == ["connected; waiting for the first message on t/#"]
    assert "may this user read it?" in " ".join(text_of([], 80, 24, link_s=30.0))


def test_sparkline_runs_from_lowest_to_highest():
    assert sparkline([1, 2, 3]) == "▁▅█"
    assert sparkline([5, 5]) == "▁▁"
    assert sparkline([]) == ""
    assert sparkline([0, 5e-324]) == "▁█"


def test_a_table_is_aligned():
    assert table([("A", "LONG"), ("xx", "y")]) == "A   LONG\nxx  y"
