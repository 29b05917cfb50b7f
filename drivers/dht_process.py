"""The parent's side of `drivers.dht_child`: asks for frames, and ends a child that hangs.

Used on the worker thread of the sensor's pin.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from drivers.dht_frame import WIRING
from drivers.errors import BadFrame, ImplausibleValue, MissingSupport, SensorNotFound, SensorTimeout

__all__ = ["DhtProcess", "sorted_error"]

MEASURE_S = 2.0
"""The library captures for 0.25 s; the rest is for the start of its helper, even on a Zero."""
START_S = 10.0
"""Time for the child to import Blinka, which takes 0.15 s on a laptop."""
_END_S = 1.0

_LOG = "the log may say why"
_OTHER = 'if it happens again, set backend = "edges", or use dtoverlay=dht11'
_REMEDY = "on a Pi, install gpiod; on a laptop, add --simulate"


class DhtProcess:
    """`drivers.bus.DhtSensor` in a child process, which starts at the first measurement."""

    def __init__(self, model: str, pin: int, backend: str) -> None:
        self.frame = bytearray()
        self._model = model
        # Import nothing from the working directory, nor from a user's site if we ignore that.
        flags = ("-P", "-s") if sys.flags.no_user_site else ("-P",)
        self._command = [
            sys.executable,
            *flags,
            "-m",
            "drivers.dht_child",
            model,
            f"{pin}",
            backend,
        ]
        self._child: subprocess.Popen[bytes] | None = None

    def measure(self) -> None:
        """Have the library trigger and decode, and keep the frame.

        Raises:
            SensorNotFound, BadFrame, ImplausibleValue: the library rejected the answer.
            SensorTimeout: the child did not answer, and was ended.
            MissingSupport: the library does not work here.
        """
        self.frame = bytearray()
        if self._child is None:
            self._child = self._start()
            self._receive(self._child, START_S)
        answer = self._ask(self._child)
        if "frame" in answer:
            self.frame = bytearray.fromhex(answer["frame"])
        elif "failed" in answer:
            raise sorted_error(self._model, answer["failed"])
        else:
            self.exit()
            if "missing" in answer:
                raise MissingSupport(answer["missing"], _REMEDY)
            raise BadFrame(answer["broken"], WIRING)

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parent.parent)
        given = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
        paths = [root, *filter(None, [given])]
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # a Ctrl-C does not reach it, and its helper dies with it
        )

    def _ask(self, child: subprocess.Popen[bytes]) -> dict[str, str]:
        assert child.stdin is not None
        try:
            child.stdin.write(b"measure\n")
            child.stdin.flush()
        except OSError as error:
            self.exit()
            raise SensorTimeout("the capture has died", _LOG) from error
        return self._receive(child, MEASURE_S)

    def _receive(self, child: subprocess.Popen[bytes], allowed_s: float) -> dict[str, str]:
        assert child.stdout is not None
        received = b""
        deadline_s = time.monotonic() + allowed_s
        while not received.endswith(b"\n"):
            left_s = max(0.0, deadline_s - time.monotonic())
            if not select.select([child.stdout], [], [], left_s)[0]:
                self.exit()
                raise SensorTimeout(f"the capture hung for {allowed_s:g} s, and was ended", _OTHER)
            part = os.read(child.stdout.fileno(), 4096)
            if not part:
                self.exit()
                raise SensorTimeout("the capture has died", _LOG)
            received += part
        answer: dict[str, str] = json.loads(received)
        return answer

    def exit(self) -> None:
        """End the child; the next measurement starts a new one."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(OSError):
            child.stdin.close()  # the child then removes its queue, even if it hangs
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()


def sorted_error(model: str, text: str) -> SensorNotFound | BadFrame | ImplausibleValue:
    """Return the meaning of the library's RuntimeError (adafruit_dht 4.0.12, `measure`)."""
    if "not found" in text:
        return SensorNotFound("no answer", WIRING)
    if "unplausible" in text:
        other = "dht11" if model == "DHT22" else "dht22"
        return ImplausibleValue("humidity above 100 %", f'is it a {other}? set driver = "{other}"')
    if "Checksum" in text:
        return BadFrame("the checksum differs", WIRING)
    if "full buffer" in text:
        return BadFrame("edges are missing from the frame", WIRING)
    return BadFrame(text, WIRING)
