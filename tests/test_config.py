"""The configuration: every problem at once, each with its line and what to do."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config.load import ConfigError, find_file, load
from node.config.mqtt import default_name
from node.config.schema import Config
from node.config.toml_lines import locate_keys
from node.config.values import parse_host
from node.system import node_ids
from node.units import Rate, Seconds, convert, duration_text

MQTT = '[mqtt]\nhost = "127.0.0.1"\n'


def load_text(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "node.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    return [str(problem) for problem in caught.value.problems]


def sensor(keys: str, *, name: str = "air", driver: str = "dht22") -> str:
    return f'[[sensor]]\nid = "{name}"\ndriver = "{driver}"\n{keys}\n'


DESIGN_EXAMPLE = """
[node]
name = "greenhouse"

[mqtt]
host = "192.168.1.10"
port = 1883
username = "greenhouse"
password = "secret"
base_topic = "sensors"
protocol = "auto"
keepalive = "30s"
payload = "json"
retain_for = "1h"

[outbox]
max_readings = 200000
keep = "48h"
history_interval = "60s"
drain_rate = 100

[homeassistant]
enabled = true
prefix = "homeassistant"

[status_led]
pin = 17

[button]
pin = 27

[[sensor]]
id = "air"
driver = "dht22"
pin = 4
interval = "30s"
power_pin = 22

[sensor.channel.temperature]
offset = -0.4
range = [-10, 50]
max_rate = "5/min"
median = 3
delta = 0.1
heartbeat = "5m"
unit = "°C"
decimals = 1

[[sensor]]
id = "tank"
driver = "mcp3008"
channel_number = 2
sensor = "thermistor"
beta = 3435

