"""Extracts the packets that a broker may send from a stream of bytes, and blocks all others. Pure.

It only knows MQTT's framing, 5 and 3.1.1 (clauses refer to MQTT 5), and checks each packet against
bounds before a library parses it:

    CONNACK      once, and first; without texts for people
    DISCONNECT   without texts for people
    PUBLISH      QoS 0 and 1, up to a size; with the response topic and correlation data, and
                 without other properties. A packet above a bound is skipped, and acknowledged at
                 QoS 1, so that a retained message does not return repeatedly. The node never asks
                 for QoS 2
    PUBACK       goes to the publisher, bypassing the library
    SUBACK       with one reason code each
    UNSUBACK     is skipped, because the node does not wait for it
    PINGRESP

Anything else is a fault, after which the connection is unusable.
"""

from __future__ import annotations

from node.mqtt.packets import framed, length

__all__ = ["SKIPPED", "BrokerFault", "Sieve", "puback"]

MAX_PROPERTIES_BYTES = 4096
MAX_PROPERTIES = 32
MAX_PASSED = 50
"""Most packets that are passed on from one chunk; the rest of the chunk waits."""
SKIPPED = "$skipped"
"""The topic of the stand-in for a skipped message; brokers do not use it. The stand-in has no
payload, and only makes the library acknowledge the message."""

_CONNACK, _PUBLISH, _PUBACK, _SUBACK, _UNSUBACK, _PINGRESP, _DISCONNECT = 2, 3, 4, 9, 11, 13, 14
_PUBLISH_QOS_1 = 0x32
_REFUSED = 0x80
_SUBACK_CODES = frozenset((0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2))  # §3.9.3
_RESPONSE_TOPIC, _CORRELATION_DATA, _SERVER_REFERENCE = 8, 9, 28
_FOR_AN_ANSWER = frozenset((_RESPONSE_TOPIC, _CORRELATION_DATA))
_NUMBERS = {  # §2.2.2.2: identifier -> bytes
    **dict.fromkeys((1, 23, 25, 36, 37, 40, 41, 42), 1),
    **dict.fromkeys((19, 33, 34, 35), 2),
    **dict.fromkeys((2, 17, 24, 39), 4),
}
_TEXTS = frozenset((3, 8, 9, 18, 21, 22, 26, 28, 31))
_SUBSCRIPTION_IDENTIFIER, _USER_PROPERTY = 11, 38
_ONCE = frozenset(_NUMBERS) | _TEXTS


class BrokerFault(ConnectionError):
    """The broker has violated the protocol; the message says how."""


class _Unreadable(Exception):
    """Properties are malformed, or too many."""


