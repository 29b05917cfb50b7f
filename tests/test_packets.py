"""The packets that the node frames itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support import ScriptedBroker, sysfs_config, wait_until

from node.mqtt.events import Outgoing
from node.mqtt.packets import framed, length, publish_packet
from node.mqtt.reasons import Reason, failure

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1)


def by_paho(message: Outgoing, message_id: int, version: MQTTProtocolVersion) -> bytes:
    """What paho would send for it."""
    sent: list[bytes] = []
    client: Any = Client(CallbackAPIVersion.VERSION2, protocol=version)  # its inside
    client._packet_queue = lambda _command, packet, *_rest: sent.append(bytes(packet))
    client._sock = object()
    properties = None
    if version == MQTTProtocolVersion.MQTTv5 and (message.expiry_s or message.correlation):
        properties = Properties(PacketTypes.PUBLISH)
        if message.expiry_s:
            properties.MessageExpiryInterval = message.expiry_s
        if message.correlation:
            properties.CorrelationData = message.correlation
            if message.response_topic:
                properties.ResponseTopic = message.response_topic
    topic = message.topic.encode()
    client._send_publish(
        message_id, topic, message.payload, 1, message.retain, properties=properties
    )
    client._sock = None
    return sent[0]


@given(
    topic=TEXT,
    payload=st.binary() | st.integers(1, 3).map(lambda power: b"x" * 128**power),
    message_id=st.integers(1, 65_535),
    expiry_s=st.integers(0, 2**32 - 1),
    correlation=st.binary(max_size=300),
    response_topic=st.just("") | TEXT,
    retain=st.booleans(),
    mqtt_5=st.booleans(),
)
def test_a_publish_is_the_one_that_paho_would_send(
    topic, payload, message_id, expiry_s, correlation, response_topic, retain, mqtt_5
):
    answered = {"response_topic": response_topic}
    message = Outgoing(topic, payload, expiry_s, retain, correlation, **answered)
    version = MQTTProtocolVersion.MQTTv5 if mqtt_5 else MQTTProtocolVersion.MQTTv311
    packet = publish_packet(message, message_id, mqtt_5=mqtt_5)
    assert packet == by_paho(message, message_id, version)


@pytest.mark.parametrize(
    ("size", "encoded"),
    [(0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (268_435_455, "ffffff7f")],
)
def test_a_length_is_that_of_the_standard(size, encoded):
    """MQTT 5, table 1-1."""
    assert length(size).hex() == encoded


def test_what_is_too_long_for_a_packet_is_refused():
    with pytest.raises(ValueError, match="268435456 bytes are too many"):
        length(268_435_456)
    assert framed(0xC0, b"") == b"\xc0\x00"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x87, "Not authorized"),
        (0x95, "Packet too large"),
        (0xF0, "reason code 0xf0"),
    ],
)
def test_a_reason_of_failure_has_a_name(code, name):
    assert failure(PacketTypes.PUBACK, code) == Reason(code, name)


@pytest.mark.parametrize("code", [0x00, 0x10])  # 0x10: nobody has subscribed to it
def test_a_code_of_success_is_no_failure(code):
    assert failure(PacketTypes.PUBACK, code) is None


def test_a_refusal_that_paho_does_not_know_costs_a_message_and_not_the_connection(
    start_node, temperature_file
):
    """mosquitto answers with PUBACK 0x95 to what is above its message_size_limit."""
    connects = states = 0

    def answer(kind: int, body: bytes) -> bytes | None:
        nonlocal connects, states
        connects += kind == 1
        if kind == 1:
            return b"\x20\x03\x00\x00\x00"
        if kind == 3:
            id_at = 2 + int.from_bytes(body[:2], "big")
            refused = body[2:id_at].endswith(b"/state")
            states += refused
            return b"\x40\x03" + body[id_at : id_at + 2] + (b"\x95" if refused else b"\x00")
        return None

    broker = ScriptedBroker(answer)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}, interval="0.2s"))
    node.wait_for_log("rejected sensors/test/s/state: Packet too large")
    wait_until(lambda: states >= 5)
    assert connects == 1
    assert len(node.log_lines("Packet too large")) == 1
