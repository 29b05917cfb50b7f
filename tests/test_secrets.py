"""What leaves the computer has no secret in it, however wrong the file is that has one.

By property: a secret is written into each key and each wrong place of a configuration, and looked
for in all that is said of it: the log, `check` and `doctor` for people and as JSON, the `problems`
of health, and `status.txt`. What is right is no mistake: a name or a topic that is a secret is
published.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import Mosquitto, sysfs_config, wait_until

from node.alarms.table import AlarmTable
from node.commands import check, doctor
from node.config import load as configuration
from node.config import schema
from node.config.last_good import LastGood, _summary
from node.config.load import ConfigError, parse
from node.config.reader import fields_of

ON_THE_PI = Path(__file__).parents[1] / "deploy/image/root/usr/lib/sensor-node"

BASE = """\
[node]
name = "greenhouse"
[mqtt]
host = "192.168.1.10"
username = "greenhouse"
password_file = "right.password"
[mqtt.tls]
[outbox]
[commands]
[homeassistant]
[web]
[status_led]
pin = 17
[button]
pin = 27
[simulation]
[[simulation.fault]]
sensor = "air"
kind = "unplug"
[[sensor]]
id = "air"
driver = "bme280"
[sensor.channel.temperature]
[[sensor.channel.temperature.alarm]]
above = 30
[[sensor]]
id = "file"
driver = "sysfs"
path = "/sys/x"
[[sensor]]
id = "wire"
driver = "ds18b20"
"""
TABLES: dict[str, type[msgspec.Struct]] = {
    "[node]": schema.NodeTable,
    "[mqtt]": schema.MqttTable,
    "[mqtt.tls]": schema.TlsTable,
    "[outbox]": schema.OutboxTable,
    "[commands]": schema.CommandsTable,
    "[homeassistant]": schema.HomeAssistantTable,
    "[web]": schema.WebTable,
    "[status_led]": schema.StatusLedTable,
    "[button]": schema.ButtonTable,
    "[simulation]": schema.SimulationTable,
    "[[simulation.fault]]": schema.FaultTable,
    "[[sensor]]": schema.SensorTable,
    "[sensor.channel.temperature]": schema.ChannelTable,
    "[[sensor.channel.temperature.alarm]]": AlarmTable,
}
KEYS = [(header, field.encode_name) for header, t in TABLES.items() for field in fields_of(t)]
KEYS += [("[[sensor]]", key) for key in ("address", "bus", "pin", "path", "scale", "resolution")]
MISSPELT = ["passwrd", "token"]

# Nothing of ours is like it, and no six characters of it are in a message by chance.
SECRETS = st.builds(
    lambda parts, rest: "".join(parts) + rest,
    st.lists(st.sampled_from(["hUnTeR2", "Qx7Zv9", "K4wJ8!", "z#Yb5", "9q@Vd"]), min_size=2),
    st.text("QXZJ4789-_/.:!@#%", max_size=6),
).filter(lambda secret: len(secret) >= 10)


def in_toml(secret: str) -> Iterator[str]:
    """The secret as a value, in each form that somebody may write it in, right or wrong."""
    quoted = json.dumps(secret)
    yield quoted
    yield secret
    yield f'"{secret}'
    yield f"'{secret}"
    yield f'"""{secret}'
    yield f"{quoted} {secret}"
    yield f"[{quoted}]"
    yield f"[{quoted}"
    yield f"{{x = {quoted}}}"
    yield f"{{{quoted} = 1}}"
    yield f"{quoted}\npassword = {quoted}\npassword = {quoted}"


def with_value(header: str, key: str, value: str) -> str:
    """BASE with `key = value` in a table, in place of what is there."""
    lines = BASE.splitlines()
    at = lines.index(header) + 1
    while at < len(lines) and not lines[at].startswith("["):
        if lines[at].startswith(f"{key} ="):
            del lines[at]
        else:
            at += 1
    lines.insert(lines.index(header) + 1, f"{key} = {value}")
    return "\n".join(lines) + "\n"


