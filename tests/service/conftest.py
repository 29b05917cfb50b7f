"""A folder of wheels, variants of the node's own, and containers."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from container import CHECKOUT, WHEELS, Container
from support import Mosquitto

MakeWheel = Callable[..., Path]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that an installation needs, and the node as it is in this checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    for wheel in WHEELS.glob("*.whl"):
        (folder / wheel.name).symlink_to(wheel)
    copy = tmp_path_factory.mktemp("checkout")
    parts = ["node", "drivers", "pyproject.toml", "README.md", "LICENSE"]
    subprocess.run(["cp", "-r", *(str(CHECKOUT / part) for part in parts), str(copy)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", str(folder), str(copy)]
    subprocess.run(pip, check=True)
    for link in folder.iterdir():
        if link.is_symlink():  # containers see this folder, not the one it points to
            target = link.resolve()
            link.unlink()
            try:
                os.link(target, link)
            except OSError:
                link.write_bytes(target.read_bytes())
    return folder


@pytest.fixture(scope="session")
def make_wheel(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeWheel:
    """Another version of the node: `make_wheel("0.2.0", ("node/loop.py", old, new))`."""
    [base] = wheels.glob("pi_sensor_node-*.whl")

    def make(version: str, *edits: tuple[str, str, str]) -> Path:
        before = base.name.split("-")[1]
        edits += (("node/__init__.py", f'"{before}"', f'"{version}"'),)
        edits += (("METADATA", f"\nVersion: {before}\n", f"\nVersion: {version}\n"),)
        folder = tmp_path_factory.mktemp("wheel")
        wheel = folder / base.name.replace(f"-{before}-", f"-{version}-")
        left = list(edits)
        with zipfile.ZipFile(base) as old, zipfile.ZipFile(wheel, "w") as new:
            record = ""
            for name in old.namelist():
                content = old.read(name)
                for edit in edits:
                    place, text, instead = edit
                    if name.endswith(place) and text.encode() in content:
                        content = content.replace(text.encode(), instead.encode())
                        left.remove(edit)
                name = name.replace(f"-{before}.dist-info", f"-{version}.dist-info")
                if name.endswith("/RECORD"):
                    new.writestr(name, record + f"{name},,\n")
                    continue
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
                record += f"{name},sha256={digest.decode().rstrip('=')},{len(content)}\n"
                new.writestr(name, content)
        assert not left, f"these edits have found nothing: {left}"
        return wheel

    return make


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Container]:
    """A booted Debian, without the node; in memory, where there is enough of it."""
    folder = tmp_path_factory.mktemp("system")
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30:
        folder = Path(tempfile.mkdtemp(prefix="sensor-node-test-", dir=memory))
    container = Container(folder, wheels)
    yield container
    container.remove()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def house_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A mosquitto on this machine's loopback, which is the containers' too."""
    mosquitto = Mosquitto(tmp_path_factory.mktemp("broker")).start()
    yield mosquitto
    mosquitto.stop()


def configure(system: Container, port: int, more: str = "") -> None:
    """A configuration with a sensor whose file is /srv/t."""
    system.file("/srv/t").write_text("21500\n")
    file = system.file("/etc/sensor-node/node.toml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        f'[node]\nname = "box"\n[mqtt]\nhost = "localhost"\nport = {port}\nkeepalive = "5s"\n'
        f'{more}\n[[sensor]]\nid = "t"\ndriver = "sysfs"\npath = "/srv/t"\ninterval = "1s"\n'
    )
