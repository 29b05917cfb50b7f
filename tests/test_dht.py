"""DHT11 and DHT22: Adafruit's decoder on simulated pulses, and what it is not trusted with."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random

import adafruit_dht
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import FakeClock

from drivers.dht import DHT11, DHT22, DhtOptions
from drivers.dht_frame import check_frame, decode_frame
from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    SensorError,
    SensorNotFound,
    SensorTimeout,
)
from drivers.sim.board import SimulatedBoard
from drivers.sim.dht_line import DhtLine, encode_frame, library_dht, pulses_us


class LibraryTime:
    """The `time` module that adafruit_dht sees: the fake clock's."""

    def __init__(self, clock: FakeClock) -> None:
        self.monotonic = clock.monotonic
        self.sleep = clock.sleep


@pytest.fixture(autouse=True)
def library_on_fake_time(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adafruit_dht, "time", LibraryTime(clock))


@pytest.fixture
def line(board: SimulatedBoard) -> DhtLine:
    """A DHT22 on GPIO 4."""
    board.attach("dht22", DhtOptions(pin=4))
    return board.dht_lines[4]


def dht22(board: SimulatedBoard):
    return DHT22.open(DhtOptions(pin=4), board)


def dht11(board: SimulatedBoard):
    board.attach("dht11", DhtOptions(pin=4))
    return DHT11.open(DhtOptions(pin=4), board)


@pytest.mark.parametrize(
    ("celsius", "humidity"), [(23.4, 55.5), (-0.1, 99.9), (-40.0, 0.0), (80.0, 100.0), (0.0, 12.3)]
)
def test_dht22_is_decoded_over_its_whole_range(board, line, celsius, humidity):
    """Sign and magnitude, tenths."""
    line.frame = lambda: encode_frame("DHT22", celsius, humidity)
    assert dht22(board).read() == {"temperature": celsius, "humidity": humidity}


def test_dht22_frame_of_the_datasheet_is_decoded(board, line):
    """AM2302 datasheet, "Single-bus": 0292 010D, checksum A2: 65.8 %, 26.9 °C."""
    line.frame = lambda: bytes.fromhex("0292010da2")
    assert dht22(board).read() == {"temperature": 26.9, "humidity": 65.8}


@pytest.mark.parametrize(("celsius", "humidity"), [(23.4, 55), (0.5, 20), (-1.3, 40), (-18.9, 5)])
def test_dht11_below_zero_is_not_read_as_above(board, celsius, humidity):
    """The library alone drops the sign."""
    sensor = dht11(board)
    board.dht_lines[4].frame = lambda: encode_frame("DHT11", celsius, humidity)
    assert sensor.read() == {"temperature": celsius, "humidity": humidity}


def test_the_library_alone_drops_the_sign_of_a_dht11(board):
    """Negative control of the test above."""
    board.attach("dht11", DhtOptions(pin=4))
    board.dht_lines[4].frame = lambda: encode_frame("DHT11", -1.3, 40)
    assert library_dht(board.dht_lines[4]).temperature == 1.3


@pytest.mark.parametrize(
    ("frame", "celsius"),
    [("0233fff72b", -0.9), ("0211fff103", -1.5), ("01f3fffdf0", -0.3), ("0200fe7070", -40.0)],
)
def test_a_dht22_that_sends_twos_complement_is_read_below_zero(board, line, frame, celsius):
    """Frames of Tasmota issue 14165 and Adafruit's DHT-sensor-library issue 182."""
    line.frame = lambda: bytes.fromhex(frame)
    assert dht22(board).read()["temperature"] == celsius


@given(st.integers(-400, -1))
def test_both_ways_to_write_a_frost_mean_the_same(tenths):
    """Property: no temperature of the one is taken for another one of the other."""
    signed = encode_frame("DHT22", tenths / 10, 50)
    complement = bytes([*signed[:2], *(tenths & 0xFFFF).to_bytes(2, "big")])
    assert decode_frame("DHT22", signed)[0] == decode_frame("DHT22", complement)[0] == tenths / 10


def test_a_dht12_sends_the_frames_of_a_dht11():
    """Aosong DHT12 datasheet, "Data format": 56.3 % and 26.5 °C, and the bit of a frost."""
    assert decode_frame("DHT11", bytes.fromhex("38031a055a")) == (26.5, 56.3)
    assert decode_frame("DHT11", bytes.fromhex("3803058541"))[0] == -5.5


