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
    "BUSY",
    "KEEP_ALIVE_TIMEOUT",
    "MAY_PASS",
    "MESSAGE_RATE_TOO_HIGH",
    "NOT_AUTHORIZED",
    "NO_SHARING",
    "NO_WILDCARDS",
    "PACKET_TOO_LARGE",
    "PROTOCOL_ERROR",
    "QUOTA_EXCEEDED",
    "REFERRALS",
    "SERVER_MOVED",
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
SERVER_BUSY = 0x89
SHUTTING_DOWN = 0x8B
KEEP_ALIVE_TIMEOUT = 0x8D
"""paho also reports it if the broker does not answer PINGREQ or CONNECT in time."""
SESSION_TAKEN_OVER = 0x8E
PACKET_TOO_LARGE = 0x95
"""In a PUBACK it is not in the standard (§3.4.2.1); mosquitto sends it for messages above its
message_size_limit."""
MESSAGE_RATE_TOO_HIGH = 0x96
QUOTA_EXCEEDED = 0x97
USE_ANOTHER_SERVER = 0x9C
SERVER_MOVED = 0x9D
NO_SHARING = 0x9E
CONNECTION_RATE_EXCEEDED = 0x9F
NO_WILDCARDS = 0xA2
BUSY = frozenset({SERVER_BUSY, MESSAGE_RATE_TOO_HIGH, QUOTA_EXCEEDED, CONNECTION_RATE_EXCEEDED})
"""Codes of a broker that has too much to do: the node comes back later, and later each time."""
REFERRALS = frozenset({USE_ANOTHER_SERVER, SERVER_MOVED})
"""Codes of a broker that sends the node to another one (§4.11)."""
MAY_PASS = frozenset({UNSPECIFIED, IMPLEMENTATION_SPECIFIC, NOT_AUTHORIZED}) | BUSY
"""Codes in a PUBACK (§3.4.2.1) that do not concern the message itself, so the broker may accept it
later: after throttling, after an internal error, or when its ACL is corrected. Of `BUSY` only Quota
exceeded is in the standard there."""

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
