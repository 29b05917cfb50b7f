"""The hosts of a cluster on this computer: network namespaces on one bridge, with no way out.

The process that makes them has a network of its own already (tests/cluster/run). It is the host of
everything but the brokers: balancer, nodes, consumers and database.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["GATEWAY", "Host", "make_hosts"]

GATEWAY = "10.99.0.1"
"""The address of this process's host on the bridge."""
_BRIDGE = "cluster"


class Host:
    """A namespace with one interface on the bridge."""

    def __init__(self, number: int) -> None:
        self.name = f"broker{number}"
        self.address = f"10.99.0.{10 + number}"
        self._port = f"to-{self.name}"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self._port, "master", _BRIDGE, "up")
        for command in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            self._ip(*command)

    def inside(self, root: Path, user: str, *command: str) -> list[str]:
        """A command as it runs on this host, in the root file system."""
        prepared = 'mount -t proc proc "$1/proc"; hostname "$2"; cd /; exec chroot "$1" "${@:3}"'
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return [
            *("ip", "netns", "exec", self.name),
            *("unshare", "--mount", "--uts", "--pid", "--fork"),
            *("bash", "-ec", prepared, "-", str(root), self.name, *as_user, *command),
        ]

    def processes(self) -> list[int]:
        """The ids of the processes on it."""
        command = ["ip", "netns", "pids", self.name]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [int(pid) for pid in found.split()]

    def unplug(self) -> None:
        """Cut it off from everything, as if its cable were pulled."""
        _ip("link", "set", self._port, "down")

    def plug(self) -> None:
        _ip("link", "set", self._port, "up")

    def lose(self, others: list[Host]) -> None:
        """Cut it off from the other brokers only; clients still reach it."""
        for other in others:
            self._ip("route", "add", "blackhole", f"{other.address}/32")
            other._ip("route", "add", "blackhole", f"{self.address}/32")

    def find(self, others: list[Host]) -> None:
        """Undo `lose`."""
        for other in others:
            self._ip("route", "del", "blackhole", f"{other.address}/32")
            other._ip("route", "del", "blackhole", f"{self.address}/32")

    def _ip(self, *arguments: str) -> None:
        _ip("-n", self.name, *arguments)


def make_hosts(count: int, root: Path) -> list[Host]:
    """Make the bridge and the hosts, and let the root file system know their names."""
    _run("mount", "-t", "tmpfs", "namespaces", "/run/netns")
    _ip("link", "set", "lo", "up")
    _ip("link", "add", _BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{GATEWAY}/24", "dev", _BRIDGE)
    _ip("link", "set", _BRIDGE, "up")
    hosts = [Host(number) for number in range(1, count + 1)]
    names = "".join(f"{host.address} {host.name}\n" for host in hosts)
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
    return hosts


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
