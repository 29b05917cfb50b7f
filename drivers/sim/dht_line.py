"""A DHT11 or DHT22 on one wire, as pulses: under Adafruit's adafruit_dht, or as a wire's edges.

The library's own code triggers the sensor, collects the pulses and decodes them. Only the object
below it is simulated: Blinka's `pulseio.PulseIn`, which laptops do not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivers.dht_child import recording
from drivers.dht_process import sorted_error
from drivers.sim.room import Air

__all__ = ["DhtLine", "LibraryDht", "encode_frame", "library_dht", "pulses_us"]

# AM2302 datasheet, "Single-bus signal timing": all in µs.
_RESPONSE = (80, 80)
_BIT_LOW = 50
_ZERO, _ONE = 26, 70
_WAIT = 30  # 20 to 40, from the release to the response
_SHORTEST_TRIGGER_US = {"DHT22": 800, "DHT11": 18_000}


def encode_frame(model: str, celsius: float, humidity: float) -> bytes:
    """Return the five bytes that a `model` sends: sign and magnitude, tenths, checksum last."""
    if model == "DHT11":
        whole, tenths = divmod(round(abs(celsius) * 10), 10)
        body = [round(humidity), 0, whole, tenths | (0x80 if celsius < 0 else 0)]
    else:
        rh, magnitude = round(humidity * 10), round(abs(celsius) * 10)
        sign = 0x80 if celsius < 0 else 0
        body = [rh >> 8, rh & 0xFF, magnitude >> 8 | sign, magnitude & 0xFF]
    return bytes([*body, sum(body) & 0xFF])


def pulses_us(frame: bytes) -> list[int]:
    """Return the widths of low and high in turn, from the response to the final low: 83 pulses."""
    widths = list(_RESPONSE)
    for byte in frame:
        for bit in range(7, -1, -1):
            widths += (_BIT_LOW, _ONE if byte >> bit & 1 else _ZERO)
    return [*widths, _BIT_LOW]


class DhtLine:
    """The wire: answers a long enough trigger with pulses.

    The sensor sends the measurement from its previous trigger, or from its power-on (AM2302
    datasheet, "Single-bus"; ASAIR DHT11 1.3, "Precautions").

    Replace `frame` to choose the sent bytes (None: silence), `distort` to damage the pulses, and
    `before_answer` to make the sensor slow or stuck. Edges up to `deaf_us` after the release of the
    line come before the computer listens.
    """

    def __init__(self, model: str, air: Callable[[], Air]) -> None:
        self.model = model
        self.triggers = 0
        self._air = air
        self._measured = air()
        self.frame: Callable[[], bytes | None] = self._previous
        self.distort: Callable[[list[int]], list[int]] = lambda widths: widths
        self.before_answer: Callable[[], object] = lambda: None
        self.deaf_us = 0

    def _previous(self) -> bytes:
        measured, self._measured = self._measured, self._air()
        return encode_frame(self.model, measured.temperature, measured.humidity)

    def respond(self, trigger_us: int) -> list[int]:
        """Return the pulse widths in µs after the line was pulled low for `trigger_us`."""
        self.triggers += 1
        self.before_answer()
        frame = self.frame()
        if frame is None or trigger_us < _SHORTEST_TRIGGER_US[self.model]:
            return []
        return self.distort(pulses_us(frame))

    def falling_edges(self, low_us: int) -> list[int]:
        """Implement `drivers.dht_edges.EdgeWire`: an edge begins each low pulse except our own."""
        now_us, falling_ns = _WAIT, []
        for number, width_us in enumerate(self.respond(low_us)):
            if number % 2 == 0 and now_us > self.deaf_us:
                falling_ns.append(1_000_000_000 + now_us * 1000)
            now_us += width_us
        return falling_ns


class _PulseIn:
    """`pulseio.PulseIn` on a `DhtLine`: keeps the newest `maxlen` pulses."""

    def __init__(self, line: DhtLine, maxlen: int) -> None:
        self._line = line
        self._maxlen = maxlen
        self._widths_us: list[int] = []

    def clear(self) -> None:
        self._widths_us = []

    def resume(self, trigger_duration: int = 0) -> None:
        self._widths_us = self._line.respond(trigger_duration)[-self._maxlen :]

    def pause(self) -> None:
        """Do nothing: all pulses have already arrived."""

    def __len__(self) -> int:
        return len(self._widths_us)

    def popleft(self) -> int:
        return self._widths_us.pop(0)

    def deinit(self) -> None:
        """Do nothing: nothing is held open."""


class LibraryDht:
    """`drivers.bus.DhtSensor` through the library, with a new object for each measurement."""

    def __init__(self, line: DhtLine) -> None:
        self.frame = bytearray()
        self._line = line

    def measure(self) -> float:
        library = library_dht(self._line)
        self.frame = bytearray()
        try:
            library.measure()
            self.frame = library.frame
        except RuntimeError as error:
            raise sorted_error(self._line.model, str(error)) from error
        finally:
            library.exit()
        return 0.0

    def exit(self) -> None:
        """Do nothing: nothing is held open."""


def library_dht(line: DhtLine) -> Any:
    """Return a new library object for the sensor on `line`."""
    import adafruit_dht

    library_class = recording(getattr(adafruit_dht, line.model))

    class OnLine(library_class):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            # Without pulseio the constructor does not touch a pin; its PulseIn is set afterwards.
            super().__init__(None, use_pulseio=False)
            self._use_pulseio = True
            self.pulse_in: Any = _PulseIn(line, self._max_pulses)

    return OnLine()