[sensor.channel.temperature]
calibrate = [[0.3, 0.0], [98.9, 100.0]]
"""


def test_a_full_configuration_is_read(tmp_path):
    config = load_text(tmp_path, DESIGN_EXAMPLE)
    air, tank = config.sensors
    air_options: Any = air.options
    tank_options: Any = tank.options
    assert config.node.name == "greenhouse"
    assert (air_options.pin, air.interval, air.power_pin) == (4, 30.0, 22)
    assert air.channel["temperature"].max_rate == pytest.approx(5 / 60)
    assert (tank_options.channel_number, tank_options.beta) == (2, 3435.0)
    assert config.mqtt.keepalive == 30.0


def test_the_host_alone_is_enough(tmp_path):
    config = load_text(tmp_path, MQTT)
    assert config.mqtt.broker_port == 1883
    assert (config.mqtt.payload, config.mqtt.retain_for) == ("json", 3600.0)
    assert config.node.name
    assert "no [[sensor]]" in config.notes[0]


def test_a_file_saved_by_an_editor_of_windows_is_read(tmp_path):
    """With a byte order mark, and CR before LF."""
    file = tmp_path / "node.toml"
    file.write_bytes(b"\xef\xbb\xbf" + MQTT.replace("\n", "\r\n").encode())
    assert load(file).mqtt.host == "127.0.0.1"


def test_a_host_name_with_dots_becomes_a_topic_part(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "pi zero.local")
    assert load_text(tmp_path, MQTT).node.name == "pi-zero"


def test_tls_moves_the_port(tmp_path):
    assert load_text(tmp_path, MQTT + "[mqtt.tls]\n").mqtt.broker_port == 8883


def test_every_problem_is_reported_at_once_with_its_line(tmp_path):
    text = (
        '[node]\nname = "green house"\n'
        '[mqtt]\nhost = "a..b"\nprt = 1883\n'
        '[[sensor]]\nid = "air"\ndriver = "dht22"\npim = 4\n'
        '[[sensor]]\nid = "air"\ndriver = "dht23"\n'
    )
    found = problems(tmp_path, text)
    assert [problem.split(":")[0] for problem in found] == [
        "line 2",
        "line 4",
        "line 5",
        "line 6",
        "line 9",
        "line 11",
        "line 12",
    ]
    assert "letters, digits, - and _" in found[0]
    assert "not a valid host name" in found[1]
    assert "did you mean port?" in found[2]
    assert "pin: is missing" in found[3]
    assert "did you mean pin?" in found[4]
    assert "already the id of the sensor at line 6" in found[5]
    assert "did you mean dht22?" in found[6]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "[mqtt]: is missing"),
        ("[mqtt]\nport = 1\n", "host: is missing"),
        ("mqtt = 3\n", "expected a table"),
        ('sensor = "x"\n' + MQTT, "double brackets"),
        ("[sensor]\nid = 'a'\n" + MQTT, "double brackets"),
        ("[mqt]\nhost = 'h'\n", "unknown table; did you mean mqtt?"),
        (MQTT + "port = 0\n", "port: expected a whole number >= 1"),
        (MQTT + "port = 70000\n", "port: expected a whole number <= 65535"),
        (MQTT + 'port = "1883"\n', "expected a whole number, got a text"),
        (MQTT + 'payload = "xml"\n', "expected one of json, plain, both"),
        (MQTT + "protocol = 4\n", 'expected "auto", "5" or "3.1.1"'),
        (MQTT + 'keepalive = "1s"\n', "between 5s and 1h"),
        (MQTT + 'retain_for = "soon"\n', "expected a duration"),
        (MQTT + 'base_topic = "a/#"\n', "base_topic"),
        (MQTT + 'base_topic = "$SYS/x"\n', "base_topic"),
        (MQTT + 'base_topic = "a\\n"\n', "base_topic"),
        (MQTT + 'username = "u"\npassword_file = "a\\u0000b"\n', "cannot be read: embedded null"),
        (MQTT + f'username = "u"\npassword_file = "{"x" * 999}"\n', "name too long"),
        (MQTT + f"keepalive = {'9' * 400}\n", "between 0 and ten years"),
        (MQTT + f"port = {'9' * 5000}\n", "not valid TOML"),
        (MQTT + f"x = {'[' * 5000}\n", "not valid TOML"),
        (MQTT + sensor("pin = 4\n[sensor.channel.temperature]\noffset = nan"), "finite number"),
        (
            MQTT + sensor("pin = 4\n[sensor.channel.temperature]\ncalibrate = [[0, inf], [1, 2]]"),
            "finite number",
        ),
        (MQTT + sensor('path = "/x"\nscale = 0', driver="sysfs"), "scale: expected a number > 0"),
        (
            MQTT + sensor('path = "/x"\n[sensor.channel.pressure]\nunit = "psi"', driver="sysfs"),
            "unit: expected one of %, K, Pa, hPa",
        ),
        (MQTT + sensor("select_pin = 11", driver="mcp3008"), "GPIO 11 is used twice"),
        (
            MQTT
            + 'retain_for = "1m"\n'
            + sensor("pin = 4\n[sensor.channel.temperature]\ndelta = 1"),
            "must come sooner",
        ),
        (MQTT + 'password = "x"\n', "needs a username"),
        (
            MQTT + 'username = "u"\npassword_file = "nope.password"\n',
            "nope.password cannot be read",
        ),
        (MQTT + 'username = "u"\npassword = "x"\npassword_file = "y"\n', "mutually exclusive"),
        (MQTT + '[mqtt.tls]\nca_file = "nope.crt"\n', "nope.crt cannot be read"),
        (MQTT + "[status_led]\npin = 99\n", "pin: expected a whole number <= 27"),
        (MQTT + sensor('pin = 4\ninterval = "1s"'), "more often than every 2 s"),
        (MQTT + sensor("pin = 4\ninterval = 0"), "more often than every 2 s"),
        (MQTT + sensor('interval = "10ms"', driver="cpu"), "more often than every 0.1 s"),
        (MQTT + sensor("pin = 28"), "pin: expected a whole number <= 27"),
        (MQTT + sensor("pin = 4", name="cmd"), "reserved for the topics of commands"),
        (MQTT + sensor("pin = 4", name="a/b"), "letters, digits"),
        (MQTT + sensor('pin = 4\nbackend = "x"'), "one of auto, kernel, pulseio, edges"),
        (
            MQTT + sensor('address = "28-XYZ"', driver="ds18b20"),
            'expected an address like "28-0316a2795bff"',
        ),
        (MQTT + sensor("address = 0x80", driver="bme280"), "expected one of 0x77, 0x76"),
        (MQTT + sensor("info = 1\noptions = 2\npin = 4"), "unknown key of the driver dht22"),
        (MQTT + sensor("pin = 4\nchannel = 7"), "expected tables"),
        (MQTT + sensor("pin = 4\n[sensor.channel.temprature]"), "did you mean temperature?"),
        (MQTT + sensor('pin = 4\n[sensor.channel.temperature]\nunit = "R"'), "one of °C, °F, K"),
        (MQTT + sensor("pin = 4\n[sensor.channel.temperature]\nmedian = 4"), "must be odd"),
        (
            MQTT + sensor("pin = 4\n[sensor.channel.temperature]\nrange = [5, 1]"),
            "[lowest, highest]",
        ),
        (
            MQTT + sensor("pin = 4\n[sensor.channel.temperature]\ncalibrate = [[1, 2]]"),
            "length >= 2",
        ),
        (
            MQTT + sensor("pin = 4\n[sensor.channel.temperature]\ncalibrate = [[1, 2], [1, 3]]"),
            "same measured value",
        ),
        (
            MQTT + sensor("pin = 4\n[sensor.channel.temperature]\ncalibrate = [[10, 0], [0, 1]]"),
            "must rise",
        ),
        (
            MQTT + sensor("pin = 4\n[sensor.channel.temperature]\nrange = [100, 200]"),
            "the sensor measures -40 to 80 °C",
        ),
        (
            MQTT
            + sensor(
                "pin = 4\n[sensor.channel.temperature]\noffset = 1\ncalibrate = [[0, 1], [2, 3]]"
            ),
            "mutually exclusive",
        ),
        (MQTT + sensor('pin = 4\n[sensor.channel.temperature]\nmax_rate = "5"'), "expected a rate"),
        (
            MQTT + sensor('pin = 4\n[sensor.channel.temperature]\nheartbeat = "5m"'),
            "only applies together with delta",
        ),
        (
            MQTT + sensor('pin = 4\n[sensor.channel.temperature]\ndelta = 1\nheartbeat = "2h"'),
            "must come sooner",
        ),
    ],
)
def test_each_mistake_is_named(tmp_path, text, says):
    assert says in "\n".join(problems(tmp_path, text))


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (sensor("pin = 4"), sensor("pin = 4", name="b", driver="dht11"), "GPIO 4 is used by"),
        (
            sensor("address = 0x76", driver="bme280"),
            sensor("address = 0x76", name="b", driver="bme280"),
            "I2C bus 1 address 0x76 is used by",
        ),
        (sensor("pin = 9"), sensor("", name="b", driver="mcp3008"), "GPIO 9 is used by"),
        (sensor("pin = 4"), "[button]\npin = 4\n", "GPIO 4 is used by"),
        (sensor("pin = 4\npower_pin = 4"), "", "GPIO 4 is used by"),
        (sensor("pin = 4"), sensor("pin = 5\npower_pin = 4", name="b"), "GPIO 4 is used by"),
        (
            sensor("", driver="mcp3008"),
            sensor("", name="b", driver="mcp3008"),
            "MCP3008 on GPIO 8 input 0 is used by",
        ),
    ],
)
def test_two_parts_on_one_pin_or_address_are_refused(tmp_path, first, second, says):
    assert says in "\n".join(problems(tmp_path, MQTT + first + second))


def test_a_sensor_on_the_pins_of_the_i2c_bus_is_refused(tmp_path):
    """GPIO 2 and 3 are SDA and SCL of bus 1; another bus has others."""
    text = MQTT + sensor("pin = 2") + sensor("{bus}", name="b", driver="bme280")
    assert "GPIO 2 is used by" in "".join(problems(tmp_path, text.format(bus="")))
    assert load_text(tmp_path, text.format(bus="bus = 3"))


def test_a_ds18b20_without_address_must_be_the_only_one(tmp_path):
    addressed = sensor('address = "28-000000000001"', driver="ds18b20")
    other = sensor('address = "28-000000000002"', name="b", driver="ds18b20")
    assert load_text(tmp_path, MQTT + addressed + other)
    found = problems(tmp_path, MQTT + addressed + sensor("", name="b", driver="ds18b20"))
    assert "the 1-Wire bus is used by" in "".join(found)


def test_two_paths_to_one_file_are_the_same(tmp_path):
    text = MQTT + sensor('path = "/a//b"', driver="sysfs")
    text += sensor('path = "/a/c/../b"', name="x", driver="sysfs")
    assert "/a/b is used by" in "".join(problems(tmp_path, text))


def test_two_inputs_of_one_converter_get_along(tmp_path):
    text = (
        MQTT
        + sensor("", driver="mcp3008")
        + sensor("channel_number = 1", name="b", driver="mcp3008")
    )
    assert len(load_text(tmp_path, text).sensors) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            sensor('pin = 4\ninterval = "30x"') + sensor("pin = 4", name="b", driver="dht11"),
            ["interval", "GPIO 4 is used by"],
        ),
        (sensor("pin = 4") + "[button]\npin = 4\nx = 1\n", ["unknown key", "GPIO 4 is used by"]),
        (
            sensor("pin = 4\n[sensor.channel.temperature]\ndelta = 1\nheartbeat = '2h'")
            + "[node]\nfoo = 1\n",
            ["unknown key", "must come sooner"],
        ),
        (
            '[[sensor]]\ndriver = "sysfs"\npath = "/x"\n'
            + sensor('path = "/x"', name="b", driver="sysfs"),
            ["id: is missing", "/x is used by"],
        ),
    ],
)
def test_a_mistake_hides_no_other_one(tmp_path, text, says):
    """What is right beside it is still held against the rest."""
    found = "".join(problems(tmp_path, MQTT + text))
    for words in says:
        assert words in found


def test_a_mistake_in_mqtt_hides_no_heartbeat_that_comes_too_late(tmp_path):
    channel = "pin = 4\n[sensor.channel.temperature]\ndelta = 1\n"
    found = problems(tmp_path, MQTT + "foo = 1\nretain_for = '2m'\n" + sensor(channel))
    assert len(found) == 2


def test_every_problem_of_one_channel_is_reported_too(tmp_path):
    channel = '[sensor.channel.temperature]\noffset = "x"\nmedian = 4\nrange = [5, 1]\nunit = "R"\n'
    assert len(problems(tmp_path, MQTT + sensor("pin = 4\n" + channel))) == 4


def test_a_text_without_quotes_gets_a_hint(tmp_path):
    found = problems(tmp_path, "[mqtt]\nhost = 192.168.1.10\n")
    assert "is the text in quotes?" in found[0]


def test_a_sensor_is_named_by_its_id(tmp_path):
    found = problems(tmp_path, MQTT + sensor("pim = 4"))
    assert "[[sensor]] air pin: is missing" in "".join(found)


def test_a_syntax_error_has_its_line_and_column(tmp_path):
    assert problems(tmp_path, '[mqtt]\nhost = "a\n')[0].startswith("line 2: column")


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "absent.toml")
    assert "No such file" in caught.value.report()
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "bytes.toml")
    assert "not UTF-8" in caught.value.report()


def test_a_password_comes_from_a_file_beside_the_configuration(tmp_path):
    (tmp_path / "secret").write_text("hunter2\n")
    (tmp_path / "secret").chmod(0o600)
    config = load_text(tmp_path, MQTT + 'username = "u"\npassword_file = "secret"\n')
    assert str(config.mqtt.password) == "hunter2"
    assert not [note for note in config.notes if "secret" in note]


def test_a_password_file_that_all_can_read_is_worth_a_note(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    secret.chmod(0o644)
    config = load_text(tmp_path, MQTT + 'username = "u"\npassword_file = "secret"\n')
    assert f"sudo chown root:sensor-node {secret} && sudo chmod 640 {secret}" in config.notes[0]


def test_a_password_comes_from_a_systemd_credential(tmp_path, monkeypatch):
    (tmp_path / "mqtt.password").write_text("hunter2")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    config = load_text(tmp_path, MQTT + 'username = "u"\n')
    assert str(config.mqtt.password) == "hunter2"


def test_a_password_is_never_shown(tmp_path):
    """Neither by the configuration's own repr, nor in a problem that is about it."""
    config = load_text(tmp_path, MQTT + 'username = "u"\npassword = "hunter2"\n')
    assert "hunter2" not in repr(config)
    found = problems(tmp_path, MQTT + 'username = "u"\npassword = ["hunter2"]\n')
    assert "hunter2" not in "".join(found)
    assert "password" in "".join(found)
    for line in ('host = "mqtt://bob:hunter2@broker"', "username = { a = 'hunter2' }"):
        assert "hunter2" not in "".join(problems(tmp_path, f"[mqtt]\n{line}\n"))


