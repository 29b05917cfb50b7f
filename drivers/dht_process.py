"""The parent's side of `drivers.dht_child`: asks for frames, and ends a child that hangs.

One child captures for all DHTs, one after another. A DHT whose capture hung gets a child of its own
until it has answered again, so that it does not hold up the others a second time.

Used on the worker threads of the sensors' pins.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from drivers.dht_frame import WIRING, NotAsked
from drivers.errors import BadFrame, ImplausibleValue, MissingSupport, SensorNotFound, SensorTimeout
from drivers.gpio_chip import pin_in_use

__all__ = ["DhtChild", "DhtProcess", "sorted_error"]

MEASURE_S = 3.0
"""The library captures for 0.25 s; the rest is for the start of its helper, even on a Zero."""
START_S = 10.0
"""How long one measurement waits for the child to import Blinka, which takes 0.1 s on a laptop."""
FROZEN_S = 120.0
"""A child that takes longer than this to start is ended; on a busy computer it may take long."""
TURN_S = 15.0
"""How long a DHT waits for the others: one may hang, and the child starts again after that."""
_END_S = 1.0

_BUSY = "the computer is too busy, or too slow"
_LOG = "the log may say why"
_OTHER = 'if it happens again, set backend = "edges", or use dtoverlay=dht11'
_REMEDY = "on a Pi, install gpiod; on a laptop, add --simulate"


class _Hung(SensorTimeout):
    """The child did not answer, and was ended."""


class DhtChild:
    """A child process, which starts at the first measurement and ends with the last user."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._users: set[object] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._is_ready = False

    def measure(self, user: object, model: str, pin: int) -> tuple[dict[str, str], float]:
        """Return the child's answer, and how long it had to be waited for until it was asked, in s.

        Raises:
            NotAsked: it is busy with others, or still starting.
            SensorTimeout: it did not answer, and was ended.
        """
        began_s = time.monotonic()
        if not self._turn.acquire(timeout=TURN_S):
            raise NotAsked(f"the other DHTs have been read for {TURN_S:g} s", _BUSY)
        try:
            self._users.add(user)
            process = self._ready()
            waited_s = time.monotonic() - began_s
            return self._ask(process, f"{model} {pin}\n"), waited_s
        finally:
            self._turn.release()

    def has_others(self, user: object) -> bool:
        return not self._users <= {user}

    def leave(self, user: object) -> None:
        """End the child if the other users have left as well; `measure` starts a new one."""
        with self._turn:
            self._users.discard(user)
            if not self._users:
                self._end()

    def _ready(self) -> subprocess.Popen[bytes]:
        """Return the process, started if necessary, once it has imported Blinka."""
        if self._process is None:
            self._process, self._is_ready = self._start(), False
            self._started_s = time.monotonic()
        if not self._is_ready and self._receive(self._process, START_S) is None:
            if time.monotonic() - self._started_s >= FROZEN_S:
                self._end()
            raise NotAsked(f"the capture has not started within {START_S:g} s", _BUSY)
        self._is_ready = True
        return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parent.parent)
        given = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
        paths = [root, *filter(None, [given])]
        # Import nothing from the working directory, nor from a user's site if we ignore that.
        flags = ("-P", "-s") if sys.flags.no_user_site else ("-P",)
        return subprocess.Popen(
            [sys.executable, *flags, "-m", "drivers.dht_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # a Ctrl-C does not reach it, and its helper dies with it
        )

    def _ask(self, process: subprocess.Popen[bytes], request: str) -> dict[str, str]:
        assert process.stdin is not None
        try:
            process.stdin.write(request.encode())
            process.stdin.flush()
        except OSError as error:
            self._end()
            raise SensorTimeout("the capture has died", _LOG) from error
        answer = self._receive(process, MEASURE_S)
        if answer is None:
            self._end()
            raise _Hung(f"the capture hung for {MEASURE_S:g} s, and was ended", _OTHER)
        return answer

    def _receive(self, process: subprocess.Popen[bytes], allowed_s: float) -> dict[str, str] | None:
        """Return the next answer, or None if it takes longer than allowed."""
        assert process.stdout is not None
        received = b""
        deadline_s = time.monotonic() + allowed_s
        while not received.endswith(b"\n"):
            left_s = max(0.0, deadline_s - time.monotonic())
            if not select.select([process.stdout], [], [], left_s)[0]:
                return None
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                self._end()
                raise SensorTimeout("the capture has died", _LOG)
            received += part
        answer: dict[str, str] = json.loads(received)
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # the child then removes its queue, even if it hangs
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)  # or it could not
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if process.returncode < 0:
            _remove_queues(process.pid)


def _remove_queues(pid: int) -> None:
    """Remove the message queue that a killed child spoke through to its helper (proc(5))."""
    try:
        import sysv_ipc

        names, *rows = Path("/proc/sysvipc/msg").read_text(encoding="ascii").splitlines()
    except (ImportError, OSError):
        return
    for line in rows:
        row = dict(zip(names.split(), line.split(), strict=True))
        if str(pid) in (row["lspid"], row["lrpid"]):  # who has sent and received last
            with contextlib.suppress(sysv_ipc.Error):
                sysv_ipc.remove_message_queue(int(row["msqid"]))


_SHARED = DhtChild()


class DhtProcess:
    """`drivers.bus.DhtSensor` through a child process that it shares with the other DHTs."""

    def __init__(self, model: str, pin: int, shared: DhtChild | None = None) -> None:
        self.frame = bytearray()
        self._model = model
        self._pin = pin
        self._child = self._shared = _SHARED if shared is None else shared

    def measure(self) -> float:
        """Have the library trigger and decode, and keep the frame.

        Raises:
            SensorNotFound, BadFrame, ImplausibleValue: the library rejected the answer.
            NotAsked: the child is not ready.
            SensorTimeout: it did not answer, and was ended.
            PinInUse: somebody else has the pin.
            MissingSupport: the library does not work here.
        """
        self.frame = bytearray()
        try:
            answer, waited_s = self._child.measure(self, self._model, self._pin)
        except _Hung:
            if self._child.has_others(self):
                self._go_to(DhtChild())
            raise
        if "frame" in answer:
            self.frame = bytearray.fromhex(answer["frame"])
        elif "failed" in answer:
            raise sorted_error(self._model, answer["failed"])
        elif "busy" in answer:
            raise pin_in_use(self._pin, answer["busy"])
        elif "slow" in answer:
            raise NotAsked(answer["slow"], _BUSY)
        elif "missing" in answer:
            raise MissingSupport(answer["missing"], _REMEDY)
        else:
            raise BadFrame(answer["broken"], WIRING)
        self._go_to(self._shared)
        return waited_s

    def _go_to(self, child: DhtChild) -> None:
        if child is not self._child:
            self._child.leave(self)
            self._child = child

    def exit(self) -> None:
        """Leave the child; the next measurement comes back to it."""
        self._child.leave(self)


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
