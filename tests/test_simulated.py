"""Simulated readings say so wherever they are seen, and stand in no log with real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ports import free_port
from support import PATIENCE_S, sysfs_config, wait_until

from node.reading import Layout, Reading
from node.topics import history_payload, state_payload
from node.watch.model import LiveModel
from node.watch.payloads import Message
from node.watch.rows import WatchTime

READING = Reading(7, Layout("air", ("temperature",), ("°C",)), (21.5,), "boot", 1, 1, synced=True)


def test_state_and_history_have_the_key_on_simulated_hardware_alone():
    assert "simulated" not in json.loads(state_payload(READING, "s"))
    assert json.loads(state_payload(READING, "s", simulated=True))["simulated"] is True
    assert "simulated" not in json.loads(history_payload("s", [READING]))
    batch = json.loads(history_payload("s", [READING], simulated=True))
    assert batch["simulated"] is True
    assert batch["stream"] == "s"


@pytest.mark.parametrize("simulated", [False, True])
def test_a_node_says_it_in_state_history_health_and_discovery(
    broker, subscribe, start_node, temperature_file, simulated
):
    subscriber = subscribe(broker.port, "#")
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.2s")
    start_node(config, *(["--simulate"] if simulated else []))
    subscriber.wait_for_states("s", 1)
    state = subscriber.states("s")[0]
    assert state.get("simulated", False) is simulated
    wait_until(lambda: subscriber.on("sensors/test/history"))
    batch = json.loads(subscriber.on("sensors/test/history")[0])
    assert batch.get("simulated", False) is simulated
    wait_until(lambda: subscriber.on("sensors/test/health"))
    assert json.loads(subscriber.on("sensors/test/health")[-1])["simulated"] is simulated
    found = [p for t, p, _ in subscriber.messages if t.startswith("homeassistant/device/") and p]
    assert (json.loads(found[-1])["dev"]["mdl"] == "simulated") is simulated


def row_status(model: LiveModel) -> list[str]:
    return [row.status for row in model.rows(WatchTime(utc_s=0.0, boot_s=0.0))]


def test_watch_says_simulated_of_what_is_online_and_does_not_take_it_for_a_channel():
    def heard(model: LiveModel, topic: str, payload: bytes) -> None:
        model.add(Message(f"sensors/n/{topic}", payload, False), WatchTime(utc_s=0.0, boot_s=0.0))

    for all_simulated, says in ((False, "simulated"), (True, "online")):
        model = LiveModel("sensors", all_simulated=all_simulated)
        heard(model, "status", b"online")
        heard(model, "air/state", state_payload(READING, "s", simulated=True))
        heard(model, "air/availability", b"online")
        assert row_status(model) == [says]
        heard(model, "air/availability", b"offline")
        assert row_status(model) == ["offline"]
        heard(model, "air/availability", b"online")
        heard(model, "air/state", state_payload(READING, "s"))
        assert row_status(model) == ["online"]


@pytest.mark.parametrize("first", ["real", "simulated"])
def test_a_log_of_one_kind_of_hardware_is_not_gone_on_with_by_the_other(
    start_node, temperature_file, first
):
    """It says so and ends with 1, whatever the health in the log; the same kind goes on."""
    config = sysfs_config(free_port(), {"s": temperature_file}, interval="0.2s")
    options = {"real": (), "simulated": ("--simulate",)}
    second = ({*options} - {first}).pop()
    node = start_node(config, *options[first])
    node.wait_for_log("s (sysfs): online")
    node.terminate()
    for _ in range(2):  # it stays so
        other = start_node(config, *options[second])
        assert other.process.wait(PATIENCE_S) == 1
        assert f"has readings of {first} hardware, and this node's would be {second}" in other.log
        assert "--state-dir" in other.log
    again = start_node(config, *options[first])
    again.wait_for_log("s (sysfs): online")
    again.terminate()
    for file in Path(again.state_dir).glob("outbox.db*"):
        file.unlink()
    start_node(config, *options[second]).wait_for_log("s (sysfs): online")


def test_a_log_of_simulated_readings_from_before_the_mark_is_gone_on_with(
    start_node, temperature_file
):
    config = sysfs_config(free_port(), {"s": temperature_file}, interval="0.2s")
    node = start_node(config, "--simulate")
    node.wait_for_log("s (sysfs): online")
    node.terminate()
    mark = node.state_dir / "simulated"
    mark.unlink()
    again = start_node(config, "--simulate")
    again.wait_for_log("s (sysfs): online")
    assert mark.exists()
