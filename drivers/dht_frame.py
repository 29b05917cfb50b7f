"""Decodes a DHT's five bytes, and finds them in the edges of its signal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    SensorError,
    SensorNotFound,
    SensorTimeout,
)

__all__ = [
    "TEMPERATURES",
    "TRIGGER_US",
    "WIRING",
    "NotAsked",
    "TwoMeanings",
    "agree",
    "check_frame",
    "decode_edges",
    "decode_frame",
    "signed_tenths",
]

WIRING = "check 3V3, the data wire, the 4.7 to 10 kΩ pull-up and the pin number"

TRIGGER_US = {"DHT22": 1_100, "DHT11": 18_500}
"""How long the host holds the line low: 0.8 to 20 ms (AM2302), 18 to 30 ms (ASAIR DHT11)."""

TEMPERATURES = {"DHT22": (-40.0, 80.0), "DHT11": (-20.0, 60.0)}
"""What each model can measure, in °C (datasheets, "Technical specification")."""

# AM2302 and ASAIR DHT11 datasheets, "Technical specification": °C and %.
_ACCURACY = {"DHT22": (0.5, 2.0), "DHT11": (2.0, 5.0)}


class NotAsked(SensorTimeout):
    """The sensor was not asked, because what captures its answer is not ready."""


class TwoMeanings(BadFrame):
    """Some edges are missing, and the others have two meanings; `frame` is the likely one.

    It is right if the capture began too late, and wrong if it did and the sensor stopped in the
    middle of its answer, too.
    """

    def __init__(self, what: str, hint: str = "", frame: bytes = b"") -> None:
        super().__init__(what, hint)
        self.frame = frame


# AM2302 datasheet, "Single-bus signal timing", µs: a bit is 48 to 55 low, then 22 to 30 high for
# 0, or 68 to 75 for 1; so 70 to 85 or 116 to 130 from falling edge to falling edge. The response
# is 75 to 85 low and 75 to 85 high. Two bits with a missed edge between them take 140 or more.
# With much noise a bit in the middle between 0 and 1 is the likeliest to be taken for the other.
_BITS = 40
_ZERO_NS, _ONE_NS = (55_000, 97_000), (103_000, 139_000)
_RESPONSE_NS = (140_000, 180_000)

_LEADING_ZEROS = {"DHT22": 6, "DHT11": 1}
"""How many bits at the start of a frame are always 0.

