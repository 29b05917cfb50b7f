"""Alarms through outages: `tests/alarms/run [--outages N] [--real N] [--seed S]`."""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

sys.path[:0] = [str(Path(__file__).parents[1])]

from alarm_model import World  # noqa: E402
from support import (  # noqa: E402
    Mosquitto,
    NodeProcess,
    Subscriber,
    sysfs_config,
    wait_until,
)

from node.outbox.log_file import LogFile  # noqa: E402
from node.outbox.outbox import Outbox  # noqa: E402
from node.outbox.reader import look_into  # noqa: E402
from node.outbox.store import FILE_NAME  # noqa: E402
from node.reading import Reading  # noqa: E402

OUTAGES_OF_A_LIFE = 100
ALARM = """
[outbox]
history_interval = "1s"
[sensor.channel.temperature]
[[sensor.channel.temperature.alarm]]
name = "warm"
above = 25
"""


def simulated(outages: int, seed: int) -> list[str]:
    """Go through outages in simulated time; print what was tried, and return the faults."""
    kinds: Counter[str] = Counter()
    faults: list[str] = []
    records = again = 0
    for life in range(-(-outages // OUTAGES_OF_A_LIFE)):
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), seed + life)
            world.live(min(OUTAGES_OF_A_LIFE, outages - life * OUTAGES_OF_A_LIFE))
            faults += [f"seed {seed + life}: {fault}" for fault in world.faults()]
            kinds += world.kinds
            records, again = records + world.records, again + world.broker.again
    for kind, count in kinds.most_common():
        print(f"  {count:5} {kind}")
    print(f"  {records} changes of alarms, {again} rows that came again, {len(faults)} faults")
    return faults


class Sensor:
    """A thermometer that is a file, and flaps about the limit."""

    def __init__(self, file: Path, draw: random.Random) -> None:
        self.file, self._draw = file, draw

    def change(self) -> None:
        self.file.write_text(f"{self._draw.choice([24000, 24900, 25100, 26000])}\n")


def real(outages: int, seed: int) -> list[str]:
    """Kill real nodes and a real mosquitto with SIGKILL; return the faults."""
    draw = random.Random(seed)
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = ("persistence true", "persistence_location " + name + "/", "autosave_interval 1")
        broker = Mosquitto(folder, *lines, "autosave_on_changes true").start()
        sensor = Sensor(folder / "temperature", draw)
        sensor.change()
        config = sysfs_config(broker.port, {"s": sensor.file}, interval="100ms") + ALARM
        subscriber = Subscriber(broker.port, session="consumer")
        node = NodeProcess(folder, config)
        try:
            for _ in range(outages):
                for _ in range(draw.randint(1, 8)):
                    sensor.change()
                    time.sleep(draw.uniform(0, 0.3))
                kind = draw.choice(["node killed", "broker killed", "both killed"])
                kinds[kind] += 1
                if kind != "node killed":
                    broker.stop(9)
                    sensor.change()
                    time.sleep(draw.uniform(0, 0.5))
                if kind != "broker killed":
                    node.kill()
                    node = NodeProcess(folder, config)
                    wait_until(lambda: "online, temperature" in node.log)  # noqa: B023
                if kind != "node killed":
                    broker.start()
            subscriber.wait_for("sensors/test/status", "online", 60)
            node.terminate()
            node = NodeProcess(folder, config)
            kept = look_into(node.state_dir / FILE_NAME, _readings)
            newest = kept[-1].seq
            wait_until(lambda: newest in {r["seq"] for r in subscriber.history()}, 60)
            topic = subscriber.on("sensors/test/s/alarm/warm")[-1]
        finally:
            node.kill()
            subscriber.close()
            broker.stop()
    faults = _compared(kept, subscriber.history(), json.loads(topic))
    print("  " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    records = sum(reading.layout.alarm is not None for reading in kept)
    print(f"  {len(kept)} rows, {records} changes of alarms, {len(faults)} faults")
    return faults


def _readings(log: LogFile) -> list[Reading]:
    return log.readings_after(0, 1 << 30)


def _compared(
    kept: list[Reading], history: list[dict[str, Any]], topic: dict[str, Any]
) -> list[str]:
    """Compare the log with the consumer's rows, and the records in it with its readings."""
    faults = []
    came = {row["seq"]: row for row in history}
    if [r.seq for r in kept] != list(range(1, len(kept) + 1)):
        faults.append("the log has a gap")
    on = False
    for index, reading in enumerate(kept):
        row = came.get(reading.seq)
        if row is None:
            faults.append(f"{reading.seq} never came")
            continue
        if reading.layout.alarm is not None:
            if (row["alarm"]["state"] == "on") == on:
                faults.append(f"{row['alarm']['state']} twice at {reading.seq}")
            on = row["alarm"]["state"] == "on"
            continue
        changes = kept[index + 1 : index + 2]
        has_record = bool(changes and changes[0].layout.alarm)
        if has_record != ((row["temperature"] > 25) != on) and index + 1 < len(kept):
            faults.append(f"{'a record' if has_record else 'none'} after {reading.seq}")
    if (topic["state"] == "on") != on and topic["seq"] <= kept[-1].seq:
        faults.append(f"the topic has {topic}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outages", type=int, default=1000, help="in simulated time (1000)")
    parser.add_argument("--real", type=int, default=60, help="of processes (60)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print(f"seed {arguments.seed}\nsimulated:")
    faults = simulated(arguments.outages, arguments.seed)
    print("a node that forgets the states of its alarms, as the negative control:")
    with mock.patch.object(Outbox, "keep_alarm", return_value=None):
        if not simulated(100, arguments.seed):
            faults.append("the negative control has no faults")
    print("processes:")
    faults += real(arguments.real, arguments.seed)
    for fault in faults:
        print(f"  {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