class Sieve:
    """One connection's packets: `feed` it the received bytes, and pass on the bytes it returns."""

    def __init__(self, *, mqtt_5: bool, max_bytes: int) -> None:
        """Start a connection. `max_bytes`: how large a whole packet may be."""
        self._mqtt_5 = mqtt_5
        self._max_bytes = max_bytes
        self._held = b""
        """The beginning of an incomplete packet."""
        self._to_skip = 0
        self._after_skip = b""
        self._answered = False
        self.packets = 0
        """All packets that have come, accepted or not."""
        self.skipped = 0
        """Messages that exceeded a bound, or were unreadable."""
        self.acknowledged: list[tuple[int, int]] = []
        """(message id, reason code) of each PUBACK; the reader removes them."""

    @property
    def wanted(self) -> int:
        """Return how many more bytes complete the present packet; 0: unknown."""
        if self._to_skip or not self._held:
            return self._to_skip
        head = _head_of(self._held)
        return sum(head) - len(self._held) if head else 0

    @property
    def waits(self) -> bool:
        """Return whether there are whole packets that `feed` has not returned yet."""
        if not self._held:
            return False
        try:
            head = _head_of(self._held)
        except BrokerFault:  # `feed` raises it
            return True
        return head is not None and sum(head) <= len(self._held)

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes of `chunk`, and of earlier chunks, that may pass.

        Raises:
            BrokerFault: nothing after this point can be trusted.
        """
        if self._to_skip:
            skipped, chunk = chunk[: self._to_skip], chunk[self._to_skip :]
            self._to_skip -= len(skipped)
            if self._to_skip:
                return b""
        passed, self._after_skip = self._after_skip, b""
        content = self._held + chunk if self._held else chunk
        self._held = b""
        at = so_far = pings = 0
        while (head := _head_of(content, at)) is not None:
            start, size = at + head[0], head[1]
            end = start + size
            if end - at > self._max_bytes:
                return passed + self._skip(content, at, start, size)
            if end > len(content) or so_far == MAX_PASSED:
                break
            self.packets += 1
            kind = content[at] >> 4
            if kind == _PUBACK:
                if size < 2:
                    raise BrokerFault("a PUBACK without a message id")
                code = content[start + 2] if size > 2 else 0
                self.acknowledged.append((content[start] << 8 | content[start + 1], code))
            elif kind == _PINGRESP and pings and not size:
                pass  # one answer is as good as a thousand
            else:
                pings += kind == _PINGRESP
                packet = self._sifted(content[at], content[start:end])
                so_far += bool(packet)
                passed += packet
            at = end
        self._held = content[at:]
        return passed

    def _skip(self, content: bytes, at: int, start: int, size: int) -> bytes:
        """Skip a packet above the bound; return its stand-in, if enough of the packet is here."""
        if content[at] >> 4 != _PUBLISH or not self._answered:
            raise BrokerFault(f"a packet of type {content[at] >> 4} with {size} bytes")
        head = start
        if content[at] & 0x06:  # the message id follows the topic (§3.3.2)
            topic_bytes = int.from_bytes(content[start : start + 2], "big")
            head = start + 2 + topic_bytes + 2
            if head - start > size:
                raise BrokerFault("a PUBLISH that is shorter than its topic")
        if len(content) < max(head, start + 2):
            self._held = content[at:]
            return b""
        stands_for_it = self._skipped(content[at], content[head - 2 : head])
        missing = start + size - len(content)
        if missing <= 0:
            self._held = content[start + size :]
            return stands_for_it
        self._to_skip, self._after_skip = missing, stands_for_it
        return b""

    def _skipped(self, first: int, message_id: bytes) -> bytes:
        """Return the stand-in for a blocked message: at QoS 1, one that gets acknowledged."""
        self.skipped += 1
        if first & 0x06 != 0x02:
            return b""
        topic = len(SKIPPED).to_bytes(2, "big") + SKIPPED.encode()
        return framed(_PUBLISH_QOS_1, topic + message_id + (b"\0" if self._mqtt_5 else b""))

    def _sifted(self, first: int, body: bytes) -> bytes:
        kind = first >> 4
        if not self._answered and kind not in (_CONNACK, _DISCONNECT):
            raise BrokerFault(f"a packet of type {kind} before CONNACK")
        if kind == _PUBLISH:
            return self._publish(first, body)
        if kind == _CONNACK:
            return self._connack(first, body)
        if kind == _SUBACK:
            return self._suback(first, body)
        if kind == _UNSUBACK:
            return b""
        if kind == _PINGRESP and not body:
            return bytes((first, 0))
        if kind == _DISCONNECT and self._mqtt_5:
            return framed(first, self._disconnect(body))
        raise BrokerFault(f"a packet of type {kind} with {len(body)} bytes")

    def _connack(self, first: int, body: bytes) -> bytes:
        if self._answered:
            raise BrokerFault("a second CONNACK")
        self._answered = True
        if len(body) == 2:  # 3.1.1, or a broker without MQTT 5
            return framed(first, body)
        if not self._mqtt_5:
            raise BrokerFault(f"a CONNACK with {len(body)} bytes")
        try:
            properties, _ = _properties(body, 2, frozenset(_NUMBERS) | {18, _SERVER_REFERENCE})
        except _Unreadable as error:
            raise BrokerFault(f"a CONNACK with {error}") from None
        return framed(first, body[:2] + length(len(properties)) + properties)

    def _disconnect(self, body: bytes) -> bytes:
        """Return the reason code, and the server reference if it can be read."""
        try:
            properties, _ = _properties(body, 1, frozenset({_SERVER_REFERENCE}))
        except _Unreadable:
            properties = b""
        return body[:1] + (length(len(properties)) + properties if properties else b"")

    def _suback(self, first: int, body: bytes) -> bytes:
        codes = body[2:]
        if self._mqtt_5:
            try:
                section, begin = _number(body, 2)
            except _Unreadable as error:
                raise BrokerFault(f"a SUBACK with {error}") from None
            codes = body[begin + section :]
        if not codes:
            raise BrokerFault("a SUBACK without a reason code")
        code = codes[0] if codes[0] in _SUBACK_CODES else _REFUSED
        if not self._mqtt_5 and code > _REFUSED:
            code = _REFUSED
        return framed(first, body[:2] + (b"\0" if self._mqtt_5 else b"") + bytes((code,)))

    def _publish(self, first: int, body: bytes) -> bytes:
        qos = first >> 1 & 0x03
        topic_end = 2 + int.from_bytes(body[:2], "big")
        payload_at = topic_end + (2 if qos else 0)
        if len(body) < max(2, payload_at) or qos == 3:
            raise BrokerFault("a PUBLISH that is malformed")
        message_id = body[topic_end:payload_at]
        if qos == 2:
            return self._skipped(first, message_id)
        properties = b""
        try:
            _check_text(body[2:topic_end])
            if self._mqtt_5:
                kept, payload_at = _properties(body, payload_at, _FOR_AN_ANSWER)
                properties = length(len(kept)) + kept
        except _Unreadable:
            return self._skipped(first, message_id)
        head = body[:topic_end] + message_id
        return framed(first, head + properties + body[payload_at:])


def puback(message_id: int) -> bytes:
    """Return the shortest PUBACK, valid in either version (§3.4)."""
    return framed(_PUBACK << 4, message_id.to_bytes(2, "big"))


def _head_of(content: bytes, at: int = 0) -> tuple[int, int] | None:
    """Return the lengths of the fixed header at `at`, and of the rest (§2.1); None: unknown.

    Raises:
        BrokerFault: the length field is longer than allowed (§1.5.5).
    """
    if at + 1 < len(content) and content[at + 1] < 0x80:  # as most of a broker's packets
        return 2, content[at + 1]
    size = shift = 0
    for position in range(at + 1, min(at + 5, len(content))):
        byte = content[position]
        size |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return position + 1 - at, size
        shift += 7
    if len(content) - at >= 5:
        raise BrokerFault("a length of more than four bytes")
    return None


def _number(content: bytes, at: int) -> tuple[int, int]:
    """Return a variable byte integer (§1.5.5), and the position after it."""
    number = shift = 0
    for position in range(at, min(at + 4, len(content))):
        byte = content[position]
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, position + 1
        shift += 7
    raise _Unreadable("a number that does not end")


def _properties(body: bytes, at: int, keep: frozenset[int]) -> tuple[bytes, int]:
    """Return the properties at `at` that are in `keep` (§2.2.2), and the position after all.

    Raises:
        _Unreadable: they are malformed, or exceed the bounds.
    """
    size, at = _number(body, at)
    end = at + size
    if end > len(body):
        raise _Unreadable("properties that are longer than the packet")
    if size > MAX_PROPERTIES_BYTES:
        raise _Unreadable(f"{size} bytes of properties")
    kept = b""
    seen: list[int] = []
    while at < end:
        begin, identifier = at, body[at]
        at = _end_of_property(identifier, body[:end], at + 1)
        if identifier in _ONCE and identifier in seen:
            raise _Unreadable(f"two properties {identifier}")
        seen.append(identifier)
        if len(seen) > MAX_PROPERTIES:
            raise _Unreadable(f"more than {MAX_PROPERTIES} properties")
        if identifier in keep:
            if identifier in (_RESPONSE_TOPIC, _SERVER_REFERENCE):
                _check_text(body[begin + 3 : at])
            kept += body[begin:at]
    return kept, end


def _end_of_property(identifier: int, section: bytes, at: int) -> int:
    if identifier in _NUMBERS:
        at += _NUMBERS[identifier]
    elif identifier in _TEXTS or identifier == _USER_PROPERTY:
        for _ in range(2 if identifier == _USER_PROPERTY else 1):
            if at + 2 > len(section):
                raise _Unreadable("a property without its length")
            at += 2 + int.from_bytes(section[at : at + 2], "big")
    elif identifier == _SUBSCRIPTION_IDENTIFIER:
        _, at = _number(section, at)
    else:
        raise _Unreadable(f"an unknown property {identifier}")
    if at > len(section):
        raise _Unreadable(f"a property {identifier} that is cut off")
    return at


def _check_text(text: bytes) -> None:
    """Check that a text is UTF-8 that the library accepts.

    MQTT 5 allows U+FEFF (§1.5.4), but paho (2.2) considers it malformed, and ends the connection.
    """
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        raise _Unreadable("a text that is not UTF-8") from None
    if not decoded or "\0" in decoded or "\ufeff" in decoded:
        raise _Unreadable("a text that is not valid")
