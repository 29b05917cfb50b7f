"""The command line as a user meets it: results, errors, exit codes, and what the README says."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import SENSOR_NODE, replaced, sysfs_config

from drivers.catalogue import CATALOGUE
from drivers.catalogue_table import catalogue_table, lies_table
from drivers.names_table import names_table
from drivers.registry import driver_names, find_driver
from node import __version__
from node.alarms.table import AlarmTable
from node.cli.main import COMMANDS
from node.cli.option_text import describe_options
from node.config import schema

ROOT = Path(__file__).parent.parent
CONFIG_README = (ROOT / "node" / "config" / "README.md").read_text()
DRIVERS_README = (ROOT / "drivers" / "README.md").read_text()
READMES = [
    str(file.relative_to(ROOT))
    for page in ("README.md", "deploy/*.md", "drivers/**/README.md", "node/**/README.md")
    for file in sorted(ROOT.glob(page))
]

CONFIG = """
[node]
name = "lab"
[mqtt]
host = "127.0.0.1"
payload = "both"
[[sensor]]
id = "air"
driver = "dht22"
pin = 4
[sensor.channel.temperature]
unit = "°F"
[[sensor]]
id = "box"
driver = "bme280"
address = 0x76
[[sensor]]
id = "folder"
driver = "sysfs"
path = "/sys/somewhere"
"""


def sensor_node(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SENSOR_NODE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "node.toml"
    file.write_text(CONFIG)
    return str(file)


def test_version():
    done = sensor_node("--version")
    assert (done.returncode, done.stdout) == (0, f"sensor-node {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = sensor_node(command, "--help", env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0
    assert re.search(rf"examples:\n  (sudo )?sensor-node {command}\b", done.stdout)
    assert "exit codes:\n  0   " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "--config" in done.stdout
    assert "--log-level" in done.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["run", "--nonsense"], ["drivers", "dht23"]]
)
def test_wrong_usage_exits_with_2(arguments):
    assert sensor_node(*arguments).returncode == 2


@pytest.mark.parametrize("command", ["run", "check", "read", "watch"])
def test_an_invalid_configuration_exits_with_78_and_names_the_line(tmp_path, command):
    file = tmp_path / "bad.toml"
    file.write_text('[mqtt]\nhost = "a..b"\n')
    done = sensor_node(command, "--config", str(file))
    assert done.returncode == 78
    assert f"{file}:2: [mqtt] host:" in done.stderr
    assert done.stdout == ""


def test_the_configuration_is_found_by_the_environment(config):
    done = sensor_node("check", env={"SENSOR_NODE_CONFIG": config, "PATH": "/usr/bin"})
    assert done.returncode == 0


def test_check_says_what_would_be_published_where(config):
    done = sensor_node("check", "--config", config)
    assert done.returncode == 0
    first, *lines = done.stdout.splitlines()
    assert first == f"{config}: valid"
    assert max(map(len, lines)) <= 80
    published = lines[: next(n for n, line in enumerate(lines) if line.startswith("LISTENS TO"))]
    content = dict(line.split(maxsplit=1) for line in lines if "/" in line)
    content |= dict(line.split(maxsplit=1) for line in published if "/" in line)
    assert content["sensors/lab/air/state"].startswith("temperature °F, humidity %, every")
    assert content["sensors/lab/air/temperature"] == "°F, every 30s"
    assert content["sensors/lab/air/availability"] == "online, offline"
    assert content["sensors/lab/status"] == "online, offline"
    assert content["sensors/lab/cmd/+"] == "commands: read, identify, restart,"
    assert " replay\n" in done.stdout
    assert any(topic.startswith("homeassistant/device/sn") for topic in content)


def test_check_as_json(config, tmp_path):
    report = json.loads(sensor_node("check", "--config", config, "--json").stdout)
    assert report["ok"]
    assert {"topic": "sensors/lab/status", "content": "online, offline"} in report["topics"]
    file = tmp_path / "bad.toml"
    file.write_text("[mqtt]\nhost = 'h'\nprt = 1\n")
    done = sensor_node("check", "--config", str(file), "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (78, False)
    assert report["problems"][0]["line"] == 3


def test_read_prints_a_table(config):
    done = sensor_node("read", "air", "box", "--config", config, "--simulate")
    assert done.returncode == 0, done.stderr
    heading, air, *_ = done.stdout.splitlines()
    assert heading.split() == ["SENSOR", "DRIVER", "CHANNEL", "RAW", "VALUE", "ACCURACY", "TOOK"]
    assert re.fullmatch(r"air +dht22 +temperature +[\d.]+ °C +[\d.]+ °F +±0.5 °C +[\d.]+ s", air), (
        air
    )
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_read_shows_what_a_filter_rejects(config):
    file = Path(config)
    file.write_text(replaced(CONFIG, ('unit = "°F"', "range = [80, 90]")))
    done = sensor_node("read", "air", "--config", config, "--simulate")
    assert done.returncode == 1
    _, temperature, humidity, reason = done.stdout.splitlines()
    assert re.search(r" [\d.]+ °C +rejected +±0.5 °C", temperature)
    assert re.search(r" [\d.]+ % +[\d.]+ % +±2 %", humidity)
    assert "outside the configured range 80 to 90" in reason


def test_read_gives_the_accuracy_of_the_very_sensor(tmp_path):
    """A DS1822 is no DS18B20, and a LM35 no TMP36."""
    file = tmp_path / "node.toml"
    file.write_text(
        '[mqtt]\nhost = "h"\n[[sensor]]\nid = "a"\ndriver = "ds18b20"\n'
        'address = "22-0316a2795bff"\n[[sensor]]\nid = "b"\ndriver = "mcp3008"\n'
        'sensor = "lm35"\n[[sensor]]\nid = "c"\ndriver = "sysfs"\nname = "bmp280"\n'
    )
    results = json.loads(sensor_node("read", "--config", str(file), "--simulate", "--json").stdout)
    assert [r["accuracy"] for r in results] == [
        {"temperature": "±2 °C"},
        {"temperature": "±0.5 °C"},
        {},
    ]
    assert results[0]["raw_units"] == {"temperature": "°C"}


def test_read_as_json(config):
    done = sensor_node("read", "box", "--config", config, "--simulate", "--json")
    (box,) = json.loads(done.stdout)
    assert box["units"] == {"temperature": "°C", "humidity": "%", "pressure": "hPa"}
    assert 10 < box["values"]["temperature"] < 30
    assert box["error"] == ""


def test_read_of_a_broken_sensor_exits_with_1_and_shows_the_others(config):
    """No hardware here: each says why, and what to do."""
    done = sensor_node("read", "air", "folder", "--config", config)
    assert done.returncode == 1
    assert "air (dht22):" in done.stdout
    assert "/sys/somewhere does not exist" in done.stdout


def test_read_of_an_unknown_sensor_is_wrong_usage(config):
    done = sensor_node("read", "water", "--config", config)
    assert done.returncode == 2
    assert "configured: air, box, folder" in done.stderr


def test_read_gives_a_stuck_sensor_up(tmp_path):
    """A FIFO without a writer blocks for ever."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "good").write_text("20000\n")
    file = tmp_path / "node.toml"
    file.write_text(sysfs_config(1, {"stuck": tmp_path / "fifo", "good": tmp_path / "good"}))
    done = sensor_node("read", "--config", str(file))
    assert done.returncode == 1
    assert "stuck (sysfs): no answer within 2s" in done.stdout
    assert "20 °C" in done.stdout


