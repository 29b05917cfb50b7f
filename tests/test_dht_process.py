"""The child process that captures for all DHTs: shared, replaced, and never waited for in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import PATIENCE_S, wait_until

from drivers import dht, dht_process
from drivers.dht import DHT22
from drivers.dht_frame import NotAsked, decode_frame
from drivers.dht_process import DhtChild, DhtProcess
from drivers.errors import (
    BadFrame,
    MissingSupport,
    PinInUse,
    SensorNotFound,
    SensorTimeout,
)
from drivers.sim.dht_line import encode_frame, pulses_us

HELPER = Path(__file__).with_name("pulsein_helper.py")
MEASURE_S = dht_process.MEASURE_S

PI = """
import os, subprocess, sys, time
import adafruit_platformdetect.board as detected
from adafruit_blinka.microcontroller.generic_linux import raspberry_pi_pin
detected.Board._pi_rev_code = lambda self: "c03111"
raspberry_pi_pin._find_chip = lambda offset: 0
gate = os.environ.get("PULSEIN_GATE")
while gate and not os.path.exists(gate):
    time.sleep(0.01)
mode = os.environ.get("PULSEIN_MODE", "")
real = subprocess.Popen
class Popen(real):
    def __init__(self, command, *rest, **options):
        if "libgpiod_pulsein" not in command[0]:
            super().__init__(command, *rest, **options)
            return
        command = [sys.executable, "-I", {helper!r}, *command[1:]]
        if mode == "cannot run":
            command = ["sh", "-c", "exit 5"]
        super().__init__(command, *rest, stdout=subprocess.PIPE, **options)
        if mode == "cannot run":
            self.wait()
        elif mode != "slow":
            self.stdout.readline()  # PulseIn waits for 0.25 s, which a Python may need to start
subprocess.Popen = Popen
if mode.startswith("busy"):
    import gpiod
    class Line:
        used, consumer = True, "lirc"
    class Chip:
        __init__ = __exit__ = lambda self, *_: None
        __enter__ = lambda self: self
        get_line_info = lambda self, pin: Line
    gpiod.Chip = Chip
    os.environ["SENSOR_NODE_GPIO_CHIP"] = "/dev/gpiochip0"
