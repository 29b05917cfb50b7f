"""A client of MQTT for experiments: what it was told, and when."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support import stop_loop

__all__ = ["Client"]

ANSWER_WITHIN_S = 15.0


class Client:
    """Connected when made, to one broker, and never again by itself."""

    def __init__(
        self,
        address: str,
        *,
        mqtt_5: bool,
        client_id: str = "",
        keep_s: int = 0,
        will: str = "",
        will_delay_s: int = 0,
        acknowledge: bool = True,
    ) -> None:
        """`keep_s`: how long the broker keeps the session; 0 is a clean one.

        Raises:
            ConnectionError: the broker does not accept it in time.
        """
        self.mqtt_5 = mqtt_5
        self.messages: list[tuple[str, bytes, bool]] = []
        self.told: dict[str, Any] = {}
        """The properties of CONNACK."""
        self.session_present = self.was_ended = False
        self._connected, self._answered = threading.Event(), threading.Event()
        self._answer: Any = None
        self._acknowledged: dict[int, Any] = {}
        how: dict[str, Any] = {} if mqtt_5 else {"clean_session": keep_s == 0}
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5 if mqtt_5 else mqtt.MQTTv311,
            manual_ack=not acknowledge,
            reconnect_on_failure=False,
            **how,
        )
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.on_disconnect = self._on_disconnect
        if will:
            delay = Properties(PacketTypes.WILLMESSAGE) if mqtt_5 else None
            if delay is not None:
                delay.WillDelayInterval = will_delay_s
            self._client.will_set(will, b"offline", 1, retain=True, properties=delay)
        more: dict[str, Any] = {}
        if mqtt_5:
            more = {"clean_start": keep_s == 0, "properties": Properties(PacketTypes.CONNECT)}
            more["properties"].SessionExpiryInterval = keep_s or (60 if will_delay_s else 0)
        self._client.connect(address, 1883, 60, **more)
        self._client.loop_start()
        if not self._connected.wait(ANSWER_WITHIN_S):
            self.drop()
            raise ConnectionError(f"{address} does not accept a client")

    def subscribe(self, topic: str, qos: int = 1) -> int:
        """Subscribe; the reason code of the answer, -1 for none."""
        self._answered.clear()
        self._client.subscribe(topic, qos)
        return int(self._answer) if self._answered.wait(ANSWER_WITHIN_S) else -1

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int = 0
    ) -> int:
        """Publish at QoS 1; the reason code of the acknowledgement, -1 for none."""
        properties = Properties(PacketTypes.PUBLISH) if self.mqtt_5 else None
        if properties is not None and expiry_s:
            properties.MessageExpiryInterval = expiry_s
        message_id = self._client.publish(topic, payload, 1, retain, properties).mid
        end_s = time.monotonic() + ANSWER_WITHIN_S
        while message_id not in self._acknowledged and time.monotonic() < end_s:
            time.sleep(0.02)
        return int(self._acknowledged.get(message_id, -1))

    def wait_for(self, topic: str, within_s: float = 4.0, *, count: int = 1) -> list[bytes]:
        """The payloads on a topic, once there are `count` different ones, or the time is over."""
        end_s = time.monotonic() + within_s
        while len(set(self.on(topic))) < count and time.monotonic() < end_s:
            time.sleep(0.05)
        return self.on(topic)

    def on(self, topic: str) -> list[bytes]:
        return [payload for t, payload, _ in list(self.messages) if t == topic]

    def close(self) -> None:
        """End with DISCONNECT."""
        self._client.disconnect()
        stop_loop(self._client)

    def drop(self) -> None:
        """End without it, as one that lost its power."""
        sock: Any = self._client.socket()
        with contextlib.suppress(OSError, AttributeError):
            sock.shutdown(socket.SHUT_RDWR)
        stop_loop(self._client)

    def _on_connect(self, _c: Any, _u: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.session_present = bool(flags.session_present)
        self.told = properties.json() if properties is not None else {}
        if not reason.is_failure:
            self._connected.set()

    def _on_message(self, _c: Any, _u: Any, message: Any) -> None:
        self.messages.append((message.topic, bytes(message.payload), bool(message.retain)))

    def _on_subscribe(self, _c: Any, _u: Any, _id: int, reasons: Any, _p: Any) -> None:
        self._answer = reasons[0].value
        self._answered.set()

    def _on_publish(self, _c: Any, _u: Any, message_id: int, reason: Any, _p: Any) -> None:
        self._acknowledged[message_id] = reason.value

    def _on_disconnect(self, *_: Any) -> None:
        self.was_ended = True