def test_an_encrypted_key_is_an_error_and_asks_nothing(tmp_path):
    """OpenSSL would ask for the pass phrase at the terminal, for ever."""
    import trustme
    from cryptography.hazmat.primitives import serialization

    issued = trustme.CA().issue_cert("node")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"phrase"),
        )
    )
    found = problems(tmp_path, MQTT + '[mqtt.tls]\ncert_file = "cert.pem"\nkey_file = "key.pem"\n')
    assert "without a pass phrase" in found[0]
    assert found[0].startswith("line 5")


def test_the_file_is_looked_for_in_order(monkeypatch):
    monkeypatch.setenv("SENSOR_NODE_CONFIG", "/b")
    assert find_file("/a") == Path("/a")
    assert find_file(None) == Path("/b")
    monkeypatch.delenv("SENSOR_NODE_CONFIG")
    assert find_file(None) == Path("/etc/sensor-node/node.toml")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "broker",
        "192.168.1.10",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fe80::a:b%wlan0.1",
        "mqtt.example.org.",
        "bücher.example",
    ],
)
def test_what_can_be_a_host_is_accepted(host):
    assert parse_host(host) == host


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "a..b",
        "mqtt://host",
        "host:1883",
        "-a",
        "a b",
        "x" * 64,
        "a." * 130,
        "192.168.1",
        "fe80::1%",
        "fe80::1%eth 0",
        "fe80::1%an-interface-of-17",
        "192.168.1.10%eth0",
        "host%eth0",
        "[fe80::1]",
        "[::1]:1883",
        7,
    ],
)
def test_what_cannot_be_a_host_is_refused(host):
    with pytest.raises(ValueError, match=r"host|address"):
        parse_host(host)


