"""What growth.py measures: the node with more sensors, with a longer backlog, with a longer log."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contest import Contest, Workshop, open_contest
from peers import Node
from process_meter import cpu_s, read_counters
from scenarios.card import on_cards
from web_support import WebProcess
from window import Figures, observe

from node.config.schema import OutboxTable
from node.outbox.outbox import Outbox
from node.reading import Layout
from node.system.clock import SystemClock

__all__ = ["backlog", "fill", "page_and_status", "sensors"]

_INTERVAL_S = 10.0
_PROGRAM = str(Path(sys.executable).with_name("sensor-node"))
_PAGES = {"/": "page", "/?span=2days": "two_days", "/api/v1/now": "now", "/metrics": "metrics"}
_PATIENCE_S = 240.0
_COUNTED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
"""Run a program; its highest RSS counts from that of its parent, so that is a small one."""


def sensors(workshop: Workshop, count: int, slices: int, slice_s: float) -> Figures:
    """Return what a node with so many sensors every ten seconds costs."""
    with open_contest(workshop, count, _INTERVAL_S) as contest, on_cards(workshop, contest) as card:
        process = contest.start("node")
        contest.drop_the_late(30 + 0.05 * count)
        figures: Figures = {"start_cpu_s": [cpu_s(process.pid)]}
        time.sleep(_INTERVAL_S)
        written, began_s = card["node"].written_bytes(), time.monotonic()
        for _ in range(slices):
            one = observe(contest, 1, slice_s)["node"]
            before, written = written, card["node"].written_bytes()
            before_s, began_s = began_s, time.monotonic()
            one["written_bytes_per_s"] = [(written - before) / (began_s - before_s)]
            per_s = one["readings"][0] / slice_s
            one["written_bytes_per_reading"] = [one["written_bytes_per_s"][0] / per_s]
            for metric, samples in one.items():
                figures.setdefault(metric, []).extend(samples)
        return figures


def backlog(workshop: Workshop, hours: float, rates: dict[str, int], rounds: int) -> Figures:
    """Return how ten sensors' readings of so many hours are sent when the broker is back.

    `rates`: name -> `drain_rate`; the metrics are named `METRIC@NAME`.
    """
    filled = workshop.memory / "filled"
    readings = fill(filled, sensors=10, readings=round(hours * 36000 / _INTERVAL_S), hours=hours)
    figures: Figures = {"readings": [float(readings)]}
    for _ in range(rounds):
        for name, rate in rates.items():
            for metric, value in _drain(workshop, filled, readings, rate).items():
                figures.setdefault(f"{metric}@{name}", []).append(value)
    shutil.rmtree(filled)
    return figures


def _drain(workshop: Workshop, filled: Path, readings: int, rate: int) -> dict[str, float]:
    with (
        open_contest(workshop, 10, _INTERVAL_S, session=True) as contest,
        on_cards(workshop, contest) as cards,
    ):
        contest.broker.stop()
        job, node = contest.jobs["node"], contest.peers["node"]
        assert isinstance(node, Node)
        shutil.copytree(filled, job.folder / "state")
        command = node.command(job)
        with (job.folder / "node.toml").open("a") as config:
            config.write(f"[outbox]\ndrain_rate = {rate}\n")
        process = contest.start("node", command)
        while contest.files["node"].made() < 2 * contest.sensors:
            time.sleep(0.1)
        before, written = read_counters(process.pid), cards["node"].written_bytes()
        contest.broker.start()
        highest_kb = _until_drained(contest, process.pid, readings)
        after = read_counters(process.pid)
        history = _history(contest)
        size = cards["node"].written_bytes() - written
        took_s = history[-1][0] - history[0][0]
        return {
            "drain_s": took_s,
            "messages_per_s": (len(history) - 1) / took_s,
            "readings_per_s": sum(count for _, count in history[1:]) / took_s,
            "cpu_us_per_reading": (after.cpu_s - before.cpu_s) * 1e6 / readings,
            "waiting_mb": before.rss_kb / 1024,
            "draining_mb": highest_kb / 1024,
            "written_kb": size / 1000,
        }


def _until_drained(contest: Contest, pid: int, readings: int) -> int:
    """Wait until the subscriber has all readings of the backlog; return the highest RSS, in kB."""
    highest_kb = 0
    deadline_s = time.monotonic() + _PATIENCE_S
    while sum(count for _, count in _history(contest)) < readings:
        if time.monotonic() > deadline_s:
            raise RuntimeError("the node does not send its log")
        highest_kb = max(highest_kb, read_counters(pid).rss_kb)
        time.sleep(0.1)
    return highest_kb


def _history(contest: Contest) -> list[tuple[float, int]]:
    """Return when each message of history came, and with how many readings."""
    return [
        (message.at_s, message.payload.count(b'"seq"'))
        for message in list(contest.subscriber.messages)
        if message.topic.endswith("/history")
    ]


class _Yesterday(SystemClock):
    """The clock of an earlier boot, so that readings may be older than this one."""

    def __init__(self) -> None:
        super().__init__()
        self.boot_id = "00000000-0000-4000-8000-000000000000"


def fill(
    folder: Path, *, sensors: int, readings: int, hours: float, acknowledged: bool = False
) -> int:
    """Commit readings of the last hours to a log, as the node does; return how many."""
    clock = _Yesterday()
    outbox = Outbox(folder, OutboxTable(), clock)
    layouts = [Layout(f"s{n}", ("temperature",), ("°C",)) for n in range(sensors)]
    ticks = readings // sensors
    for tick in range(ticks, 0, -1):
        age_s = hours * 3600 * tick / ticks
        boot_s, utc_s = hours * 3600 - age_s, clock.utc_s() - age_s
        for n, layout in enumerate(layouts):
            value = (20.0 + n % 10 + tick % 50 / 10,)
            outbox.append(layout, value, boot_s=boot_s, utc_s=utc_s, synced=True)
        outbox.commit()
    if acknowledged:
        outbox.acknowledge(1, outbox.last_seq)
    outbox.close()
    return outbox.last_seq


def page_and_status(folder: Path, sensors: int, readings: int, rounds: int) -> Figures:
    """Return what `sensor-node status` and the page cost on a log of so many readings."""
    fill(folder, sensors=sensors, readings=readings, hours=48, acknowledged=True)
    file = folder / "outbox.db"
    figures: Figures = {"log_mb": [file.stat().st_size / 1e6]}
    for _ in range(rounds):
        for metric, value in {**_status(folder), **_page(folder)}.items():
            figures.setdefault(metric, []).append(value)
    shutil.rmtree(folder)
    return figures


def _status(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", _COUNTED, _PROGRAM, "status", "--state-dir", str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent_s, highest_kb = map(float, said.split())
    return {"status_cpu_s": spent_s, "status_rss_mb": highest_kb / 1024}


def _page(folder: Path) -> dict[str, float]:
    web = WebProcess(folder, folder=folder.parent)
    try:
        pid = web.process.pid
        began_s = time.monotonic()
        assert web.get("/").code == 200
        figures = {"first_page_s": time.monotonic() - began_s, "first_page_cpu_s": cpu_s(pid)}
        for path, name in _PAGES.items():
            figures[f"{name}_cpu_ms"] = _cpu_ms_of(web, path, 5)
        figures["web_mb"] = read_counters(pid).rss_kb / 1024
        return figures
    finally:
        web.kill()


def _cpu_ms_of(web: WebProcess, path: str, times: int) -> float:
    costs = []
    for _ in range(times):
        before_s = cpu_s(web.process.pid)
        assert web.get(path).code == 200
        costs.append((cpu_s(web.process.pid) - before_s) * 1000)
    return statistics.median(costs)