def mistakes(secret: str) -> Iterator[str]:
    """Configurations with the secret in each place."""
    for value in in_toml(secret):
        for header, key in KEYS:
            if key != "id" or not re.fullmatch("[A-Za-z0-9_-]+", secret):  # that is published
                yield with_value(header, key, value)
        for header in TABLES:
            for key in MISSPELT:
                yield with_value(header, key, value)
        yield f"{value}\n{BASE}"
        yield f"password = {value}\n{BASE}"
    quoted = json.dumps(secret)
    for header in TABLES:
        for key in (quoted, secret, f"{quoted}.x", f"password.{quoted}"):
            yield with_value(header, key, "1")
            yield with_value(header, key, quoted)
        yield with_value(header, f"{secret} #", "")
    for name in (quoted, secret, f"mqtt.{quoted}", f"mqtt.password.{quoted}", f"sensor.{quoted}"):
        yield f"{BASE}[{name}]\n"
        yield f"{BASE}[{name}]\n[{name}]\n"
        yield f"{BASE}[[{name}]]\n"
        yield f"{BASE}[[sensor]]\nid = 'x'\ndriver = 'bme280'\n[sensor.channel.{name}]\n"
    yield BASE + secret
    yield BASE.replace("password_file", f"password = {quoted}\npassword_file")


class Said:
    """All that is said of a configuration that is wrong; [] of one that is right."""

    def __init__(self, folder: Path, capsys: Any) -> None:
        self.file = folder / "node.toml"
        self.file.touch(0o600)
        (folder / "right.password").write_text("another")
        (folder / "right.password").chmod(0o600)
        self._capsys = capsys

    def of(self, text: str) -> list[str]:
        try:
            config = parse(self.file, text.encode())
        except ConfigError as error:
            return [
                error.report(),
                str(error),
                *(str(problem) for problem in error.problems),
                msgspec.json.encode(error.problems).decode(),
                repr(doctor._invalid(error)),
                _summary(error),
            ]
        return [*config.notes, *config.remarks]

    def by_commands(self, text: str) -> str:
        """What `check` and `doctor` print, and the error that the command line reports."""
        self.file.write_text(text)
        said = ""
        for command in (check, doctor):
            for as_json in (False, True):
                asked = argparse.Namespace(
                    config=str(self.file), file=None, json=as_json, state_dir=None, simulate=True
                )
                with pytest.raises(ConfigError) as caught:
                    command.run(asked)
                said += caught.value.report()
        printed = self._capsys.readouterr()
        return said + str(printed.out) + str(printed.err)


def found_in(secret: str, said: str) -> list[str]:
    """The parts of a secret, of six characters, that are in a text."""
    parts = {secret[start : start + 6] for start in range(len(secret) - 5)}
    return sorted(part for part in parts if part in said)


@pytest.mark.real_time(seconds=20)
def test_no_mistake_in_a_configuration_tells_a_secret(tmp_path, capsys):
    """One secret in every place."""
    secret = "hUnTeR2Qx7Zv9"
    said_of = Said(tmp_path, capsys)
    wrong = 0
    for text in mistakes(secret):
        said = said_of.of(text)
        wrong += len(said) > 1
        assert not found_in(secret, "\n".join(said)), f"{text}\n--- is said to be:\n{said[0]}"
    assert wrong > 1000, "most of them are mistakes"


@given(secret=SECRETS, place=st.integers(0, 1600))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_secret_is_told_by_a_mistake(tmp_path_factory, capsys, secret, place):
    """Any secret in some place."""
    text = next(itertools.islice(mistakes(secret), place, None), BASE + secret)
    said = Said(tmp_path_factory.mktemp("c"), capsys).of(text)
    assert not found_in(secret, "\n".join(said)), f"{text}\n--- is said to be:\n{said[0]}"


@pytest.mark.parametrize(
    "line",
    [
        'password = "hUnTeR2Qx7Zv9',
        "password = hUnTeR2Qx7Zv9",
        'password_file = "hUnTeR2Qx7Zv9"',
        'keepalive = "hUnTeR2Qx7Zv9"',
        'hUnTeR2Qx7Zv9 = "x"',
        "keepalive = 123456789",
    ],
)
def test_no_command_tells_a_secret(tmp_path, capsys, line):
    said = Said(tmp_path, capsys)
    text = BASE.replace('password_file = "right.password"', line)
    told = said.by_commands(text)
    assert "node.toml:6: " in told
    assert not found_in("hUnTeR2Qx7Zv9", told)
    assert "123456789" not in told


