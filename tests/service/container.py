"""A Debian system that is booted by systemd-nspawn, with this checkout and this machine's loopback.

The root file system is unpacked from the tar that `tests/service/run` has made; each container
has a copy of its own, and is stopped and removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["CHECKOUT", "WHEELS", "Container", "wait_for"]

CHECKOUT = Path(__file__).parents[2]
WHEELS = Path(os.environ.get("SENSOR_NODE_TEST_WHEELS", ""))
_ROOT_TAR = os.environ.get("SENSOR_NODE_TEST_ROOT", "")

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
_HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
_HOST_HAS_SYSTEMD = Path("/run/systemd/system").exists()


def wait_for(condition: Callable[[], Any], seconds: float, what: str = "") -> Any:
    """As `support.wait_until`, for conditions that take a process to look at: not so often."""
    deadline_s = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.2)
    return value


class Container:
    """Boots on creation."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        """`wheels`: the folder that it sees as /wheels."""
        self._wheels = wheels
        self.root = folder / "root"
        self.root.mkdir(parents=True)
        subprocess.run(["tar", "-xf", _ROOT_TAR, "-C", str(self.root)], check=True)
        # What debootstrap leaves to an installer.
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        self.console = folder / "console"
        self._cgroup = f"sensor-node-test-{os.getpid()}-{folder.name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self.boot()

    def boot(self) -> None:
        # It goes when this process does, however that ends.
        command = ["setpriv", "--pdeathsig=KILL"]
        command += ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--console=read-only"]
        command += [f"--directory={self.root}", f"--bind-ro={CHECKOUT}:/checkout"]
        command += [f"--bind-ro={self._wheels}:/wheels"]
        # So that DevicePolicy= is in force, and adjtimex answers as outside of a container.
        command += ["--system-call-filter=bpf @clock", "--capability=CAP_BPF"]
        with self.console.open("wb") as console, _own_cgroup(self._cgroup):
            if not _HOST_HAS_SYSTEMD:
                command.append("--keep-unit")
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        self._leader = wait_for(self._find_leader, 20, "a container")
        wait_for(self._is_up, 60, f"systemd is up: {self.console}")

    def _find_leader(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, self.console.read_text(errors="replace")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _is_up(self) -> bool:
        told = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return told in ("running", "degraded")

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Begin a program in it, as root."""
        enter = [
            "nsenter",
            f"--target={self._leader}",
            "--all",
            "--",
            "env",
            "--ignore-environment",
        ]
        enter += [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
        return subprocess.Popen(
            [*enter, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            text=True,
            **options,
        )

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in it to its end; fails if that does, unless `check` is False."""
        process = self.start(*command)
        try:
            said, _ = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
        assert not check or process.returncode == 0, f"{command} said:\n{said}"
        return subprocess.CompletedProcess(command, process.returncode, said, "")

    def show(self, name: str, unit: str = "sensor-node") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def journal(self, unit: str = "sensor-node") -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def file(self, path: str) -> Path:
        """A file of the container, as seen from outside."""
        return self.root / path.lstrip("/")

    def drop_in(self, text: str, unit: str = "sensor-node", name: str = "test") -> None:
        """Settings that come after those of the unit."""
        folder = self.file(f"/etc/systemd/system/{unit}.service.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.conf").write_text(f"[Service]\n{text}\n")
        self.run("systemctl", "daemon-reload")

    def power_off(self) -> None:
        """As by `poweroff`; the file system stays."""
        self._end(signal.SIGRTMIN + 4)

    def cut_power(self) -> None:
        """Kill all that runs in it, with no time for anything."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leader, signal.SIGKILL)
        self._process.wait(20)

    def _end(self, number: int) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, number)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.cut_power()

    def remove(self) -> None:
        self.cut_power()
        _remove_cgroup(self._cgroup)
        shutil.rmtree(self.root)


@contextlib.contextmanager
def _own_cgroup(name: str) -> Iterator[None]:
    """Children that are started meanwhile are in a cgroup of that name.

    Where no systemd runs, nobody gives a container one of its own, and two would share theirs.
    """
    if _HOST_HAS_SYSTEMD:
        yield
        return
    joined = []
    for hierarchy in _HIERARCHIES:
        procs = Path(hierarchy, "cgroup.procs")
        if procs.exists():
            Path(hierarchy, name).mkdir(exist_ok=True)
            # Where this process was, to go back there.
            joined.append(procs)
            Path(hierarchy, name, "cgroup.procs").write_text("0")
    try:
        yield
    finally:
        for procs in joined:
            procs.write_text("0")


def _remove_cgroup(name: str) -> None:
    """It empties itself only after its last process has been waited for."""
    for hierarchy in _HIERARCHIES:
        top = Path(hierarchy, name)
        if not top.exists():
            continue
        deadline_s = time.monotonic() + 5
        while top.exists() and time.monotonic() < deadline_s:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            time.sleep(0.05)