def damage_checksum(frame: bytes) -> bytes:
    return frame[:4] + bytes([frame[4] ^ 1])


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("silence", SensorNotFound, "pull-up"),
        ("checksum", BadFrame, "checksum"),
        ("missing edges", BadFrame, "edges are missing"),
        ("zeros", ImplausibleValue, "held low"),
        ("too humid", ImplausibleValue, "dht11"),
        ("too hot", ImplausibleValue, "outside -40 to 80"),
    ],
)
def test_each_fault_is_an_error_that_names_the_remedy(board, line, fault, error, says):
    frames = {
        "silence": None,
        "checksum": damage_checksum(encode_frame("DHT22", 20, 50)),
        "zeros": bytes(5),
        "too humid": encode_frame("DHT22", 20, 120),
        "too hot": encode_frame("DHT22", 150, 50),
        "missing edges": encode_frame("DHT22", 20, 50),
    }
    line.frame = lambda: frames[fault]
    if fault == "missing edges":
        line.distort = lambda widths: widths[:20] + widths[26:]
    with pytest.raises(error, match=says):
        dht22(board).read()


@pytest.mark.usefixtures("line")
def test_a_sensor_without_faults_reads(board):
    """Negative control of the faults: the same line, undamaged."""
    assert 10 < dht22(board).read()["temperature"] < 30


def test_three_attempts_are_made_two_seconds_apart(board, line, clock):
    """The third one succeeds; the sensor was never asked within 2 s."""
    asked_s: list[float] = []

    def frame() -> bytes | None:
        asked_s.append(clock.now_s)
        good = encode_frame("DHT22", 20.5, 50.0)
        return good if len(asked_s) == 3 else damage_checksum(good)

    line.frame = frame
    assert dht22(board).read()["temperature"] == 20.5
    gaps = [b - a for a, b in itertools.pairwise(asked_s)]
    assert len(asked_s) == 3
    assert min(gaps) >= 2.1


def test_spacing_holds_between_two_reads(board, line, clock):
    """A read right after another waits, and does not take the library's cache."""
    sensor = dht22(board)
    sensor.read()
    before = line.triggers
    start_s = clock.now_s
    sensor.read()
    assert line.triggers == before + 1
    assert clock.now_s - start_s >= 1.65, "1.9 s from trigger to trigger, 0.25 s of them capture"


def test_the_pause_begins_when_the_sensor_is_asked(board, clock, monkeypatch):
    """Not when its turn in the child was first wanted; others hold it up by 0 to 9 s here."""
    chance, asked_s = random.Random(5), []
    sensor = FrameSensor()

    def measure() -> float:
        waited_s = chance.choice((0.0, 0.4, 9.0))
        clock.sleep(waited_s)
        asked_s.append(clock.now_s)
        clock.sleep(0.25)
        FrameSensor.measure(sensor)
        return waited_s

    monkeypatch.setattr(sensor, "measure", measure)
    monkeypatch.setattr(board, "dht", lambda *_: sensor)
    good = encode_frame("DHT22", 20, 50)
    sensor.sent = [chance.choice((good, good, damage_checksum(good))) for _ in range(60)]
    dht, right = dht22(board), 0
    while len(asked_s) < 50:
        with contextlib.suppress(SensorError):
            right += dht.read() == {"temperature": 20, "humidity": 50}
    assert right > 5
    assert min(b - a for a, b in itertools.pairwise(asked_s)) > 1.899


def test_a_sensor_whose_turn_always_comes_late_is_an_error_in_the_end(board, clock, monkeypatch):
    """Each answer is from before the last one, and so too old."""
    sensor, asked = FrameSensor(), []
    sensor.sent = [encode_frame("DHT22", 20, 50)]

    def measure() -> float:
        clock.sleep(9)
        asked.append(clock.now_s)
        FrameSensor.measure(sensor)
        return 9.0

    monkeypatch.setattr(sensor, "measure", measure)
    monkeypatch.setattr(board, "dht", lambda *_: sensor)
    start_s = clock.now_s
    with pytest.raises(SensorTimeout, match="an old answer, because the other DHTs took too long"):
        dht22(board).read()
    assert 2 <= len(asked) <= 4
    assert asked[-1] - start_s < DHT22.read_budget_s