@given(st.text(max_size=60))
def test_no_host_name_makes_the_resolver_raise_unicode_error(text):
    """Property: paho's thread would die of one."""
    try:
        host = parse_host(text)
    except ValueError:
        return
    host.encode("idna")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_no_value_makes_a_duration_or_rate_raise_anything_else(value):
    for kind in (Seconds, Rate):
        with contextlib.suppress(ValueError):
            assert kind.parse(value) >= 0


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("2d", 172800),
        (7, 7),
        ("1.5h", 5400),
    ],
)
def test_durations(written, seconds):
    assert Seconds.parse(written) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5s"), (2, "2s"), (42, "42s"), (180, "3m"), (3661, "1h 1m"), (200000, "2d 7h")],
)
def test_durations_in_words(seconds, text):
    assert duration_text(seconds) == text


def test_units_are_converted():
    assert convert(100.0, "°C", "°F") == 212.0
    assert convert(0.0, "°C", "K") == 273.15
    assert convert(1013.25, "hPa", "inHg") == pytest.approx(29.92, abs=0.01)


def test_lines_are_found_across_nested_and_quoted_things():
    text = (
        "# a comment with [brackets]\n"
        "[node]\n"
        'name = "a # b = c [x]"\n'
        "[[sensor]]\n"
        "list = [\n  1,\n  2,\n]\n"
        'text = """\nkey = 1\n[[sensor]]\n"""\n'
        "[sensor.channel.temperature]\n"
        '"unit" = "K"\n'
        "[[sensor]]\n"
        "a.b = 2\n"
    )
    lines = locate_keys(text)
    assert lines["node", "name"] == 3
    assert lines["sensor", 0] == 4
    assert lines["sensor", 0, "text"] == 9
    assert lines["sensor", 0, "channel", "temperature", "unit"] == 14
    assert lines["sensor", 1] == 15
    assert lines["sensor", 1, "a", "b"] == 16
    assert ("key",) not in lines


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_an_unreadable_password_file_is_a_problem(tmp_path):
    """Root reads everything, so the configuration is read by another user."""
    import subprocess
    import sys

    tmp_path.chmod(0o755)  # those above it may be closed: it is the working directory
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o600)
    (tmp_path / "node.toml").write_text(MQTT + 'username = "u"\npassword_file = "secret"\n')
    script = (
        "import os, sys; from node.config.load import load, ConfigError; from pathlib import Path\n"
        "import node.config.toml_lines; os.setuid(65534)\n"
        "try: load(Path(sys.argv[1]))\n"
        "except ConfigError as error: print(error.report())\n"
    )
    command = [sys.executable, "-c", script, "node.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "secret cannot be read: Permission denied" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")
