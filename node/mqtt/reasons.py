"""Reason codes of MQTT 5 (§2.4): why the broker refuses something, or ends a connection.

paho translates the return codes of MQTT 3.1.1 into them. The node's reaction depends only on the
code; the name is for people.
"""

from __future__ import annotations

import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

__all__ = [
    "BAD_CLIENT_ID",
    "BAD_LOGIN",
    "KEEP_ALIVE_TIMEOUT",
    "MAY_PASS",
    "NOT_AUTHORIZED",
    "NO_WILDCARDS",
    "PACKET_TOO_LARGE",
    "PROTOCOL_ERROR",
    "SESSION_TAKEN_OVER",
    "SHUTTING_DOWN",
    "UNSPECIFIED",
    "UNSUPPORTED_VERSION",
    "Reason",
    "failure",
]

UNSPECIFIED = 0x80
PROTOCOL_ERROR = 0x82
IMPLEMENTATION_SPECIFIC = 0x83
UNSUPPORTED_VERSION = 0x84
BAD_CLIENT_ID = 0x85
BAD_LOGIN = 0x86
NOT_AUTHORIZED = 0x87
SHUTTING_DOWN = 0x8B
KEEP_ALIVE_TIMEOUT = 0x8D
"""paho also reports it if the broker does not answer PINGREQ or CONNECT in time."""
SESSION_TAKEN_OVER = 0x8E
PACKET_TOO_LARGE = 0x95
"""In a PUBACK it is not in the standard (§3.4.2.1); mosquitto sends it for messages above its
message_size_limit."""
QUOTA_EXCEEDED = 0x97
NO_WILDCARDS = 0xA2
MAY_PASS = frozenset({UNSPECIFIED, IMPLEMENTATION_SPECIFIC, NOT_AUTHORIZED, QUOTA_EXCEEDED})
"""Codes in a PUBACK (§3.4.2.1) that do not concern the message itself, so the broker may accept it
later: after throttling, after an internal error, or when its ACL is corrected."""

_FAILURE = 0x80
_OUTSIDE_THE_STANDARD = {PACKET_TOO_LARGE: "Packet too large"}


class Reason(msgspec.Struct, frozen=True):
    """A reason code and its name, as in paho if it knows the code."""

    code: int
    name: str

    def __str__(self) -> str:
        return self.name


def failure(kind: int, code: int) -> Reason | None:
    """Return the reason for a code in a packet of the type `kind`; None for success."""
    if code < _FAILURE and kind != PacketTypes.DISCONNECT:
        return None
    try:
        return Reason(code, str(ReasonCode(kind, identifier=code)))
    except (KeyError, ValueError):  # paho does not know the code, or not in this packet
        return Reason(code, _OUTSIDE_THE_STANDARD.get(code, f"reason code 0x{code:02x}"))
