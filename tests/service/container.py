"""A Debian system that is booted by systemd-nspawn, with this checkout.

The root file system is unpacked from the tar that `tests/service/run` has made; each container
has a copy of its own, and is stopped and removed at the end, also when it does not boot.

A container shares the network of the process that boots it. `leave_the_network` gives that one a
network of its own, which is a loopback and nothing else: what a configuration names is never tried.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "CHECKOUT",
    "CLOUD_ROOT_TAR",
    "WHEELS",
    "Container",
    "cgroups_of",
    "leave_the_network",
    "wait_for",
]

CHECKOUT = Path(__file__).parents[2]
WHEELS = Path(os.environ.get("SENSOR_NODE_TEST_WHEELS", ""))
_ROOT_TAR = os.environ.get("SENSOR_NODE_TEST_ROOT", "")
CLOUD_ROOT_TAR = os.environ.get("SENSOR_NODE_TEST_CLOUD_ROOT", "")
"""The same system with cloud-init."""

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
_HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
_HOST_HAS_SYSTEMD = Path("/run/systemd/system").exists()
_HOST_NAME = "debian"
_GUARD = """
cat                                  # until the process that holds the other end is gone
kill -KILL "$1"
while kill -0 "$1"; do sleep 0.1; done
rm -rf "$2"
shift 2
for group; do
    for again in 1 2 3 4 5 6 7 8 9; do
        [ ! -e "$group" ] || { find "$group" -depth -type d -exec rmdir {} +; sleep 0.2; }
    done
done
"""
"""Ends the container $1 and takes away its folder $2, and its control groups, when we are killed:
then systemd-nspawn is killed too, which leaves what it has started."""
_CLONE_NEWNET = 0x40000000  # sched.h
_SIOCSIFFLAGS = 0x8914  # netdevice(7)
_IFF_UP = 0x1


def leave_the_network() -> None:
    """Put this thread, and all that it starts, into a network with a loopback and no way out.

    It is gone with the last process in it. Ports of 127.0.0.1 are its own.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "a network of its own cannot be had")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def wait_for(condition: Callable[[], Any], seconds: float, what: str = "") -> Any:
    """As `support.wait_until`, for conditions that take a process to look at: not so often."""
    deadline_s = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.2)
    return value


class Container:
    """Boots on creation; one that does not is taken away again."""

    def __init__(
        self,
        folder: Path,
        wheels: Path,
        *,
        change: Callable[[Path], None] = lambda _root: None,
        patience_s: float = 60,
        tar: str = _ROOT_TAR,
        up_when: Callable[[Container], bool] | None = None,
    ) -> None:
        """`wheels`: the folder that it sees as /wheels; `change` is called with its root before.

        It is up when systemd says that it runs, or when `up_when` says so.
        """
        self._up_when = up_when
        self._wheels = wheels
        self._patience_s = patience_s
        self.root = folder / "root"
        self.console = folder / "console"
        self._cgroup = f"{_cgroup_prefix(os.getpid())}{folder.name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._guard: subprocess.Popen[bytes] | None = None
        try:
            self.root.mkdir(parents=True)
            subprocess.run(["tar", "-xf", tar, "-C", str(self.root)], check=True)
            # What debootstrap leaves to an installer.
            names = f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {_HOST_NAME}\n"
            (self.root / "etc/hosts").write_text(names)
            (self.root / "etc/hostname").write_text(f"{_HOST_NAME}\n")
            change(self.root)
            self.boot()
        except BaseException:
            self.remove()
            raise

    def boot(self) -> None:
        # It goes when this process does, however that ends; what is in it, by _GUARD.
        command = ["setpriv", "--pdeathsig=KILL"]
        command += ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--console=read-only"]
        command += [
            f"--directory={self.root}",
            f"--hostname={_HOST_NAME}",
            f"--bind-ro={CHECKOUT}:/checkout",
        ]
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
        self._leader = 0
        self._leader = wait_for(self._find_leader, 20, "a container")
        self._begin_guard()
        self._wait_until_up()

    def wait_for_reboot(self) -> None:
        """Follow it when it boots again by itself: systemd-nspawn leaves that to who started it."""
        assert self._process is not None
        self._process.wait(2 * self._patience_s)
        self._dismiss_guard()
        self.boot()

    def _begin_guard(self) -> None:
        self._guard = subprocess.Popen(
            [
                *("sh", "-c", _GUARD, "sh", str(self._leader), str(self.root.parent)),
                *self._groups(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait_until_up(self) -> None:
        try:
            wait_for(self._is_up, self._patience_s)
        except AssertionError:
            said = self.console.read_text(errors="replace")[-2000:]
            raise AssertionError(f"systemd does not come up; its console:\n{said}") from None

    def _find_leader(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, self.console.read_text(errors="replace")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return next((int(child) for child in children if _is_init(child)), 0)

    def _find_leader_of_one_that_ends(self) -> int:
        try:
            return self._find_leader()
        except (AssertionError, OSError):
            return 0

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "it has ended"
        if self._up_when is not None:
            return self._up_when(self)
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
            process.wait()
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
        leader = self._leader or self._find_leader_of_one_that_ends()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if leader:
                    entered = self._freeze(leader)
                    os.kill(leader, signal.SIGKILL)
                    wait_for(lambda: self._has_ended(entered), 20, "its end")
                else:
                    self._process.kill()
        self._process.wait(20)
        self._dismiss_guard()

    def _freeze(self, leader: int) -> set[int]:
        """Stop all of its processes: else some see how others die, as no power cut lets them.

        Returns the processes outside that have entered it (nsenter), which stop together with
        what they have begun there.
        """
        os.kill(leader, signal.SIGSTOP)  # it begins no others from here on
        namespace = os.readlink(f"/proc/{leader}/ns/pid")
        stopped, parents = set(), set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(folder / "ns/pid") == namespace:
                    os.kill(int(folder.name), signal.SIGSTOP)
                    stopped.add(int(folder.name))
                    parents.add(int((folder / "stat").read_text().rpartition(")")[2].split()[1]))
        assert self._process is not None
        return parents - stopped - {self._process.pid}

    def _has_ended(self, entered: set[int]) -> bool:
        """Return whether it is gone; let those that have entered it see that."""
        for number in entered:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGCONT)
        assert self._process is not None
        return self._process.poll() is not None

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard = None

    def _groups(self) -> list[str]:
        return [str(Path(hierarchy, self._cgroup)) for hierarchy in _HIERARCHIES]

    def _end(self, number: int) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, number)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.cut_power()
        self._dismiss_guard()

    def remove(self) -> None:
        """Nothing of it is left, whatever state it is in."""
        try:
            if self._process is not None:
                self.cut_power()
        finally:
            _remove_cgroup(self._cgroup)
            if self.root.exists():
                shutil.rmtree(self.root)
            self.console.unlink(missing_ok=True)


def _is_init(process: str) -> bool:
    """Whether it is the first one of a PID namespace of its own.

    systemd-nspawn's first child is another, which starts that one and ends.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines)


def _cgroup_prefix(process: int) -> str:
    return f"sensor-node-test-{process}-"


def cgroups_of(process: int) -> list[Path]:
    """The control groups that containers of that process have, or have left behind."""
    return [
        group
        for hierarchy in _HIERARCHIES
        for group in Path(hierarchy).glob(f"{_cgroup_prefix(process)}*")
    ]


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
