"""A DHT's frame from the edges of its signal, with the first ones missing; and gpiod's line."""

from __future__ import annotations

import functools
import random
import time
from typing import Any

import gpiod
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import dht_edges
from drivers.dht import DHT11, DHT22, DhtOptions
from drivers.dht_edges import GpioEdges
from drivers.dht_frame import TwoMeanings, decode_edges, decode_frame
from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    MissingSupport,
    SensorError,
    SensorNotFound,
)
from drivers.sim.board import SimulatedBoard
from drivers.sim.dht_line import DhtLine, encode_frame
from drivers.sim.room import Air


def dht22(board: SimulatedBoard):
    options = DhtOptions(pin=4, backend="edges")
    board.attach("dht22", options)
    return DHT22.open(options, board)


def edges_ns(frame: bytes) -> list[int]:
    """The falling edges of a frame without noise."""
    line = DhtLine("DHT22", lambda: Air(20, 50, 1000))
    line.frame = lambda: frame
    return line.falling_edges(20_000)


FRAMES = st.binary(min_size=4, max_size=4).map(lambda body: body + bytes([sum(body) & 0xFF]))


def test_the_edges_of_the_datasheets_frame_are_decoded():
    """AM2302 datasheet, "Single-bus": 0292 010D A2, 65.8 %, 26.9 °C; and 8065, -10.1 °C."""
    frame = bytes.fromhex("0292010da2")
    assert len(edges_ns(frame)) == 42
    assert decode_edges("DHT22", edges_ns(frame)) == frame
    assert decode_frame("DHT22", frame) == (26.9, 65.8)
    assert decode_frame("DHT22", bytes.fromhex("0000806500"))[0] == -10.1


@given(st.integers(-400, 800), st.integers(0, 1000))
def test_every_value_of_a_dht22_makes_the_round_trip(tenths, permille):
    decoded = decode_edges("DHT22", edges_ns(encode_frame("DHT22", tenths / 10, permille / 10)))
    assert decode_frame("DHT22", decoded) == (tenths / 10, permille / 10)


@given(st.integers(-200, 600), st.integers(0, 100))
def test_every_value_of_a_dht11_makes_the_round_trip(tenths, percent):
    decoded = decode_edges("DHT11", edges_ns(encode_frame("DHT11", tenths / 10, percent)))
    assert decode_frame("DHT11", decoded) == (tenths / 10, percent)


@given(FRAMES, st.lists(st.integers(-7000, 7000), min_size=42, max_size=42), st.booleans())
def test_seven_microseconds_of_jitter_at_each_edge_change_nothing(frame, jitter_ns, late):
    """Property; nor does a capture that begins after the response."""
    shaken = [edge + jitter for edge, jitter in zip(edges_ns(frame), jitter_ns, strict=True)]
    assert decode_edges("DHT22", shaken[1:] if late else shaken) == frame


LEADING = {"DHT22": 6, "DHT11": 1}
"""Bits of a frame that are 0 in every one: humidity is at most 1000 in 16 bits, or 100 in 8."""

SENT = st.one_of(
    st.tuples(st.just("DHT22"), st.integers(-400, 800), st.integers(0, 1000)),
    st.tuples(st.just("DHT11"), st.integers(-200, 600), st.integers(0, 100).map(lambda h: 10 * h)),
).filter(lambda sent: sent[1:] != (0, 0))
"""A model, and tenths of a degree and of a percent that it may send."""


def frame_of(sent: tuple[str, int, int]) -> bytes:
    model, tenths, permille = sent
    return encode_frame(model, tenths / 10, permille / 10)


@pytest.mark.parametrize("sent", [("DHT22", 236, 553), ("DHT22", -7, 999), ("DHT11", 236, 530)])
def test_a_late_capture_is_read_as_far_as_the_missing_bits_are_always_zero(sent):
    """The response and the first six bits of a DHT22, or the first one of a DHT11."""
    edges, model = edges_ns(frame_of(sent)), sent[0]
    for lost in range(LEADING[model] + 2):
        assert decode_edges(model, edges[lost:]) == frame_of(sent)
    with pytest.raises(BadFrame, match=f"{40 - LEADING[model]} edges, and not 42"):
        decode_edges(model, edges[LEADING[model] + 2 :])


