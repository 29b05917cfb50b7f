"""Those that are compared."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

from peer import PROGRAMS, Job, Missing, Peer, said_by, thousandths

__all__ = ["ALL", "C", "Collectd", "MqttIo", "Node", "RawPaho", "ScheduleLoop", "Tutorial"]

_MQTT_IO = "mqtt-io==2.7.0"


class Tutorial(Peer):
    """Read, publish, sleep."""

    name = "tutorial"
    program = PROGRAMS.with_name("tutorial_loop.py")


class ScheduleLoop(Peer):
    """The `schedule` library, as its documentation uses it."""

    name = "schedule"
    program = PROGRAMS / "schedule_loop.py"
    shortest_s = 1.0

    def prepare(self, cache: Path) -> None:
        super().prepare(cache)
        self.version = f"schedule {importlib.metadata.version('schedule')}, {self.version}"


class RawPaho(Peer):
    """The least that can be done with paho."""

    name = "paho"
    program = PROGRAMS / "paho_loop.py"

    def readings(self, topic: str, payload: bytes) -> list[tuple[int, int]]:
        return [(int(topic.split("/")[2][1:]), int(payload))]


class C(Peer):
    """The floor: a C program on libmosquitto, compiled here."""

    name = "c"

    def prepare(self, cache: Path) -> None:
        if shutil.which("gcc") is None or not Path("/usr/include/mosquitto.h").exists():
            raise Missing("needs gcc and libmosquitto-dev")
        self._program = cache / "mosquitto_loop"
        source = str(PROGRAMS / "mosquitto_loop.c")
        said_by(["gcc", "-O2", "-Wall", "-o", str(self._program), source, "-lmosquitto"])
        self.version = f"libmosquitto {_debian_version('libmosquitto1')}"

    def command(self, job: Job) -> list[str]:
        words = [str(job.port), f"{job.interval_s:g}", *map(str, job.files)]
        return [str(self._program), *words]


class MqttIo(Peer):
    """mqtt-io of PyPI in an environment of its own, with a module that reads a file."""

    name = "mqtt-io"
    shortest_s = 1.0

    def prepare(self, cache: Path) -> None:
        self._environment = cache / "mqtt-io"
        self._python = self._environment / "bin" / "python"
        stamp = self._environment / _MQTT_IO
        if not stamp.exists():
            shutil.rmtree(self._environment, ignore_errors=True)
            said_by([sys.executable, "-m", "venv", str(self._environment)])
            pip = [str(self._python), "-m", "pip", "install", "--disable-pip-version-check"]
            said_by([*pip, "-q", _MQTT_IO])
            stamp.touch()
        (modules,) = self._environment.glob("lib/python3*/site-packages/mqtt_io/modules/sensor")
        shutil.copy(PROGRAMS / "mqtt_io_file.py", modules / "counted_file.py")
        said_by([str(self._python), "-m", "compileall", "-q", str(modules)])
        asked = "import importlib.metadata as m; print(m.version('mqtt-io'), m.version('aiomqtt'))"
        own, aiomqtt = said_by([str(self._python), "-c", asked]).split()
        self.version = f"mqtt-io {own}, aiomqtt {aiomqtt}"

    def command(self, job: Job) -> list[str]:
        inputs = [
            {
                "name": f"s{number}",
                "module": "files",
                "path": str(path),
                "interval": int(job.interval_s),
                "digits": 3,
                "retain": True,
            }
            for number, path in enumerate(job.files)
        ]
        config = {
            "mqtt": {"host": "127.0.0.1", "port": job.port, "topic_prefix": "sensors/mqtt-io"},
            "sensor_modules": [{"name": "files", "module": "counted_file"}],
            "sensor_inputs": inputs,
        }
        file = job.folder / "mqtt-io.yml"
        file.write_text(json.dumps(config))  # JSON is YAML
        return [str(self._python), "-m", "mqtt_io", str(file)]

    def readings(self, topic: str, payload: bytes) -> list[tuple[int, int]]:
        kind, _, sensor = topic.removeprefix("sensors/mqtt-io/").partition("/")
        return [(int(sensor[1:]), thousandths(float(payload)))] if kind == "sensor" else []


class Collectd(Peer):
    """collectd of Debian with its plugins `table` and `mqtt`; unpacked, so that none is started
    as a service."""

    name = "collectd"

    def prepare(self, cache: Path) -> None:
        self._root = cache / "collectd"
        program = self._root / "usr" / "sbin" / "collectd"
        if not program.exists():
            if shutil.which("apt-get") is None:
                raise Missing("is taken from Debian's packages")
            shutil.rmtree(self._root, ignore_errors=True)
            self._root.mkdir(parents=True)
            said_by(["apt-get", "download", "-q", "collectd-core"], folder=self._root)
            (package,) = self._root.glob("collectd-core*.deb")
            said_by(["dpkg", "-x", str(package), str(self._root)])
        self._program = str(program)
        said = said_by([self._program, "-h"], may_fail=True)
        self.version = next(
            (x.split(",")[0] for x in said.splitlines() if x.startswith("collectd 5")), "collectd"
        )

    def command(self, job: Job) -> list[str]:
        tables = "".join(
            f'<Table "{path}">\nInstance "s{number}"\nSeparator " \\n"\n'
            f'<Result>\nType "gauge"\nInstancePrefix "t"\nValuesFrom 0\n</Result>\n</Table>\n'
            for number, path in enumerate(job.files)
        )
        config = job.folder / "collectd.conf"
        config.write_text(
            f'Hostname "bench"\nFQDNLookup false\nInterval {job.interval_s:g}\n'
            f'BaseDir "{job.folder}"\nPIDFile "{job.folder}/pid"\n'
            f'PluginDir "{self._root}/usr/lib/collectd"\n'
            f'TypesDB "{self._root}/usr/share/collectd/types.db"\n'
            f"LoadPlugin table\nLoadPlugin mqtt\n<Plugin table>\n{tables}</Plugin>\n"
            f'<Plugin mqtt>\n<Publish "bench">\nHost "127.0.0.1"\nPort {job.port}\nQoS 1\n'
            'Prefix "sensors/collectd"\nRetain true\nStoreRates true\n</Publish>\n</Plugin>\n'
        )
        return [self._program, "-f", "-C", str(config)]

    def readings(self, topic: str, payload: bytes) -> list[tuple[int, int]]:
        """Of `sensors/collectd/bench/table-s12/gauge-t` and `TIME:NUMBER`."""
        sensor = topic.split("/")[3].removeprefix("table-s")
        return [(int(sensor), round(float(payload.rstrip(b"\0").split(b":")[1])))]


class Node(Peer):
    """This node, with its log; started as pip installs it."""

    name = "node"
    shortest_s = 0.1
    late_s = 65.0  # `history_interval`, and some

    def prepare(self, cache: Path) -> None:
        self.version = f"pi-sensor-node {importlib.metadata.version('pi-sensor-node')}"

    def command(self, job: Job) -> list[str]:
        sensors = "".join(
            f'[[sensor]]\nid = "s{number}"\ndriver = "sysfs"\npath = "{path}"\n'
            f"interval = {job.interval_s:g}\n[sensor.channel.temperature]\ndecimals = 3\n"
            for number, path in enumerate(job.files)
        )
        return self.run(job, sensors)

    def run(self, job: Job, tables: str) -> list[str]:
        """The command for a configuration with these tables beside the broker's."""
        config = job.folder / "node.toml"
        config.write_text(
            f'[node]\nname = "node"\n[mqtt]\nhost = "127.0.0.1"\nport = {job.port}\n{tables}'
        )
        program = str(Path(sys.executable).with_name("sensor-node"))
        state = str(job.folder / "state")
        return [program, "run", "--config", str(config), "--state-dir", state]

    def readings(self, topic: str, payload: bytes) -> list[tuple[int, int]]:
        """Of a sensor's state, or of the history, which has every reading."""
        if topic == "sensors/node/history":
            made = json.loads(payload)["readings"]
            return [(int(r["sensor"][1:]), thousandths(r["temperature"])) for r in made]
        sensor, _, kind = topic.removeprefix("sensors/node/").partition("/")
        if kind != "state" or not payload:
            return []
        value = json.loads(payload)["temperature"]
        return [] if value is None else [(int(sensor[1:]), thousandths(value))]


ALL: tuple[type[Peer], ...] = (Tutorial, Node, MqttIo, Collectd, ScheduleLoop, RawPaho, C)
"""In the order of the table."""


def _debian_version(package: str) -> str:
    if shutil.which("dpkg-query") is None:
        return "?"
    return said_by(["dpkg-query", "-W", "-f", "${Version}", package], may_fail=True) or "?"
