"""Which version of MQTT to speak: 5, or 3.1.1 with a broker that only knows that.

A broker that does not know MQTT 5 says so in its CONNACK (MQTT 3.1.1, §3.1.2.2), or closes the
connection without one. Connections are also closed for other reasons, so the other version is tried
after several of them, and after more each time.

Pure. Used by `BrokerConnection`, which replaces its client when the version changes.
"""

from __future__ import annotations

from paho.mqtt.enums import MQTTProtocolVersion

from node.mqtt.reasons import UNSUPPORTED_VERSION, Reason

__all__ = ["SILENT_CLOSES", "SILENT_CLOSES_LATER", "ProtocolVersion"]

SILENT_CLOSES = 2
"""Connections closed without CONNACK before another version is tried; twice as many each time,
because a new client begins at once and with short delays."""
SILENT_CLOSES_LATER = 4
"""The same for a broker that has answered before: it may just be starting, behind a proxy."""
_MAX_SILENT_CLOSES = 32


class ProtocolVersion:
    """The version for the next connection. Its text is `5` or `3.1.1`."""

    def __init__(self, configured: str) -> None:
        """`configured`: `[mqtt] protocol`; only "auto" ever changes the version."""
        self._is_auto = configured == "auto"
        self._only_3_1_1 = configured == "3.1.1"
        """Whether the broker is known not to support MQTT 5; otherwise 5 is tried first."""
        self.version = MQTTProtocolVersion.MQTTv5
        if self._only_3_1_1:
            self.version = MQTTProtocolVersion.MQTTv311
        self.silent_closes = 0
        """Connections in a row that were closed without CONNACK, with this version."""
        self._patience = SILENT_CLOSES
        """How many of them it takes to try the other version."""
        self._has_spoken_5 = False
        """Whether the broker has accepted MQTT 5, and closed no second series of connections."""

    def __str__(self) -> str:
        return "5" if self._is_5 else "3.1.1"

    @property
    def _is_5(self) -> bool:
        return self.version == MQTTProtocolVersion.MQTTv5

    def answered(self, refused: Reason | None) -> bool:
        """Note a CONNACK; return whether another version has to be spoken instead."""
        self.silent_closes = 0
        if refused is not None:
            if refused.code != UNSUPPORTED_VERSION or not (self._is_auto and self._is_5):
                return False
            self._only_3_1_1 = True
            self._change()
            return True
        if self._has_spoken_5 and not (self._is_5 or self._only_3_1_1):
            # A balancer whose brokers were all away has closed connections; now there is one.
            self._has_spoken_5 = False
            self._patience = SILENT_CLOSES // 2
            self._change()
            return True
        self._has_spoken_5 = self._is_5
        self._patience = SILENT_CLOSES_LATER
        return False

    def lost(self) -> bool:
        """Note the loss of a connection; return whether another version is to be tried.

        If 3.1.1 is spoken because connections were closed, that may have changed.
        """
        if not self._is_auto or self._is_5 or self._only_3_1_1:
            return False
        self._change()
        self._patience = SILENT_CLOSES
        return True

    def closed_silently(self) -> None:
        """Note a connection that was closed without CONNACK."""
        self.silent_closes += 1

    def out_of_patience(self) -> bool:
        """Return whether another version is to be tried, after so many silent closes."""
        if not self._is_auto or self.silent_closes < self._patience:
            return False
        self._change()
        return True

    def _change(self) -> None:
        self.version = MQTTProtocolVersion.MQTTv311 if self._is_5 else MQTTProtocolVersion.MQTTv5
        self.silent_closes = 0
        self._patience = min(2 * self._patience, _MAX_SILENT_CLOSES)