@given(SENT, st.integers(0, 12), st.integers(0, 12))
def test_a_frame_without_its_ends_is_never_another_frame(sent, from_start, from_end):
    """Property: however many edges are lost before the others, and after them."""
    edges = edges_ns(frame_of(sent))
    try:
        decoded = decode_edges(sent[0], edges[from_start : len(edges) - from_end])
    except BadFrame:
        return
    assert decoded == frame_of(sent)


def test_edges_with_two_meanings_are_refused_and_both_are_said():
    """The first 39 bits of a frame of 25.2 % may be the last 39 of one of 12.6 %."""
    refusals = []
    for tenths in range(-400, 800):
        edges = edges_ns(encode_frame("DHT22", tenths / 10, 25.2))
        with pytest.raises(BadFrame) as caught:
            decode_edges("DHT22", edges[1:-1])
        refusals.append(caught.value)
    doubtful = [error.what for error in refusals if isinstance(error, TwoMeanings)]
    assert len(doubtful) > 300
    for text in doubtful:
        assert text.startswith("40 edges, and not 42, which may be the end of the frame 00 7e")
        assert "or the beginning of 00 fc" in text, "25.2 %, the truth"


def test_two_captures_that_say_the_same_are_believed_although_each_has_two_meanings(board, clock):
    """On a slow board a fifth of a DHT22's frames are such; the air may not change for hours."""
    frame = encode_frame("DHT22", 24.0, 33.7)
    with pytest.raises(TwoMeanings):
        decode_edges("DHT22", edges_ns(frame)[2:])
    sensor, line = dht22(board), board.dht_lines[4]
    line.deaf_us, line.frame = 260, lambda: frame
    for _ in range(3):
        assert sensor.read() == {"temperature": 24.0, "humidity": 33.7}
        clock.sleep(3600)


def test_a_sensor_that_stops_in_its_answer_is_not_believed(board):
    """The capture is late, too; the driver asks again, and the next answers are whole."""
    frame = encode_frame("DHT22", 18.1, 25.2)
    with pytest.raises(TwoMeanings, match="end of the frame 00 7e 00 5a d8 or the beginning of"):
        decode_edges("DHT22", edges_ns(frame)[1:-1])
    sensor, line = dht22(board), board.dht_lines[4]
    line.frame = lambda: frame
    line.distort = lambda widths: widths[:-2] if line.triggers == 2 else widths
    line.deaf_us = 180
    assert sensor.read() == {"temperature": 18.1, "humidity": 25.2}
    assert line.triggers == 3


@given(SENT, st.sets(st.integers(0, 41), min_size=1, max_size=6))
def test_missed_edges_are_an_error_or_change_nothing(sent, missed):
    """Property: only those that are missed before all others may be spared."""
    edges = [edge for number, edge in enumerate(edges_ns(frame_of(sent))) if number not in missed]
    if missed == set(range(len(missed))) and len(missed) <= LEADING[sent[0]] + 1:
        try:
            assert decode_edges(sent[0], edges) == frame_of(sent)
        except TwoMeanings as error:
            assert error.frame == frame_of(sent)  # noqa: PT017, one of the two must hold
        return
    with pytest.raises(BadFrame):
        decode_edges(sent[0], edges)


def damaged(chance: random.Random, edges: list[int]) -> list[int]:
    """A capture with some of what goes wrong: a late start, an early end, lost edges, noise."""
    sigma_ns = chance.choice((0, 3_000, 10_000))
    edges = [edge + round(chance.gauss(0, sigma_ns)) for edge in edges]
    del edges[: chance.randint(0, 9)]
    if chance.random() < 0.3:
        del edges[-chance.randint(1, 6) :]
    for _ in range(chance.choice((0, 0, 1, 2))):
        edges.pop(chance.randrange(len(edges)))
    for _ in range(chance.choice((0, 0, 1, 2))):
        edges.append(chance.randint(min(edges), max(edges)))
    return sorted(edges)


