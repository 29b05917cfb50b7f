"""What a broker and a subscriber bear of a fleet in good times: rates, views, and the limit."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from fleet_processes import (
    QUEUE,
    Broker,
    Reporting,
    Spent,
    listener,
    load,
    read_counters,
    started,
    total,
    wait_for,
)

__all__ = ["limit", "rates", "views"]

Row = dict[str, float | str]
EVERYTHING = "sensors/#"
_PROCESSES = 4


@contextlib.contextmanager
def fleet(
    broker: Broker,
    nodes: int,
    interval_s: float,
    ca: Path | None = None,
    spread_s: float = 5.0,
) -> Iterator[list[Reporting]]:
    """So many nodes, all of them online."""
    with load(
        broker.port,
        nodes=nodes,
        processes=_PROCESSES,
        interval_s=interval_s,
        spread_s=spread_s,
        ca=ca,
    ) as running:
        wait_for(lambda: total(running, "online") == nodes, 60, f"{nodes} nodes online")
        time.sleep(3)
        yield running


def rates(
    say: Callable[[str], None], nodes: int, seconds: float, intervals_s: Sequence[float]
) -> list[Row]:
    """Five sensors a node at each of these intervals; one subscriber to everything."""
    say(f"{nodes} nodes, 5 sensors each; one subscriber (paho) to {EVERYTHING}; % of one processor")
    say(
        f"{'interval':>9}{'msg/s':>8}{'kB/s':>7}{'broker':>8}{'us/msg':>8}{'RSS MB':>8}"
        f"{'PUBACK ms p50/p99':>19}{'subscriber':>12}{'lag ms p50/p99':>17}"
        f"{'missing':>9}{'dropped':>9}"
        f"{'load':>7}{'late p99':>10}"
    )
    rows = []
    for interval_s in intervals_s:
        with (
            started(*QUEUE) as broker,
            listener(broker.port, EVERYTHING) as subscriber,
            fleet(broker, nodes, interval_s) as running,
        ):
            rows.append(_rate(broker, subscriber, running, interval_s, seconds))
        say(_rate_text(rows[-1]))
    return rows


def _rate(
    broker: Broker,
    subscriber: Reporting,
    running: list[Reporting],
    interval_s: float,
    seconds: float,
) -> Row:
    time.sleep(interval_s)  # for a gap of what every node says on connecting to show
    for process in (*running, subscriber):
        process.begin()
    dropped = broker.dropped()
    spent = Spent(broker=broker.pid, subscriber=subscriber.pid, load=[p.pid for p in running])
    before = [total(running, name) for name in ("acknowledged", "bytes")]
    missing = subscriber["missing"]
    began_s = time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began_s
    shares = spent.shares()
    messages, kilobytes = (
        (total(running, name) - was) / took_s
        for name, was in zip(("acknowledged", "bytes"), before, strict=True)
    )
    worst = max(running, key=lambda p: p.histogram("acknowledgement").quantile_ms(0.99))
    return {
        "interval_s": interval_s,
        "messages_per_s": messages,
        "kb_per_s": kilobytes / 1000,
        "broker_cpu": shares["broker"],
        "broker_us_per_message": shares["broker"] / messages * 1e6,
        "broker_rss_mb": read_counters(broker.pid).rss_kb / 1024,
        "puback_p50_ms": worst.histogram("acknowledgement").quantile_ms(0.5),
        "puback_p99_ms": worst.histogram("acknowledgement").quantile_ms(0.99),
        "subscriber_cpu": shares["subscriber"],
        "lag_p50_ms": subscriber.histogram("lag").quantile_ms(0.5),
        "lag_p99_ms": subscriber.histogram("lag").quantile_ms(0.99),
        "missing": subscriber["missing"] - missing,
        "dropped": broker.dropped() - dropped,
        "load_cpu": shares["load"],
        "load_late_p99_ms": max(p.histogram("lateness").quantile_ms(0.99) for p in running),
    }


def _rate_text(row: Row) -> str:
    n = {key: float(value) for key, value in row.items()}
    return (
        f"{n['interval_s']:>7g} s{n['messages_per_s']:>8.0f}{n['kb_per_s']:>7.0f}"
        f"{n['broker_cpu']:>8.1%}{n['broker_us_per_message']:>8.0f}{n['broker_rss_mb']:>8.1f}"
        f"{n['puback_p50_ms']:>11.1f}{n['puback_p99_ms']:>8.1f}{n['subscriber_cpu']:>12.1%}"
        f"{n['lag_p50_ms']:>9.1f}{n['lag_p99_ms']:>8.1f}{n['missing']:>9.0f}{n['dropped']:>9.0f}"
        f"{n['load_cpu']:>7.1%}{n['load_late_p99_ms']:>10.1f}"
    )


def views(say: Callable[[str], None], nodes: int, seconds: float) -> list[Row]:
    """`sensor-node watch` with the whole fleet at 10 s: as JSON, and as a live table."""
    say(f"sensor-node watch, {nodes} nodes, 5 sensors each every 10 s")
    rows: list[Row] = []
    for name, watch in (("--json", _watch_json), ("live table, 80x24", _watch_table)):
        with started() as broker, fleet(broker, nodes, 10.0) as running:
            row = watch(broker, running, seconds)
        rows.append({"view": name, **row})
        told = ", ".join(f"{key} {value:.3g}" for key, value in row.items())
        say(f"  {name}: {told}")
    return rows


def _watch_command(broker: Broker) -> list[str]:
    program = str(Path(sys.executable).with_name("sensor-node"))
    return [program, "watch", "--host", "127.0.0.1", "--port", str(broker.port)]


def _figures(
    broker: Broker, running: list[Reporting], pid: int, seconds: float
) -> dict[str, float]:
    time.sleep(5)  # what is retained comes first
    dropped = broker.dropped()
    spent = Spent(watch=pid, broker=broker.pid)
    before = total(running, "acknowledged")
    time.sleep(seconds)
    return {
        "messages/s": (total(running, "acknowledged") - before) / seconds,
        "CPU": spent.shares()["watch"],
        "RSS MB": read_counters(pid).rss_kb / 1024,
        "dropped": broker.dropped() - dropped,
    }


def _watch_json(broker: Broker, running: list[Reporting], seconds: float) -> dict[str, float]:
    file = broker.store.with_name("watch.jsonl")
    with file.open("wb") as stream:
        watch = subprocess.Popen([*_watch_command(broker), "--json"], stdout=stream)
        figures = _figures(broker, running, watch.pid, seconds)
        watch.terminate()
        watch.wait()
    lags = []
    for line in file.read_text().splitlines():
        message = json.loads(line)
        if message["topic"].endswith("/state") and not message["retained"]:
            shown, taken = message["time"], message["payload"]["time"]
            passed = datetime.fromisoformat(shown) - datetime.fromisoformat(taken)
            lags.append(passed.total_seconds() * 1000)
    lags.sort()
    figures["lag p50 ms"] = statistics.median(lags)
    figures["lag p99 ms"] = lags[len(lags) * 99 // 100]
    return figures


def _watch_table(broker: Broker, running: list[Reporting], seconds: float) -> dict[str, float]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    watch = subprocess.Popen(
        _watch_command(broker), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = 0

    def drain() -> None:
        nonlocal shown
        with contextlib.suppress(OSError):
            while received := os.read(ours, 65_536):
                shown += len(received)

    threading.Thread(target=drain, daemon=True).start()
    figures = _figures(broker, running, watch.pid, seconds)
    watch.terminate()
    watch.wait()
    figures["kB shown"] = shown / 1000
    return figures


def limit(say: Callable[[str], None], seconds: float) -> list[Row]:
    """States as fast as a node's window lets them, from 100 connections; then with subscribers."""
    say("the limit: states from 100 connections, encoded beforehand; subscribers are mosquitto_sub")
    rows: list[Row] = []
    for subscribers, rate in ((0, 0), *((1, rate) for rate in (5, 10, 20, 30, 40, 50))):
        row = _flooded(subscribers, rate * 1000, seconds)
        rows.append(row)
        say(
            f"  subscribers {subscribers}, asked {rate or 'all'}"
            f"{' 000' if rate else ''}/s: {row['messages_per_s']:.0f}/s, "
            f"broker {row['broker_cpu']:.0%} ({row['broker_us_per_message']:.1f} us/msg), "
            f"dropped {row['dropped']:.0f}, flood {row['flood_cpu']:.0%}"
        )
        if subscribers and float(row["messages_per_s"]) < 900 * rate:
            break
    return rows


def _flooded(subscribers: int, rate: int, seconds: float) -> Row:
    with started() as broker, contextlib.ExitStack() as stack:
        command = ["mosquitto_sub", "-V", "5", "-q", "1", "-p", str(broker.port), "-F", ""]
        for _ in range(subscribers):
            process = subprocess.Popen([*command, "-t", EVERYTHING], stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        script = str(Path(__file__).with_name("fleet_flood.py"))
        flood = Reporting([sys.executable, script, str(broker.port), "100", str(rate)])
        stack.callback(flood.end)
        wait_for(lambda: flood["acknowledged"] > 0, 30, "the flood")
        time.sleep(2)
        dropped, before = broker.dropped(), flood["acknowledged"]
        spent = Spent(broker=broker.pid, flood=flood.pid)
        began_s = time.monotonic()
        time.sleep(seconds)
        messages = (flood["acknowledged"] - before) / (time.monotonic() - began_s)
        shares = spent.shares()
        return {
            "subscribers": subscribers,
            "messages_per_s": messages,
            "broker_cpu": shares["broker"],
            "broker_us_per_message": shares["broker"] / messages * 1e6,
            "flood_cpu": shares["flood"],
            "dropped": broker.dropped() - dropped,
        }
