"""Whether a simulated node says what a real one says: one of each, at one broker, compared."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as mqtt
from fleet_node import fleet_config
from fleet_processes import load, started
from paho.mqtt.subscribeoptions import SubscribeOptions

__all__ = ["likeness"]

_INTERVAL_S = 10.0
_SECONDS = 75.0
_REAL, _SIMULATED = "fleet", "n0000"

Kind = tuple[str, int, bool, bool]
"""Topic without the node's name, QoS, retained, with an expiry."""


def likeness(say: Callable[[str], None]) -> list[dict[str, float | str]]:
    """The messages of 75 s, kind by kind: how many, and how large."""
    say(f"one real node (run --simulate) beside a simulated one, {_SECONDS:g} s at 10 s")
    heard: dict[str, dict[Kind, list[int]]] = {
        name: defaultdict(list) for name in (_REAL, _SIMULATED)
    }
    devices: dict[str, str] = {}

    def arrived(_client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        first, second, *rest = message.topic.split("/")
        name, kind = second, "/".join(rest)
        if first == "homeassistant":
            name = _REAL if b'"name":"fleet"' in message.payload else _SIMULATED
            devices[name], kind = rest[0], "discovery"
        if name in heard:
            expires = hasattr(message.properties, "MessageExpiryInterval")
            what = (kind, message.qos, message.retain, expires)
            heard[name][what].append(len(message.payload))

    with started() as broker, tempfile.TemporaryDirectory() as folder:
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.on_message = arrived
        client.connect("127.0.0.1", broker.port)
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        client.subscribe([("sensors/#", options), ("homeassistant/device/#", options)])
        client.loop_start()
        fleet_config(Path(folder), broker.port, _INTERVAL_S)
        program = str(Path(sys.executable).with_name("sensor-node"))
        command = [program, "run", "--simulate", "--config", f"{folder}/fleet.toml"]
        real = subprocess.Popen(
            [*command, "--state-dir", f"{folder}/state"], stderr=subprocess.DEVNULL
        )
        with load(broker.port, nodes=1, processes=1, interval_s=_INTERVAL_S):
            time.sleep(_SECONDS)
        real.terminate()
        real.wait()
        client.loop_stop()
    return _compared(say, heard[_REAL], heard[_SIMULATED])


def _compared(
    say: Callable[[str], None], real: dict[Kind, list[int]], simulated: dict[Kind, list[int]]
) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    for kind in sorted(real.keys() | simulated.keys()):
        sizes = [sum(one[kind]) / max(1, len(one[kind])) for one in (real, simulated)]
        topic, qos, retained, expires = kind
        row: dict[str, float | str] = {
            "topic": topic,
            "qos": qos,
            "flags": " ".join(("retained",) * retained + ("expires",) * expires),
            "real": len(real[kind]),
            "simulated": len(simulated[kind]),
            "real_bytes": round(sizes[0]),
            "simulated_bytes": round(sizes[1]),
        }
        rows.append(row)
        say(
            f"  {topic:<22} QoS {qos} {row['flags']:<17}"
            f" {row['real']:>3} of {row['real_bytes']:>5} bytes,"
            f" {row['simulated']:>3} of {row['simulated_bytes']:>5}"
        )
    return rows
