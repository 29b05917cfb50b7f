"""A folder of wheels, variants of the node's own, and containers without a way out."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from container import CHECKOUT, WHEELS, Container, cgroups_of, leave_the_network
from support import Mosquitto
from versions import Fault, write_version

MEMORY = "/dev/shm"

MakeWheel = Callable[..., Path]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that an installation needs, and the node as it is in this checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    folder.chmod(0o755)  # a login user of a container installs from it, too
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
    """Another version of the node, with faults or without: `make_wheel("0.2.0", CRASHES)`."""
    [base] = wheels.glob("pi_sensor_node-*.whl")

    def make(version: str, *faults: Fault) -> Path:
        return write_version(base, tmp_path_factory.mktemp("wheel"), version, faults)

    return make


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After the last container: no folder in memory, no control group, no process of ours."""
    before = children()
    yield
    left: list[object] = [*Path(MEMORY).glob(f"{folder_prefix()}*"), *cgroups_of(os.getpid())]
    left += [Path(f"/proc/{pid}/cmdline").read_text() for pid in children() - before]
    assert not left, f"the checks have left behind: {left}"


def children() -> set[str]:
    """The processes that this one has started, and not waited for."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


def folder_prefix() -> str:
    return f"sensor-node-test-{os.getpid()}-"


@pytest.fixture(scope="session")
def network(wheels: Path) -> None:
    """This process is in a network that is a loopback alone (the wheels were built before)."""
    leave_the_network()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager[Path]]:
    """Makes folders for containers: in memory, where there is enough of it."""

    @contextlib.contextmanager
    def make() -> Iterator[Path]:
        memory = Path(MEMORY)
        if memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30:
            folder = Path(tempfile.mkdtemp(prefix=folder_prefix(), dir=memory))
        else:
            folder = tmp_path_factory.mktemp("system")
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    return make


@pytest.fixture(scope="module")
def system(
    place: Callable[[], AbstractContextManager[Path]], wheels: Path, network: None
) -> Iterator[Container]:
    """A booted Debian, without the node."""
    with place() as folder:
        container = Container(folder, wheels)
        try:
            yield container
        finally:
            container.remove()


@pytest.fixture(scope="module")
def house_broker(tmp_path_factory: pytest.TempPathFactory, network: None) -> Iterator[Mosquitto]:
    """A mosquitto on the loopback that is the containers' too."""
    mosquitto = Mosquitto(tmp_path_factory.mktemp("broker"))
    try:
        yield mosquitto.start()
    finally:
        mosquitto.stop()


def configure(system: Container, port: int, more: str = "") -> None:
    """A configuration with a sensor whose file is /srv/t."""
    system.file("/srv/t").write_text("21500\n")
    file = system.file("/etc/sensor-node/node.toml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(configuration(port, more))


def configuration(port: int, more: str = "") -> str:
    return (
        f'[node]\nname = "box"\n[mqtt]\nhost = "localhost"\nport = {port}\nkeepalive = "5s"\n'
        f'{more}\n[[sensor]]\nid = "t"\ndriver = "sysfs"\npath = "/srv/t"\ninterval = "1s"\n'
    )