def test_drivers_lists_every_driver():
    done = sensor_node("drivers")
    assert done.returncode == 0
    thermometers, dies = done.stdout.split("\nChips that are made for something else, and measure ")
    listed = [
        [line.split()[0] for line in part.splitlines()[1:] if line] for part in (thermometers, dies)
    ]
    assert listed[0] + listed[1] == sorted(
        driver_names(), key=lambda name: find_driver(name).is_die
    )
    assert {"ds3231", "lsm6dsox", "ina228", "mmc5603"} <= {*listed[1]}
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", driver_names())
def test_a_driver_is_described_in_full(name):
    done = sensor_node("drivers", name)
    info = find_driver(name)
    for channel in info.channels:
        assert channel.name in done.stdout
    for option in describe_options(info.options):
        assert option.name in done.stdout
    assert info.example.splitlines()[0] in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    words = " ".join(done.stdout.split())
    for text in (info.accuracy, info.source, info.quirks):
        assert " ".join(text.split()) in words
    assert info.accuracy
    described = json.loads(sensor_node("drivers", name, "--json").stdout)
    assert (described["name"], described["accuracy"]) == (name, info.accuracy)


def test_the_catalogue_as_markdown():
    done = sensor_node("drivers", "--markdown")
    tables = (catalogue_table(CATALOGUE), lies_table(CATALOGUE), names_table())
    assert done.stdout == "\n".join(tables)
    assert f"\n\n{names_table()}\n" in DRIVERS_README
    one = sensor_node("drivers", "bme280", "--markdown").stdout.splitlines()
    table = ["| driver |", "|---|---|-", "| `bme280`"]
    assert [line[:10] for line in one] == [*table, "", *table]
    assert sensor_node("drivers", "cpu", "--markdown").returncode == 2
    assert sensor_node("drivers", "--markdown", "--json").returncode == 2