class DamagedWire(DhtLine):
    """Gives the edges of its frame, damaged differently each time."""

    def __init__(self, model: str, chance: random.Random) -> None:
        super().__init__(model, lambda: Air(20, 50, 1000))
        self._chance = chance

    def falling_edges(self, low_us: int) -> list[int]:
        edges = super().falling_edges(low_us)
        return damaged(self._chance, edges) if self._chance.random() < 0.8 else edges


@pytest.mark.parametrize("driver", [DHT22, DHT11], ids=["DHT22", "DHT11"])
def test_of_thousands_of_damaged_captures_none_gives_a_wrong_value(clock, driver):
    """The real driver, whose second look catches what the checksum does not."""
    chance, model = random.Random(20), driver.name.upper()
    board = SimulatedBoard(clock)
    options = DhtOptions(pin=4, backend="edges")
    right = refused = 0
    for _ in range(400):
        line = board.dht_lines[4] = DamagedWire(model, chance)
        celsius, humidity = chance.randint(-190, 590) / 10, float(chance.randint(20, 90))
        line.frame = functools.partial(encode_frame, model, celsius, humidity)
        dht = driver.open(options, board)
        for _ in range(4):
            try:
                measurement = dht.read()
            except SensorError:
                refused += 1
                continue
            right += 1
            assert measurement == {"temperature": celsius, "humidity": humidity}
    assert right > 300
    assert refused > 300


@pytest.mark.parametrize(
    ("driver", "deaf_us", "reads"),
    [
        *((DHT22, 0, True), (DHT22, 180, True), (DHT22, 640, True), (DHT22, 650, False)),
        *((DHT11, 260, True), (DHT11, 270, False)),
    ],
)
def test_a_computer_that_listens_late_reads_nevertheless(board, driver, deaf_us, reads):
    """On a slow board: until 190 µs after the release before, 456 µs longer now (a DHT11: 76)."""
    options = DhtOptions(pin=4, backend="edges")
    board.attach(driver.name, options)
    board.dht_lines[4].frame = lambda: encode_frame(driver.name.upper(), 21.5, 48)
    board.dht_lines[4].deaf_us = deaf_us
    dht = driver.open(options, board)
    if reads:
        assert dht.read() == {"temperature": 21.5, "humidity": 48}
    else:
        with pytest.raises(BadFrame, match="edges, and not 42"):
            dht.read()


@given(FRAMES, st.lists(st.integers(0, 5_000_000), min_size=1, max_size=3), st.integers(0, 2))
def test_edges_too_many_are_an_error_or_change_nothing(frame, extra_ns, missed):
    """Glitches anywhere in the frame, also where as many true edges are missed."""
    true = edges_ns(frame)
    del true[5 : 5 + missed]
    glitches = [true[0] + offset for offset in extra_ns]
    try:
        decoded = decode_edges("DHT22", sorted({*true, *glitches}))
    except SensorError:
        return
    assert decoded == frame


@pytest.mark.parametrize(
    ("edge", "later_us", "says"),
    [(9, 100, "a bit of"), (9, -30, "a bit of"), (41, 100, "a bit of"), (1, 50, "a response of")],
)
def test_a_time_that_no_bit_takes_is_refused(edge, later_us, says):
    """The count of edges is right; the rest of the frame is moved by so much."""
    edges = edges_ns(bytes.fromhex("0292010da2"))
    moved = edges[:edge] + [ns + later_us * 1000 for ns in edges[edge:]]
    with pytest.raises(BadFrame, match=says):
        decode_edges("DHT22", moved)


