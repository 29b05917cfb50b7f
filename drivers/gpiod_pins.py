"""gpiozero's pins through gpiod: for a Pi without lgpio, which lacks wheels for ARM.

A kernel line is held from the first use of its pin to the last. Each pin with edge detection has a
thread that waits in the kernel, at no cost while nothing happens. PWM is not implemented, because
the node does not need it.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from datetime import timedelta
from typing import Any

import gpiod
from gpiod.line import Bias, Direction, Edge, Value
from gpiozero.exc import PinInvalidFunction, PinInvalidPull, PinSetInput, PinUnknownPi
from gpiozero.pins.local import LocalPiFactory, LocalPiPin

from drivers.gpio_chip import header_chip, line_error

__all__ = ["GpiodFactory"]

_ANY_PI = 0xA02082
"""The revision of a Pi 3 B: its 40-pin header is that of every Pi since 2014."""
_PULLS = {"up": Bias.PULL_UP, "down": Bias.PULL_DOWN, "floating": Bias.DISABLED}
_EDGES = {"both": Edge.BOTH, "rising": Edge.RISING, "falling": Edge.FALLING}
_FUNCTIONS = {"input": Direction.INPUT, "output": Direction.OUTPUT}


class GpiodFactory(LocalPiFactory):  # type: ignore[misc]
    """The pins of the 40-pin header.

    Raises:
        MissingSupport: the header does not exist, or this user may not use it.
    """

    def __init__(self) -> None:
        self.chip = header_chip()
        super().__init__()
        self.pin_class = GpiodPin

    def _get_revision(self) -> int:
        try:
            return int(super()._get_revision())
        except PinUnknownPi:  # unknown to the boot loader; emulators do not have it
            return _ANY_PI


class GpiodPin(LocalPiPin):  # type: ignore[misc]
    """One pin, with the interface that gpiozero's devices expect.

    Raises:
        PinInUse: the kernel, or another program, has the line.
        MissingSupport: this user may not use it.
    """

    def __init__(self, factory: GpiodFactory, info: Any) -> None:
        super().__init__(factory, info)
        self._function = "input"
        self._pull = "floating"
        self._edges = "both"
        self._bounce_s: float | None = None
        self._listener: _Listener | None = None
        self._line: Any = None
        """None while it is closed; gpiozero uses the same pin for the next device on it."""
        self._configure()

    def close(self) -> None:
        if self._line is None:
            return
        self.when_changed = None
        self._function, self._pull = "input", "floating"
        self._edges, self._bounce_s = "both", None
        with contextlib.suppress(OSError):
            self._configure()
        self._line.release()
        self._line = None

    def _settings(self, *, state: bool = False) -> gpiod.LineSettings:
        if self._function == "output":
            value = Value.ACTIVE if state else Value.INACTIVE
            return gpiod.LineSettings(direction=Direction.OUTPUT, output_value=value)
        settings = gpiod.LineSettings(direction=Direction.INPUT, bias=_PULLS[self._pull])
        if self._listener is not None:
            settings.edge_detection = _EDGES[self._edges]
            settings.debounce_period = timedelta(seconds=self._bounce_s or 0)
        return settings

    def _configure(self, *, state: bool = False) -> None:
        config: dict[Any, Any] = {self._number: self._settings(state=state)}
        if self._line is not None:
            self._line.reconfigure_lines(config)
            return
        try:
            self._line = gpiod.request_lines(
                self.factory.chip, config=config, consumer="sensor-node"
            )
        except OSError as error:
            raise line_error(self._number, error) from error

    # -- properties that gpiozero reads and sets

    def output_with_state(self, state: Any) -> None:
        """Make the pin an output that starts at `state`, without a glitch."""
        self._function = "output"
        self._configure(state=bool(state))

    def input_with_pull(self, pull: str) -> None:
        self._function = "input"
        self._set_pull(pull)

    def _get_function(self) -> str:
        return self._function

    def _set_function(self, value: str) -> None:
        if value not in _FUNCTIONS:
            raise PinInvalidFunction(f"invalid function {value!r} for {self!r}")
        self._function = value
        self._configure()

    def _get_state(self) -> bool:
        return bool(self._line.get_value(self._number) is Value.ACTIVE)

    def _set_state(self, value: Any) -> None:
        if self._function == "input":
            raise PinSetInput(f"cannot set the state of {self!r}, an input")
        self._line.set_value(self._number, Value.ACTIVE if value else Value.INACTIVE)

    def _get_pull(self) -> str:
        return self._pull

    def _set_pull(self, value: str) -> None:
        if value not in _PULLS:
            raise PinInvalidPull(f"invalid pull {value!r} for {self!r}")
        self._pull = value
        self._configure()

    def _get_bounce(self) -> float | None:
        return self._bounce_s

    def _set_bounce(self, value: float | None) -> None:
        self._bounce_s = value
        if self._listener is not None:
            self._configure()

    def _get_edges(self) -> str:
        return self._edges

    def _set_edges(self, value: str) -> None:
        self._edges = value
        if self._listener is not None:
            self._configure()

    def _enable_event_detect(self) -> None:
        self._listener = _Listener(self._line, self._call_when_changed)
        self._configure()
        self._listener.start()

    def _disable_event_detect(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            self._configure()
            listener.stop()


class _Listener(threading.Thread):
    """Reports each edge of a line, with the kernel's time of the edge."""

    def __init__(self, line: Any, changed: Any) -> None:
        super().__init__(name="gpio edges", daemon=True)
        self._line = line
        self._changed = changed
        self._ended = os.eventfd(0)

    def run(self) -> None:
        while True:
            ready, _, _ = select.select([self._line.fd, self._ended], [], [])
            if self._ended in ready:
                break
            for event in self._line.read_edge_events():
                rising = event.event_type is event.Type.RISING_EDGE
                self._changed(event.timestamp_ns / 1e9, int(rising))
        os.close(self._ended)

    def stop(self) -> None:
        """End the thread, and wait for its end unless called from the thread itself."""
        os.eventfd_write(self._ended, 1)
        if threading.current_thread() is not self:
            self.join()
