"""Modbus on the wire: checksums, lengths of answers, the header of TCP, exceptions. Pure.

Sources: "MODBUS Application Protocol Specification V1.1b3" (protocol), "MODBUS over Serial Line
V1.02" (line) and "MODBUS Messaging on TCP/IP V1.0b" (tcp), modbus.org.
"""

from __future__ import annotations

__all__ = [
    "EXCEPTIONS",
    "SHORTEST",
    "TCP_HEADER",
    "crc16",
    "exception_code",
    "frame_length",
    "is_whole",
    "tcp_length",
    "tcp_message",
    "with_crc",
]

SHORTEST = 5
"""Bytes of the shortest answer on a serial line: unit, function, exception, CRC."""
TCP_HEADER = 7
"""Bytes of the MBAP header: transaction, protocol, length, unit (tcp §3.1.3)."""
_SHORTEST_ON_TCP, _LONGEST_ON_TCP = 3, 254
"""Bytes after the length in the header: unit, function and data (tcp §3.1.3, protocol §4.1)."""
_EXCEPTION = 0x80

EXCEPTIONS = {
    1: ("illegal function", "it does not know this function: 3 reads holding registers, 4 input"),
    2: ("illegal data address", "it has no such register: check register and function, from 0"),
    3: ("illegal data value", "it does not give so many registers at once"),
    4: ("device failure", "it reports a fault of its own; look at the device and its probe"),
    5: ("acknowledge", "it needs longer; read it less often"),
    6: ("device busy", "it is busy; read it less often"),
    8: ("memory parity error", "it reports a fault of its own; switch its power off and on"),
    10: ("gateway path unavailable", "the gateway is not set up for this unit"),
    11: ("gateway target failed to respond", "the device behind the gateway does not answer it"),
}
"""Exception code -> its name, and what to try (protocol §7)."""


def crc16(message: bytes) -> bytes:
    """Return the checksum of a message, low byte first (line §6.2.2)."""
    crc = 0xFFFF
    for byte in message:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")


def with_crc(message: bytes) -> bytes:
    """Return a message as it goes over a serial line."""
    return message + crc16(message)


def is_whole(frame: bytes) -> bool:
    """Return whether a frame has the right checksum."""
    return len(frame) >= SHORTEST and frame[-2:] == crc16(frame[:-2])


def frame_length(start: bytes) -> int:
    """Return the length of the answer that begins with `start` (at least three bytes)."""
    return SHORTEST if start[1] & _EXCEPTION else SHORTEST + start[2]


def exception_code(frame: bytes) -> int | None:
    """Return the code of an exception; None for another answer."""
    return frame[2] if len(frame) == SHORTEST and frame[1] & _EXCEPTION else None


def tcp_message(transaction: int, message: bytes) -> bytes:
    """Return unit and request with the header of TCP; the message has no checksum."""
    header = b"".join(number.to_bytes(2, "big") for number in (transaction, 0, len(message)))
    return header + message


def tcp_length(header: bytes) -> int | None:
    """Return the length of the TCP message that begins with `header`; None if it is none."""
    if len(header) < TCP_HEADER or any(header[2:4]):
        return None
    length = int.from_bytes(header[4:6], "big")
    return TCP_HEADER - 1 + length if _SHORTEST_ON_TCP <= length <= _LONGEST_ON_TCP else None
