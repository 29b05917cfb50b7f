"""Turns the answers into the text of a configuration, with comments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from node.config.schema import MqttTable
from node.config.sensor_toml import sensor_table, toml_value
from node.setup.sensors import ChosenSensor

__all__ = ["PASSWORD_FILE", "configuration_text"]

PASSWORD_FILE = "mqtt.password"
"""The name of the file for the password, in the folder of the configuration."""

_HEAD = """\
# The configuration of a sensor node, written by `sensor-node init`.
# `sensor-node check` finds mistakes in it, and `sensor-node drivers` lists every sensor.
# After a change: {restart}
"""
_SENSORS = """\
# Every sensor is read every 30 s. For another interval: interval = "60s".
# Corrections, limits and units: [sensor.channel.temperature] below a sensor.
"""


def configuration_text(
    node: str, mqtt: MqttTable, sensors: Sequence[ChosenSensor], *, restart: str
) -> str:
    """Return the text of the file; `restart` is the command that makes the node read it again."""
    parts = [
        _HEAD.format(restart=restart),
        f"[node]\nname = {toml_value('name', node)}\n",
        "\n".join([*_mqtt_lines(mqtt), ""]),
        _SENSORS,
    ]
    for sensor in sensors:
        lines = [f"# {line}" for line in sensor.comment.splitlines()]
        lines += sensor_table(sensor.id, sensor.driver, sensor.options)
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def _mqtt_lines(mqtt: MqttTable) -> list[str]:
    lines = ["[mqtt]", f"host = {toml_value('host', str(mqtt.host))}"]
    if mqtt.port is not None:
        lines.append(f"port = {mqtt.port}")
    if mqtt.username is not None:
        lines.append(f"username = {toml_value('username', mqtt.username)}")
    if mqtt.password is not None:
        lines.append(f'password_file = "{PASSWORD_FILE}"    # in the folder of this file')
    elif mqtt.password_file is not None:
        lines.append(f"password_file = {_path(mqtt.password_file)}")
    if mqtt.tls is not None:
        lines += ["", "[mqtt.tls]"]
        if mqtt.tls.ca_file is not None:
            lines.append(f"ca_file = {_path(mqtt.tls.ca_file)}")
        else:
            lines.append("# Trusts this system's authorities. For another one: ca_file = ...")
    return lines


def _path(file: Path) -> str:
    return toml_value("file", str(file))
