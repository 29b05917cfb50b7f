"""Files of our own: whole after a power cut, never written through a link, never locked by others.

Each program that writes a file is tried: the node, its commands, `deploy/update`, and the helpers
of the image.
"""

from __future__ import annotations

import fcntl
import importlib.machinery
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from drivers.dht_process import DhtChild
from node.commands.plot import _write as write_plot
from node.config import load as configuration
from node.config.last_good import LastGood
from node.config.schema import Config, OutboxTable
from node.homeassistant.sensor_keys import sensor_keys
from node.outbox.outbox import Outbox
from node.system.safe_files import open_lock, write_file
from node.system.state_dir import StateDirLock, StateDirTaken, lock_holder

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "deploy"))

from update_parts import paths, releases  # noqa: E402
from update_parts.system import Impossible  # noqa: E402
from update_parts.system import write as write_of_update  # noqa: E402

HELPERS = ROOT / "deploy/image/root/usr/lib/sensor-node"
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
ANOTHER_USER = 65534

CONFIG = '[mqtt]\nhost = "h"\n[[sensor]]\nid = "s"\ndriver = "cpu"\n'


def program(file: Path) -> ModuleType:
    """A script as a module, whatever its name."""
    loader = importlib.machinery.SourceFileLoader(file.stem, str(file))
    spec = importlib.util.spec_from_loader(file.stem, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def update(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return program(ROOT / "deploy/update")


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(HELPERS), *sys.path])
    return program(HELPERS / "panel.py")


def loaded(folder: Path) -> Config:
    source = folder / "node.toml"
    source.write_text(CONFIG)
    return configuration.load(source)


def write_identities(folder: Path, _request: Any) -> Path:
    sensor_keys(loaded(folder).sensors, folder)
    return folder / "identities.json"


def write_last_good(folder: Path, _request: Any) -> Path:
    LastGood(folder / "last-good.toml").keep(loaded(folder), CONFIG.encode())
    return folder / "last-good.toml"


def write_a_plot(folder: Path, _request: Any) -> Path:
    write_plot(b"<svg/>", str(folder / "air.svg"))
    return folder / "air.svg"


def write_by_update(folder: Path, _request: Any) -> Path:
    write_of_update(folder / "trial.json", "{}")
    return folder / "trial.json"


def write_by_panel(folder: Path, request: Any) -> Path:
    request.getfixturevalue("panel")._write(folder / "wpa_supplicant.conf", "country=DE\n")
    return folder / "wpa_supplicant.conf"


WRITERS = [write_identities, write_last_good, write_a_plot, write_by_update, write_by_panel]
Writer = Callable[[Path, Any], Path]


@pytest.mark.parametrize("write", WRITERS)
def test_no_writer_follows_a_link(tmp_path, request, write: Writer):
    """At none of the names under which a new file may be made before it is whole."""
    (tmp_path / "first").mkdir()
    name = write(tmp_path / "first", request).name
    folder = tmp_path / "second"
    folder.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    stem = name.rpartition(".")[0]
    us = os.getpid()
    planted = {f"{name}.new", f"{stem}.new", f".{name}.{us}", f".{name}-", f".sensor-node-{us}.new"}
    for each in planted:
        (folder / each).symlink_to(victim)
    written = write(folder, request)
    assert written.read_bytes()
    assert victim.read_text() == "precious"
    assert not written.is_symlink()


