"""What the node does without, a third party's driver has: in plain Python, `read` and `run`."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import SENSOR_NODE, sysfs_config, wait_until

from node.system import node_ids
from node.system.lean_imports import lean_imports

DRIVER = '''
"""A sensor that reads 21.5 °C if a library does what it does in any Python."""

from drivers.base import Channel, DriverInfo, Options
from drivers.errors import BadFrame


def hashlib():
    import hashlib, hmac
    assert len(hashlib.scrypt(b"x", salt=b"y", n=2, r=1, p=1)) == 64
    assert hmac.new(b"k", b"m", "sha256").hexdigest()


def decimal():
    from decimal import Decimal
    import msgspec
    assert msgspec.json.encode(Decimal("21.50")) == b'"21.50"'
    assert msgspec.json.decode(b'"21.50"', type=Decimal) == Decimal("21.50")


def toml():
    import msgspec
    assert msgspec.toml.decode(b"a = 21.5") == {"a": 21.5}


def formats():
    import msgspec
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([21.5])) == [21.5]
    assert msgspec.json.schema(int) == {"type": "integer"}
    assert type(msgspec.inspect.type_info(int)).__name__ == "IntType"


def ssl():
    import http.client, ssl
    assert ssl.create_default_context().check_hostname
    assert http.client.HTTPSConnection("localhost").port == 443


def typing_extensions():
    import msgspec, typing_extensions
    kind = typing_extensions.TypedDict("kind", {"t": typing_extensions.NotRequired[float]})
    assert msgspec.json.decode(b"{}", type=kind) == {}


def platform():
    import gettext, inspect, platform, shutil, uuid
    assert platform.python_version() and platform.uname().machine and platform.machine()
    assert gettext.translation("none", fallback=True).gettext("x") == "x"
    assert uuid.uuid5(uuid.NAMESPACE_DNS, "x") and inspect.signature(shutil.which)


def urllib():
    import urllib.request
    assert urllib.request.urlopen("data:,21.5").read() == b"21.5"


def paho():
    import paho.mqtt.client as mqtt
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, transport="websockets")
    client.tls_set()


class ProbeOptions(Options, frozen=True, kw_only=True):
    uses: str

    def bus(self):
        return self.uses

    def where(self):
        return self.uses


class Probe:
    channels = (Channel("temperature", "°C", (0.0, 50.0), 1),)

    def __init__(self, options, board):
        self._use = globals()[options.uses]

    def read(self):
        try:
            self._use()
        except Exception as error:
            raise BadFrame(f"{type(error).__name__}: {error}", "a library is not whole") from error
        return {"temperature": 21.5}

    def close(self):
        pass


PROBE = DriverInfo(
    name="probe",
    summary="Uses a library",
    options=ProbeOptions,
    channels=Probe.channels,
    open=Probe,
    example='driver = "probe"',
)
'''
USES = re.findall(r"^def (\w+)\(", DRIVER, re.M)


@pytest.fixture
def their_package(tmp_path: Path) -> dict[str, str]:
    """An installed package with the driver; the environment to see it."""
    site = tmp_path / "site"
    info = site / "probe-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "probe_driver.py").write_text(DRIVER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sensor_node.drivers]\nprobe = probe_driver:PROBE\n")
    return {"PYTHONPATH": str(site)}


def config_of(uses: list[str]) -> str:
    """A sensor for each; there is no broker."""
    sensor = '[[sensor]]\nid = "{0}"\ndriver = "probe"\nuses = "{0}"\ninterval = "1s"\n'
    return sysfs_config(1, {}) + "".join(sensor.format(name) for name in uses)


def test_control_each_use_is_one_that_plain_python_allows(their_package):
    script = "import sys, probe_driver\nfor use in sys.argv[1:]: getattr(probe_driver, use)()\n"
    done = subprocess.run(
        [sys.executable, "-c", script, *USES],
        env={**os.environ, **their_package},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_driver_of_another_package_finds_whole_libraries_in_read(their_package, tmp_path):
    config = tmp_path / "node.toml"
    config.write_text(config_of(USES))
    done = subprocess.run(
        [SENSOR_NODE, "read", "--config", str(config)],
        env={**os.environ, **their_package},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count(" probe ") == len(USES)
    assert done.stdout.count("21.5 °C  21.5 °C") == len(USES), done.stdout


@pytest.mark.parametrize("use", USES)
def test_a_driver_of_another_package_finds_whole_libraries_in_run(their_package, start_node, use):
    """Each alone: one that imports a library would bring it to the others."""
    node = start_node(config_of([use]), env=their_package)
    wait_until(lambda: f"{use} (probe" in node.log, what=f"{use} is online or not")
    assert node.log_lines(f"{use} (probe") == node.log_lines("online"), node.log


@given(text=st.text())
def test_the_ids_are_those_of_uuid5_without_hashlib_again(text):
    """A node keeps its ids for life (RFC 9562, §5.5)."""
    assert node_ids._digits(text) == uuid.uuid5(node_ids._APPLICATION, text).hex


@pytest.fixture(scope="module")
def after_run(tmp_path_factory) -> dict[str, object]:
    """The state of a process whose `run` had a second without a broker."""
    folder = tmp_path_factory.mktemp("run")
    config = folder / "node.toml"
    config.write_text(sysfs_config(1, {"s": folder / "temp"}))
    script = (
        "import os, signal, sys, threading, time\n"
        "from node.cli import main as cli\n"
        "def end():\n"
        "    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:\n"
        "        time.sleep(0.05)\n"
        "    time.sleep(1.0)\n"  # it tries to connect meanwhile
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "threading.Thread(target=end, daemon=True).start()\n"
        f"assert cli.main(['run', '--config', {str(config)!r}, '--state-dir', "
        f"{str(folder / 'state')!r}]) == 0\n"
        "modules = list(sys.modules)\n"
        "import gc, json\n"
        "print(json.dumps({'modules': modules, 'collects': gc.isenabled(), "
        "'frozen': gc.get_freeze_count()}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def test_run_brings_no_tls_where_there_is_none(after_run):
    """Neither OpenSSL, nor an HTTP client, nor e-mail is in the node's process."""
    heavy = ("ssl", "_ssl", "_hashlib", "http", "email", "inspect")
    assert not {*heavy} & {*after_run["modules"]}


