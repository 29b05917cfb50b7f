"""Decodes a DHT's five bytes, and finds them in the edges of its signal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from drivers.errors import BadFrame, ImplausibleValue, SensorNotFound

__all__ = ["TRIGGER_US", "WIRING", "check_frame", "decode_edges", "decode_frame", "signed_tenths"]

WIRING = "check 3V3, the data wire, the 4.7 to 10 kΩ pull-up and the pin number"

TRIGGER_US = {"DHT22": 1_100, "DHT11": 18_500}
"""How long the host holds the line low: 0.8 to 20 ms (AM2302), 18 to 30 ms (ASAIR DHT11)."""

# AM2302 datasheet, "Single-bus signal timing", µs: a bit is 48 to 55 low, then 22 to 30 high for
# 0, or 68 to 75 for 1; so 70 to 85 or 116 to 130 from falling edge to falling edge. The response
# is 75 to 85 low and 75 to 85 high. Two bits with a missed edge between them take 140 or more.
_BITS = 40
_SHORTEST_NS, _ZERO_OR_ONE_NS, _MAX_NS = 55_000, 100_000, 139_000
_RESPONSE_NS = (140_000, 180_000)


def decode_edges(falling_ns: Sequence[int]) -> bytes:
    """Return the five bytes encoded in the times of the falling edges after the line's release.

    There are 42 edges: the response, the beginning of each bit, and the end of the last. The
    capture may begin too late for the first one. Everything else is refused: a missed or an extra
    edge makes an interval that does not fit a bit.

    Raises:
        SensorNotFound: hardly any edge was seen.
        BadFrame: the number of edges or an interval between two is wrong; or the checksum differs.
    """
    if len(falling_ns) < 5:
        raise SensorNotFound(f"no answer, {len(falling_ns)} edges", WIRING)
    if not _BITS + 1 <= len(falling_ns) <= _BITS + 2:
        raise BadFrame(f"{len(falling_ns)} edges, and not {_BITS + 2}", WIRING)
    intervals_ns = [after - before for before, after in pairwise(falling_ns)]
    for response_ns in intervals_ns[:-_BITS]:
        if not _RESPONSE_NS[0] <= response_ns <= _RESPONSE_NS[1]:
            raise BadFrame(f"a response of {response_ns / 1000:.0f} µs", WIRING)
    value = 0
    for interval_ns in intervals_ns[-_BITS:]:
        if not _SHORTEST_NS <= interval_ns <= _MAX_NS:
            raise BadFrame(f"a bit of {interval_ns / 1000:.0f} µs", WIRING)
        value = value << 1 | (interval_ns > _ZERO_OR_ONE_NS)
    frame = value.to_bytes(5, "big")
    if sum(frame[:4]) & 0xFF != frame[4]:
        raise BadFrame(f"the checksum differs: {frame.hex(' ')}", WIRING)
    return frame


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
