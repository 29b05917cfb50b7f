"""What a broker and a subscriber bear of a fleet in bad times: storms, wills, slow subscribers."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fleet_processes import (
    QUEUE,
    Broker,
    Reporting,
    Spent,
    connections,
    listener,
    load,
    read_counters,
    started,
    total,
    wait_for,
)
from fleet_rates import EVERYTHING, Row, fleet

__all__ = ["open_files", "slow", "spread", "storm", "tls", "wills"]

_HISTORY = "sensors/+/history"
_MINUTE_S = 65.0


def storm(say: Callable[[str], None], nodes: int) -> list[Row]:
    """The broker is restarted, or away for half a minute; the subscriber's session lasts."""
    say(f"the broker is restarted: {nodes} nodes at 10 s; a subscriber whose session lasts")
    rows: list[Row] = []
    for away_s, how, lines in (
        (0.0, signal.SIGTERM, QUEUE),
        (30.0, signal.SIGTERM, QUEUE),
        (30.0, signal.SIGTERM, ()),
        (30.0, signal.SIGKILL, QUEUE),
    ):
        with (
            started(*lines) as broker,
            listener(broker.port, EVERYTHING) as subscriber,
            fleet(broker, nodes, 10.0) as running,
        ):
            time.sleep(10)
            row = _storm(broker, subscriber, running, nodes, away_s, how)
        rows.append({**row, "queue": 20_000 if lines else 1_000})
        say("  " + ", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    return rows


def _storm(
    broker: Broker,
    subscriber: Reporting,
    running: list[Reporting],
    nodes: int,
    away_s: float,
    how: signal.Signals,
) -> Row:
    lost = subscriber["history_missing"]
    again = subscriber["again"]
    attempts, losses = total(running, "attempts"), total(running, "losses")
    broker.end(how)
    store = broker.store.stat().st_size if broker.store.exists() else 0
    time.sleep(away_s)
    began_s = time.monotonic()
    broker.start()
    busiest = 0.0
    marks: dict[int, float] = {}
    while 100 not in marks and time.monotonic() - began_s < _MINUTE_S:
        spent = Spent(broker=broker.pid)
        time.sleep(0.1)
        busiest = max(busiest, spent.shares()["broker"])
        # They report once a second: before all have noticed the end, none is counted.
        noticed = total(running, "losses") - losses >= nodes
        online = total(running, "online") if noticed else 0
        for share in (50, 90, 100):
            if online >= nodes * share / 100:
                marks.setdefault(share, time.monotonic() - began_s)
    cpu_s = read_counters(broker.pid).cpu_s
    time.sleep(_MINUTE_S)  # a gap shows when the node's next history has come
    return {
        "away_s": away_s,
        "ended_by": how.name,
        "half_online_s": round(marks.get(50, 0.0), 1),
        "most_online_s": round(marks.get(90, 0.0), 1),
        "all_online_s": round(marks.get(100, 0.0), 1),
        "busiest_0.1_s": f"{busiest:.0%}",
        "broker_cpu_s": round(cpu_s, 2),
        "attempts_a_node": round((total(running, "attempts") - attempts) / nodes, 1),
        "store_mb": round(store / 1e6, 1),
        "readings_missing": subscriber["history_missing"] - lost,
        "readings_again": subscriber["again"] - again,
    }


def spread(say: Callable[[str], None], nodes: int) -> list[Row]:
    """The broker is restarted, or away for half a minute; the nodes have other spreads."""
    say(f"[mqtt] reconnect_spread: {nodes} nodes at 30 s; the broker is restarted")
    rows: list[Row] = []
    for spread_s, away_s in ((5.0, 0.0), (5.0, 30.0), (60.0, 0.0), (60.0, 30.0)):
        with started() as broker, fleet(broker, nodes, 30.0, spread_s=spread_s) as running:
            losses = total(running, "losses")
            broker.end()
            time.sleep(away_s)
            began_s = time.monotonic()
            broker.start()
            wait_for(lambda: _are_back(running, losses, nodes), spread_s + 60, "all nodes online")  # noqa: B023
            time.sleep(1.5)  # they report once a second
            counts = connections(running, began_s)
            cpu_s = read_counters(broker.pid).cpu_s
        row: Row = {
            "spread_s": spread_s,
            "away_s": away_s,
            "all_online_s": _seconds_until(counts, nodes),
            "half_online_s": _seconds_until(counts, nodes / 2),
            "most_in_a_second": max(counts),
            "broker_cpu_s": round(cpu_s, 2),
        }
        rows.append(row)
        say("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    return rows


def _are_back(running: list[Reporting], losses: int, nodes: int) -> bool:
    return total(running, "losses") - losses >= nodes and total(running, "online") == nodes


def _seconds_until(counts: list[int], wanted: float) -> int:
    """In which second, counted from 1, the last of so many nodes was accepted."""
    so_far = itertools.accumulate(counts)
    return next(number for number, count in enumerate(so_far, start=1) if count >= wanted)


def wills(say: Callable[[str], None], nodes: int) -> list[Row]:
    """A quarter of the nodes dies at once."""
    say(f"{nodes // 4} of {nodes} nodes die at once (kill -9), at 10 s; their wills")
    with (
        started() as broker,
        listener(broker.port, EVERYTHING) as subscriber,
        fleet(broker, nodes, 10.0) as running,
    ):
        before = subscriber["offline"]
        spent = Spent(broker=broker.pid, subscriber=subscriber.pid)
        running[0].end(signal.SIGKILL)
        took_s = wait_for(
            lambda: subscriber["offline"] - before >= nodes // 4, 30, "the wills of all of them"
        )
        seconds = spent.seconds()
    row: Row = {
        "wills": nodes // 4,
        "within_s": round(took_s, 2),
        "broker_cpu_ms": round(seconds["broker"] * 1000),
        "subscriber_cpu_ms": round(seconds["subscriber"] * 1000),
    }
    say("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    return [row]


def slow(say: Callable[[str], None], nodes: int, seconds: float) -> list[Row]:
    """A subscriber that takes its time with each message."""
    say(f"a subscriber that needs 4 ms for each message; {nodes} nodes at 10 s")
    rows: list[Row] = []
    for what, topics, subscribers, lines in (
        ("everything, mosquitto's own queue", EVERYTHING, 1, ()),
        ("everything, the queue of deploy/", EVERYTHING, 1, QUEUE),
        ("history alone", _HISTORY, 1, ()),
        ("everything, shared by 4", f"$share/fleet/{EVERYTHING}", 4, ()),
    ):
        with started(*lines) as broker, contextlib.ExitStack() as stack:
            listeners = [
                stack.enter_context(listener(broker.port, topics, work_ms=4))
                for _ in range(subscribers)
            ]
            running = stack.enter_context(fleet(broker, nodes, 10.0))
            time.sleep(20)  # for what every node says on connecting
            for one in listeners:
                one.begin()
            dropped, heard = broker.dropped(), total(listeners, "messages")
            sent = total(running, "acknowledged")
            time.sleep(seconds)
            row: Row = {
                "subscription": what,
                "published_per_s": round((total(running, "acknowledged") - sent) / seconds),
                "heard_per_s": round((total(listeners, "messages") - heard) / seconds),
                "dropped_per_s": round((broker.dropped() - dropped) / seconds),
                "lag_p99_ms": round(max(o.histogram("lag").quantile_ms(0.99) for o in listeners)),
                "broker_rss_mb": round(read_counters(broker.pid).rss_kb / 1024, 1),
            }
        rows.append(row)
        say("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    return rows


def tls(say: Callable[[str], None], nodes: int) -> list[Row]:
    """The same storm with TLS, and what a connection takes; certificates of ECDSA P-256."""
    say(f"with TLS: {nodes} nodes at 10 s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_certificate(folder)
        lines = (
            "listener {port} 127.0.0.1",
            f"certfile {folder}/server.crt",
            f"keyfile {folder}/server.key",
        )
        with started(*lines) as broker, fleet(broker, nodes, 10.0, folder / "ca.crt") as running:
            rss_mb = read_counters(broker.pid).rss_kb / 1024
            spent = Spent(broker=broker.pid)
            before = total(running, "acknowledged")
            time.sleep(10)
            messages = total(running, "acknowledged") - before
            us_per_message = spent.seconds()["broker"] / messages * 1e6
            broker.end()
            time.sleep(10)
            began_s = time.monotonic()
            broker.start()
            wait_for(lambda: total(running, "online") == nodes, 90, "all nodes online")
            all_online_s = time.monotonic() - began_s
            cpu_s = read_counters(broker.pid).cpu_s
    row: Row = {
        "broker_rss_mb": round(rss_mb, 1),
        "broker_us_per_message": round(us_per_message),
        "all_online_s": round(all_online_s, 1),
        "broker_cpu_s_of_the_storm": round(cpu_s, 2),
    }
    say("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    return [row]


def _make_certificate(folder: Path) -> None:
    for name, subject, more in (
        ("ca", "/CN=fleet", ("-addext", "keyUsage=critical,keyCertSign")),
        (
            "server",
            "/CN=localhost",
            (
                *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
                *("-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key")),
                *("-extensions", "usr_cert"),
            ),
        ),
    ):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-noenc", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", subject, *more]
        command += ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")]
        subprocess.run(command, check=True, capture_output=True)


def open_files(say: Callable[[str], None]) -> list[Row]:
    """The limit that systemd gives a service, 1,024 open files, and as many nodes."""
    wanted = 1024
    say(f"a broker with 1,024 open files, and {wanted} nodes")
    with started(open_files=1024) as broker:
        with load(broker.port, nodes=wanted, processes=4, interval_s=30.0) as running:
            time.sleep(20)
            online, before = total(running, "online"), total(running, "attempts")
            time.sleep(10)
            row: Row = {
                "online": online,
                "refused": wanted - online,
                "attempts_per_s": round((total(running, "attempts") - before) / 10, 1),
            }
        said = [line for line in broker.log.read_text().splitlines() if "denied" in line]
    say("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    say(f"  its log: {said[-1].split(': ', 1)[-1] if said else 'not a word'}")
    return [row]