@pytest.mark.parametrize(
    ("user", "remedy"),
    [
        (1234, "sudo sensor-node check --json; or name another with --config FILE"),
        (234, "sudo chgrp 234 node.toml && sudo chmod g+r node.toml; or name another"),
    ],
    ids=["a person", "a service"],
)
def test_a_configuration_that_one_may_not_read_is_said_to_be_whose_it_is(tmp_path, user, remedy):
    """A person is told the command as it works; a service can call nobody, and wants the file."""
    import subprocess
    import sys

    tmp_path.chmod(0o755)
    file = tmp_path / "node.toml"
    file.write_text(MQTT)
    file.chmod(0o640)
    script = (
        "import grp, os, pwd, shlex, sys; from node.config.load import load, ConfigError\n"
        "import node.system.rights; from pathlib import Path\n"
        "sys.argv[0] = '/usr/local/bin/sensor-node'\n"
        f"os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
        "try: load(Path('node.toml'))\n"
        "except ConfigError as error: print(error.report())\n"
    )
    command = [sys.executable, "-c", script, "check", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    whose = "it belongs to root and the group root"
    assert f"node.toml cannot be read: Permission denied; {whose}: {remedy}" in done.stdout


def test_options_that_do_not_go_together_are_a_problem_like_any_other(tmp_path):
    """With the others of the file, at the line of their sensor."""
    text = MQTT + sensor("", driver="sysfs") + sensor("pin = 99", name="b")
    found = problems(tmp_path, text)
    assert len(found) == 2
    assert "line 3" in found[0]
    assert "give the path of a file or folder, or the name of a device" in found[0]
    load_text(tmp_path, MQTT + sensor('name = "bmp280"', driver="sysfs"))


# -- [simulation] --------------------------------------------------------------------------------


SIMULATED = MQTT + sensor("pin = 4") + sensor("", name="box", driver="bme280")


def fault(keys: str) -> str:
    return f"[[simulation.fault]]\n{keys}\n"


def test_the_room_and_the_faults_of_a_simulation_are_read(tmp_path):
    text = SIMULATED + "[simulation]\nbase = 5\ndaily_swing = 12.5\nnoise = 0\nhumidity = 80\n"
    text += fault('sensor = "air"\nkind = "spike"\namount = -3\nafter = "1m"\nfor = 2\nevery = 9')
    text += fault('sensor = "box"\nkind = "hang"')
    simulation = load_text(tmp_path, text).simulation
    assert simulation is not None
    assert (simulation.base, simulation.daily_swing, simulation.noise) == (5, 12.5, 0)
    assert simulation.humidity == 80
    spike, hang = simulation.fault
    assert (spike.after, spike.for_, spike.every, spike.amount) == (60.0, 2.0, 9.0, -3)
    assert (hang.sensor, hang.kind, hang.after, hang.for_) == ("box", "hang", 0.0, None)
    assert str(spike) == "air spike after 1m for 2s every 9s"
    assert str(hang) == "box hang after 0s"


def test_a_room_that_is_not_described_is_the_simulations_own(tmp_path):
    from drivers.sim.room import Climate

    table = load_text(tmp_path, SIMULATED + "[simulation]\n").simulation
    assert {name: getattr(table, name) for name in Climate.__struct_fields__} == {
        name: getattr(Climate(), name) for name in Climate.__struct_fields__
    }


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("simulation = 3\n", "[simulation]: expected a table"),
        ("[simulation]\nbas = 3\n", "unknown key; did you mean base?"),
        ("[simulation]\nbase = -300\n", "[simulation] base: expected a number >= -40"),
        ("[simulation]\nnoise = inf\n", "[simulation] noise: "),
        ("[simulation]\nhumidity = 0\n", "[simulation] humidity: expected a number >= 1"),
        ("[simulation.fault]\nkind = 3\n", "in double brackets"),
        ("[simulation]\nfault = [3]\n", "[[simulation.fault]] #1: expected a table"),
        (fault('sensor = "air"'), "kind: is missing"),
        (fault('kind = "hang"'), "sensor: is missing"),
        (fault('sensor = "air"\nkind = "unplg"'), 'unknown fault "unplg"; did you mean unplug?'),
        (fault('sensor = "air"\nkind = "magic"'), "known here: crc, drift, hang"),
        (fault('sensor = "ari"\nkind = "hang"'), 'unknown sensor "ari"; did you mean air?'),
        (fault('sensor = "air"\nkind = "hang"\nfro = 3'), "unknown key; did you mean for?"),
        (fault('sensor = "air"\nkind = "hang"\nfor = 0'), "for: must be above 0"),
        (fault('sensor = "air"\nkind = "hang"\nfor = "soon"'), "for: expected a duration"),
        (
            fault('sensor = "air"\nkind = "hang"\nevery = 9'),
            "every: only applies together with for",
        ),
        (
            fault('sensor = "air"\nkind = "hang"\nfor = 9\nevery = 9'),
            "every: must be longer than for",
        ),
        (
            fault('sensor = "air"\nkind = "hang"\namount = 9'),
            "amount: only applies to spike, drift, slow",
        ),
        (fault('sensor = "air"\nkind = "spike"\namount = 0'), "amount: must not be 0"),
        (fault('sensor = "air"\nkind = "spike"\namount = 1e9'), "expected a number <= 100"),
        (fault('sensor = "air"\nkind = "slow"\namount = -1'), "amount: must be above 0"),
        (
            fault('sensor = "air"\nkind = "power-on"'),
            '"air" (dht22) cannot have power-on; it can have unplug, hang, crc, spike, drift, '
            "stuck, slow",
        ),
        (fault('sensor = "box"\nkind = "crc"'), '"box" (bme280) cannot have crc; it can have '),
    ],
)
def test_a_simulation_that_cannot_be_is_an_error_with_its_line(tmp_path, table, says):
    if table.startswith("simulation"):
        (found,) = problems(tmp_path, table + SIMULATED)
    else:
        (found,) = problems(tmp_path, SIMULATED + table)
    assert says in found
    number = int(found.removeprefix("line ").split(":")[0])
    assert number >= 1
    if table.startswith("[[sim"):
        lines = (SIMULATED + table).splitlines()
        assert number > lines.index("[[simulation.fault]]"), "the line of another table"