"""


class RememberedChild(DhtChild):
    """Remembers the processes that it has started."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[subprocess.Popen[bytes]] = []

    def _start(self) -> subprocess.Popen[bytes]:
        self.started.append(super()._start())
        return self.started[-1]

    def message_queues(self) -> set[str]:
        return message_queues(*(process.pid for process in self.started))


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A child that takes this computer for a Pi 4, with a stand-in for Blinka's helper program.

    Blinka, its PulseIn, the message queue and adafruit_dht are the real ones.
    """
    (tmp_path / "sitecustomize.py").write_text(PI.format(helper=str(HELPER)))
    pulses = pulses_us(encode_frame("DHT22", -7.3, 55.5))
    monkeypatch.setenv("PULSEIN_PULSES", ",".join(map(str, pulses)))
    monkeypatch.setenv("PULSEIN_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("BLINKA_FORCECHIP", "BCM2XXX")
    monkeypatch.setenv("BLINKA_FORCEBOARD", "RASPBERRY_PI_4B")
    monkeypatch.delenv("BLINKA_OS_AGNOSTIC", raising=False)
    # The stand-in is a Python, which may take long to start, unlike the program that it stands for.
    monkeypatch.setattr(dht_process, "MEASURE_S", PATIENCE_S)
    monkeypatch.setattr(dht_process, "START_S", PATIENCE_S)
    monkeypatch.setattr(dht_process, "_END_S", PATIENCE_S)
    children: list[RememberedChild] = []

    def make() -> RememberedChild:
        children.append(RememberedChild())
        return children[-1]

    monkeypatch.setattr(dht_process, "DhtChild", make)
    yield make()
    for each in children:
        each._end()


@pytest.fixture
def sensor(child):
    return DhtProcess("DHT22", 4, child)


def message_queues(*pids: int) -> set[str]:
    """Those through which one of `pids` has spoken: others may use some at the same time."""
    lines = Path("/proc/sysvipc/msg").read_text().splitlines()
    rows = [dict(zip(lines[0].split(), line.split(), strict=True)) for line in lines[1:]]
    return {row["msqid"] for row in rows if {int(row["lspid"]), int(row["lrpid"])} & {*pids}}


def is_read(sensor: DhtProcess) -> bool:
    sensor.measure()
    return decode_frame("DHT22", bytes(sensor.frame)) == (-7.3, 55.5)


def test_a_frame_comes_from_the_child_and_the_child_stays(child, sensor):
    assert is_read(sensor)
    assert is_read(sensor)
    assert len(child.started) == 1
    assert child.started[0].poll() is None


def test_six_sensors_share_a_child_and_take_turns(child, tmp_path):
    """Each from a thread of its own, as the node reads them."""
    sensors = [DhtProcess("DHT22", pin, child) for pin in (4, 17, 22, 23, 24, 27)]
    threads = [threading.Thread(target=sensor.measure) for sensor in sensors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(decode_frame("DHT22", bytes(sensor.frame)) == (-7.3, 55.5) for sensor in sensors)
    assert len(child.started) == 1
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len(log) == 12
    for begin, end in zip(log[::2], log[1::2], strict=True):
        assert (begin[0], end) == ("begin", ["end", begin[1]]), "never two at a time"


def test_the_child_ends_with_its_last_sensor(child, sensor):
    other = DhtProcess("DHT22", 17, child)
    assert is_read(sensor)
    assert is_read(other)
    sensor.exit()
    assert child.started[0].poll() is None
    assert is_read(other)
    other.exit()
    assert child.started[0].poll() is not None
    assert is_read(sensor), "and starts again"
    assert len(child.started) == 2


def test_a_helper_that_dies_costs_one_reading_and_not_the_sensor(child, sensor, monkeypatch):
    """PulseIn waits in msgrcv for ever (Blinka issue 210); nothing of it is left behind."""
    monkeypatch.setenv("PULSEIN_MODE", "die 4")
    child._ready()
    with monkeypatch.context() as as_shipped:
        as_shipped.setattr(dht_process, "MEASURE_S", MEASURE_S)
        with pytest.raises(SensorTimeout, match="hung for 3 s, and was ended"):
            sensor.measure()
    assert sensor.frame == bytearray()
    assert not child.message_queues()
    monkeypatch.delenv("PULSEIN_MODE")
    assert is_read(sensor)
    assert len(child.started) == 2, "a child of its own is for one that has neighbours"


def test_a_sensor_that_hangs_holds_up_its_neighbours_once(child, sensor, monkeypatch):
    """From then on it hangs in a child of its own, which ends when it answers again."""
    other = DhtProcess("DHT22", 17, child)
    assert is_read(other)
    child._end()
    monkeypatch.setenv("PULSEIN_MODE", "die 4")
    child._ready()
    with monkeypatch.context() as impatient:
        impatient.setattr(dht_process, "MEASURE_S", 0.5)
        with pytest.raises(SensorTimeout, match="hung"):
            sensor.measure()
    failures: list[SensorTimeout] = []

    def hang() -> None:
        try:
            sensor.measure()
        except SensorTimeout as error:
            failures.append(error)

    hanging = threading.Thread(target=hang)
    hanging.start()
    own = sensor._child
    wait_until(own.message_queues, what="it waits for its helper")
    assert is_read(other)
    assert hanging.is_alive()
    own.started[0].kill()
    hanging.join()
    assert "has died" in failures[0].what
    monkeypatch.delenv("PULSEIN_MODE")
    assert is_read(sensor)
    assert own.started[-1].poll() is not None
    assert sensor._child is child


def test_the_library_alone_would_wait_for_ever(child, sensor, monkeypatch):
    """Negative control of the tests above: the child does not come back by itself."""
    monkeypatch.setattr(dht_process, "MEASURE_S", 5.0)
    monkeypatch.setenv("PULSEIN_MODE", "die 4")
    child._ready()
    with pytest.raises(SensorTimeout, match="hung for 5 s"):
        sensor.measure()


def test_a_child_that_is_killed_is_replaced(child, sensor):
    """Between two measurements, when it holds no message queue."""
    other = DhtProcess("DHT22", 17, child)
    assert is_read(sensor)
    wait_until(lambda: not child.message_queues())
    child.started[0].kill()
    child.started[0].wait()
    with pytest.raises(SensorTimeout, match="has died"):
        sensor.measure()
    assert is_read(other)
    assert is_read(sensor)
    assert len(child.started) == 2


def test_a_child_that_is_killed_in_a_capture_leaves_nothing_behind(child, sensor, monkeypatch):
    """kill -9, as the kernel does without memory: its queue outlives it."""
    monkeypatch.setenv("PULSEIN_MODE", "die 4")
    errors: list[SensorTimeout] = []

    def measure() -> None:
        try:
            sensor.measure()
        except SensorTimeout as error:
            errors.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    wait_until(child.message_queues, what="it waits for its helper")
    child.started[0].kill()
    thread.join()
    assert [error.what for error in errors] == ["the capture has died"]
    assert not child.message_queues()
    monkeypatch.delenv("PULSEIN_MODE")
    assert is_read(sensor)


def test_a_child_that_is_frozen_is_replaced(child, sensor, monkeypatch):
    """SIGSTOP: it is let go on, so that it can remove its queue, and ended."""
    assert is_read(sensor)
    os.kill(child.started[0].pid, signal.SIGSTOP)
    with monkeypatch.context() as impatient:
        impatient.setattr(dht_process, "MEASURE_S", 0.5)
        with pytest.raises(SensorTimeout, match=r"hung for 0\.5 s, and was ended"):
            sensor.measure()
    assert child.started[0].poll() == 0, "it has ended by itself"
    assert not child.message_queues()
    assert is_read(sensor)


def test_a_child_that_starts_slowly_is_waited_for_and_not_started_again(
    child, sensor, monkeypatch, tmp_path
):
    """Or a busy computer would never have one."""
    monkeypatch.setenv("PULSEIN_GATE", str(tmp_path / "gate"))
    monkeypatch.setattr(dht_process, "START_S", 0.05)
    for _ in range(3):
        with pytest.raises(NotAsked, match="the capture has not started within"):
            sensor.measure()
    (tmp_path / "gate").touch()
    monkeypatch.setattr(dht_process, "START_S", PATIENCE_S)
    assert is_read(sensor)
    assert len(child.started) == 1


@pytest.mark.real_time(seconds=20)
def test_a_child_that_never_starts_is_replaced_in_the_end(child, sensor, monkeypatch, tmp_path):
    monkeypatch.setenv("PULSEIN_GATE", str(tmp_path / "gate"))
    monkeypatch.setattr(dht_process, "START_S", 0.05)
    monkeypatch.setattr(dht_process, "FROZEN_S", 0.05)
    with pytest.raises(NotAsked):
        sensor.measure()
    assert child.started[0].poll() is not None
    monkeypatch.delenv("PULSEIN_GATE")
    monkeypatch.setattr(dht_process, "START_S", PATIENCE_S)
    assert is_read(sensor)


def test_a_turn_that_does_not_come_is_an_error_and_asks_nothing(child, sensor, monkeypatch):
    monkeypatch.setattr(dht_process, "TURN_S", 0.05)
    with child._turn, pytest.raises(NotAsked, match="the other DHTs have been read for"):
        sensor.measure()
    assert not child.started
    assert is_read(sensor)


def test_the_time_until_its_turn_is_not_counted_as_the_sensors(child, sensor):
    """The pause between two triggers begins when the sensor is asked."""
    assert sensor.measure() > 0, "the start of the child"
    child._turn.acquire()
    waits: list[float] = []
    thread = threading.Thread(target=lambda: waits.append(sensor.measure()))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    child._turn.release()
    thread.join()
    assert waits[0] >= 0.2


def test_a_reading_has_time_for_whatever_the_child_does():
    """It waits for its turn, the child has to start, and hangs. The others wait that long, too."""
    hang_s = dht_process.MEASURE_S + dht_process._END_S
    assert hang_s + dht_process.START_S <= dht_process.TURN_S
    assert dht_process.TURN_S + dht_process.START_S + hang_s == dht._CHILD_S
    whole_s = dht._ATTEMPTS_S + dht._PATIENCE_S + dht._CHILD_S
    assert DHT22.read_budget_s == whole_s


def test_a_pin_that_is_taken_is_named_before_anything_hangs(child, sensor, monkeypatch):
    monkeypatch.setenv("PULSEIN_MODE", "busy")
    with pytest.raises(PinInUse, match='GPIO 4 is in use: the kernel knows its user as "lirc"'):
        sensor.measure()
    assert child.started[0].poll() is None


def test_a_helper_that_is_slow_to_start_is_not_missing(sensor, monkeypatch):
    """PulseIn gives it 0.25 s, and then advises to install libgpiod."""
    monkeypatch.setenv("PULSEIN_MODE", "slow")
    with pytest.raises(NotAsked, match=r"not ready within 0\.25 s; the computer is too busy"):
        sensor.measure()


def test_a_helper_that_cannot_run_is_missing(sensor, monkeypatch):
    monkeypatch.setenv("PULSEIN_MODE", "cannot run")
    with pytest.raises(MissingSupport, match="its helper program has ended with status 5"):
        sensor.measure()


def has_ended(process: Path) -> bool:
    """Gone from /proc, or a zombie that nobody has waited for."""
    return not process.exists() or (process / "stat").read_text().split()[2] == "Z"


@pytest.mark.usefixtures("child")
def test_the_child_ends_with_its_parent_even_from_a_hang():
    """kill -9 of the node: the pipe ends, and with it the child, its helper and its queue."""
    script = (
        "import sys; from drivers.dht_process import DhtChild, DhtProcess\n"
        "child = DhtChild()\n"
        "print(child._ready().pid, flush=True)\n"
        "DhtProcess('DHT22', 4, child).measure()\n"
    )
    env = {**os.environ, "PULSEIN_MODE": "die 4"}
    parent = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())

    wait_until(lambda: message_queues(pid), what="it is waiting for its helper")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: has_ended(Path(f"/proc/{pid}")), what="the child is gone")
    assert not message_queues(pid)


def test_what_the_library_says_reaches_the_parent(child, sensor, monkeypatch):
    monkeypatch.setenv("PULSEIN_PULSES", "")
    with pytest.raises(SensorNotFound, match="no answer"):
        sensor.measure()
    child._end()
    monkeypatch.setenv("PULSEIN_PULSES", "80,80,50,26,50,70,50,26,50,70,50,26,50,70")
    with pytest.raises(BadFrame, match="edges are missing"):
        sensor.measure()


def test_on_a_laptop_the_child_says_what_is_missing():
    sensor = DhtProcess("DHT22", 4)
    with pytest.raises(MissingSupport, match="--simulate"):
        sensor.measure()
    sensor.exit()


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