@given(st.lists(st.integers(0, 10_000_000), max_size=90).map(sorted))
def test_no_edges_make_the_decoder_raise_anything_else(edges):
    try:
        frame = decode_edges("DHT22", edges)
    except (BadFrame, SensorNotFound):
        return
    assert sum(frame[:4]) & 0xFF == frame[4]


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("silence", SensorNotFound, "pull-up"),
        ("checksum", BadFrame, "checksum"),
        ("missing edges", BadFrame, "a bit of"),
        ("zeros", ImplausibleValue, "held low"),
        ("too humid", ImplausibleValue, "dht11"),
        ("too hot", ImplausibleValue, "outside -40 to 80"),
        ("nothing", None, ""),
    ],
)
def test_each_fault_of_the_edges_is_an_error_that_names_the_remedy(board, fault, error, says):
    """The same as through the library; "nothing" is the negative control."""
    sensor = dht22(board)
    good = encode_frame("DHT22", 20, 50)
    frames = {
        "silence": None,
        "checksum": good[:4] + bytes([good[4] ^ 1]),
        "zeros": bytes(5),
        "too humid": encode_frame("DHT22", 20, 120),
        "too hot": encode_frame("DHT22", 150, 50),
    }
    line = board.dht_lines[4]
    line.frame = lambda: frames.get(fault, good)
    if fault == "missing edges":
        line.distort = lambda widths: widths[:20] + widths[26:]
    if error is None:
        assert sensor.read() == {"temperature": 20, "humidity": 50}
        return
    with pytest.raises(error, match=says) as caught:
        sensor.read()
    assert "DHT22 through edges" in str(caught.value)


def test_edges_trigger_a_dht11_for_as_long_as_it_needs(board):
    """18 ms; with the 1 ms of a DHT22 it stays silent."""
    options = DhtOptions(pin=4, backend="edges")
    board.attach("dht11", options)
    assert DHT11.open(options, board).read()
    assert board.dht_lines[4].falling_edges(1_100) == []


class FakeLine:
    """A requested line that tells what was done to it, and gives edges in two portions."""

    def __init__(self, edges: list[int]) -> None:
        self.done: list[Any] = []
        self._portions = [edges[:20], edges[20:]]

    def __enter__(self) -> FakeLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.done.append("released")

    def set_value(self, pin: int, value: object) -> None:
        self.done.append((pin, value, time.monotonic()))

    def reconfigure_lines(self, config: dict[int, gpiod.LineSettings]) -> None:
        self.done.append((config, time.monotonic()))

    def wait_edge_events(self, timeout: float) -> bool:
        return bool(self._portions and self._portions[0])

    def read_edge_events(self):
        falling = gpiod.EdgeEvent.Type.FALLING_EDGE.value
        return [gpiod.EdgeEvent(falling, ns, 4, 0, 0) for ns in self._portions.pop(0)]


@pytest.mark.real_time
@pytest.mark.parametrize("count", [42, 30, 0])
def test_the_line_is_held_low_and_then_listened_to(monkeypatch, count):
    """gpiod's own settings and events; the character device alone is not there."""
    edges = edges_ns(bytes.fromhex("0292010da2"))[:count]
    held_s = [line_held_s(monkeypatch, edges) for _ in range(5)]
    assert min(held_s) >= 0.018, "ASAIR DHT11: 18 to 30 ms"
    while min(held_s) >= 0.03 and len(held_s) < 50:  # the computer had something else to do
        held_s.append(line_held_s(monkeypatch, edges))
    assert min(held_s) < 0.03


def line_held_s(monkeypatch: pytest.MonkeyPatch, edges: list[int]) -> float:
    """How long the line was held low, by a capture that gives `edges`."""
    line = FakeLine(edges)
    requested: list[dict[int, gpiod.LineSettings]] = []

    def request(path: str, *, config, event_buffer_size: int, **_: object) -> FakeLine:
        requested.append(config)
        assert path == "/dev/gpiochip0"
        assert event_buffer_size >= 42
        return line

    monkeypatch.setattr(gpiod, "request_lines", request)
    monkeypatch.setattr(dht_edges, "header_chip", lambda: "/dev/gpiochip0")
    assert GpioEdges(4).falling_edges(18_500) == edges
    assert requested[0][4].direction is gpiod.line.Direction.OUTPUT
    low, listening, released = line.done
    assert low[:2] == (4, gpiod.line.Value.INACTIVE)
    assert listening[0][4].edge_detection is gpiod.line.Edge.FALLING
    assert released == "released"
    held_s: float = listening[1] - low[2]
    return held_s


def test_a_computer_without_header_gpio_says_so():
    with pytest.raises(MissingSupport, match="--simulate"):
        GpioEdges(4)