def test_every_problem_of_a_simulation_is_reported_at_once(tmp_path):
    text = SIMULATED + "[simulation]\nbase = 99\n"
    text += fault('sensor = "x"\nkind = "y"\nfor = 0') + fault('sensor = "air"\nkind = "z"')
    found = problems(tmp_path, text)
    assert len(found) == 5
    assert "[[simulation.fault]] #2 kind" in found[-1]


def test_a_fault_of_a_sensor_that_is_wrong_elsewhere_is_no_further_problem(tmp_path):
    text = MQTT + sensor("pin = 99") + fault('sensor = "air"\nkind = "hang"')
    (found,) = problems(tmp_path, text)
    assert "pin" in found


def test_a_sensor_that_nothing_simulates_can_have_no_fault(tmp_path, monkeypatch):
    """As a chip of another package: the catalogue's own are all simulated."""
    monkeypatch.setattr("drivers.sim.faults.I2C_CHIPS", ())
    text = MQTT + sensor("", driver="bme280") + fault('sensor = "air"\nkind = "hang"')
    (found,) = problems(tmp_path, text)
    assert '"air" (bme280) is not simulated' in found


def test_a_fault_without_any_sensor_says_so(tmp_path):
    (found,) = problems(tmp_path, MQTT + fault('sensor = "air"\nkind = "hang"'))
    assert "no [[sensor]] is configured" in found


