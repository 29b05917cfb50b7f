"""The link to the broker: one client at a time, where it connects, and why it is down.

`protocol` chooses its version of MQTT, `spread` the pauses, `referrals` another server. Everything
here runs on the thread of the link's owner, which passes each reported event to `follow`, except
acknowledgements and messages.
"""

from __future__ import annotations

import enum
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.config.schema import MqttTable
from node.mqtt.client import DEFAULT_WINDOW, MAX_INCOMING_BYTES, NetworkClient
from node.mqtt.errors import closed_early, connect_failure, no_answer, not_a_broker, refusal
from node.mqtt.events import (
    Arrived,
    BrokerEvent,
    Connected,
    ConnectFailed,
    Disconnected,
    Outgoing,
    Session,
    SubscribeRefused,
    Subscription,
)
from node.mqtt.protocol import SILENT_CLOSES, ProtocolVersion
from node.mqtt.rate_limit import RateLimit
from node.mqtt.reasons import (
    BUSY,
    KEEP_ALIVE_TIMEOUT,
    MESSAGE_RATE_TOO_HIGH,
    NO_SHARING,
    NO_WILDCARDS,
    PROTOCOL_ERROR,
    QUOTA_EXCEEDED,
    REFERRALS,
    UNSPECIFIED,
    Reason,
)
from node.mqtt.spread import SHORT_LIVES, Pauses, reconnect_delays
from node.system.clock import Clock

if TYPE_CHECKING:
    from node.mqtt.referrals import Referrals

__all__ = ["MOVED_FILE_NAME", "BrokerConnection", "Change"]

_log = logging.getLogger(__name__)

MOVED_FILE_NAME = "moved.json"
"""Where the state directory has the server that the configured one has moved to."""


class Change(enum.Enum):
    """The effect of an event on the link."""

    NONE = enum.auto()
    UP = enum.auto()
    DOWN = enum.auto()