A DHT22's humidity, at most 1000 tenths of a percent, has 16 bits, a DHT11's, at most 100 %, 8.
"""


def decode_edges(model: str, falling_ns: Sequence[int]) -> bytes:
    """Return the five bytes encoded in the times of the falling edges after the line's release.

    There are 42 edges: the response, the beginning of each bit, and the end of the last. The
    capture may begin too late for the first ones, up to the end of the bits that are always 0.
    Checksum and range then decide. Everything else is refused: a missed or an extra edge makes an
    interval that does not fit a bit.

    Raises:
        SensorNotFound: hardly any edge was seen.
        BadFrame: the number of edges or an interval between two is wrong; or the checksum differs.
        TwoMeanings: the missing edges may be others than the first ones.
    """
    if len(falling_ns) < 5:
        raise SensorNotFound(f"no answer, {len(falling_ns)} edges", WIRING)
    intervals_ns = [after - before for before, after in pairwise(falling_ns)]
    missing = _BITS - len(intervals_ns)
    if not -1 <= missing <= _LEADING_ZEROS[model]:
        raise BadFrame(f"{len(falling_ns)} edges, and not {_BITS + 2}", WIRING)
    for response_ns in intervals_ns[:-_BITS]:
        if not _RESPONSE_NS[0] <= response_ns <= _RESPONSE_NS[1]:
            raise BadFrame(f"a response of {response_ns / 1000:.0f} µs", WIRING)
    value = 0
    for interval_ns in intervals_ns[-_BITS:]:
        is_one = _ONE_NS[0] <= interval_ns <= _ONE_NS[1]
        if not is_one and not _ZERO_NS[0] <= interval_ns <= _ZERO_NS[1]:
            raise BadFrame(f"a bit of {interval_ns / 1000:.0f} µs", WIRING)
        value = value << 1 | is_one
    frame = value.to_bytes(5, "big")
    if missing > 0:
        return _filled(model, frame, missing)
    if not _has_right_checksum(frame):
        raise BadFrame(f"the checksum differs: {frame.hex(' ')}", WIRING)
    return frame


def _filled(model: str, frame: bytes, missing: int) -> bytes:
    """Return a frame whose first `missing` bits were not seen, and so are 0 in `frame`.

    Raises:
        BadFrame: the sensor cannot have sent this frame.
        TwoMeanings: it may have sent another frame, and stopped before the end of it.
    """
    what = f"{_BITS + 1 - missing} edges, and not {_BITS + 2}"
    if not _is_possible(model, frame):
        raise BadFrame(f"{what}, and the rest is not a frame: {frame.hex(' ')}", WIRING)
    for unseen in range(1, missing + 1):
        shifted = int.from_bytes(frame, "big") << unseen & (1 << 8 * len(frame)) - 1
        body = shifted.to_bytes(5, "big")[:4]
        # The bits that are missing at the end are those of the checksum: any will do.
        other = bytes([*body, sum(body) & 0xFF])
        is_same = int.from_bytes(other, "big") >> unseen == shifted >> unseen
        if is_same and _is_possible(model, other):
            raise TwoMeanings(
                f"{what}, which may be the end of the frame {frame.hex(' ')} "
                f"or the beginning of {other.hex(' ')}",
                WIRING,
                frame,
            )
    return frame


def _has_right_checksum(frame: bytes) -> bool:
    return sum(frame[:4]) & 0xFF == frame[4]


def _is_possible(model: str, frame: bytes) -> bool:
    """Return whether a `model` may send this frame."""
    try:
        check_frame(model, frame)
    except SensorError:
        return False
    coldest, hottest = TEMPERATURES[model]
    temperature, humidity = decode_frame(model, frame)
    return _has_right_checksum(frame) and coldest <= temperature <= hottest and humidity <= 100


def check_frame(model: str, frame: bytes) -> None:
    """Reject an impossible frame of five bytes whose checksum is already verified.

    Raises:
        BadFrame: the length is not 5.
        ImplausibleValue: all bytes are zero (a line held low has a right checksum), or the frame
            comes from the other model.
    """
    if len(frame) != 5:
        raise BadFrame(f"no fresh frame, {len(frame)} of 5 bytes", WIRING)
    if not any(frame):
        raise ImplausibleValue("a frame of zeros", f"the line is held low; {WIRING}")
    if model == "DHT11" and (frame[1] > 9 or frame[3] & 0x7F > 9):
        raise ImplausibleValue(
            f"decimals above 9 in the frame {frame.hex(' ')}",
            'this is a DHT22: set driver = "dht22"',
        )
    if model == "DHT22" and (frame[0] << 8 | frame[1]) > 1000:
        raise ImplausibleValue("humidity above 100 %", 'is it a dht11? set driver = "dht11"')


def decode_frame(model: str, frame: bytes) -> tuple[float, float]:
    """Return the temperature (°C) and humidity (%) in the five bytes of a frame.

    Sign and magnitude: tenths of a degree in a DHT22 (AM2302 datasheet, "Data format"), whole
    degrees and tenths in a DHT11 (ASAIR DHT11 1.3, "Negative temperature"). See `signed_tenths`
    for a DHT22 with another format.
    """
    if model == "DHT11":
        sign, magnitude = frame[3] & 0x80, frame[2] + (frame[3] & 0x7F) / 10
        return (-magnitude if sign else magnitude), frame[0] + frame[1] / 10
    sign, tenths = frame[2] & 0x80, (frame[2] & 0x7F) << 8 | frame[3]
    return signed_tenths(-tenths if sign else tenths) / 10, (frame[0] << 8 | frame[1]) / 10


_TWOS_COMPLEMENT = 0x7E00  # -51.2 °C; as a magnitude, 3225.6 °C


def signed_tenths(tenths: float) -> float:
    """Return a DHT22's tenths of a degree, corrected if its make sends two's complement.

    An impossible magnitude can only be two's complement: such a sensor sends -0.9 °C as ff f7,
    which as sign and magnitude would be -3275.9 °C (Tasmota issue 14165, DHTNew issue 52).
    """
    return -tenths - 0x8000 if tenths <= -_TWOS_COMPLEMENT else tenths


def agree(model: str, one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether two readings (°C, %) of a `model` differ by no more than its accuracy."""
    return all(
        abs(a - b) <= accuracy for a, b, accuracy in zip(one, other, _ACCURACY[model], strict=True)
    )