def test_a_simulation_is_noted_where_it_has_no_effect(tmp_path):
    config = load_text(tmp_path, SIMULATED + "[simulation]\n")
    assert config.notes_for(simulate=False)[-1] == "[simulation] has no effect without --simulate"
    assert config.notes_for(simulate=True) == config.notes == ()
    assert load_text(tmp_path, SIMULATED).notes_for(simulate=False) == ()


@pytest.mark.parametrize(("table", "loaded"), [("", False), ("[simulation]\n", True)])
def test_the_simulation_costs_nothing_where_it_is_not_configured(tmp_path, table, loaded):
    """`node run` with the table absent: neither its schema's reader nor a simulated part."""
    (tmp_path / "node.toml").write_text(SIMULATED + table)
    script = (
        "import sys, node.commands.run\n"
        "from pathlib import Path\n"
        "from node.config.load import load\n"
        "from node.sensors.board import open_board\n"
        f"open_board(load(Path({str(tmp_path / 'node.toml')!r})), simulate=False)\n"
        "print(any(m.startswith('drivers.sim') or 'simulation' in m for m in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(loaded)


@pytest.mark.parametrize("host", ["raspberrypi", "debian.local", "localhost", "DietPi", "ubuntu"])
def test_a_host_name_of_every_computer_is_no_name_of_a_node(host, monkeypatch, tmp_path):
    """Two cards as they come would be two nodes of one name; the digits are the hardware's."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(node_ids, "_SERIAL_NUMBER", tmp_path / "serial-number")
    names = []
    for serial in ("10000000a1b2c3d4", "10000000a1b2c3d5"):
        (tmp_path / "serial-number").write_text(f"{serial}\0")
        names.append(default_name())
        assert default_name() == names[-1], "the same after every start"
    stem = host.partition(".")[0]
    assert len(set(names)) == 2
    assert all(re.fullmatch(f"{stem}-[0-9a-f]{{6}}", name) for name in names)


def test_a_host_name_of_its_own_is_the_name_of_the_node(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "greenhouse.lan")
    assert default_name() == "greenhouse"