def test_output_into_a_closed_pipe_is_no_traceback():
    command = ["bash", "-c", '"$0" drivers | true; exit ${PIPESTATUS[0]}', SENSOR_NODE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_watch_without_a_broker_says_so_and_ends_in_time():
    done = sensor_node("watch", "--host", "127.0.0.1", "--port", "1", "--seconds", "1")
    assert done.returncode == 1
    assert "refuses the connection" in done.stderr
    assert "no connection to 127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--host", "a..b"], ["--port", "x"], ["--seconds", "-3"], ["--base-topic", "a/#"]]
)
def test_watch_refuses_wrong_arguments(arguments):
    assert sensor_node("watch", *arguments).returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["README.md", "node/commands/README.md"])
def test_the_readmes_document_every_command(name, command):
    assert f"| `sensor-node {command}" in (ROOT / name).read_text()


@pytest.mark.parametrize("name", driver_names())
def test_the_readmes_document_every_driver(name):
    """Among the drivers, and in the section on wiring."""
    before, wiring, after = re.split(r"^## (?:Wiring|The catalogue)$", DRIVERS_README, flags=re.M)
    assert f"`{name}`" in before + after
    assert f"`{name}`" in wiring


TABLES: dict[str, type[msgspec.Struct]] = {
    "node": schema.NodeTable,
    "mqtt": schema.MqttTable,
    "mqtt.tls": schema.TlsTable,
    "outbox": schema.OutboxTable,
    "homeassistant": schema.HomeAssistantTable,
    "status_led": schema.StatusLedTable,
    "button": schema.ButtonTable,
    "web": schema.WebTable,
    "sensor.channel": schema.ChannelTable,
    "sensor.channel.alarm": AlarmTable,
    "simulation": schema.SimulationTable,
    "simulation.fault": schema.FaultTable,
}


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_documents_every_key(name):
    for field in msgspec.structs.fields(TABLES[name]):
        if field.name not in ("tls", "fault"):  # tables of their own
            assert f"`{field.encode_name}`" in CONFIG_README, field.encode_name


@pytest.mark.parametrize("name", driver_names())
def test_the_drivers_readme_documents_every_option(name):
    for option in describe_options(find_driver(name).options):
        assert f"`{option.name}`" in DRIVERS_README, option.name


