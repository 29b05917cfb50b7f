"""Runs in the guest of `pi_guest.py`: the node and the tutorial loop, in turn and side by side.

Prints a line of JSON for each measurement. CPU seconds are those of the guest: 2 ns an instruction,
the kernel's for the process among them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
from process_meter import read_counters

SENSORS = 10
INTERVAL_S = 10
STEADY_S = 300
PEERS = ("tutorial", "node")
_FOLDERS = ("/usr", "/lib", "/bin", "/opt")


class Subscriber:
    """Counts the readings of each peer."""

    def __init__(self) -> None:
        self.count = dict.fromkeys(PEERS, 0)
        self.first = {peer: threading.Event() for peer in PEERS}
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_message = self._arrived
        client.connect("127.0.0.1", 1883)
        client.subscribe("sensors/+/+/state", 1)
        client.loop_start()

    def _arrived(self, client: object, userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.payload and not message.retain:
            peer = message.topic.split("/")[1]
            self.count[peer] += 1
            self.first[peer].set()


def command(peer: str, files: list[str]) -> list[str]:
    if peer == "tutorial":
        script = "/opt/bench/tutorial_loop.py"
        return [sys.executable, script, "1883", str(INTERVAL_S), *files]
    config = Path("/run/node.toml")
    sensors = "".join(
        f'[[sensor]]\nid = "s{number}"\ndriver = "sysfs"\npath = "{file}"\n'
        f"interval = {INTERVAL_S}\n"
        for number, file in enumerate(files)
    )
    config.write_text(f'[node]\nname = "node"\n[mqtt]\nhost = "127.0.0.1"\n{sensors}')
    run = [sys.executable, "-m", "node", "run", "--config", str(config)]
    return [*run, "--state-dir", "/run/state"]


def start(peer: str, files: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(peer, files), stderr=subprocess.DEVNULL)


def cold(peer: str, files: list[str], subscriber: Subscriber) -> None:
    """From the start to the first reading; and which files were read for it."""
    for file in every_file():
        os.utime(file, (0, file.stat().st_mtime), follow_symlinks=False)
    subscriber.first[peer].clear()
    process = start(peer, files)
    if not subscriber.first[peer].wait(120):
        raise SystemExit(f"{peer} publishes nothing")
    counters = read_counters(process.pid)
    process.kill()
    process.wait()
    read = [file for file in every_file() if file.lstat().st_atime > 1]
    say(
        peer=peer,
        cold_cpu_s=counters.cpu_s,
        files=len(read),
        file_bytes=sum(file.lstat().st_size for file in read),
    )


def every_file() -> Iterator[Path]:
    for folder in _FOLDERS:
        for where, _, names in os.walk(folder):
            for name in names:
                path = Path(where, name)
                if path.is_file() and not path.is_symlink():
                    yield path


def steady(files: list[str], subscriber: Subscriber) -> None:
    """Side by side, after some intervals to settle in."""
    processes = {peer: start(peer, files) for peer in PEERS}
    time.sleep(6.5 * INTERVAL_S)  # past the first minute, its history and health
    before = {peer: read_counters(process.pid) for peer, process in processes.items()}
    counted = dict(subscriber.count)
    time.sleep(STEADY_S)
    for peer, process in processes.items():
        after = read_counters(process.pid)
        readings = subscriber.count[peer] - counted[peer]
        say(
            peer=peer,
            readings=readings,
            cpu_s_per_reading=(after.cpu_s - before[peer].cpu_s) / readings,
            wakeups_per_s=(after.wakeups - before[peer].wakeups) / STEADY_S,
            rss_mb=after.rss_kb / 1024,
            pss_mb=after.pss_kb / 1024,
        )


def interpreter() -> None:
    """What the bare interpreter takes, to compare with published times of real ones."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    say(interpreter_cpu_s=spent_s)


def say(**figures: object) -> None:
    print("FIGURES " + json.dumps(figures), flush=True)


def main() -> None:
    files = []
    for number in range(SENSORS):
        file = Path(f"/run/temp{number}")
        file.write_text(f"{20000 + number * 100}\n")
        files.append(str(file))
    subscriber = Subscriber()
    time.sleep(2)
    interpreter()
    for _ in range(3):
        for peer in PEERS:
            cold(peer, files, subscriber)
    steady(files, subscriber)


if __name__ == "__main__":
    main()
