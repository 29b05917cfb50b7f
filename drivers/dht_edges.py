"""A DHT through the kernel's GPIO edge events: without a helper process or polling.

The kernel takes the time of each edge in its interrupt. A board hands out `EdgesDht` for the
backend "edges"; `GpioEdges` is the wire of a Pi, through gpiod.
"""

from __future__ import annotations

import time
from typing import Protocol

from drivers.dht_frame import TRIGGER_US, TwoMeanings, agree, decode_edges, decode_frame
from drivers.gpio_chip import header_chip, line_error

__all__ = ["EdgeWire", "EdgesDht", "GpioEdges"]

_SETTLE_S = 0.005
_MAX_ANSWER_S = 0.03  # a frame takes at most 5.5 ms after the response
_EDGES = 42


class EdgeWire(Protocol):
    """A data wire that can be pulled low and listened to."""

    def falling_edges(self, low_us: int) -> list[int]:
        """Hold the wire low for `low_us`, release it, and return its falling edges, in ns."""
        ...


class EdgesDht:
    """`drivers.bus.DhtSensor` with our own decoder; each measurement is a new one.

    A capture with two meanings needs another one that agrees with it. On a computer that always
    listens too late, a fifth of a DHT22's frames has two.
    """

    def __init__(self, model: str, wire: EdgeWire) -> None:
        self.frame = bytearray()
        self._model = model
        self._wire = wire
        self._last: tuple[float, float] | None = None
        """The last capture, in °C and %, whether it was certain or not."""

    def measure(self) -> float:
        """Trigger the sensor at once, and keep the frame that it sends.

        Raises:
            SensorNotFound, BadFrame, TwoMeanings: see `decode_edges`.
        """
        self.frame = bytearray()
        edges_ns = self._wire.falling_edges(TRIGGER_US[self._model])
        before = self._last
        try:
            frame = decode_edges(self._model, edges_ns)
        except TwoMeanings as error:
            frame = error.frame
            self._last = decode_frame(self._model, frame)
            if before is None or not agree(self._model, before, self._last):
                raise
        self._last = decode_frame(self._model, frame)
        self.frame = bytearray(frame)
        return 0.0

    def exit(self) -> None:
        """Do nothing: the line is only held during a measurement."""


class GpioEdges:
    """A GPIO of the 40-pin header, by its BCM number."""

    def __init__(self, pin: int) -> None:
        self._pin = pin
        self._chip = header_chip()

    def falling_edges(self, low_us: int) -> list[int]:
        """See `EdgeWire`.

        Raises:
            PinInUse: somebody else has the line.
            MissingSupport: this user may not use it.
        """
        import gpiod
        from gpiod.line import Bias, Direction, Edge, Value

        high = gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE)
        # The Pi's pull-up, about 50 kΩ, is harmless in parallel with the sensor's own.
        listen = gpiod.LineSettings(
            direction=Direction.INPUT, edge_detection=Edge.FALLING, bias=Bias.PULL_UP
        )
        edges_ns: list[int] = []
        try:
            request = gpiod.request_lines(
                self._chip,
                config={self._pin: high},
                consumer="sensor-node dht",
                event_buffer_size=128,
            )
        except OSError as error:
            raise line_error(self._pin, error) from error
        with request as line:
            time.sleep(_SETTLE_S)
            line.set_value(self._pin, Value.INACTIVE)
            time.sleep(low_us / 1e6)
            line.reconfigure_lines({self._pin: listen})
            deadline_s = time.monotonic() + _MAX_ANSWER_S
            # The kernel keeps the edges that came while this process had to wait.
            while len(edges_ns) < _EDGES and line.wait_edge_events(
                max(0.0, deadline_s - time.monotonic())
            ):
                edges_ns += [event.timestamp_ns for event in line.read_edge_events()]
        return edges_ns