def test_control_a_secret_that_is_told_would_be_found():
    assert found_in("hUnTeR2Qx7Zv9", 'unknown key (it is "hUnTeR2...")') == ["UnTeR2", "hUnTeR"]


def test_what_is_misspelt_is_still_named(tmp_path, capsys):
    """What is like a key of ours, or like a key at all, is a slip of the pen, and no secret."""
    said = Said(tmp_path, capsys)
    assert "[mqtt] kepalive: unknown key; did you mean keepalive?" in "".join(
        said.of(with_value("[mqtt]", "kepalive", "3"))
    )
    for text, where in (
        (with_value("[mqtt]", "nonsense", "3"), "[mqtt] nonsense: unknown key"),
        (f"{BASE}[nonsense]\n", "[nonsense]: unknown table"),
    ):
        assert where in "".join(said.of(text)), "a word of small letters is a key"
    assert "(it is 0)" in "".join(said.of(with_value("[mqtt]", "port", "0")))


# -- the card


def helper(name: str) -> Any:
    sys.path.insert(0, str(ON_THE_PI))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ON_THE_PI))


def said_by_panel(file: Path, card: Any, panel: Any) -> str:
    """What it has to say of a file with Wi-Fi settings; "" of one that is right."""
    try:
        panel.wpa_supplicant_conf(card.read_toml(file))
    except card.BadFile as error:
        return str(error)
    except Exception as error:  # noqa: BLE001, as the program does
        said: str = panel._reason(error)
        return said
    return ""


@given(secret=SECRETS)
@example(secret="hUnTeR2Qx7Zv9")
@settings(deadline=None, max_examples=10)
def test_no_mistake_in_the_settings_of_the_wifi_tells_a_secret(tmp_path_factory, secret):
    card, panel = helper("card"), helper("panel")
    file = tmp_path_factory.mktemp("card") / "wifi.toml"
    wrong = 0
    for value in in_toml(secret):
        for key in ("name", "password", "hidden", "security", "x", json.dumps(secret)):
            for text in (
                f'country = "DE"\n[[network]]\nname = "home"\n{key} = {value}\n',
                f'country = {value}\n[[network]]\nname = "home"\n',
                f"[network]\n{key} = {value}\n",
                f"{key} = {value}\n",
            ):
                file.write_text(text)
                said = said_by_panel(file, card, panel)
                wrong += bool(said)
                assert not found_in(secret, said), text
    assert wrong > 50


# -- the whole way


def test_a_password_in_the_place_of_its_file_is_neither_published_nor_logged(
    broker: Mosquitto, start_node, subscribe, temperature_file, tmp_path, caplog
):
    """Nor is it in the node's files: the last good configuration stands in."""
    secret = "hUnTeR2Qx7Zv9"
    good = sysfs_config(broker.port, {"air": temperature_file})
    source = tmp_path / "n.toml"
    source.write_text(good)
    with caplog.at_level(logging.DEBUG):
        LastGood(tmp_path / "last-good.toml").keep(configuration.load(source), good.encode())
    wrong = good.replace("[mqtt]\n", f'[mqtt]\nusername = "u"\npassword_file = "{secret}"\n')
    node = start_node(wrong, "--last-good", str(tmp_path / "last-good.toml"))
    subscriber = subscribe(broker.port)
    subscriber.wait_for_states("air", 1)
    wait_until(lambda: any("cannot be used" in text for text in subscriber.health()["problems"]))
    published = "".join(map(repr, subscriber.messages))
    assert "[mqtt] password_file" in published
    assert node.terminate() == 0
    kept = "".join(
        file.read_bytes().decode("latin-1") for file in node.state_dir.iterdir() if file.is_file()
    )
    for said in (published, node.log, kept):
        assert not found_in(secret, said)
