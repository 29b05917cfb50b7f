"""What the status page costs: its start, its first page, its memory, and its sleep.

    tests/.venv/bin/python tests/bench/web.py [--quick]

On a log of two days of ten sensors at 30 s, and on one with ten times the readings: what a page
costs must not grow with them. Figures are medians, over a loopback socket, of this machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from process_meter import read_counters
from web_log import make_log
from web_support import WebProcess

__all__ = ["main"]

ONE = (("temperature",), ("°C",))
_PAGES = ("/", "/?span=day", "/?span=2days", "/sensor/s0", "/api/v1/now", "/metrics")
_TIMES = 30


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="without the thousand sensors")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sensor-node-bench-") as name:
        folder = Path(name)
        made = {
            "10 sensors, 30 s": make(folder / "a", sensors=10, interval_s=30),
            "10 sensors, 3 s": make(folder / "b", sensors=10, interval_s=3),
        }
        if not arguments.quick:
            made["1000 sensors, 5 min"] = make(folder / "c", sensors=1000, interval_s=300)
        for title, state in made.items():
            measure(title, state)
    return 0


def make(folder: Path, *, sensors: int, interval_s: float) -> Path:
    make_log(folder, sensors=sensors, hours=48, interval_s=interval_s, layout=ONE)
    return folder


def measure(title: str, state: Path) -> None:
    firsts, starts, scans = [], [], []
    web = None
    for _ in range(3):
        if web is not None:
            web.kill()
        began_s = time.monotonic()
        web = WebProcess(state)
        starts.append(time.monotonic() - began_s)
        firsts.append(timed(web, "/"))
        scans.append(read_counters(web.process.pid).cpu_s)
    assert web is not None
    readings = web.get("/api/v1/node").json["last_seq"]
    print(f"\n{title}, two days: {readings:,} readings in the log")
    print(f"  start, until it listens          {ms(starts)}, of processor time {ms(scans)}")
    print(f"  first page of a new process      {ms(firsts)}")
    for path in _PAGES:
        before = read_counters(web.process.pid).cpu_s
        times = [timed(web, path) for _ in range(_TIMES)]
        cpu_s = (read_counters(web.process.pid).cpu_s - before) / _TIMES
        size = len(web.get(path).body) / 1000
        print(f"  {path:32} {ms(times)}, CPU {cpu_s * 1000:5.1f} ms, {size:6.1f} kB")
    counters = read_counters(web.process.pid)
    print(f"  memory                           RSS {counters.rss_kb / 1024:.1f} MB")
    time.sleep(2)
    before_idle, began_s = read_counters(web.process.pid), time.monotonic()
    time.sleep(20)
    after, passed_s = read_counters(web.process.pid), time.monotonic() - began_s
    wakeups = (after.wakeups - before_idle.wakeups) / passed_s
    busy = (after.cpu_s - before_idle.cpu_s) / passed_s
    print(f"  idle                             {wakeups:.2f} wake-ups a second, CPU {busy:.3%}")
    web.kill()


def timed(web: WebProcess, path: str) -> float:
    began_s = time.monotonic()
    assert web.get(path).code == 200
    return time.monotonic() - began_s


def ms(times_s: list[float]) -> str:
    return f"{statistics.median(times_s) * 1000:7.1f} ms"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
