"""The container image by Podman: as its own user, without capabilities, on a read-only root."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Mosquitto, Subscriber, wait_until

ARCHIVE = os.environ.get("SENSOR_NODE_TEST_OCI", "")
NEWER = os.environ.get("SENSOR_NODE_TEST_OCI_NEWER", "")
STATUS = "sensors/box/status"
NAME = "sensor-node"

Podman = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """Podman with images and containers of its own, which are gone at the end."""
    folder = tmp_path_factory.mktemp("podman")
    options = [f"--root={folder}/storage", f"--runroot={folder}/run", f"--tmpdir={folder}/tmp"]
    options += ["--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=none"]

    def call(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["podman", *options, *command], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    try:
        yield call
    finally:
        call("rm", "--all", "--force", "--time", "1", check=False)
        call("rmi", "--all", "--force", check=False)


@pytest.fixture(scope="module")
def images(podman: Podman) -> list[str]:
    """The image of this code, and a newer one."""
    found = []
    for archive in (ARCHIVE, NEWER):
        said = podman("load", "--input", archive).stdout
        name = said.strip().splitlines()[-1].split("Loaded image:")[-1].strip()
        # Both have the name of the version of this checkout.
        found.append(podman("image", "inspect", "--format", "{{.Id}}", name).stdout.strip())
    return found


@pytest.fixture(scope="module")
def house_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path_factory.mktemp("broker"))
    try:
        yield mosquitto.start()
    finally:
        mosquitto.stop()


@pytest.fixture
def seen(house_broker: Mosquitto) -> Iterator[Subscriber]:
    subscriber = Subscriber(house_broker.port)
    yield subscriber
    subscriber.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, house_broker: Mosquitto) -> Path:
    """The configuration, with a sensor that is a file in the same folder."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "t").write_text("21500\n")
    (folder / "node.toml").write_text(
        f'[node]\nname = "box"\n[mqtt]\nhost = "localhost"\nport = {house_broker.port}\n'
        'keepalive = "5s"\n[[sensor]]\nid = "t"\ndriver = "sysfs"\n'
        'path = "/etc/sensor-node/t"\ninterval = "1s"\n'
    )
    for path in (folder, *folder.iterdir(), *folder.parents):
        if path.is_relative_to("/tmp/pytest-of-root") or path.is_relative_to(folder.parent):
            path.chmod(path.stat().st_mode | 0o055 if path.is_dir() else 0o644)
    return folder


def options(folder: Path) -> list[str]:
    return [
        *("--network", "host", "--read-only", "--cap-drop", "all", "--cgroups", "disabled"),
        *("--security-opt", "no-new-privileges", "--volume", f"{NAME}:/var/lib/sensor-node"),
        # The limits that Podman sets by itself may be above those of this computer.
        *("--volume", f"{folder}:/etc/sensor-node:ro"),
        *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
    ]


def begin(podman: Podman, folder: Path, image: str) -> None:
    podman("run", "--detach", "--name", NAME, *options(folder), image)


def test_the_life_of_a_container(podman, images, folder, seen):
    """Readings, as whom, health, a clean stop, and the next version on the same volume."""
    begin(podman, folder, images[0])
    wait_until(lambda: seen.states("t", "box"), 60, "a reading")
    status = podman("exec", NAME, "grep", "-E", "^(Uid|CapEff|CapBnd|NoNewPrivs)", "/proc/1/status")
    facts = dict(line.split(":\t", 1) for line in status.stdout.splitlines())
    assert facts["Uid"].split() == ["950"] * 4
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert podman("exec", NAME, "touch", "/usr/x", check=False).returncode != 0
    health = ("exec", NAME, "sensor-node", "status", "--state-dir", "/var/lib/sensor-node")
    assert "t" in podman(*health).stdout
    assert "node box, 1 sensor" in podman("logs", NAME).stderr

    podman("stop", "--time", "20", NAME)
    seen.wait_for(STATUS, "offline")
    assert podman("wait", NAME).stdout.strip() == "0"
    newest = seen.states("t", "box")[-1]
    podman("rm", NAME)

    begin(podman, folder, images[1])
    wait_until(lambda: seen.health("box")["version"] == "0.2.0", 60)
    wait_until(lambda: seen.states("t", "box")[-1]["seq"] > newest["seq"], 30)
    assert seen.states("t", "box")[-1]["stream"] == newest["stream"]
    podman("stop", "--time", "20", NAME)
    podman("rm", NAME)
    assert podman("volume", "exists", NAME, check=False).returncode == 0, "the log outlives it"


def test_a_mistake_ends_it_with_the_exit_code_of_the_contract(podman, images, folder):
    config = folder / "node.toml"
    valid = config.read_text()
    config.write_text(valid + "nonsense = 1\n")
    try:
        done = podman("run", "--rm", *options(folder), images[0], check=False)
    finally:
        config.write_text(valid)
    assert done.returncode == 78
    assert "nonsense" in done.stderr


def test_other_commands_and_groups(podman, images, folder):
    done = podman("run", "--rm", *options(folder), images[0], "check")
    assert "valid" in done.stdout
    groups = podman(
        *("run", "--rm", "--group-add", "4242", *options(folder)),
        *("--entrypoint", "id", images[0], "-G"),
    )
    assert "4242" in groups.stdout.split()


def test_the_archive_has_an_image_for_each_processor():
    """Each with the user, the volume and the signal that the documents name."""
    with tarfile.open(ARCHIVE) as archive:

        def blob(digest: str) -> dict[str, Any]:
            member = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert member is not None
            return dict(json.load(member))

        index = archive.extractfile("index.json")
        assert index is not None
        (top,) = json.load(index)["manifests"]
        for each in blob(top["digest"])["manifests"]:
            config = blob(blob(each["digest"])["config"]["digest"])
            assert config["architecture"] == each["platform"]["architecture"]
            assert config["config"]["User"] == "950:950"
            assert list(config["config"]["Volumes"]) == ["/var/lib/sensor-node"]
            assert config["config"]["Entrypoint"] == ["sensor-node"]
