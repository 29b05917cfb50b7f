"""The ways to a DHT's frame: edges and our decoder, the kernel's driver, a child process, auto."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import adafruit_dht
import pytest
from support import PATIENCE_S, FakeClock, wait_until

from drivers import dht_process
from drivers.dht import DHT22, DhtOptions, backends_for
from drivers.dht_frame import decode_frame
from drivers.dht_process import DhtProcess
from drivers.errors import (
    BadFrame,
    MissingSupport,
    SensorNotFound,
    SensorTimeout,
)
from drivers.sim.board import SimulatedBoard
from drivers.sim.dht_line import DhtLine, encode_frame, pulses_us
from drivers.sim.kernel_tree import EIO
from drivers.sim.room import Air

MEASURE_S = dht_process.MEASURE_S

HELPER = Path(__file__).with_name("pulsein_helper.py")


def dht22(board: SimulatedBoard, backend: Any):
    options = DhtOptions(pin=4, backend=backend)
    board.attach("dht22", options)
    return DHT22.open(options, board)


@pytest.fixture(autouse=True)
def library_on_fake_time(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    class LibraryTime:
        monotonic = staticmethod(clock.monotonic)
        sleep = staticmethod(clock.sleep)

    monkeypatch.setattr(adafruit_dht, "time", LibraryTime)


@pytest.mark.parametrize("backend", ["auto", "kernel", "pulseio", "edges", "bitbang"])
def test_every_backend_is_simulated(board, backend):
    for _ in range(3):
        assert 15 < dht22(board, backend).read()["temperature"] < 27


def test_the_kernels_driver_is_retried_after_two_seconds(board, clock):
    """EIO twice, then a value."""
    sensor = dht22(board, "kernel")
    files = board.kernel.devices[0].files
    good = files["in_temp_input"]
    asked_s: list[float] = []

    def answer():
        asked_s.append(clock.now_s)
        return good() if len(asked_s) >= 4 else EIO

    files["in_temp_input"] = answer
    assert sensor.read()
    asked_s = asked_s[1:]  # the first is the file's making
    assert len(asked_s) == 3
    assert min(b - a for a, b in itertools.pairwise(asked_s)) >= 2.1


def test_without_the_overlay_the_kernel_backend_names_it(board):
    with pytest.raises(MissingSupport, match="dtoverlay=dht11,gpiopin=17"):
        DHT22.open(DhtOptions(pin=17, backend="kernel"), board).read()


@pytest.mark.parametrize("backend", ["kernel", "auto"])
def test_the_kernels_dht_of_another_pin_is_not_taken(board, caplog, backend):
    """Its value would be that of another room."""
    caplog.set_level("INFO")
    other = DhtOptions(pin=17, backend="kernel")
    board.attach("dht22", other)
    if backend == "kernel":
        with pytest.raises(MissingSupport, match=r"on GPIO 4; there is dht11@11 .* on GPIO 17;"):
            DHT22.open(DhtOptions(pin=4, backend="kernel"), board).read()
    else:
        assert dht22(board, "auto").read()
        assert settled_on(caplog) == ["pulseio"]
    assert DHT22.open(other, board).read()


def test_two_dhts_of_the_kernels_are_told_apart_by_their_pins(board):
    sensors = []
    for pin in (4, 17):
        options = DhtOptions(pin=pin, backend="kernel")
        board.attach("dht22", options)
        sensors.append(DHT22.open(options, board))
    for device, millidegrees in zip(board.kernel.devices, ("10000", "20000"), strict=True):
        device.files["in_temp_input"] = lambda text=millidegrees: f"{text}\n"
    assert [sensor.read()["temperature"] for sensor in sensors] == [10, 20]


@pytest.mark.parametrize("backend", ["kernel", "auto"])
def test_a_dht_of_the_kernels_that_comes_back_under_another_number_is_found(board, backend):
    """The overlay was loaded again: the next reading but one has it."""
    board.attach("dht22", DhtOptions(pin=4, backend="kernel"))
    sensor = DHT22.open(DhtOptions(pin=4, backend=backend), board)
    sensor.read()
    board.kernel.number = 3
    with pytest.raises(SensorNotFound, match="has gone"):
        sensor.read()
    assert sensor.read()


class PartialBoard(SimulatedBoard):
    """A board on which some backends are absent, and some are deaf."""

    absent: tuple[str, ...] = ()
    deaf: tuple[str, ...] = ()

    def dht(self, model: str, pin: int, backend: str):
        if backend in self.absent:
            raise MissingSupport(f"no {backend}", "hint")
        if backend in self.deaf:
            self.dht_lines[99] = DhtLine(model, lambda: Air(20, 50, 1000))
            self.dht_lines[99].frame = lambda: None
            return super().dht(model, 99, backend)
        return super().dht(model, pin, backend)


def settled_on(caplog) -> list[str]:
    return [
        record.message.split()[-1] for record in caplog.records if "read through" in record.message
    ]


@pytest.mark.parametrize(
    ("absent", "deaf", "chosen", "reads"),
    [
        ((), (), "pulseio", 1),
        (("pulseio",), (), "edges", 1),
        (("pulseio", "edges"), (), "bitbang", 1),
        ((), ("pulseio",), "edges", 2),
        (("edges",), ("pulseio",), "bitbang", 2),
    ],
)
def test_auto_takes_what_works_and_says_which(clock, caplog, absent, deaf, chosen, reads):
    """What is absent is passed over at once, what stays silent at the next reading."""
    caplog.set_level("INFO")
    board = PartialBoard(clock)
    board.absent, board.deaf = absent, deaf
    sensor = dht22(board, "auto")
    for _ in range(reads - 1):
        with pytest.raises(SensorNotFound):
            sensor.read()
    assert sensor.read()
    assert sensor.read()
    assert settled_on(caplog) == [chosen]


def test_auto_takes_the_kernels_driver_where_it_is_there(board, caplog):
    """It holds the pin; the others would find it busy."""
    caplog.set_level("INFO")
    sensor = dht22(board, "auto")
    dht22(board, "kernel")
    assert sensor.read()
    assert settled_on(caplog) == ["kernel"]
    assert board.dht_lines[4].triggers == 0


def test_auto_stays_with_what_has_worked(board, caplog):
    """A sensor that is unplugged afterwards is no reason to look for another way."""
    caplog.set_level("INFO")
    sensor = dht22(board, "auto")
    sensor.read()
    good = board.dht_lines[4].frame
    board.dht_lines[4].frame = lambda: None
    for _ in range(3):
        with pytest.raises(SensorNotFound, match="through pulseio"):
            sensor.read()
    board.dht_lines[4].frame = good
    assert sensor.read()
    assert settled_on(caplog) == ["pulseio"]


def test_auto_never_asks_more_often_than_every_two_seconds(clock):
    """Nor when it goes from one backend to the next."""
    board = PartialBoard(clock)
    asked_s: list[float] = []
    sensor = dht22(board, "auto")
    board.dht_lines[4].frame = lambda: asked_s.append(clock.now_s)
    for _ in range(4):
        with pytest.raises(SensorNotFound):
            sensor.read()
    assert len(asked_s) == 12
    assert min(b - a for a, b in itertools.pairwise(asked_s)) >= 1.84, "2.1 s less the capture"


def test_auto_where_nothing_is_there_says_all_of_it_and_looks_again(clock):
    board = PartialBoard(clock)
    board.absent = ("pulseio", "edges", "bitbang")
    sensor = dht22(board, "auto")
    with pytest.raises(MissingSupport, match=r"dht11.*no pulseio.*no edges.*no bitbang"):
        sensor.read()
    assert clock.slept == [], "there is nothing to wait for"
    board.absent = ()
    assert sensor.read()


@pytest.mark.parametrize(
    ("computer", "last"),
    [
        ("Raspberry Pi Zero W Rev 1.1", "edges"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "edges"),
        ("Raspberry Pi 5 Model B Rev 1.0", "edges"),
        ("Raspberry Pi 4 Model B Rev 1.4", "bitbang"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "bitbang"),
        ("", "bitbang"),
    ],
)
def test_auto_does_not_bitbang_where_it_hardly_ever_works(computer, last):
    assert backends_for(computer)[0] == "kernel"
    assert backends_for(computer)[-1] == last


PI = """
import subprocess, sys
import adafruit_platformdetect.board as detected
from adafruit_blinka.microcontroller.generic_linux import raspberry_pi_pin
detected.Board._pi_rev_code = lambda self: "c03111"
raspberry_pi_pin._find_chip = lambda offset: 0
real = subprocess.Popen
class Popen(real):
    def __init__(self, command, *rest, **options):
        if "libgpiod_pulsein" in command[0]:
            command = [sys.executable, "-I", {helper!r}, *command[1:]]
            super().__init__(command, *rest, stdout=subprocess.PIPE, **options)
            self.stdout.readline()  # PulseIn waits for 0.25 s, which a Python may need to start
        else:
            super().__init__(command, *rest, **options)