@pytest.mark.usefixtures("line")
def test_a_dht_read_every_two_seconds_stays_on_its_grid(board, clock):
    """A read that is due is not put off by the spacing of the one before."""
    sensor = dht22(board)
    clock.now_s = 4997.0
    sensor.read()  # takes longer than the others: it was not asked for a while
    for slot in range(20):
        clock.now_s = max(clock.now_s, 5000.0 + 2.0 * slot)
        assert clock.now_s == 5000.0 + 2.0 * slot
        sensor.read()


def test_a_value_from_the_librarys_cache_is_never_served(board, line):
    """A good read, then silence: every attempt fails, though the library has a value."""
    sensor = dht22(board)
    sensor.read()
    line.frame = lambda: None
    for _ in range(3):
        with pytest.raises(SensorNotFound):
            sensor.read()


def test_the_library_alone_serves_its_cache_after_a_failure(line, clock):
    """Negative control of the test above: one library object, asked again within 2 s."""
    library = library_dht(line)
    good = library.temperature
    clock.sleep(2.1)
    line.frame = lambda: None
    with pytest.raises(RuntimeError):
        _ = library.temperature
    assert library.temperature == good


def test_a_dht22_configured_as_a_dht11_says_so(board):
    sensor = dht11(board)
    board.dht_lines[4].frame = lambda: encode_frame("DHT22", 23.4, 55.5)
    with pytest.raises(ImplausibleValue, match='driver = "dht22"'):
        sensor.read()


@given(st.binary(max_size=8).filter(lambda frame: len(frame) != 5))
def test_a_frame_of_another_length_is_refused(frame):
    with pytest.raises(BadFrame):
        check_frame("DHT22", frame)


@given(
    celsius=st.integers(-400, 800),
    humidity=st.integers(0, 1000),
    jitter=st.randoms(use_true_random=False),
)
def test_pulses_with_five_microseconds_of_jitter_are_decoded(celsius, humidity, jitter):
    """Property: every value the sensor can send survives realistic timing noise."""
    if celsius == 0 and humidity == 0:
        return  # the frame of zeros
    clock = FakeClock()
    board = SimulatedBoard(clock)
    board.attach("dht22", DhtOptions(pin=4))
    line = board.dht_lines[4]
    line.frame = lambda: encode_frame("DHT22", celsius / 10, humidity / 10)
    line.distort = lambda widths: [max(1, w + jitter.randint(-5, 5)) for w in widths]
    read = dht22(board).read()
    assert read == {"temperature": celsius / 10, "humidity": humidity / 10}


@given(st.integers(-400, 800), st.integers(1, 1000), st.integers(0, 4), st.integers(1, 255))
def test_a_frame_with_one_damaged_byte_is_an_error(celsius, humidity, byte, flip):
    """Property: the checksum sees it, whichever byte it is."""
    damaged = bytearray(encode_frame("DHT22", celsius / 10, humidity / 10))
    damaged[byte] ^= flip
    board = SimulatedBoard(FakeClock())
    board.attach("dht22", DhtOptions(pin=4))
    board.dht_lines[4].frame = lambda: bytes(damaged)
    with pytest.raises(SensorError):
        dht22(board).read()


@given(
    st.integers(-400, 800),
    st.integers(1, 1000),
    st.lists(st.integers(1, 60), min_size=1, max_size=9),
)
@example(-1, 2, [1, 31, 50])  # the library alone makes -12.8 °C and 0 % of these 80 pulses
def test_missed_edges_are_an_error_or_change_nothing(celsius, humidity, edges):
    """Property: however many, wherever. (Two of them, exhaustively: see below.)"""
    truth = {"temperature": celsius / 10, "humidity": humidity / 10}
    board = SimulatedBoard(FakeClock())
    board.attach("dht22", DhtOptions(pin=4))
    line = board.dht_lines[4]
    line.frame = lambda: encode_frame("DHT22", celsius / 10, humidity / 10)
    line.distort = lambda widths: functools.reduce(merge_at, edges, widths)
    try:
        value = dht22(board).read()
    except SensorError:
        return
    assert value == truth


def test_the_pulses_of_a_frame_are_those_of_the_datasheet():
    """Response 80/80 µs, then 50 µs low and 26 or 70 µs high for each bit."""
    widths = pulses_us(bytes([0x80, 0, 0, 0, 0x80]))
    assert widths[:6] == [80, 80, 50, 70, 50, 26]
    assert len(widths) == 83


def merge_at(widths: list[int], edge: int) -> list[int]:
    """The pulses as seen when the edge before pulse `edge` is missed."""
    return [*widths[: edge - 1], sum(widths[edge - 1 : edge + 1]), *widths[edge + 1 :]]


