"""What Bluetooth sensors cost a node: memory over none, and processor time among foreign devices.

tests/ble/run --prepare && PYTHONPATH=tests:tests/ble tests/.venv/bin/python tests/ble/measure.py
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from bluetooth import Bluetoothd, DBus
from support import Mosquitto, NodeProcess, Subscriber, running, wait_until

__all__: list[str] = []

# ruff: noqa: T201

SECONDS = 30.0
_ALIKE, _SCATTERED = "A4:C1:38:00:00:{:02X}", "{:02X}:C1:38:00:00:01"
_CPU = '[[sensor]]\nid = "cpu"\ndriver = "sysfs"\npath = "{file}"\ninterval = "10s"\n'
_LABEL = '[[sensor]]\nid = "l{n}"\ndriver = "ble"\ninterval = "10s"\naddress = "{address}"\n'


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, name: str, addresses: list[str], foreign_per_s: int, key: str) -> None:
    """Print the memory and the processor time of a node with these labels."""
    folder.mkdir()
    file = folder / "temp1_input"
    file.write_text("21500\n")
    bus = DBus(folder).start()
    bluetoothd = Bluetoothd(bus).start()
    broker = Mosquitto(folder).start()
    subscriber = Subscriber(broker.port)
    try:
        for address in addresses:
            bluetoothd.tell("label", address, "bthome", 2.5, key)
        bluetoothd.tell("foreign", foreign_per_s)
        text = f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
        text += _CPU.format(file=file)
        for n, address in enumerate(addresses):
            text += _LABEL.format(n=n, address=address) + (f'key = "{key}"\n' if key else "")
        with running(NodeProcess(folder, text, env=bus.env)) as node:
            wait_until(lambda: subscriber.states("cpu"), what="it reads")
            for n in range(len(addresses)):
                subscriber.wait_for_states(f"l{n}", 1)
            time.sleep(5.0)
            pid = node.process.pid
            before_s = cpu_s(pid)
            time.sleep(SECONDS)
            percent = (cpu_s(pid) - before_s) / SECONDS * 100
            print(f"{name:55} {rss_mb(pid):5.1f} MB  {percent:5.2f} % of a processor")
    finally:
        subscriber.close()
        broker.stop()
        bluetoothd.stop()
        bus.stop()


def main() -> None:
    key = "231d39c1d7cc1ab1aee224cd096db932"
    alike = [_ALIKE.format(n) for n in range(20)]
    scattered = [_SCATTERED.format(n * 12) for n in range(20)]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        measure(folder / "0", "no Bluetooth sensor", [], 0, "")
        measure(folder / "1", "one", alike[:1], 0, "")
        measure(folder / "2", "one that encrypts", alike[:1], 0, key)
        measure(folder / "3", "one, 200 foreign advertisements a second", alike[:1], 200, "")
        measure(folder / "4", "20 of one maker, 200 foreign a second", alike, 200, "")
        measure(folder / "5", "20 of several makers, 200 foreign a second", scattered, 200, "")


if __name__ == "__main__":
    main()