subprocess.Popen = Popen
"""


@pytest.fixture
def pulsein(tmp_path, monkeypatch):
    """A child that takes this computer for a Pi 4, with a stand-in for Blinka's helper program.

    Blinka, its PulseIn, the message queue and adafruit_dht are the real ones.
    """
    (tmp_path / "sitecustomize.py").write_text(PI.format(helper=str(HELPER)))
    pulses = pulses_us(encode_frame("DHT22", -7.3, 55.5))
    monkeypatch.setenv("PULSEIN_PULSES", ",".join(map(str, pulses)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("BLINKA_FORCECHIP", "BCM2XXX")
    monkeypatch.setenv("BLINKA_FORCEBOARD", "RASPBERRY_PI_4B")
    monkeypatch.delenv("BLINKA_OS_AGNOSTIC", raising=False)
    # The stand-in is a Python, which may take long to start, unlike the program that it stands for.
    monkeypatch.setattr(dht_process, "MEASURE_S", PATIENCE_S)
    process = RememberedProcess("DHT22", 4, "pulseio")
    yield process
    process.exit()


class RememberedProcess(DhtProcess):
    """Remembers the children that it has started."""

    def __init__(self, model: str, pin: int, backend: str) -> None:
        super().__init__(model, pin, backend)
        self.started: list[int] = []

    def _start(self) -> subprocess.Popen[bytes]:
        child = super()._start()
        self.started.append(child.pid)
        return child


def message_queues(*pids: int) -> set[str]:
    """Those through which one of `pids` has spoken: others may use some at the same time."""
    lines = Path("/proc/sysvipc/msg").read_text().splitlines()
    rows = [dict(zip(lines[0].split(), line.split(), strict=True)) for line in lines[1:]]
    return {row["msqid"] for row in rows if {int(row["lspid"]), int(row["lrpid"])} & {*pids}}


def test_a_frame_comes_from_the_child_and_the_child_stays(pulsein):
    for _ in range(2):
        pulsein.measure()
        assert decode_frame("DHT22", bytes(pulsein.frame)) == (-7.3, 55.5)
    child = pulsein._child
    assert child.poll() is None
    pulsein.exit()
    assert child.poll() is not None


def test_a_helper_that_dies_costs_two_seconds_and_not_the_sensor(pulsein, monkeypatch):
    """PulseIn waits in msgrcv for ever (Blinka issue 210); nothing of it is left behind."""
    monkeypatch.setenv("PULSEIN_MODE", "die")
    pulsein._child = pulsein._start()
    pulsein._receive(pulsein._child, dht_process.START_S)
    with monkeypatch.context() as as_shipped:
        as_shipped.setattr(dht_process, "MEASURE_S", MEASURE_S)
        start_s = time.monotonic()
        with pytest.raises(SensorTimeout, match="hung for 2 s, and was ended"):
            pulsein.measure()
        assert 2.0 <= time.monotonic() - start_s < 6.0
    assert pulsein.frame == bytearray()
    assert not message_queues(*pulsein.started)
    monkeypatch.delenv("PULSEIN_MODE")
    pulsein.measure()
    assert pulsein.frame


def test_the_library_alone_would_wait_for_ever(pulsein, monkeypatch):
    """Negative control of the test above: the child does not come back by itself."""
    monkeypatch.setattr(dht_process, "MEASURE_S", 5.0)
    monkeypatch.setenv("PULSEIN_MODE", "die")
    start_s = time.monotonic()
    with pytest.raises(SensorTimeout, match="hung for 5 s"):
        pulsein.measure()
    assert time.monotonic() - start_s >= 5.0


def test_a_child_that_is_killed_is_replaced(pulsein):
    """Between two measurements, when it holds no message queue."""
    pulsein.measure()
    wait_until(lambda: not message_queues(*pulsein.started))
    pulsein._child.kill()
    pulsein._child.wait()
    with pytest.raises(SensorTimeout, match="has died"):
        pulsein.measure()
    pulsein.measure()
    assert pulsein.frame


def has_ended(process: Path) -> bool:
    """Gone from /proc, or a zombie that nobody has waited for."""
    return not process.exists() or (process / "stat").read_text().split()[2] == "Z"


@pytest.mark.usefixtures("pulsein")
def test_the_child_ends_with_its_parent_even_from_a_hang():
    """kill -9 of the node: the pipe ends, and with it the child, its helper and its queue."""
    script = (
        "import sys; from drivers.dht_process import DhtProcess\n"
        "process = DhtProcess('DHT22', 4, 'pulseio')\n"
        "process._child = process._start()\n"
        "print(process._child.pid, flush=True)\n"
        "process._ask(process._child)\n"
        "process.measure()\n"
    )
    env = {**os.environ, "PULSEIN_MODE": "die"}
    parent = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_until(lambda: message_queues(pid), what="it is waiting for its helper")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: has_ended(Path(f"/proc/{pid}")), what="the child is gone")
    assert not message_queues(pid)


def test_what_the_library_says_reaches_the_parent(pulsein, monkeypatch):
    monkeypatch.setenv("PULSEIN_PULSES", "")
    with pytest.raises(SensorNotFound, match="no answer"):
        pulsein.measure()
    pulsein.exit()
    monkeypatch.setenv("PULSEIN_PULSES", "80,80,50,26,50,70,50,26,50,70,50,26,50,70")
    with pytest.raises(BadFrame, match="edges are missing"):
        pulsein.measure()


@pytest.mark.parametrize("backend", ["pulseio", "bitbang"])
def test_on_a_laptop_the_child_says_what_is_missing(backend):
    process = DhtProcess("DHT22", 4, backend)
    with pytest.raises(MissingSupport, match="--simulate"):
        process.measure()
    assert process._child is None


def test_adafruit_is_not_imported_by_the_node():
    """Blinka stays in the child: its memory, its prints and its SIGTERM handler."""
    script = (
        "import signal, sys; before = signal.getsignal(signal.SIGTERM)\n"
        "from drivers.dht import DHT22, DhtOptions; from drivers.hardware import HardwareBoard\n"
        "sensor = DHT22.open(DhtOptions(pin=4), HardwareBoard())\n"
        "try: sensor.read()\n"
        "except Exception as error: print(type(error).__name__)\n"
        "assert signal.getsignal(signal.SIGTERM) is before\n"
        "assert not [m for m in sys.modules if m.startswith(('adafruit', 'board', 'sysv'))]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "MissingSupport\n", done.stderr
    assert done.returncode == 0, done.stderr
