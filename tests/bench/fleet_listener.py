"""A subscriber as people write it, with paho: prints what it has heard, a JSON line each second.

python fleet_listener.py PORT WORK_MS FILTER...

WORK_MS is how long it does something with each message, a row in a database for one. Lag is the
age of a reading when it comes; what is missing is told by the gaps in the seq of each node's
states, which come in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from datetime import datetime

import msgspec
import paho.mqtt.client as mqtt
from histogram import Histogram
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

__all__ = ["Listener"]


class _State(msgspec.Struct):
    """What is looked at in the payload of a state."""

    time: str
    seq: int


class _Past(msgspec.Struct):
    seq: int


class _History(msgspec.Struct):
    """What is looked at in a batch of history."""

    stream: str
    readings: list[_Past]


class Listener:
    """Counts, and reports, on one thread."""

    def __init__(self, port: int, work_ms: float, filters: list[str]) -> None:
        self._work_s = work_ms / 1000
        self._filters = filters
        self._lag = Histogram()
        self._last_seq: dict[str, int] = {}
        self._history_seq: dict[tuple[str, str], int] = {}
        self._counts = dict.fromkeys(
            ("messages", "states", "missing", "history", "history_missing", "offline", "again"), 0
        )
        self._decode_state = msgspec.json.Decoder(_State).decode
        self._decode_history = msgspec.json.Decoder(_History).decode
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"listener-{os.getpid()}",
            protocol=mqtt.MQTTv5,
        )
        client.on_connect = self._connected
        client.on_message = self._arrived
        # Its session outlives an outage of the broker, or its own (MQTT 5, §3.1.2.11.2).
        lasting = Properties(PacketTypes.CONNECT)
        lasting.SessionExpiryInterval = 3600
        client.connect("127.0.0.1", port, clean_start=False, properties=lasting)
        self._client = client

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        # What is retained only where the broker has forgotten the session: to have all of it again
        # on top of what has waited fills the queue (MQTT 5, §3.8.3.1, Retain Handling).
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        client.subscribe([(topic, options) for topic in self._filters])

    def _arrived(self, client: object, userdata: object, message: mqtt.MQTTMessage) -> None:
        self._counts["messages"] += 1
        _, node, *rest = message.topic.split("/")
        if rest == ["status"] and message.payload == b"offline" and not message.retain:
            self._counts["offline"] += 1
        elif rest[-1] == "state" and message.payload and not message.retain:
            self._state(node, self._decode_state(message.payload))
        elif rest == ["history"]:
            self._history(node, self._decode_history(message.payload))
        if self._work_s and not message.retain:
            time.sleep(self._work_s)

    def _state(self, node: str, state: _State) -> None:
        self._counts["states"] += 1
        self._lag.add((time.time() - datetime.fromisoformat(state.time).timestamp()) * 1000)
        last = self._last_seq.get(node, state.seq - 1)
        if state.seq > last:
            self._counts["missing"] += state.seq - last - 1
            self._last_seq[node] = state.seq

    def _history(self, node: str, batch: _History) -> None:
        which = (node, batch.stream)
        last = self._history_seq.get(which, batch.readings[0].seq - 1)
        for reading in batch.readings:
            self._counts["history"] += reading.seq > last
            self._counts["again"] += reading.seq <= last
            self._counts["history_missing"] += max(0, reading.seq - last - 1)
            last = max(last, reading.seq)
        self._history_seq[which] = last

    def run(self) -> None:
        """For ever; as paho's `loop_forever`, with a report each second."""
        report_s = time.monotonic() + 1
        while True:
            if self._client.loop(0.1) != mqtt.MQTT_ERR_SUCCESS:
                time.sleep(1)
                with contextlib.suppress(OSError):
                    self._client.reconnect()
            if time.monotonic() >= report_s:
                report_s = time.monotonic() + 1
                print(json.dumps({**self._counts, "lag": self._lag.take()}), flush=True)


def main() -> None:
    port, work_ms, *filters = sys.argv[1:]
    Listener(int(port), float(work_ms), filters).run()


if __name__ == "__main__":
    main()