class BrokerConnection:
    """Connects, and stays connected; speaks MQTT 5, or 3.1.1 to a broker that only knows that."""

    def __init__(
        self,
        mqtt: MqttTable,
        clock: Clock,
        *,
        client_id: str,
        tls_context: Any,
        report: Callable[[BrokerEvent], None],
        will_topic: str | None = None,
        subscribe: tuple[Subscription, ...] = (),
        rate_limit: RateLimit | None = None,
        max_incoming_bytes: int = MAX_INCOMING_BYTES,
        session: Session | None = None,
        moved_file: Path | None = None,
    ) -> None:
        """`report` is called on paho's thread. The will is a retained `offline`.

        `rate_limit`, if given, bounds how many messages are accepted, `max_incoming_bytes` how
        large they may be. With a `session`, messages have to be settled. `moved_file`: where to
        remember that the broker has moved; see `referrals`.
        """
        self._session = session
        self._configured = mqtt
        self._clock = clock
        self._moved_file = moved_file
        self._referrals: Referrals | None = None
        """None until the broker has named another server, in this process or in an earlier one."""
        if moved_file is not None and moved_file.exists():
            self._known_referrals()
        self._client_id = client_id
        self._tls_context = tls_context
        self._report = report
        self._will_topic = will_topic
        self._subscribe = subscribe
        self._rate_limit = rate_limit
        self._max_incoming_bytes = max_incoming_bytes
        self._protocol = ProtocolVersion(mqtt.protocol)
        self._pauses = Pauses(clock, mqtt.reconnect_spread)
        self._generation = 0
        self._client: NetworkClient
        """The present client; set from `start` on."""
        self._closed_attempt = (0, 0)
        self._complaints: set[str] = set()
        self.was_too_fast = False
        """Whether the broker ended the last connection because of the rate of messages."""
        self.connected = False
        self.guarded = True
        """Whether incoming packets are bounded before paho parses them, on the newest connection.
        """
        self._trouble = "not connected yet"
        self.window = DEFAULT_WINDOW
        """How many messages the broker accepts before it has acknowledged the first."""
        self.max_packet_bytes = sys.maxsize

    def start(self, after_s: float = 0.0) -> None:
        """Begin to connect in the background, after `after_s`, however long it takes."""
        self._generation += 1
        self._client = self._new_client()
        self._client.begin(after_s)

    @property
    def _mqtt(self) -> MqttTable:
        """Return the table with the address of the present server."""
        return self._configured if self._referrals is None else self._referrals.place

    def _known_referrals(self) -> Referrals:
        if self._referrals is None:
            from node.mqtt.referrals import Referrals  # most brokers never refer to another one

            now_s = self._clock.monotonic()
            self._referrals = Referrals(self._configured, self._moved_file, now_s)
        return self._referrals

    def _new_client(self) -> NetworkClient:
        return NetworkClient(
            self._mqtt,
            self._protocol.version,
            client_id=self._client_id,
            generation=self._generation,
            tls_context=self._tls_context,
            report=self._report,
            will_topic=self._will_topic,
            subscribe=self._subscribe,
            rate_limit=self._rate_limit,
            max_incoming_bytes=self._max_incoming_bytes,
            session=self._session,
        )

    @property
    def generation(self) -> int:
        """Return the number of the present client."""
        return self._generation

    @property
    def alive(self) -> bool:
        """Return whether the network thread lives."""
        return self._client.alive

    def restart(self) -> None:
        """Replace the client, after its network thread has died."""
        _log.error("the network thread has died; starting a new one")
        self.connected = False
        self.start()

    def renew_login(self, now_s: float) -> None:
        """Connect again, without a will, if the password of this connection ends soon."""
        if self.connected and now_s >= self._client.credentials.ends_s:
            _log.info("connecting again, with another password")
            self._client.end()
            self.connected = False
            self.start()

    def give_up(self, why: str) -> None:
        """Leave this connection for another one."""
        self._complain(f"{self._mqtt.address} {why}; reconnecting")
        self.connected = False
        self._client.abort()
        self.start()

    @property
    def described(self) -> str:
        """Return `connected, MQTT 5`, or why there is no connection."""
        if not self.connected:
            return self._trouble
        text = f"connected, MQTT {self._protocol}"
        if self.server:
            text += f", to {self.server}, where {self._configured.address} has sent the node"
        return text

    @property
    def server(self) -> str:
        """Return the address of the present server if it is not the configured one, else ""."""
        return "" if self._mqtt is self._configured else self._mqtt.address

    @property
    def problem(self) -> str:
        """Return what has to be changed in the configuration, because the broker has moved."""
        moved_to = self._referrals.moved_to if self._referrals is not None else ""
        if not moved_to:
            return ""
        return f"{self._configured.address} has moved to {moved_to}: set [mqtt] host and port to it"

    @property
    def mqtt_version(self) -> str | None:
        """Return the MQTT version in use; None without a connection."""
        return str(self._protocol) if self.connected else None

    @property
    def short_connections(self) -> int:
        """Return how many in a row were lost soon after they were made; 0 if this one lasts."""
        return 0 if self.connected and self._pauses.lasts else self._pauses.short_lives

    @property
    def was_short_lived(self) -> bool:
        """Return whether the last connection was lost soon after it was made."""
        return self._pauses.was_short_lived

    def publish(self, message: Outgoing) -> int:
        """Publish with the next `send`; return the message id of the acknowledgement."""
        return self._client.publish_at_qos_1(message)

    def settle(self, message: Arrived) -> None:
        """Acknowledge a message of the session, so that it does not come again."""
        if message.message_id and message.generation == self._generation:
            self._client.settle(message)

    def send(self) -> None:
        """Send the published messages."""
        self._client.send()

    def listen(self, topic: str) -> None:
        """Subscribe again after `ignore`; a new connection subscribes anyway."""
        for subscription in self._subscribe:
            if subscription.topic == topic:
                self._client.listen(subscription)

    def listen_also(self, topics: list[str]) -> None:
        """Subscribe to more topics, until `ignore` or the end of this connection.

        `Subscribed` reports that the last one was answered, even with a refusal.
        """
        if topics:
            self._client.listen_also(topics)

    def ignore(self, *topics: str) -> None:
        """Unsubscribe until `listen`, or the next connection."""
        if topics:
            self._client.unsubscribe([*topics])

    def hurry(self, hurried: bool) -> None:
        """Note whether messages wait for others to be acknowledged."""
        self._client.hurried = hurried

    def is_denied(self, topic: str) -> bool:
        """Return whether the broker has refused the subscription to a topic on this connection."""
        return topic in self._complaints

    def disconnect(self, wait_s: float) -> None:
        """End the connection with DISCONNECT, within `wait_s`."""
        self._client.end(wait_s)

    def follow(self, event: BrokerEvent) -> Change:
        """Return the effect of a reported event; events of an earlier client are ignored."""
        if event.generation != self._generation:
            return Change.NONE
        if isinstance(event, Connected):
            return self._answered(event)
        if isinstance(event, ConnectFailed):
            self._pauses.failed()
            self._complain(str(connect_failure(event.error, self._mqtt)))
            self._try_another_server()
        elif isinstance(event, Disconnected):
            return self._disconnected(event)
        elif isinstance(event, SubscribeRefused) and event.topic not in self._complaints:
            self._complaints.add(event.topic)
            is_unable = event.reason.code in (NO_SHARING, NO_WILDCARDS, QUOTA_EXCEEDED)
            remedy = "" if is_unable else "; allow it in the broker's ACL"
            _log.warning(
                "the broker does not allow the subscription to %s: %s%s",
                event.topic,
                event.reason,
                remedy,
            )
        return Change.NONE

    def _answered(self, event: Connected) -> Change:
        refused = event.refused
        if self._protocol.answered(refused):
            self._start_again(0.0)
            return Change.NONE
        if refused is not None:
            self._refused(refused, event.server_reference)
            return Change.NONE
        if self._referrals is not None:
            self._referrals.arrived()
        self.connected = True
        self._complaints.clear()
        self._pauses.connected()
        self.window = event.window
        self.max_packet_bytes = event.max_packet_bytes
        self.guarded = event.guarded
        secure = " with TLS" if self._mqtt.tls else ""
        _log.info("connected to %s, MQTT %s%s", self._mqtt.address, self._protocol, secure)
        return Change.UP

    def _refused(self, reason: Reason, reference: str) -> None:
        if reason.code in REFERRALS:
            self._refer(reason, reference, at_once=True)
            return
        self._complain(str(refusal(reason, self._mqtt)))
        if not self._try_another_server() and reason.code in BUSY:
            self._start_again(self._pauses.busy_s())

    def _refer(self, reason: Reason, reference: str, *, at_once: bool = False) -> None:
        """Connect to the server that the broker names, or again to this one after a pause."""
        referrals, here = self._known_referrals(), self._mqtt.address
        why_not = referrals.follow(reason.code, reference)
        if why_not:
            self._complain(f"{here} {why_not}")
            referrals.gave_up(self._clock.monotonic())
            self._start_again(self._pauses.busy_s())
            return
        self._trouble = f"no broker yet: {here} sends this node to {self._mqtt.address}"
        _log.info("%s sends this node to %s: %s", here, self._mqtt.address, reason)
        first_s, _ = reconnect_delays(self._configured.reconnect_spread)
        self._start_again(0.0 if at_once else first_s)

    def _try_another_server(self) -> bool:
        """Connect to another server that the node knows, if it is time; return whether it was."""
        if self._referrals is None or not self._referrals.failed(self._clock.monotonic()):
            return False
        _, longest_s = reconnect_delays(self._configured.reconnect_spread)
        self._start_again(longest_s)
        return True

    def _start_again(self, after_s: float) -> None:
        """Replace the client: only a new one neither connects sooner nor to the same server."""
        self._client.end()
        self.start(after_s)

    def _lost(self, event: Disconnected) -> None:
        """Connect again after a lost connection; where and when depends on what the broker says."""
        if self._referrals is not None and self._pauses.lasts:
            self._referrals.lasted()
        code = event.reason.code
        self.was_too_fast = code == MESSAGE_RATE_TOO_HIGH
        self._client.pause_before_reconnecting(self._pauses.lost_s(event.reason))
        if self._pauses.short_lives == SHORT_LIVES and self.was_short_lived:
            _log.error(
                "connections do not last: is there another client with the id %s? Each node needs "
                "a different name and machine id. Or does the broker close them because a message "
                "is too large? (see node/doctor/README.md)",
                self._client_id,
            )
        if code in REFERRALS:
            self._refer(event.reason, event.server_reference)
        elif self._referrals is not None and self._referrals.lost(self._clock.monotonic()):
            first_s, _ = reconnect_delays(self._configured.reconnect_spread)
            self._start_again(first_s)
        elif code in BUSY:
            self._start_again(self._pauses.busy_s())
        elif self._protocol.lost():
            self._start_again(0.0)

    def _disconnected(self, event: Disconnected) -> Change:
        where = self._mqtt.address
        attempt = (event.generation, event.attempt)
        if attempt == self._closed_attempt:
            return Change.NONE  # paho reports some losses again and again
        self._closed_attempt = attempt
        if self.connected:
            self.connected = False
            known = "" if event.reason.code == UNSPECIFIED else f" ({event.reason})"
            self._complain(f"lost {where}{known}; reconnecting")
            self._lost(event)
            return Change.DOWN
        if event.reason.code in REFERRALS or event.reason.code in BUSY:
            self._refused(event.reason, event.server_reference)  # in place of a CONNACK
            return Change.NONE
        if event.reason.code == KEEP_ALIVE_TIMEOUT:
            self._complain(str(no_answer(self._mqtt)))
            self._try_another_server()
            return Change.NONE
        self._protocol.closed_silently()
        if event.reason.code == PROTOCOL_ERROR:
            self._complain(str(not_a_broker(event.reason, self._mqtt)))
        elif self._protocol.silent_closes >= SILENT_CLOSES:
            self._complain(str(closed_early(self._mqtt)))
        if self._try_another_server():
            return Change.NONE
        if self._protocol.out_of_patience():
            self._start_again(0.0)
        return Change.NONE

    def _complain(self, message: str) -> None:
        """Log why there is no connection; each reason once until there is one."""
        self._trouble = f"no broker: {message}"
        if message not in self._complaints:
            self._complaints.add(message)
            _log.warning("no broker: %s", message)
