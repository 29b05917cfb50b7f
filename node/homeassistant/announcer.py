"""Announces the node to Home Assistant, again when that is needed, and takes back what is gone.

The node listens on its own discovery topic: what the broker has retained there is what Home
Assistant knows, whoever has forgotten it here. A component in it that there is no more is removed
as the documentation says, by announcing its platform alone; with `[homeassistant] enabled = false`
the whole message is taken back.

Two things about Home Assistant (2026.11) that a removal must heed. While it sets a component up, it
drops what a second message says; so the removal comes `SETTLE_S` after the message before it. And
it removes only what it has discovered since its start; so at its birth what is gone is announced
once more, whole, to be removed after that. One that says `offline` after a removal has been there
to hear it, and hears no more of it when it starts again.

Used on the loop's thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

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
from node.mqtt.events import Arrived
from node.mqtt.publisher import Publisher
from node.sensors.sensor import Sensor
from node.system.clock import Clock
from node.system.host import read_vitals
from node.system.jitter import at_random
from node.topics import Topics

__all__ = ["Announcer"]

_log = logging.getLogger(__name__)

SETTLE_S = 4.0
"""How long Home Assistant has for one message before the next one."""
BIRTHS_EVERY_S = 30.0
"""More often nobody starts Home Assistant, and whoever says so would have all of it sent anew."""
CLAIM_AFTER_S = 1.0
"""A copy of the card says all that it has to say of the device on connecting, in an instant."""
MAX_BIRTH_DELAY_S = 5.0
"""A fleet that answers the birth of Home Assistant in the same instant would drown it."""
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
        has_led: Callable[[], bool],
        simulated: bool = False,
    ) -> None:
        """`keys`: sensor id -> the key that Home Assistant knows it by.

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
        self._enabled = config.homeassistant.enabled
        self._status = Topics(config.mqtt.base_topic, config.node.name).status
        self._is_first = is_first
        self._part = part
        self._claim_not_before_s = -math.inf
        self.problem = ""
        """What is wrong with the device, and what to do; "" while nothing is."""
        self._birth_topics = birth_topics(config.homeassistant.prefix)
        self._topic = discovery_topic(config.homeassistant.prefix, device)
        publisher.can_do_without(self._topic, ", or set [homeassistant] enabled = false")
        self._heard = b""
        """What the broker has retained, until the node announces itself."""
        self._announced: set[str] = set()
        """The keys of the components that were announced last."""
        self._gone: dict[str, dict[str, Any]] = {}
        """Key -> component of those that are no more, and that Home Assistant may still have."""
        self._removed = False
        """They have been removed, for a Home Assistant that has run for longer than we know."""
        self._answers_birth = False
        """The removal that is to come is for a Home Assistant that has just started."""
        self._said_at_s = self._born_at_s = -math.inf
        self._announce_at_s = math.inf
        self._remove_at_s = math.inf
        self._birth_at_s = math.inf

    @property
    def next_due_s(self) -> float:
        """When there is something to do, if nothing is heard until then."""
        return min(self._birth_at_s, self._announce_at_s, self._remove_at_s)

    def announce(self) -> None:
        """Set the discovery message, where Home Assistant is to have one."""
        if self._enabled:
            message = self._message()
            self._announced = set(message["cmps"])
            for key in self._announced & self._gone.keys():
                del self._gone[key]
            self._set(message)
            heard, self._heard = self._heard, b""
            self._compare(heard)
            self._remove_what_is_gone()

    def channels_found(self) -> None:
        """Announce anew: a sensor has turned out to have a channel that nobody knew of."""
        if self._enabled and self._said_at_s > -math.inf:
            self._announce_at_s = self._said_at_s + SETTLE_S

    def hear(self, message: Arrived) -> bool:
        """Take note of a message; whether it was for us."""
        if message.topic == self._topic:
            if message.retained and self._enabled and self._said_at_s == -math.inf:
                self._heard = message.payload  # what there is now is not announced yet
            elif message.retained:
                self._compare(message.payload)
            else:
                self._mind_another(message.payload)
            return True
        if message.topic in self._birth_topics:
            if message.retained or not self._enabled:
                return True
            if message.payload == b"offline" and self._removed:
                self._gone.clear()
            elif message.payload == b"online":
                at_s = self._clock.monotonic() + at_random(0, MAX_BIRTH_DELAY_S)
                at_s = max(at_s, self._born_at_s + BIRTHS_EVERY_S)
                self._birth_at_s = min(self._birth_at_s, at_s)
            return True
        return False

    def birth_is_due(self, now_s: float) -> bool:
        """Whether it is time to tell a Home Assistant that has just started everything."""
        if now_s < self._birth_at_s:
            return False
        self._birth_at_s = math.inf
        self._born_at_s = now_s
        return True

    def answer_birth(self) -> None:
        """Announce what there is, and what is to be removed."""
        self.announce()
        if self._gone:
            self._answers_birth = True
            self._announce_gone()

    def announce_due(self, now_s: float) -> None:
        """Say what there is to say, when it is time."""
        if now_s >= self._announce_at_s:
            self.announce()
        if now_s >= self._remove_at_s:
            self._remove_at_s = math.inf
            message = self._message()
            message["cmps"].update({key: removal_of(c) for key, c in self._gone.items()})
            _log.info("taking back from Home Assistant: %s", ", ".join(sorted(self._gone)))
            self._set(message)
            if self._answers_birth:
                self._answers_birth = False
                self._gone.clear()
            else:
                self._removed = True

    def link_down(self) -> None:
        """On connecting everything is said anew."""
        self._removed = self._answers_birth = False
        self._heard = b""
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
        if self._gone:
            self._removed = False
            self._remove_at_s = self._said_at_s + SETTLE_S

    def _set(self, message: dict[str, Any]) -> None:
        self._announce_at_s = math.inf
        self._said_at_s = self._clock.monotonic()
        self._publisher.set(self._topic, msgspec.json.encode(message))

    def _compare(self, payload: bytes) -> None:
        """Find out what the broker still has, and we have no more."""
        if not self._config.homeassistant.enabled:
            if payload:
                _log.info("taking the node back from Home Assistant")
                self._publisher.set(self._topic, b"")
            return
        if not self._enabled:
            return
        for key, component in components_of(payload, self._device).items():
            if key not in self._announced and not self._may_come_back(key):
                self._gone[key] = component
        if self._gone:
            self._announce_gone()

    def _announce_gone(self) -> None:
        """Announce what is gone once more, whole, to be removed after that.

        It is then at the broker until it is removed, whatever ends the node before.
        """
        message = self._message()
        message["cmps"].update(self._gone)
        self._set(message)
        self._remove_what_is_gone()

    def _may_come_back(self, key: str) -> bool:
        """Whether it is a channel of a sensor that tells its channels only when it is read.

        Or something that this computer cannot tell just now, as of a radio without a network.
        """
        return is_of_host(key) or any(
            sensor.table.info.more_channels and key.startswith(f"{self._keys[sensor.table.id]}.")
            for sensor in self._sensors
        )

    def _message(self) -> dict[str, Any]:
        sensors = [
            AnnouncedSensor(
                sensor.table,
                self._keys[sensor.table.id],
                tuple(
                    AnnouncedChannel(p.channel.name, p.unit, p.decimals)
                    for p in sensor.state.filters
                ),
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


def _model(board: Board) -> str:
    """`Raspberry Pi 4 Model B Rev 1.4` (the device tree's root node; a NUL ends it)."""
    try:
        text = board.path(_MODEL).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "Linux computer"
    return text.strip("\0\n ") or "Linux computer"
