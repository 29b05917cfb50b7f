"""The flow for Node-RED, in a real one: each reading once, with its time, and gaps."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from servers import RECIPES
from support import (
    PATIENCE_S,
    Mosquitto,
    NodeProcess,
    Subscriber,
    ledger_in,
    sysfs_config,
    wait_until,
)

NPM = Path(os.environ["SENSOR_NODE_TEST_NPM"])
SETTINGS = """\
module.exports = {
    uiHost: "127.0.0.1", uiPort: %d, telemetry: { enabled: false, updateNotification: false },
    contextStorage: { default: { module: "localfilesystem" } },
}
"""
OUTPUTS = ("readings", "gaps", "alarms")


class NodeRed:
    """Node-RED with the flow, whose outputs are also published as JSON below `out/`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        flow = json.loads((RECIPES / "node-red/flow.json").read_text())
        by_id = {node["id"]: node for node in flow}
        by_id["sn-broker"]["port"] = str(port)
        for number, name in enumerate(OUTPUTS):
            by_id["sn-split"]["wires"][number].append(f"t-{name}")
            func = f"return {{topic: 'out/{name}', payload: JSON.stringify(msg)}};"
            tab = {"z": "sn-tab", "x": 0, "y": 0}
            flow += [
                {**tab, "id": f"t-{name}", "type": "function", "func": func, "outputs": 1}
                | {"wires": [["t-out"]]}
            ]
        out = {"type": "mqtt out", "topic": "", "qos": "1", "retain": "", "broker": "sn-broker"}
        flow.append({**tab, **out, "id": "t-out", "wires": []})
        (folder / "flow.json").write_text(json.dumps(flow))
        (folder / "settings.js").write_text(SETTINGS % free_port())

    def start(self) -> None:
        log_file = self.folder / "node-red.log"
        with log_file.open("ab") as log:
            before = log.tell()
            program = NPM / "node_modules/node-red/red.js"
            options = ["--userDir", str(self.folder), "--settings", f"{self.folder}/settings.js"]
            self._process = subprocess.Popen(
                ["node", str(program), *options, "flow.json"],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        wait_until(lambda: "Connected to broker" in log_file.read_text()[before:], 90)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    started = Mosquitto(tmp_path, "max_queued_messages 100000").start()
    yield started
    started.stop()


@pytest.fixture
def node_red(broker: Mosquitto, tmp_path: Path) -> Iterator[NodeRed]:
    started = NodeRed(tmp_path, broker.port)
    started.start()
    yield started
    started.stop(signal.SIGKILL)


class Watch:
    """What comes out of the flow, and what it asks of nodes."""

    def __init__(self, port: int) -> None:
        self._subscriber = Subscriber(port, "#")
        self.close = self._subscriber.close

    def out(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self._subscriber.on(f"out/{name}")]

    def on(self, topic: str) -> list[str]:
        return self._subscriber.on(topic)

    def history(self, *readings: dict[str, Any] | str) -> None:
        for one in readings:
            if isinstance(one, dict):
                one = json.dumps({"stream": "s", "readings": [one]})
            self._subscriber.client.publish("sensors/attic/history", one, 1)


def reading(seq: int, **values: Any) -> dict[str, Any]:
    time = f"2026-11-24T03:13:{seq:02}.123Z"
    return {"seq": seq, "sensor": "air", "time": time, "clock": "synced", **values}


ALARM = {"name": "warm", "channel": "temperature", "state": "on", "limit": 8.0, "value": 9.1}


@pytest.mark.usefixtures("node_red")
def test_readings_come_once_with_their_time_and_gaps_are_asked_for(broker):
    with contextlib.closing(Watch(broker.port)) as seen:
        seen.history(reading(3, temperature=21.5, humidity=45.0), "rubbish", '{"readings": 1}')
        seen.history(reading(3, temperature=21.5, humidity=45.0))  # a second time
        seen.history(reading(4, temperature=21.6), reading(8, temperature=22.0))
        wait_until(lambda: seen.on("sensors/attic/cmd/replay"))
        # The node sends them again, the newest first, and one of them twice.
        seen.history(*(reading(seq, temperature=20.0 + seq) for seq in (7, 6, 6, 5)))
        seen.history(reading(9, alarm=ALARM))
        wait_until(lambda: seen.out("alarms"))
        came = seen.out("readings")
        assert [one["seq"] for one in came] == [3, 4, 8, 7, 6, 5]
        first = {key: value for key, value in came[0].items() if not key.startswith("_")}
        assert first == {
            "topic": "attic/air",
            "payload": {"temperature": 21.5, "humidity": 45.0},
            "node": "attic",
            "sensor": "air",
            "stream": "s",
            "seq": 3,
            "time": "2026-11-24T03:13:03.123Z",
            "timestamp": 1795489983123,
            "clock": "synced",
            "simulated": False,
        }
        [gap] = seen.out("gaps")
        assert gap["payload"] == {"stream": "s", "first": 5, "last": 7}
        assert seen.on("sensors/attic/cmd/replay") == ["s 5 7"]
        [alarm] = seen.out("alarms")
        assert (alarm["topic"], alarm["payload"], alarm["seq"]) == ("attic/air/warm", "on", 9)


def test_what_a_real_node_measures_while_node_red_is_away_comes_afterwards(
    broker, node_red, tmp_path
):
    (tmp_path / "air").write_text("21500\n")
    config = sysfs_config(broker.port, {"air": tmp_path / "air"}, interval="0.2s")
    node = NodeProcess(tmp_path, config + '\n[outbox]\nhistory_interval = "0.5s"\n')
    with contextlib.closing(Watch(broker.port)) as seen:
        try:
            wait_until(lambda: len(seen.out("readings")) > 5, 60)
            node_red.stop()
            before = ledger_in(node.state_dir).cursor
            wait_until(lambda: ledger_in(node.state_dir).cursor > before + 10, 60)
            node_red.start()
            wait_until(lambda: len(seen.out("readings")) > before + 15, 60)
        finally:
            node.terminate()
        sent = ledger_in(node.state_dir).cursor

        def came() -> list[int]:
            return [one["seq"] for one in seen.out("readings")]

        # One that is lost in the stop is asked for again, and then comes out of order.
        every = range(1, sent + 1)
        wait_until(lambda: {*every} <= {*came()}, 60, f"{sent} readings")
        assert sorted(came()) == [*every]