def test_run_brings_no_module_that_only_other_commands_use(after_run):
    """Each of them costs a node from half a per cent to two of its start, on every start."""
    heavy = (
        *("shutil", "bz2", "lzma", "shlex", "subprocess", "tempfile", "json", "difflib"),
        *("platform", "msgspec.inspect", "importlib.metadata", "dataclasses", "statistics"),
        *("importlib.util", "node.derive.functions", "node.sensors.derived", "node.report.alarms"),
    )
    assert not {*heavy} & {*after_run["modules"]}


def test_run_collects_garbage_but_skips_the_objects_of_its_imports(after_run):
    assert after_run["collects"]
    assert after_run["frozen"] > 10_000


def test_garbage_is_collected_again_after_an_import_that_failed():
    with pytest.raises(ImportError), lean_imports():
        raise ImportError
    assert gc.isenabled()


def test_paho_gets_the_name_of_the_system_without_the_real_platform():
    """paho 2.2 asks while it is imported; whatever it asks later is answered by the real one."""
    script = (
        "import sys\n"
        "from node.system.lean_imports import lean_imports\n"
        "with lean_imports():\n"
        "    import platform\n"
        "    early = platform.system()\n"
        "assert 'platform' not in sys.modules\n"
        "version = platform.python_version()\n"
        "import platform as real\n"
        "assert platform is not real and (early, version) == (real.system(), "
        "real.python_version())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