@pytest.mark.parametrize("celsius", [20.5, -7.3, 51.1])
def test_no_two_missed_edges_give_another_value(line, celsius):
    """Every pair of missed edges, 3,321 of them, ends in an error or in the truth."""
    truth = {"temperature": celsius, "humidity": 48.7}
    line.frame = lambda: encode_frame("DHT22", celsius, 48.7)
    wrong = []
    for first in range(1, 83):
        for second in range(1, first):
            line.distort = lambda w, a=first, b=second: merge_at(merge_at(w, a), b)
            sensor = library_dht(line)
            try:
                sensor.measure()
                check_frame("DHT22", bytes(sensor.frame))
                value = {"temperature": sensor.temperature, "humidity": sensor.humidity}
            except (RuntimeError, SensorError):
                continue
            if value != truth:
                wrong.append((first, second, value))
    assert wrong == []


class FrameSensor:
    """A `DhtSensor` that sends given frames, and checks their sums as every library does."""

    def __init__(self) -> None:
        self.frame = bytearray()
        self.sent: list[bytes] = []

    def measure(self) -> float:
        frame = self.sent.pop(0) if len(self.sent) > 1 else self.sent[0]
        if sum(frame[:4]) & 0xFF != frame[4]:
            raise BadFrame("the checksum differs")
        self.frame = bytearray(frame)
        return 0.0

    def exit(self) -> None:
        """Nothing is held open."""


def flip(frame: bytes, *bits: int) -> bytes:
    value = int.from_bytes(frame, "big")
    for bit in bits:
        value ^= 1 << bit
    return value.to_bytes(5, "big")


@pytest.mark.parametrize("driver", [DHT22, DHT11], ids=["DHT22", "DHT11"])
def test_of_100_000_frames_with_one_or_two_wrong_bits_none_gives_a_wrong_value(
    clock, monkeypatch, driver
):
    """Hundreds have a right checksum. What comes through is no further off than the sensor is."""
    chance = random.Random(4)
    model = driver.name.upper()
    board, sensor = SimulatedBoard(clock), FrameSensor()
    monkeypatch.setattr(board, "dht", lambda *_: sensor)
    dht = driver.open(DhtOptions(pin=4, backend="edges"), board)
    passed_checksum = wrong = 0
    off_by = {"DHT22": (0.5, 2.0), "DHT11": (2.0, 5.0)}[model]
    for number in range(50_000):
        if number % 500 == 0:
            celsius, humidity = chance.randint(-190, 590) / 10, float(chance.randint(20, 90))
            true = encode_frame(model, celsius, humidity)
            sensor.sent = [true]
            dht._believed = None
            dht.read()
        damaged = flip(true, *chance.sample(range(40), chance.choice((1, 2))))
        passed_checksum += sum(damaged[:4]) & 0xFF == damaged[4]
        sensor.sent = [damaged, true]
        measurement = dht.read()
        wrong += (
            abs(measurement["temperature"] - celsius) > off_by[0] + 1e-6
            or abs(measurement["humidity"] - humidity) > off_by[1] + 1e-6
        )
    assert passed_checksum > 300, "the control: a checksum alone lets these through"
    assert wrong == 0


def test_a_true_jump_is_believed_when_it_is_read_again(board, line, clock):
    """The sensor is taken from the cellar to the attic: 2.1 s later it is believed."""
    line.frame = lambda: encode_frame("DHT22", 12.0, 80.0)
    dht = dht22(board)
    dht.read()
    clock.sleep(30)
    line.frame = lambda: encode_frame("DHT22", 31.0, 40.0)
    before_s = clock.monotonic()
    assert dht.read() == {"temperature": 31.0, "humidity": 40.0}
    assert clock.monotonic() - before_s == pytest.approx(4.2, abs=0.6), "and once in vain"


def test_values_that_jump_at_each_attempt_are_an_error(board, line, clock):
    dht = dht22(board)
    line.frame = lambda: encode_frame("DHT22", 20.0, 50.0)
    dht.read()
    clock.sleep(30)
    jumps = iter((20.0, 30.0, 45.0, -10.0))
    line.frame = lambda: encode_frame("DHT22", next(jumps), 50.0)
    with pytest.raises(BadFrame, match=r"-10 °C and 50 % after other values.*noise on the line"):
        dht.read()
