"""`sensor-node forget`: what a node that is gone has left is listed, and removed when asked."""

from __future__ import annotations

import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from support import SENSOR_NODE, Mosquitto, replaced, retained, sysfs_config, wait_until


def forget(config: Path, *words: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    command = [SENSOR_NODE, "forget", "--config", str(config), *words]
    return subprocess.run(
        command, input=answer, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(params=["5", "3.1.1"])
def gone(request, broker, start_node, temperature_file, tmp_path) -> tuple[Any, Path]:
    """A broker with what two nodes have left, and the configuration of a third."""
    config = sysfs_config(
        broker.port, {"s": temperature_file}, mqtt=f'protocol = "{request.param}"\npayload = "both"'
    )
    for name in ("test", "other"):
        node = start_node(replaced(config, ('name = "test"', f'name = "{name}"')))
        topic = f"sensors/{name}/s/temperature"
        wait_until(partial(lambda topic: topic in retained(broker.port), topic))
        node.terminate()
        (node.state_dir / "topics.json").unlink()
        (tmp_path / "state").rename(tmp_path / f"state-{name}")
    file = tmp_path / "operator.toml"
    file.write_text(replaced(config, ('name = "test"', 'name = "desk"')))
    return broker, file


FOREIGN = {
    "homeassistant/device/lamp/config": '{"avty": [{"t": "lamps/hall/status"}]}',
    "homeassistant/device/sn1/config": '{"avty": [{"t": "sensors/test2/status"}]}',
    "homeassistant/sensor/lamp/power/config": '{"stat_t": "sensors/test"}',
}
"""Devices of others, some of a similar name."""


def test_what_a_node_has_left_is_listed_and_removed(gone, subscribe):
    broker, config = gone
    client = subscribe(broker.port).client
    for topic, text in FOREIGN.items():
        client.publish(topic, text, 1, retain=True).wait_for_publish(10)
    before = retained(broker.port, "#")
    assert [topic for topic in before if topic.startswith("homeassistant/device/")]
    no = forget(config, "test", answer="n\n")
    assert no.returncode == 1
    assert "sensors/test/s/state" in no.stdout
    assert retained(broker.port, "#").keys() == before.keys(), "nothing without a yes"
    yes = forget(config, "test", answer="y\n")
    assert yes.returncode == 0, yes.stderr
    left = retained(broker.port, "#")
    assert not [t for t, text in left.items() if "sensors/test/" in t or "sensors/test/" in text]
    assert {t for t in before if t.startswith("sensors/other/")} <= set(left), "of it alone"
    assert left.keys() >= FOREIGN.keys(), "nor a device of another's"
    again = forget(config, "test", "--yes")
    assert (again.returncode, again.stdout) == (
        0,
        "the broker has no retained topics of sensors/test\n",
    )


def test_a_node_that_is_online_is_left_alone(broker, start_node, temperature_file, tmp_path):
    config = sysfs_config(broker.port, {"s": temperature_file})
    start_node(config)
    wait_until(lambda: retained(broker.port).get("sensors/test/status") == "online")
    done = forget(tmp_path / "node.toml", "test", "--yes")
    assert done.returncode == 1
    assert "test is online" in done.stderr
    assert retained(broker.port)["sensors/test/status"] == "online"


def test_what_the_broker_refuses_is_said(tmp_path, start_node, temperature_file):
    """MQTT 5; the ACL is another one by then."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite #\n")
    mosquitto = Mosquitto(tmp_path, f"acl_file {acl}").start()
    try:
        node = start_node(sysfs_config(mosquitto.port, {"s": temperature_file}))
        wait_until(lambda: "sensors/test/s/state" in retained(mosquitto.port))
        node.terminate()
        acl.write_text("topic read #\ntopic write sensors/test/s/+\n")
        mosquitto._signal(signal.SIGHUP)
        done = forget(tmp_path / "node.toml", "test", "--yes")
        assert done.returncode == 1
        assert "sensors/test/health was not removed: Not authorized; allow" in done.stderr
        assert "sensors/test/s/state" not in done.stderr
    finally:
        mosquitto.stop()


def test_without_a_broker_it_says_why(tmp_path, temperature_file):
    config = tmp_path / "node.toml"
    config.write_text(sysfs_config(free_port(), {"s": temperature_file}))
    done = forget(config, "test", "--yes")
    assert done.returncode == 1
    assert "refuses the connection" in done.stderr


@pytest.mark.parametrize("name", ["#", "a/b", "", "+"])
def test_a_name_that_is_none_is_wrong_usage(tmp_path, temperature_file, name):
    config = tmp_path / "node.toml"
    config.write_text(sysfs_config(1883, {"s": temperature_file}))
    assert forget(config, name).returncode == 2
