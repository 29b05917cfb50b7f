"""What an alarm does on the node itself: a pin that is high, and a program that is run.

A pin is high while an alarm that names it is on and not acknowledged. A program is run once for
each change, after the change is committed: on a thread of its own, one after the other, without a
shell, with a small environment and a time limit. What it prints as errors goes where the node's own
do. So neither needs a broker, and neither can hold up the loop.

Used on the loop's thread. Imported only if there are alarms.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drivers.bus import Board
from node.alarms.table import AlarmTable

__all__ = ["AlarmOutputs"]

_log = logging.getLogger(__name__)

TIME_LIMIT_S = 30.0
"""How long a program may run."""
MOST_WAITING = 20
"""How many runs of programs may wait; later ones are left out and logged."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class AlarmOutputs:
    """The pins and programs of the node's alarms."""

    def __init__(
        self, alarms: Iterable[AlarmTable], board: Board, *, time_limit_s: float = TIME_LIMIT_S
    ) -> None:
        """Open the pins, low. One that cannot be opened is logged, and left out."""
        self._time_limit_s = time_limit_s
        self._pins: dict[int, Any] = {}
        self._high: set[int] = set()
        for pin in sorted({alarm.gpio for alarm in alarms if alarm.gpio is not None}):
            try:
                self._pins[pin] = _output(pin, board)
            except Exception as error:  # noqa: BLE001, gpiozero and what is under it
                _log.error(
                    "the alarm output GPIO %d cannot be used: %s; see sensor-node doctor",
                    pin,
                    error,
                )
        self._runs: queue.Queue[tuple[Sequence[str], Mapping[str, str]]] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def show(self, sounding: Iterable[AlarmTable]) -> None:
        """Set the pins: high for the alarms that are on and not acknowledged."""
        if not self._pins:
            return
        high = {alarm.gpio for alarm in sounding if alarm.gpio in self._pins}
        for pin in high ^ self._high:
            try:
                self._pins[pin].value = pin in high
            except Exception as error:  # noqa: BLE001, gpiozero and what is under it
                _log.error("the alarm output GPIO %d cannot be switched: %s", pin, error)
        self._high = {pin for pin in high if pin is not None}

    def run(self, program: Sequence[str], facts: Mapping[str, str]) -> None:
        """Run a program soon; `facts` are its environment."""
        try:
            self._runs.put_nowait((program, facts))
        except queue.Full:
            _log.error("%s is left out: %d runs are waiting already", program[0], MOST_WAITING)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="alarm-exec", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while not self._closed:
            program, facts = self._runs.get()
            try:
                self._run(program, facts)
            except Exception as error:  # noqa: BLE001, the next one is tried
                _log.error("the alarm's program %s cannot be run: %s", program[0], error)

    def _run(self, program: Sequence[str], facts: Mapping[str, str]) -> None:
        self._process = process = subprocess.Popen(
            list(program),
            env={"PATH": _PATH, "LANG": "C.UTF-8", **facts},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(self._time_limit_s)
        except subprocess.TimeoutExpired:
            _end(process)
            process.wait()
            _log.error("%s was ended: it ran longer than %g s", program[0], self._time_limit_s)
            return
        finally:
            self._process = None
        if code:
            _log.error("%s failed with exit code %d", program[0], code)

    def close(self) -> None:
        """Set the pins low and release them; end the program that runs."""
        self._closed = True
        if (process := self._process) is not None:
            _end(process)
        for device in self._pins.values():
            with contextlib.suppress(Exception):
                device.off()
                device.close()
        self._pins.clear()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it has started: it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _output(pin: int, board: Board) -> Any:
    from gpiozero import OutputDevice

    return OutputDevice(pin, initial_value=False, pin_factory=board.pin_factory())
