"""The brokers: RabbitMQ and NATS from Debian's packages, configured as in deploy/cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from hosts import Host
from support import replaced, wait_until

from node.mqtt.packets import framed, text

__all__ = ["PATIENCE_S", "Broker", "Nats", "RabbitMQ"]

PATIENCE_S = 300.0
"""How long a broker may take to start on a busy computer."""
DEPLOY = Path(__file__).resolve().parents[2] / "deploy/cluster"
# A CONNECT of MQTT 3.1.1 with a clean session and no client id (§3.1), and its answer (§3.2).
_CONNECT = framed(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text(""))
_COOKIE = "of-this-test-alone"
_WELCOME = b"\x20\x02\x00\x00"


class Broker:
    """One broker of the cluster, as a process with a process id namespace of its own."""

    mqtt_5: bool
    user: str
    more_changes: Mapping[str, str] = MappingProxyType({})
    """What else is changed in the configuration of deploy/cluster."""

    def __init__(self, host: Host, root: Path, changes: dict[str, str]) -> None:
        """`changes`: text -> text, in the configuration of deploy/cluster."""
        self.host = host
        self._root = root
        self._changes = changes
        self.folder = root / "srv" / host.name
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make the folder, empty but for the configuration."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        if not self.folder.exists():
            self.prepare()
        with (self.folder / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.host.inside(self._root, self.user, *self.command()),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def complete(self) -> None:
        """Do what is to be done once in a new cluster, on one of its brokers."""

    def kill(self) -> None:
        """SIGKILL, to all of its processes at once; they are gone when this returns."""
        assert self._process is not None
        for pid in self.host.processes():
            with contextlib.suppress(ProcessLookupError):  # it has died with another
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        wait_until(lambda: not self.host.processes(), PATIENCE_S, f"{self.host.name} is dead")

    def forget(self) -> None:
        """Lose the disk of a broker that was killed."""
        shutil.rmtree(self.folder)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def welcomes(self) -> bool:
        """Whether it accepts a client of MQTT."""
        address = (self.host.address, 1883)
        with contextlib.suppress(OSError), socket.create_connection(address, 2) as connection:
            connection.sendall(_CONNECT)
            return connection.recv(4) == _WELCOME
        return False

    def wait_until_it_welcomes(self) -> None:
        def answers() -> bool:
            assert self.runs, f"{self.host.name} has ended; see {self.folder}/output.log"
            return self.welcomes()

        wait_until(answers, PATIENCE_S, f"{self.host.name} to accept clients")

    def place(self, name: str) -> None:
        """Copy a file of deploy/cluster to the folder, with the changes."""
        target = self.folder / Path(name).name
        content = (DEPLOY / name).read_text()
        changes = {**self.more_changes, **self._changes}
        changes = {old: new for old, new in changes.items() if old in content}
        target.write_text(replaced(content, *changes.items()))

    def inside(self, *command: str, said: str) -> str:
        """What a command prints on the host, in its root file system, when it is told `said`."""
        return subprocess.run(
            self.host.inside(self._root, self.user, *command),
            input=said,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        ).stdout

    def _own(self) -> None:
        """Give the folder to the user of the broker."""
        ids = self._ids()
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, *ids)

    def _ids(self) -> tuple[int, int]:
        for line in (self._root / "etc/passwd").read_text().splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if name == self.user:
                return int(uid), int(gid)
        raise LookupError(self.user)


class RabbitMQ(Broker):
    """RabbitMQ with its MQTT plugin; the cluster finds itself by the names in the configuration."""

    mqtt_5 = True
    user = "rabbitmq"
    # Clients of the test have no names, and may do everything.
    more_changes: Mapping[str, str] = MappingProxyType(
        {
            "login_user = check": "login_user = guest",
            "login_pass = check": "login_pass = guest",
            "listeners.tcp = none": "listeners.tcp = none\nloopback_users = none",
        }
    )

    def prepare(self) -> None:
        self.folder.mkdir(parents=True)
        for name in ("rabbitmq.conf", "advanced.config", "enabled_plugins"):
            self.place(f"rabbitmq/{name}")
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(_COOKIE)
        cookie.chmod(0o400)
        self._own()

    def command(self) -> list[str]:
        return self._with_environment("rabbitmq-server")

    def complete(self) -> None:
        """Keep what the cluster knows of itself in Khepri, by Raft, in place of Mnesia."""

        def is_enabled() -> bool:  # refused as long as a broker does not know all others
            return self._evaluate("rabbit_feature_flags:enable(khepri_db)") == "ok"

        wait_until(is_enabled, PATIENCE_S, "RabbitMQ to use Khepri")

    def remove(self, other: Broker) -> None:
        """Take another broker, which does not run, out of the cluster."""
        self._evaluate(f"rabbit_db_cluster:forget_member(rabbit@{other.host.name}, false)")

    def keeper_of(self, queue: str) -> str:
        """The name of the host that has a queue, or its leader."""
        found = f'rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>))'
        return self._evaluate(f"{{ok, Q}} = {found}, amqqueue:qnode(Q)").partition("@")[2]

    def _evaluate(self, expression: str) -> str:
        """The value of an expression; rabbitmqctl does the same, and takes seconds to start."""
        call = ["erl_call", "-timeout", "200", "-c", _COOKIE, "-n", f"rabbit@{self.host.name}"]
        return self.inside(*call, "-e", said=f"{expression}.\n").removeprefix("{ok, ")[:-1]

    def _with_environment(self, program: str, *arguments: str) -> list[str]:
        folder = f"/srv/{self.host.name}"
        return [
            *("env", "-i", f"HOME={folder}", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"),
            f"RABBITMQ_MNESIA_BASE={folder}/mnesia",
            f"RABBITMQ_LOG_BASE={folder}/log",
            f"RABBITMQ_CONFIG_FILE={folder}/rabbitmq.conf",
            f"RABBITMQ_ADVANCED_CONFIG_FILE={folder}/advanced.config",
            f"RABBITMQ_ENABLED_PLUGINS_FILE={folder}/enabled_plugins",
            # Three of them on few processors: none spins while it waits.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
            f"/usr/lib/rabbitmq/bin/{program}",
            *arguments,
        ]


class Nats(Broker):
    """NATS with JetStream; its MQTT is 3.1.1."""

    mqtt_5 = False
    user = "root"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True)
        self.place("nats/nats-server.conf")

    def command(self) -> list[str]:
        folder = f"/srv/{self.host.name}"
        return [
            *("env", f"NATS_NAME={self.host.name}", f"NATS_STORE={folder}/data"),
            *("/usr/sbin/nats-server", "--config", f"{folder}/nats-server.conf"),
        ]
