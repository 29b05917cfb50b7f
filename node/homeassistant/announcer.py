"""Announces the node to Home Assistant, again when needed, and removes former components.

The node listens on its own discovery topic: the broker's retained message there is what Home
Assistant knows, even if the node has lost its own record. A component in it that no longer exists
is removed as documented, by announcing only its platform. With `[homeassistant] enabled = false`
the whole message is removed.

A removal has to allow for two properties of Home Assistant (2026.11). While it sets up a component,
it drops the content of a second message. So the removal follows `SETTLE_S` after the message before
it. And it removes only components that it has discovered since its start. So at its birth the
former components are announced once more, complete, and then removed. If Home Assistant says
`offline` after a removal, it has received that, and gets no further removal when it starts again.

With `form = "components"` there is a message for each component (see `forms`), and a removal is an
empty one. When the form changes, Home Assistant is first asked to let go of what the messages of
the former one have set up, then it gets the new ones, and then the former ones are removed, each
`SETTLE_S` after the step before it.

Used on the loop's thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Set
from random import uniform
from typing import Any

from drivers.accuracy import figures_of
from drivers.bus import Board
from node.config.schema import Config
from node.homeassistant.discovery import (
    AnnouncedChannel,
    AnnouncedSensor,
    announced_status,
    birth_topics,
    components_of,
    device_message,
    discovery_topic,
    is_of_host,
    removal_of,
)
from node.homeassistant.forms import MIGRATION, component_in, is_discovery, payloads_of
from node.mqtt.events import Arrived
from node.mqtt.publisher import Publisher
from node.sensors.sensor import Sensor
from node.system.clock import Clock
from node.system.host import read_vitals
from node.topics import Topics

__all__ = ["Announcer"]

_log = logging.getLogger(__name__)

SETTLE_S = 4.0
"""How much time Home Assistant gets between two messages."""
BIRTHS_EVERY_S = 30.0
"""The least time between answers to a birth. Home Assistant does not start more often, and a false
birth would make the node send everything again."""
CLAIM_AFTER_S = 1.0
"""A copy of the card says all that it has to say of the device on connecting, in an instant."""
MAX_BIRTH_DELAY_S = 5.0
"""The spread of the answers: a fleet that answered the birth at once would overload Home
Assistant."""
_REMEDY = ", or set [homeassistant] enabled = false"
_MODEL = "/proc/device-tree/model"


class Announcer:
    """Keeps the discovery message at the broker up to date."""

    def __init__(
        self,
        config: Config,
        board: Board,
        clock: Clock,
        *,
        device: str,
        is_first: bool,
        part: Callable[[], bool],
        keys: Mapping[str, str],
        sensors: list[Sensor],
        publisher: Publisher,
        published: Callable[[], Set[str]],
        has_led: Callable[[], bool],
        simulated: bool = False,
    ) -> None:
        """`keys`: sensor id -> the key that Home Assistant knows it by.

        `published`: the topics that this node has published on, and not emptied.

        `is_first`: this node is the one that `device` was made for, and not a copy of its card.
        `part` makes it another device from the next start on; whether that could be written.
        `has_led`: whether there is one to blink, for `Identify`. `simulated`: the device's model
        says that its hardware is not real.
        """
        self._config = config
        self._board = board
        self._clock = clock
        self._device = device
        self._keys = keys
        self._sensors = sensors
        self._publisher = publisher
        self._has_led = has_led
        self._simulated = simulated
        self._published = published
        self._enabled = config.homeassistant.enabled
        self._prefix = config.homeassistant.prefix
        self._apart = config.homeassistant.apart
        self._status = Topics(config.mqtt.base_topic, config.node.name).status
        self._is_first = is_first
        self._part = part
        self._claim_not_before_s = -math.inf
        self.problem = ""
        """What is wrong with the device, and what to do; "" while nothing is."""
        self._birth_topics = birth_topics(config.homeassistant.prefix)
        self._topic = discovery_topic(self._prefix, device)
        self._heard = b""
        """The broker's retained message, until the node announces itself."""
        self._heard_apart: dict[str, dict[str, Any]] = {}
        """Key -> component, of the broker's retained messages of components, until then."""
        self._former: Set[str] = frozenset()
        """Topics of the other form, or of components of which nothing is known but the topic."""
        self._lets_go = False
        """Whether Home Assistant was asked to let go of what it has from `_former`."""
        self._announced: set[str] = set()
        """The keys of the last announced components."""
        self._gone: dict[str, dict[str, Any]] = {}
        """Key -> former component that Home Assistant may still have."""
        self._removed = False
        """Whether they were removed for a Home Assistant that was already running."""
        self._answers_birth = False
        """Whether the next removal is for a Home Assistant that has just started."""
        self._said_at_s = self._born_at_s = -math.inf
        self._announce_at_s = math.inf
        self._remove_at_s = math.inf
        self._birth_at_s = math.inf

    @property
    def next_due_s(self) -> float:
        """Return when there is something to do, if no message arrives until then."""
        return min(self._birth_at_s, self._announce_at_s, self._remove_at_s)

    def announce(self) -> None:
        """Publish the discovery, if Home Assistant is to have one."""
        if not self._enabled or self._migrates():
            return
        message = self._message()
        self._announced = set(message["cmps"])
        for key in self._announced & self._gone.keys():
            del self._gone[key]
        self._set(message)
        self._former = self._former | self._forgotten_topics(message)
        heard, self._heard = self._heard, b""
        apart, self._heard_apart = self._heard_apart, {}
        self._compare(apart if self._apart else components_of(heard, self._device))
        self._remove_what_is_gone()

    def _migrates(self) -> bool:
        """Begin to change the form, if the broker has messages of the other; return whether so."""
        if self._lets_go:
            return False
        others = {self._topic} if self._apart else self._known_topics - {self._topic}
        former = others & (self._known_topics | ({self._topic} if self._heard else set()))
        if not former:
            return False
        self._lets_go, self._former = True, former
        _log.info('Home Assistant gets the form "%s" now', self._config.homeassistant.form)
        for topic in former:
            self._say(topic, MIGRATION)
        self._announce_at_s = self._clock.monotonic() + SETTLE_S
        return True

    def _forgotten_topics(self, message: dict[str, Any]) -> set[str]:
        """Return the topics of former components of which this node knows nothing else.

        A broker may keep messages, and not send them to a subscriber to a wildcard.
        """
        if not self._apart:
            return set()
        heard = message | {"cmps": {**message["cmps"], **self._heard_apart}}
        known = (
            self._known_topics - payloads_of(heard, self._prefix, self._device, apart=True).keys()
        )
        return {topic for topic in known if not self._may_come_back(topic.split("/")[-2])}

    @property
    def _known_topics(self) -> set[str]:
        """Return the topics of discovery that this node has published on."""
        return {t for t in self._published() if is_discovery(t, self._prefix, self._device)}

    def channels_found(self) -> None:
        """Announce the node again, because a sensor has a channel that was not known before."""
        if self._enabled and self._said_at_s > -math.inf:
            self._announce_at_s = self._said_at_s + SETTLE_S

    def hear(self, message: Arrived) -> bool:
        """Note a message; return whether it was for the announcer."""
        if message.topic == self._topic:
            if message.retained and self._enabled and self._said_at_s == -math.inf:
                self._heard = message.payload  # the present message is not announced yet
            elif message.retained and not self._enabled:
                self._take_back(message)
            elif message.retained and not self._apart:
                self._compare(components_of(message.payload, self._device))
            elif not message.retained:
                self._mind_another(message.payload)
            return True
        if is_discovery(message.topic, self._prefix, self._device):
            self._hear_apart(message)
            return True
        if message.topic in self._birth_topics:
            if message.retained or not self._enabled:
                return True
            if message.payload == b"offline" and self._removed:
                self._gone.clear()
            elif message.payload == b"online":
                at_s = self._clock.monotonic() + uniform(0, MAX_BIRTH_DELAY_S)
                at_s = max(at_s, self._born_at_s + BIRTHS_EVERY_S)
                self._birth_at_s = min(self._birth_at_s, at_s)
            return True
        return False

    def _hear_apart(self, message: Arrived) -> None:
        """Note a message of one component."""
        if not message.retained:
            self._mind_another(message.payload)
        elif not self._enabled:
            self._take_back(message)
        elif found := component_in(message.topic, message.payload, self._prefix, self._device):
            if self._said_at_s == -math.inf:
                self._heard_apart[found[0]] = found[1]
            else:
                self._compare(dict([found]))

    def _take_back(self, message: Arrived) -> None:
        if message.payload:
            _log.info("removing the node from Home Assistant")
            self._say(message.topic, b"")

    def birth_is_due(self, now_s: float) -> bool:
        """Return whether it is time to announce everything to a restarted Home Assistant."""
        if now_s < self._birth_at_s:
            return False
        self._birth_at_s = math.inf
        self._born_at_s = now_s
        return True

    def answer_birth(self) -> None:
        """Announce the present components, and those to be removed."""
        self.announce()
        if self._gone:
            self._answers_birth = True
            self._announce_gone()

    def announce_due(self, now_s: float) -> None:
        """Send the announcement or removal that is due."""
        if now_s >= self._announce_at_s:
            self.announce()
        if now_s >= self._remove_at_s:
            self._remove_at_s = math.inf
            self._remove()

    def _remove(self) -> None:
        for topic in self._former:
            self._say(topic, b"")
        self._former, self._lets_go = frozenset(), False
        if not self._gone:
            return
        _log.info("removing from Home Assistant: %s", ", ".join(sorted(self._gone)))
        self._set_also({key: removal_of(c) for key, c in self._gone.items()})
        if self._answers_birth:
            self._answers_birth = False
            self._gone.clear()
        else:
            self._removed = True

    def link_down(self) -> None:
        """Forget what was sent: after the next connection, everything is sent again."""
        self._removed = self._answers_birth = self._lets_go = False
        self._heard, self._heard_apart, self._former = b"", {}, frozenset()
        self._said_at_s = -math.inf
        self._birth_at_s = self._announce_at_s = self._remove_at_s = math.inf

    def _mind_another(self, payload: bytes) -> None:
        """Claim the device back from another node, or leave it to it.

        A state directory that was copied is the same device on another card, as it should be; but
        not while the node that it was copied from is there as well.
        """
        theirs = announced_status(payload)
        if not self._enabled or theirs in ("", self._status):
            return
        other = theirs.removesuffix("/status")
        if self._is_first:
            if self._announce_at_s == math.inf:
                soon_s = self._clock.monotonic() + CLAIM_AFTER_S
                self._announce_at_s = max(soon_s, self._claim_not_before_s)
                self._claim_not_before_s = self._announce_at_s + BIRTHS_EVERY_S
                _log.warning("%s is a copy of this card, and is shown as this node's device", other)
        elif self._part():
            self.problem = (
                f"this card is a copy of that of {other}, and the same device for Home Assistant: "
                "restart this node, which is a device of its own then"
            )
            _log.warning("%s", self.problem)
            self._enabled = False
            self._birth_at_s = self._announce_at_s = self._remove_at_s = math.inf

    def _remove_what_is_gone(self) -> None:
        if self._gone or self._former:
            self._removed = False
            self._remove_at_s = self._said_at_s + SETTLE_S

    def _set(self, message: dict[str, Any]) -> None:
        self._announce_at_s = math.inf
        self._said_at_s = self._clock.monotonic()
        self._publish(message)

    def _set_also(self, components: dict[str, dict[str, Any]]) -> None:
        """Publish more components, or removals: with all others where they share a message."""
        message = self._message()
        if self._apart:
            message["cmps"] = components
            self._publish(message)
        else:
            message["cmps"].update(components)
            self._set(message)

    def _publish(self, message: dict[str, Any]) -> None:
        payloads = payloads_of(message, self._prefix, self._device, apart=self._apart)
        for topic, payload in payloads.items():
            self._say(topic, payload)

    def _say(self, topic: str, payload: bytes) -> None:
        self._publisher.can_do_without(topic, _REMEDY)
        self._publisher.set(topic, payload)

    def _compare(self, components: dict[str, dict[str, Any]]) -> None:
        """Find the components that the broker still has and that no longer exist."""
        for key, component in components.items():
            if key not in self._announced and not self._may_come_back(key):
                self._gone[key] = component
        if self._gone:
            self._announce_gone()

    def _announce_gone(self) -> None:
        """Announce former components once more, complete, to be removed after that.

        The broker then has them until they are removed, even if the node ends before.
        """
        self._set_also(self._gone)
        self._remove_what_is_gone()

    def _may_come_back(self, key: str) -> bool:
        """Return whether the component of a key, or of an object id, may reappear.

        That is a channel of a sensor whose channels are known only after a read, or a value that
        this computer cannot give at the moment, such as that of a radio without a network.
        """
        return is_of_host(key) or any(
            sensor.table.info.more_channels
            and key.startswith(
                (f"{self._keys[sensor.table.id]}.", f"{self._keys[sensor.table.id]}--")
            )
            for sensor in self._sensors
        )

    def _message(self) -> dict[str, Any]:
        sensors = [
            AnnouncedSensor(
                sensor.table,
                self._keys[sensor.table.id],
                tuple(_announced(sensor)),
            )
            for sensor in self._sensors
        ]
        return device_message(
            self._config,
            self._device,
            sensors,
            read_vitals(self._board),
            "simulated" if self._simulated else _model(self._board),
            has_led=self._has_led(),
        )


def _announced(sensor: Sensor) -> Iterator[AnnouncedChannel]:
    """Yield every channel of a sensor that is known, as it is published."""
    table = sensor.table
    quantities = {derived.channel.name: derived.quantity for derived in table.derive}
    text = table.options.accuracy() or table.info.accuracy
    measured = [f.channel for f in sensor.state.filters if f.channel.name not in quantities]
    for filters in sensor.state.filters:
        channel = filters.channel
        computed = table.info.computed or channel.name in quantities
        yield AnnouncedChannel(
            channel.name,
            filters.unit,
            filters.decimals,
            quantities.get(channel.name, ""),
            channel.diagnostic,
            has_accuracy=computed or bool(figures_of(text, channel, measured)),
        )


def _model(board: Board) -> str:
    """Return `Raspberry Pi 4 Model B Rev 1.4` (the device tree's root node; a NUL ends it)."""
    try:
        text = board.path(_MODEL).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "Linux computer"
    return text.strip("\0\n ") or "Linux computer"
