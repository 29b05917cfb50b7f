"""Fifty sensors at 1 s on simulated buses: this node beside a plain loop over the same drivers.

Both read 24 MCP9808 on three I2C buses, 16 inputs of two MCP3008 and 10 files, and publish to the
same broker at the same time. How late a reading is, is counted from the second that most of its
sensor's readings keep to.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from process_meter import read_counters

from node.embedded_broker import embedded_broker

PLAIN_LOOP = """
import sys, time, json
import paho.mqtt.client as mqtt
from pathlib import Path
from node.board import open_board
from node.config import load
config = load(Path(sys.argv[1]))
board = open_board(config, simulate=True)
drivers = {s.id: s.info.open(s.options, board) for s in config.sensors}
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.connect("127.0.0.1", config.mqtt.broker_port)
client.loop_start()
while True:
    for name, driver in drivers.items():
        payload = json.dumps({**driver.read(), "time": time.time()})
        client.publish(f"sensors/plain/{name}/state", payload, qos=1, retain=True)
    time.sleep(1)
"""


def sensors(folder: Path) -> str:
    """The fifty `[[sensor]]` tables."""
    tables = []
    for bus in (1, 2, 3):
        tables += [
            f'id = "i{bus}-{n}"\ndriver = "mcp9808"\nbus = {bus}\naddress = {0x18 + n}'
            for n in range(8)
        ]
    for select in (8, 7):
        tables += [
            f'id = "a{select}-{n}"\ndriver = "mcp3008"\nselect_pin = {select}\nchannel_number = {n}'
            for n in range(8)
        ]
    tables += [f'id = "f{n}"\ndriver = "sysfs"\npath = "/sys/simulated/temp{n}"' for n in range(10)]
    return "".join(f'[[sensor]]\n{table}\ninterval = "1s"\n' for table in tables)


def config_for(name: str, port: int, folder: Path) -> Path:
    file = folder / f"{name}.toml"
    file.write_text(
        f'[node]\nname = "{name}"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n{sensors(folder)}'
    )
    return file


def latenesses_s(times: list[float]) -> list[float]:
    """How long after the grid of one second each arrived; the grid is where most of them are."""
    phase = statistics.median(t % 1.0 for t in times)
    return [abs((t - phase + 0.5) % 1.0 - 0.5) for t in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=30, help="(default: 30)")
    arguments = parser.parse_args()
    arrivals: dict[str, list[float]] = {}
    begun = threading.Event()

    def arrived(client: object, userdata: object, message: mqtt.MQTTMessage) -> None:
        if begun.is_set() and not message.retain:
            arrivals.setdefault(message.topic, []).append(time.monotonic())

    with tempfile.TemporaryDirectory() as name, embedded_broker(Path(name)) as broker:
        folder = Path(name)
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.on_message = arrived
        client.connect("127.0.0.1", broker.port)
        client.subscribe("sensors/+/+/state", 1)
        client.loop_start()
        node = [str(Path(sys.executable).with_name("sensor-node")), "run", "--simulate"]
        node += ["--config", str(config_for("node", broker.port, folder))]
        node += ["--state-dir", str(folder / "state")]
        plain = [sys.executable, "-c", PLAIN_LOOP, str(config_for("plain", broker.port, folder))]
        processes = {
            peer: subprocess.Popen(command, stderr=subprocess.DEVNULL)
            for peer, command in (("plain", plain), ("node", node))
        }
        try:
            time.sleep(8)
            begun.set()
            before = {peer: read_counters(p.pid) for peer, p in processes.items()}
            time.sleep(arguments.seconds)
            after = {peer: read_counters(p.pid) for peer, p in processes.items()}
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
    cpu_ms = {}
    for peer in processes:
        made = sum(len(times) for topic, times in arrivals.items() if f"/{peer}/" in topic)
        cpu_ms[peer] = (after[peer].cpu_s - before[peer].cpu_s) * 1000 / max(made, 1)
    late_s = [
        late
        for topic, times in arrivals.items()
        if "/node/" in topic
        for late in latenesses_s(times)
    ]
    expected = math.floor(arguments.seconds) * 50
    print(f"50 sensors every second for {arguments.seconds:g} s; {broker.name} on this machine\n")
    ratio = cpu_ms["node"] / cpu_ms["plain"]
    print(f"CPU per reading: {cpu_ms['plain']:.3f} ms plain loop, {cpu_ms['node']:.3f} ms node")
    print(f"                 {ratio:.2f}x (asked: <= 1.5x)")
    print(f"latest reading:  {max(late_s) * 1000:.1f} ms (asked: <= 50 ms)")
    print(f"readings:        {len(late_s)} of {expected}")


if __name__ == "__main__":
    main()
