"""What the sieve lets pass of a broker's bytes, by example and by property."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from node.mqtt.packets import binary, framed, length, text
from node.mqtt.sieve import MAX_PASSED, MAX_PROPERTIES, SKIPPED, BrokerFault, Sieve

MAX_BYTES = 1000
CONNACK = {True: b"\x20\x03\x00\x00\x00", False: b"\x20\x02\x00\x00"}
USER_PROPERTY = b"\x26" + text("a") + text("b")
VERSION = {True: MQTTProtocolVersion.MQTTv5, False: MQTTProtocolVersion.MQTTv311}


def publish(
    payload: bytes = b"x",
    *,
    topic: bytes = b"a/b",
    qos: int = 1,
    properties: bytes | None = b"",
    number: int = 7,
) -> bytes:
    """A PUBLISH of MQTT 5; with None for the properties, of 3.1.1."""
    body = binary(topic) + (struct.pack(">H", number) if qos else b"")
    if properties is not None:
        body += length(len(properties)) + properties
    return framed(0x30 | qos << 1, body + payload)


def sieve_of(*, mqtt_5: bool = True) -> Sieve:
    """One that has seen CONNACK."""
    sieve = Sieve(mqtt_5=mqtt_5, max_bytes=MAX_BYTES)
    assert sieve.feed(CONNACK[mqtt_5]) == CONNACK[mqtt_5]
    return sieve


def through(sieve: Sieve, *pieces: bytes) -> bytes:
    """All that passes."""
    passed = b""
    for piece in pieces:
        passed += sieve.feed(piece)
        while sieve.waits:
            passed += sieve.feed(b"")
    return passed


def skipped(number: int = 7) -> bytes:
    return publish(b"", topic=SKIPPED.encode(), number=number)


@pytest.mark.parametrize("mqtt_5", [True, False])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_message_passes_as_it_came(mqtt_5, qos):
    message = publish(qos=qos, properties=b"" if mqtt_5 else None)
    assert sieve_of(mqtt_5=mqtt_5).feed(message) == message


def test_of_properties_those_for_an_answer_pass():
    answer = b"\x08" + text("answers/me") + b"\x09" + binary(b"\x00\x01")
    other = (
        b"\x01\x01" + b"\x02\x00\x00\x00\x09" + USER_PROPERTY + b"\x0b\x81\x01" + b"\x03\x00\x01t"
    )
    passed = sieve_of().feed(publish(properties=other + answer + USER_PROPERTY))
    assert passed == publish(properties=answer)


@pytest.mark.parametrize(
    "message",
    [
        publish(bytes(MAX_BYTES)),
        publish(properties=USER_PROPERTY * (MAX_PROPERTIES + 1)),
        publish(bytes(10), properties=b"\x26" + binary(bytes(300)) + binary(bytes(400))[:2] + b"x"),
        publish(properties=b"\x08\x00\x05ab"),
        publish(properties=b"\x7f\x00"),
        publish(properties=b"\x08" + text("a") + b"\x08" + text("b")),
        publish(properties=b"\x08" + text("\ufeff")),
        publish(properties=b"\x08" + binary(b"\xff")),
        publish(topic=b"\xc3\x28"),
        publish(topic=b""),
    ],
)
def test_what_is_above_a_bound_or_unreadable_is_skipped_and_acknowledged(message):
    sieve = sieve_of()
    assert through(sieve, message + publish()) == skipped() + publish()
    assert sieve.skipped == 1


def test_a_message_at_qos_0_that_is_too_large_leaves_nothing():
    sieve = sieve_of()
    assert through(sieve, publish(bytes(5000), qos=0) + publish()) == publish()


def test_a_message_at_qos_2_does_not_pass():
    assert sieve_of().feed(publish(qos=2) + publish()) == publish()


def test_a_packet_of_200_mb_is_not_kept():
    sieve = sieve_of()
    assert sieve.feed(b"\x32" + length(200_000_000) + text("a/b") + b"\x00\x07") == b""
    rest = 200_000_000 - 7
    while rest > 0:
        piece = min(rest, 1_000_000)
        rest -= piece
        passed = sieve.feed(bytes(piece))
        assert passed == (b"" if rest else skipped())
    assert sieve.feed(publish()) == publish()


def test_acknowledgements_are_taken_out():
    sieve = sieve_of()
    assert sieve.feed(b"\x40\x02\x80\x01\x40\x03\x80\x02\x95\x40\x04\x80\x03\x00\x00") == b""
    assert sieve.acknowledged == [(0x8001, 0), (0x8002, 0x95), (0x8003, 0)]


def test_many_packets_pass_in_several_pieces():
    sieve = sieve_of()
    assert sieve.feed(publish() * (MAX_PASSED + 10)) == publish() * MAX_PASSED
    assert sieve.waits
    assert sieve.feed(b"") == publish() * 10
    assert not sieve.waits


def test_connack_passes_without_texts():
    sieve = Sieve(mqtt_5=True, max_bytes=MAX_BYTES)
    numbers = b"\x21\x00\x14" + b"\x27\x00\x01\x00\x00" + b"\x28\x00" + b"\x13\x00\x1e"
    section = b"\x1f" + text("well") + numbers + USER_PROPERTY
    assert sieve.feed(framed(0x20, b"\x00\x00" + length(len(section)) + section)) == framed(
        0x20, b"\x00\x00" + length(len(numbers)) + numbers
    )


def test_suback_has_one_code_that_the_library_knows():
    section = USER_PROPERTY * 20
    body = b"\x00\x01" + length(len(section)) + section
    assert sieve_of().feed(framed(0x90, body + b"\x87\x87")) == b"\x90\x04\x00\x01\x00\x87"
    assert sieve_of().feed(framed(0x90, body + b"\x95")) == b"\x90\x04\x00\x01\x00\x80"
    assert sieve_of(mqtt_5=False).feed(b"\x90\x03\x00\x01\x87") == b"\x90\x03\x00\x01\x80"


@pytest.mark.parametrize(
    ("packet", "says"),
    [
        (CONNACK[True], "a second CONNACK"),
        (b"\xc0\x00", "a packet of type 12"),
        (b"\x62\x02\x00\x01", "a packet of type 6"),
        (b"\xf0\x02\x00\x00", "a packet of type 15"),
        (b"\x90\xff\xff\x7f", "a packet of type 9 with"),
        (b"\x40\x01\x00", "a PUBACK without"),
        (b"\x30\xff\xff\xff\xff\x01", "more than four bytes"),
        (b"\x36\x05\x00\x01a\x00\x01", "a PUBLISH that is malformed"),
        (b"\x32\x03\x00\x09a", "a PUBLISH that is malformed"),
        (b"\x32" + length(3000) + b"\xff\xff", "shorter than its topic"),
        (b"\xd0\x01\x00", "a packet of type 13 with 1 bytes"),
    ],
)
def test_what_no_broker_may_send_is_a_fault(packet, says):
    with pytest.raises(BrokerFault, match=says):
        sieve_of().feed(packet)


def test_nothing_comes_before_connack():
    with pytest.raises(BrokerFault, match="before CONNACK"):
        Sieve(mqtt_5=True, max_bytes=MAX_BYTES).feed(publish())


STREAM = st.lists(
    st.one_of(
        st.builds(
            publish,
            st.binary(max_size=3000),
            topic=st.binary(max_size=12),
            qos=st.integers(0, 3),
            properties=st.one_of(
                st.none(),
                st.binary(max_size=40),
                st.integers(0, 40).map(lambda n: USER_PROPERTY * n),
                st.text(max_size=5).map(
                    lambda t: b"\x08" + text(t.encode("utf-8", "replace").decode())
                ),
            ),
        ),
        st.builds(framed, st.integers(0, 255), st.binary(max_size=12)),
        st.builds(framed, st.sampled_from([0x40, 0x90, 0xB0, 0xD0, 0xE0]), st.binary(max_size=6)),
        st.just(b"\xd0\x00"),
    ),
    max_size=12,
).map(b"".join)


def outcome(sieve: Sieve, pieces: list[bytes]) -> tuple[bytes, list[tuple[int, int]], str]:
    """What passes, what is acknowledged, and the fault, if one ends it."""
    passed = b""
    try:
        for piece in pieces:
            passed += through(sieve, piece)
    except BrokerFault as fault:
        return passed, sieve.acknowledged, str(fault)
    return passed, sieve.acknowledged, ""


@given(stream=STREAM, mqtt_5=st.booleans(), cuts=st.lists(st.integers(0, 400), max_size=20))
def test_the_library_can_read_whatever_passes_however_it_comes(stream, mqtt_5, cuts):
    """However the bytes are cut; of what comes in one piece with a fault, nothing need pass."""
    pieces, rest = [], stream
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces = [piece for piece in [*pieces, rest] if piece]
    passed, acknowledged, fault = outcome(sieve_of(mqtt_5=mqtt_5), pieces)
    byte_by_byte = [stream[at : at + 1] for at in range(len(stream))]
    again = outcome(sieve_of(mqtt_5=mqtt_5), byte_by_byte)
    assert again[1:] == (acknowledged, fault)
    assert again[0].replace(b"\xd0\x00", b"").startswith(passed.replace(b"\xd0\x00", b""))
    read_by_paho(passed, mqtt_5)


def read_by_paho(passed: bytes, mqtt_5: bool) -> None:
    while passed:
        size, at = length_of(passed)
        assert at + size <= MAX_BYTES
        body, kind = passed[at : at + size], passed[0] >> 4
        if kind == 3:
            packet = _packet.decode_publish(passed[0], body, VERSION[mqtt_5])
            packet.topic.decode()
            assert packet.qos < 2
            assert mqtt_5 == (packet.properties is not None)
        elif kind == 9:
            assert len(_packet.decode_suback(passed[0], body, VERSION[mqtt_5]).reason_codes) == 1
        else:
            assert kind in (13, 14)
        passed = passed[at + size :]


def length_of(packet: bytes) -> tuple[int, int]:
    size = shift = 0
    for at in range(1, 5):
        size |= (packet[at] & 0x7F) << shift
        if not packet[at] & 0x80:
            return size, at + 1
        shift += 7
    raise AssertionError("no packet")


def test_control_paho_alone_ends_the_connection_over_one_character():
    """And so it does over a reason code that it does not know: the sieve is needed for both."""
    properties = Properties(PacketTypes.PUBLISH)
    with pytest.raises(MalformedPacket):
        properties.unpack(b"\x07\x08\x00\x04a" + "\ufeff".encode())
    with pytest.raises(MalformedPacket):
        _packet.decode_suback(0x90, b"\x00\x01\x00\x95", VERSION[True])
