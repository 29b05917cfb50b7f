"""What the node writes to a card: `tests/service/run -s tests/service/measure_writes.py` (25 min).

The state directory is an ext4 of its own on a loop device, and what the kernel writes to that is
counted: rows, SQLite's log and the file system's journal together. Not among the checks, for it
takes as long as it measures.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import configure
from container import Container
from support import Subscriber, replaced, wait_until

# ruff: noqa: T201

_STATE = "/var/lib/sensor-node"
_SECTOR = 512  # of /sys/block/*/stat, whatever the device has (block/stat.rst)


@pytest.fixture(scope="module")
def node(system: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A system with a small ext4 where the state will be, mounted as Raspberry Pi OS mounts it."""
    system.power_off()
    image = tmp_path_factory.mktemp("card") / "ext4"
    with image.open("wb") as stream:
        stream.truncate(256 << 20)
    lazy = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-E", lazy, str(image)], check=True)
    folder = system.file(_STATE)
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-o", "loop,noatime", str(image), str(folder)]
    subprocess.run(mount, check=True)
    (folder / "lost+found").rmdir()
    system.boot()
    yield system
    system.power_off()
    subprocess.run(["umount", str(folder)], check=True)


def written(node: Container) -> int:
    """Bytes that have gone to the device of the state directory, all that was dirty included."""
    folder = node.file(_STATE)
    subprocess.run(["sync", "--file-system", str(folder)], check=True)
    source = ["findmnt", "--noheadings", "--output", "SOURCE", "--target", str(folder)]
    device = subprocess.run(source, capture_output=True, text=True, check=True).stdout.strip()
    fields = Path("/sys/block", Path(device).name, "stat").read_text().split()
    return int(fields[6]) * _SECTOR


def in_time(node: Container, minutes: float) -> int:
    """How many bytes are written in so many minutes."""
    before = written(node)
    time.sleep(minutes * 60)
    return written(node) - before


def test_ten_sensors_every_half_a_minute(node, house_broker):
    configure(node, house_broker.port)
    file = node.file("/etc/sensor-node/node.toml")
    for n in range(10):
        node.file(f"/srv/t{n}").write_text(f"{20000 + 137 * n}\n")
    head = file.read_text().split("[[sensor]]")[0]
    file.write_text(
        head
        + "".join(
            f'[[sensor]]\nid = "t{n}"\ndriver = "sysfs"\npath = "/srv/t{n}"\ninterval = "30s"\n'
            for n in range(10)
        )
    )
    node.run("/checkout/deploy/install.sh", "--wheels", "/wheels")
    subscriber = Subscriber(house_broker.port)
    wait_until(lambda: subscriber.history("box"), 180, "history is sent")
    an_hour = in_time(node, 12) * 5
    subscriber.close()
    print(f"\n10 sensors every 30 s: {an_hour / 1e6:.2f} MB an hour")
    assert an_hour < 8e6


def test_nothing_is_written_when_nothing_happens(node, house_broker):
    """A sensor that is read every hour: health is published meanwhile, and that is all."""
    configure(node, house_broker.port)
    file = node.file("/etc/sensor-node/node.toml")
    file.write_text(replaced(file.read_text(), ('interval = "1s"', 'interval = "1h"')))
    node.run("systemctl", "restart", "sensor-node")
    time.sleep(200)  # the first reading is sent as history, and the cursor of that is saved
    subscriber = Subscriber(house_broker.port)
    idle = in_time(node, 4)
    print(f"\nnothing to do: {idle} bytes in 4 minutes")
    assert idle == 0
    assert len(subscriber.on("sensors/box/health")) >= 3, "it was alive"
    subscriber.close()