@pytest.mark.parametrize("write", WRITERS)
def test_every_writer_is_safe_from_a_power_cut(tmp_path, request, monkeypatch, write: Writer):
    """The content is on the disk before it has the name, and the name before it is relied on."""
    (tmp_path / "node.toml").write_text(CONFIG)
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder" if folder else "file")
        real_sync(descriptor)

    def replace(*names: Any, **folders: Any) -> None:
        done.append("name")
        real_replace(*names, **folders)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write(tmp_path, request)
    assert done == ["file", "name", "folder"]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(file, b"new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_file_keeps_its_mode(tmp_path, mode):
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(mode)
    write_file(file, b"new")
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert file.read_bytes() == b"new"


def test_a_copy_of_the_configuration_is_closed_to_others_even_if_it_was_open(tmp_path):
    """It may hold a password."""
    (tmp_path / "last-good.toml").touch(mode=0o644)
    write_last_good(tmp_path, None)
    assert stat.S_IMODE((tmp_path / "last-good.toml").stat().st_mode) == 0o600


@NEEDS_ROOT
@pytest.mark.parametrize("exists", [True, False])
def test_root_leaves_files_to_their_owner(tmp_path, exists):
    """`sudo sensor-node run`, once, must not shut the service out of its own files."""
    os.chown(tmp_path, ANOTHER_USER, ANOTHER_USER)
    file = tmp_path / "file"
    if exists:
        file.touch()
        os.chown(file, 1234, 1235)
    write_file(file, b"new", mode=0o600)
    owner = (file.stat().st_uid, file.stat().st_gid)
    assert owner == ((1234, 1235) if exists else (ANOTHER_USER, ANOTHER_USER))
    os.close(open_lock(tmp_path / "lock"))
    assert (tmp_path / "lock").stat().st_uid == ANOTHER_USER


@NEEDS_ROOT
@pytest.mark.parametrize("name", ["outbox.db", "outbox.db-wal"])
def test_root_opens_no_log_through_a_link_that_another_user_has_made(tmp_path, clock, name):
    """The rest of the node goes on, and says why nothing is kept."""
    folder, victim = tmp_path / "state", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious")
    (folder / name).symlink_to(victim)
    os.chown(folder / name, ANOTHER_USER, -1, follow_symlinks=False)
    outbox = Outbox(folder, OutboxTable(), clock)
    assert "is a link that user 65534 has made" in outbox.problem
    assert victim.read_text() == "precious"


def test_a_log_on_another_disk_by_a_link_of_ones_own_is_opened(tmp_path, clock):
    (tmp_path / "disk").mkdir()
    (tmp_path / "outbox.db").symlink_to(tmp_path / "disk/outbox.db")
    assert Outbox(tmp_path, OutboxTable(), clock).problem == ""


# -- locks


@pytest.fixture
def held_by_another(tmp_path: Path) -> Iterator[int]:
    """The lock of the folder itself, as any user can have it who may look into it."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


@pytest.mark.usefixtures("held_by_another")
def test_a_lock_of_the_folder_keeps_no_node_from_starting(tmp_path):
    lock = StateDirLock(tmp_path)
    lock.hold()
    assert lock_holder(tmp_path) == os.getpid()
    with pytest.raises(StateDirTaken):
        StateDirLock(tmp_path).hold()


@pytest.mark.usefixtures("held_by_another")
def test_a_lock_of_the_folder_keeps_no_update_from_beginning(tmp_path, update, monkeypatch, capsys):
    for name in ("RELEASES", "CURRENT", "TRIAL", "LOCK"):
        monkeypatch.setattr(paths, name, tmp_path / name)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["update", "--back"])
    with pytest.raises(SystemExit):
        update.main()
    assert "no other version to go back to" in capsys.readouterr().err


@NEEDS_ROOT
def test_no_other_user_can_hold_the_lock(open_folder):
    """Not even one who may list the folder; the node that comes takes it."""
    lock = StateDirLock(open_folder)
    lock.hold()
    script = "import os, sys; os.setuid(65534); os.open(sys.argv[1], os.O_RDONLY)"
    command = [sys.executable, "-I", "-c", script, str(open_folder / "node.lock")]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PermissionError" in tried.stderr


@pytest.mark.parametrize("planted", ["link", "dangling link", "pipe"])
def test_what_is_planted_in_the_place_of_the_lock_is_not_in_the_way(tmp_path, planted):
    victim = tmp_path / "victim"
    folder = tmp_path / "state"
    folder.mkdir()
    place = folder / "node.lock"
    if planted == "pipe":
        os.mkfifo(place)
    else:
        if planted == "link":
            victim.write_text("precious")
        place.symlink_to(victim)
    lock = StateDirLock(folder)
    lock.hold()
    with pytest.raises(StateDirTaken):
        StateDirLock(folder).hold()
    assert victim.exists() == (planted == "link")


def test_a_state_folder_is_closed_to_others(tmp_path, clock):
    old = os.umask(0o022)
    try:
        Outbox(tmp_path / "state", OutboxTable(), clock)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o750


# -- imports

TRAP = """import os
os.close(os.open({marker!r}, os.O_CREAT | os.O_WRONLY))
raise SystemExit("a module of the working directory was imported")
"""


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and a user's own folder, of modules that leave a file when imported."""
    marker = tmp_path / "imported"
    trap = TRAP.format(marker=str(marker))
    here, home = tmp_path / "here", tmp_path / "home"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = home / f".local/lib/{version}/site-packages"
    site.mkdir(parents=True)
    (site / "x.pth").write_text(f"import os; os.close(os.open({str(marker)!r}, os.O_CREAT))\n")
    for name in ("drivers/__init__", "drivers/dht_child", "json", "venv", "ensurepip", "argparse"):
        file = here / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(trap)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("PYTHONNOUSERSITE", raising=False)
    return marker


def test_control_the_trap_would_catch_python(trapped):
    subprocess.run([sys.executable, "-m", "venv", "--help"], capture_output=True, check=False)
    assert trapped.exists()


def test_the_child_of_a_dht_imports_nothing_from_the_working_directory(trapped):
    child = DhtChild()._start()
    assert child.stdout is not None
    assert child.stdout.readline() == b"{}\n"
    assert child.stdin is not None
    child.stdin.close()
    child.wait()
    child.stdout.close()
    assert not trapped.exists()


def test_update_imports_nothing_from_the_working_directory(trapped):
    command = [str(ROOT / "deploy/update"), "--help"]
    subprocess.run(command, capture_output=True, check=True)
    assert not trapped.exists()


def test_update_starts_no_python_that_imports_from_the_working_directory(
    trapped, tmp_path, monkeypatch
):
    """To make the environment, and for pip."""
    ran: list[list[str]] = []

    def must(command: list[str]) -> str:
        ran.append(command)
        if "venv" in command:
            subprocess.run([*command, "--without-pip"], check=True)
            (Path(command[-1]) / "bin/sensor-node").write_text("#!/bin/python\n")
        return "sensor-node 0.1.0"

    for name, place in (("RELEASES", "releases"), ("ROOT", "")):
        monkeypatch.setattr(paths, name, tmp_path / place)
    monkeypatch.setattr(releases, "must", must)
    monkeypatch.setattr(releases, "must_saying", ran.append)
    releases.make_release(ROOT, None)
    pip = next(command for command in ran if "pip" in command)
    before = pip[: pip.index("-m")]
    subprocess.run([*before, "-m", "venv", "--help"], capture_output=True, check=True)
    assert not trapped.exists()


def test_the_command_of_a_release_imports_nothing_from_a_users_folder(trapped, tmp_path):
    """With the system's packages, as a release has them, Python would look there, too."""
    command = [sys.executable, "-I", "-m", "venv", "--without-pip", "--system-site-packages"]
    subprocess.run([*command, str(tmp_path / "venv")], check=True)
    start = tmp_path / "venv/bin/sensor-node"
    start.write_text(f"#!{tmp_path}/venv/bin/python\nimport json\n")
    start.chmod(0o755)
    subprocess.run([start], check=True)
    assert trapped.exists(), "the control"
    trapped.unlink()
    releases.isolate(start)
    subprocess.run([start], check=True)
    assert not trapped.exists()


@pytest.mark.parametrize(
    "file",
    ["deploy/install.sh", *(str(p.relative_to(ROOT)) for p in ROOT.glob("deploy/**/*.service"))],
)
def test_every_python_that_root_starts_is_isolated(file):
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        if "python3 " in line:
            assert "python3 -I " in line, line


# -- units

UNITS = sorted(ROOT.glob("deploy/**/*.service"))
STAYING = [unit for unit in UNITS if unit.parent.name != "cloud-init"]
"""Without the one that installs the system, by apt, and is taken away by that."""


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_every_unit_bounds_what_it_may_take(unit):
    settings = unit.read_text()
    assert re.search(r"^MemoryMax=\d+[M%]$", settings, re.MULTILINE)
    assert re.search(r"^TasksMax=\d+$", settings, re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", STAYING, ids=lambda unit: unit.name)
def test_every_unit_is_closed_in(unit, tmp_path):
    """Below 3 of 10, as systemd counts it; a unit without any setting has 9.6."""
    for name, text in {
        unit.name: unit.read_text(),
        "bare.service": "[Service]\nExecStart=/x\n",
    }.items():
        (tmp_path / name).write_text(text)
    exposures = []
    for file in (tmp_path / unit.name, tmp_path / "bare.service"):
        command = ["systemd-analyze", "security", "--offline=true", str(file)]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        exposures.append(float(re.findall(r"exposure level for \S+: ([\d.]+)", said)[0]))
    assert exposures[0] < 3.0
    assert exposures[1] > 9.0, "the control"


# -- which version is installed


def test_the_highest_version_is_taken_whenever_it_came(tmp_path):
    """Not the newest file: an old one may have been copied last."""
    versions = ["0.10.0rc1", "0.10.0", "0.9.0", "0.0.1", "0.10.0.dev3"]
    for age, version in enumerate(versions):
        file = tmp_path / f"pi_sensor_node-{version}-py3-none-any.whl"
        file.touch()
        os.utime(file, (1_700_000_000 + age, 1_700_000_000 + age))
    assert releases.newest_wheel(tmp_path).name == "pi_sensor_node-0.10.0-py3-none-any.whl"


@pytest.mark.parametrize("version", ["../../../etc/x", "0.1/../..", "", "-x"])
def test_a_checkout_whose_version_leads_elsewhere_is_refused(tmp_path, version):
    (tmp_path / "node").mkdir()
    (tmp_path / "drivers").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "node" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    with pytest.raises(Impossible, match="is not a version"):
        releases.identify(tmp_path)
