"""`sensor-node init`: the real program, asked by pipe and in a terminal, with a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from support import SENSOR_NODE, Mosquitto, as_another_user, open_folder
from terminal import Terminal

from node.commands.init import _TEMPLATE
from node.config import load as configuration
from node.setup.brokers import brokers_of, parse_address
from node.setup.sensors import parse_sensor
from node.system.state_dir import StateDirLock

pytestmark = pytest.mark.real_time

CHECKOUT = Path(__file__).resolve().parents[1]


def init(folder: Path, *arguments: str, answers: str = "", **options: Any) -> Any:
    """Run it on simulated hardware; what it wrote is `node.toml` in the folder."""
    return subprocess.run(
        [SENSOR_NODE, "init", "--simulate", "--config", folder / "node.toml", *arguments],
        input=answers,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def document(folder: Path) -> dict[str, Any]:
    """What was written; `check` has to call it valid."""
    command = [SENSOR_NODE, "check", "--config", str(folder / "node.toml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return tomllib.loads((folder / "node.toml").read_text())


@pytest.fixture
def broker_with_login(tmp_path: Path) -> Iterator[Mosquitto]:
    passwords = tmp_path / "passwords"
    command = ["mosquitto_passwd", "-c", "-b", str(passwords), "pi", "right"]
    subprocess.run(command, check=True, capture_output=True)
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Mosquitto(folder, "allow_anonymous false", f"password_file {passwords}").start()
    yield broker
    broker.stop()


def test_without_a_question_it_takes_what_is_identified(broker, tmp_path):
    done = init(tmp_path, "--yes", "--broker", f"127.0.0.1:{broker.port}", "--name", "attic")
    assert done.returncode == 0, done.stdout + done.stderr
    written = document(tmp_path)
    assert written["node"] == {"name": "attic"}
    assert written["mqtt"] == {"host": "127.0.0.1", "port": broker.port}
    drivers = [sensor["driver"] for sensor in written["sensor"]]
    assert sorted(drivers) == ["bme280", "cpu", "ds18b20", "ds18b20", "mcp9808", "sysfs"]
    assert len({sensor["id"] for sensor in written["sensor"]}) == 6
    assert "sensor-node run --config" in done.stdout
    assert done.stderr == ""


def test_what_it_prints_next_works(broker, tmp_path):
    """The commands that it prints, typed as they stand there."""
    done = init(tmp_path, "--yes", "--broker", f"127.0.0.1:{broker.port}", cwd=tmp_path)
    commands = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    run, watch = commands
    environment = {**os.environ, "PATH": f"{Path(SENSOR_NODE).parent}:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["sh", "-c", f"exec {run}"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    ) as node:
        try:
            seen = subprocess.run(
                ["sh", "-c", f"{watch} | grep --max-count=1 temperature"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert "temperature" in seen.stdout
        finally:
            node.terminate()
    assert node.returncode == 0


def test_in_a_terminal(broker_with_login, tmp_path):
    """A wrong password, a pin that is taken, one that is for 1-Wire; no password on the screen."""
    config = tmp_path / "node.toml"
    terminal = Terminal(SENSOR_NODE, "init", "--simulate", "--config", str(config), lines=200)
    try:
        terminal.wait_for("Name of this node")
        terminal.type("cellar\n")
        terminal.wait_for("Address of the MQTT broker")
        terminal.type(f"mqtt://127.0.0.1:{broker_with_login.port}\n")
        for number, password in enumerate(("wrong", "right"), 1):
            terminal.wait_for("User name at the broker")
            _wait_for_count(terminal, "User name at the broker", number)
            terminal.type("pi\n")
            _wait_for_count(terminal, "Password (not shown", number)
            terminal.type(f"{password}\n")
        terminal.wait_for("The broker accepts the login")
        answers = {
            "mcp9808-": None,
            "MCP9808": ["y", "hall"],
            "0x44": ["2", ""],
            "BME280": ["n"],
            "thermal_zone0": ["n"],
            "10-000802b4ccf1": ["n"],
            "28-0316a2795bff": ["", "tank"],
            "device scd4x": ["n"],
        }
        for words, typed in answers.items():
            if typed is None:
                continue
            terminal.wait_for("Found:", words)
            for answer in typed:
                terminal.type(f"{answer}\n")
        terminal.wait_for("Type dht22 or dht11")
        terminal.type("AM2302\n")
        terminal.wait_for("GPIO of its data wire")
        terminal.type("four\n4\nn\n")
        terminal.wait_for("GPIO 4 is usually for 1-Wire")
        terminal.type("dht22\n\nair\n\n")
        assert terminal.wait() == 0
        assert "right" not in terminal.text
        assert "wrong" not in terminal.text
        terminal.wait_for("air", "dht22", "humidity")
    finally:
        terminal.close()
    written = document(tmp_path)
    assert written["mqtt"]["password_file"] == "mqtt.password"
    assert (tmp_path / "mqtt.password").read_text() == "right\n"
    assert (tmp_path / "mqtt.password").stat().st_mode & 0o007 == 0
    assert [(s["id"], s["driver"]) for s in written["sensor"]] == [
        ("hall", "mcp9808"),
        ("sht4x", "sht4x"),
        ("tank", "ds18b20"),
        ("air", "dht22"),
    ]
    assert written["sensor"][3]["pin"] == 17


def _wait_for_count(terminal: Terminal, text: str, count: int) -> None:
    from support import wait_until

    wait_until(lambda: terminal.text.count(text) == count, what=f"{count} times {text}")


@pytest.mark.parametrize("answered", range(4))
def test_ctrl_c_leaves_nothing_behind(broker, tmp_path, answered):
    config = tmp_path / "new" / "node.toml"
    config.parent.mkdir()
    terminal = Terminal(SENSOR_NODE, "init", "--simulate", "--config", str(config), lines=100)
    questions = ("Name of this node", "Address of the MQTT", "Read it?", "Its name", "Read it?")
    try:
        for question in questions[:answered]:
            terminal.wait_for(question)
            terminal.type(f"127.0.0.1:{broker.port}\n" if "MQTT" in question else "\n")
        terminal.wait_for(questions[answered])
        terminal.type("\x03")
        assert terminal.wait() == 130
        terminal.wait_for("Nothing was written.")
    finally:
        terminal.close()
    assert list(config.parent.iterdir()) == []


def test_the_end_of_the_input_is_no_answer(tmp_path):
    done = init(tmp_path, answers="attic\n")
    assert done.returncode == 1
    assert "no answer to: Address of the MQTT broker" in done.stderr
    assert "Nothing was written." in done.stderr
    assert not (tmp_path / "node.toml").exists()


def test_a_file_is_replaced_only_when_that_is_wanted_and_a_copy_is_kept(broker, tmp_path):
    file = tmp_path / "node.toml"
    file.write_text("# mine\n")
    yes = ("--yes", "--broker", f"127.0.0.1:{broker.port}")
    refused = init(tmp_path, *yes)
    assert refused.returncode == 1
    assert "--replace" in refused.stderr
    assert init(tmp_path, answers="\n").returncode == 1
    assert file.read_text() == "# mine\n"
    for copy in ("node.toml.old", "node.toml.old-2"):
        before = file.read_text()
        assert init(tmp_path, *yes, "--replace").returncode == 0
        assert (tmp_path / copy).read_text() == before


def test_the_template_of_the_installer_is_replaced_without_a_question(broker, tmp_path):
    template = (CHECKOUT / "deploy/node.toml").read_text()
    assert tomllib.loads(template) == _TEMPLATE
    (tmp_path / "node.toml").write_text(template)
    done = init(tmp_path, "--yes", "--broker", f"127.0.0.1:{broker.port}")
    assert done.returncode == 0, done.stderr


def test_a_broker_that_does_not_answer_is_said_and_the_file_written(tmp_path):
    port = free_port()
    done = init(tmp_path, "--yes", "--broker", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{port} refuses the connection" in done.stdout
    assert document(tmp_path)["mqtt"]["port"] == port


def test_a_broker_that_does_not_answer_is_asked_for_again(broker, tmp_path):
    port = free_port()
    answers = f"\n127.0.0.1:{port}\nn\n127.0.0.1:{broker.port}\n" + 20 * "\n"
    done = init(tmp_path, answers=answers)
    assert done.returncode == 0, done.stdout + done.stderr
    assert document(tmp_path)["mqtt"]["port"] == broker.port


def test_a_sensor_that_gives_no_value_is_said_and_the_file_written(broker, tmp_path):
    """Nothing simulates this one: the path does not exist."""
    yes = ("--yes", "--broker", f"127.0.0.1:{broker.port}")
    command = [SENSOR_NODE, "init", "--config", f"{tmp_path}/node.toml", *yes]
    command += ["--sensor", "sysfs:path=/nonexistent/temp", "--state-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/nonexistent/temp" in done.stdout
    assert document(tmp_path)["sensor"][0]["path"] == "/nonexistent/temp"


def test_options_instead_of_questions(broker_with_login, tmp_path):
    password = tmp_path / "secret"
    password.write_text("right\r\n")
    done = init(
        tmp_path,
        *("--yes", "--broker", f"127.0.0.1:{broker_with_login.port}", "--username", "pi"),
        *("--password-file", str(password), "--sensor", "dht22:pin=23"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right" not in done.stdout
    assert document(tmp_path)["sensor"][0] == {"id": "dht22", "driver": "dht22", "pin": 23}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--yes"], "--yes needs --broker"),
        (["--broker", "a b"], "not a valid host name"),
        (["--broker", "h:70000"], "from 1 to 65535"),
        (["--broker", "h", "--password-file", "x"], "--password-file needs --username"),
        (["--broker", "h", "--username", "u", "--password-file", "/nonexistent/p"], "No such file"),
        (["--sensor", "dht23:pin=4"], 'unknown driver "dht23"'),
        (["--sensor", "dht22:pin"], '"pin" is not of the form KEY=VALUE'),
        (["--yes", "--broker", "127.0.0.1:9", "--name", "a/b"], "A name consists of letters"),
        (["--yes", "--broker", "127.0.0.1:9", "--sensor", "dht22:pin=99"], "pin"),
    ],
)
def test_what_is_wrong_with_an_option(tmp_path, arguments, message):
    done = init(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Nothing was written." in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "node.toml").exists()


def test_a_node_that_runs_is_not_disturbed(tmp_path):
    lock = StateDirLock(tmp_path)
    lock.hold()
    command = [SENSOR_NODE, "init", "--config", f"{tmp_path}/node.toml"]
    command += ["--state-dir", str(tmp_path)]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"The node is running (process {os.getpid()})" in done.stderr


def test_a_folder_that_is_closed_to_the_user_is_said_at_once():
    with open_folder() as folder:
        target = folder / "closed"
        target.mkdir(mode=0o755)
        command = [SENSOR_NODE, "init", "--simulate", "--config", f"{target}/node.toml"]
        if os.geteuid() == 0:
            command = [*as_another_user(), *command]
        else:
            target.chmod(0o555)
        done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "try: sudo sensor-node init" in done.stderr


def test_sigterm_ends_it(tmp_path):
    terminal = Terminal(
        SENSOR_NODE, "init", "--simulate", "--config", str(tmp_path / "node.toml"), lines=50
    )
    try:
        terminal.wait_for("Name of this node")
        terminal.send_signal(signal.SIGTERM)
        assert terminal.wait() != 0
    finally:
        terminal.close()
    assert not (tmp_path / "node.toml").exists()


@pytest.mark.parametrize(
    ("written", "host", "port", "tls"),
    [
        ("broker", "broker", None, False),
        ("broker.local:1884", "broker.local", 1884, False),
        ("192.168.1.10", "192.168.1.10", None, False),
        ("mqtt://192.168.1.10:1883/", "192.168.1.10", 1883, False),
        ("mqtts://broker", "broker", None, True),
        ("fe80::1", "fe80::1", None, False),
        ("[fd00::5]:8883", "fd00::5", 8883, False),
    ],
)
def test_addresses_that_people_type(written, host, port, tls):
    mqtt = parse_address(written)
    assert (mqtt.host, mqtt.port, mqtt.tls is not None) == (host, port, tls)


@pytest.mark.parametrize("written", ["", "a:b", "http://x", "a:0", "[::1", "1.2.3", "a/b"])
def test_what_is_not_an_address(written):
    with pytest.raises(ValueError, match=r"\S"):
        parse_address(written)


def test_brokers_by_mdns():
    """As avahi-browse(1) prints them; what others announce may be anything."""
    text = (
        "+;eth0;IPv4;Mosquitto;_mqtt._tcp;local\n"
        '=;eth0;IPv4;Mosquitto;_mqtt._tcp;local;box.local;192.0.2.7;1884;"a=b"\n'
        "=;eth0;IPv6;no\\032host;_mqtt._tcp;local;other.example;fe80::1%eth0\x1b[2J;1883;\n"
        "=;eth0;IPv4;x;_mqtt._tcp;local;bad..local;192.0.2.9;99\n"
        "=;eth0;IPv4;short\n"
    )
    found = brokers_of(text, "_mqtt._tcp")
    assert [(broker.host, broker.port) for broker in found] == [("box.local", 1884)]
    home = brokers_of(
        "=;e;IPv4;Home;_h._tcp;local;ha.local;192.0.2.8;8123;", "_home-assistant._tcp"
    )
    assert [(broker.host, broker.port) for broker in home] == [("ha.local", 1883)]


def test_a_sensor_in_an_option():
    assert parse_sensor("dht22:pin=17") == ("dht22", {"pin": 17})
    assert parse_sensor("bme280:address=0x77,bus=3") == ("bme280", {"address": 0x77, "bus": 3})
    assert parse_sensor("cpu") == ("cpu", {})
    assert parse_sensor("AM2302:pin=17") == ("dht22", {"pin": 17})


def test_every_comment_and_key_is_toml(tmp_path):
    """A password never stands in the file itself."""
    from node.config.schema import MqttTable, Secret, TlsTable
    from node.config.values import parse_host
    from node.setup.configuration_file import configuration_text
    from node.setup.sensors import ChosenSensor

    mqtt = MqttTable(host=parse_host("b"), username='a"\\', password=Secret("hush"), tls=TlsTable())
    text = configuration_text("n", mqtt, [ChosenSensor("c", "cpu", {}, "two\nlines")], restart="x")
    assert "hush" not in text
    written = tomllib.loads(text)
    assert written["mqtt"]["username"] == 'a"\\'
    (tmp_path / "mqtt.password").write_text("hush")
    assert configuration.parse(tmp_path / "node.toml", text.encode()).mqtt.tls is not None