def configurations() -> list[tuple[str, str]]:
    """Every TOML block of the READMEs that configures a broker, and where it stands."""
    texts = {name: (ROOT / name).read_text() for name in READMES}
    found = [
        (name, block)
        for name, text in texts.items()
        for block in re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]
    return [(name, block) for name, block in found if "[mqtt]" in block]


def test_the_configurations_of_the_readmes_are_valid(tmp_path):
    """Each passes `check`, and none has another sensor on the wire of the DS18B20s, GPIO 4."""
    whole = configurations()
    assert {name for name, _ in whole} >= {"README.md", "node/config/README.md"}
    for name, block in whole:
        file = tmp_path / "node.toml"
        file.write_text(block)
        for name in ("mqtt.password", "web.password", "ca.crt", "node.crt", "node.key"):
            (tmp_path / name).write_text("x")
        done = sensor_node("check", "--config", str(file))
        problems = [line for line in done.stderr.splitlines() if "PEM" not in line]
        assert problems == [], name
        assert not ("ds18b20" in block and re.search(r"^pin = 4$", block, re.MULTILINE)), name


# What whoever is not root must have sudo for, as we tell them to type it.
_FOR_ROOT = re.compile(
    r"(?<![\w./-])(sudo )?((systemctl (start|stop|restart|reload|enable|edit)|journalctl"
    r"|apt(-get)? install|usermod|timedatectl set|chgrp|chown|chmod|systemd-machine-id-setup)\b.*)"
)
_TYPED_AS_ROOT = (
    "journalctl -u sensor-node`",  # on the image, where one logs in as root
    "apt install mosquitto openssl",  # "as root", on the broker's computer
    "systemctl restart mosquitto",
)


def without_sudo(text: str) -> list[str]:
    bare = [match[2] for match in _FOR_ROOT.finditer(text) if not match[1]]
    return [command for command in bare if not command.startswith(_TYPED_AS_ROOT)]


@pytest.mark.parametrize("name", READMES)
def test_what_a_readme_says_to_type_has_its_sudo(name):
    text = (ROOT / name).read_text()
    typed = re.findall(r"```sh\n.*?```|`[^`\n]+`", text, re.DOTALL)
    assert [command for part in typed for command in without_sudo(part)] == []


def test_what_a_message_says_to_type_has_its_sudo():
    """Every text of the node and its drivers, and what the installer and the updater say."""
    found = []
    for file in (*ROOT.glob("node/**/*.py"), *ROOT.glob("drivers/**/*.py")):
        tree = ast.parse(file.read_text())
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        found += [(file, c) for t in texts if isinstance(t, str) for c in without_sudo(t)]
    parts = [*ROOT.glob("deploy/update_parts/*.py")]
    assert parts
    for file in (ROOT / "deploy/install.sh", ROOT / "deploy/update", *parts):
        said = re.findall(r"^.*\b(?:say|say_command|fail)\b.*$", file.read_text(), re.MULTILINE)
        assert said or file in parts
        found += [(file, command) for line in said for command in without_sudo(line)]
    assert found == []


def test_a_command_without_its_sudo_would_be_found():
    """The control, in the words of once."""
    assert without_sudo("to start it: systemctl start sensor-node") == [
        "systemctl start sensor-node"
    ]
    assert without_sudo("`sudo systemctl start x`; `systemctl status x`; `/usr/bin/chown`") == []


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1", "C.UTF-8"])
def test_json_is_utf_8_whatever_the_locale(tmp_path, temperature_file, locale):
    """RFC 8259, §8.1; a degree sign is neither one byte nor a question mark."""
    config = tmp_path / "node.toml"
    config.write_text(sysfs_config(1883, {"s": temperature_file}))
    for command in (["check", str(config), "--json"], ["read", "-c", str(config), "--json"]):
        environment = {
            **os.environ,
            "LC_ALL": locale,
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONUTF8": "0",
        }
        done = subprocess.run(
            [SENSOR_NODE, *command], env=environment, capture_output=True, timeout=60, check=True
        )
        assert "°C" in done.stdout.decode("utf-8"), command
