"""Commands over MQTT: which there are, when they are refused, and how they are answered.

    B/N/cmd/read         nothing, or ids of sensors       reads them now
    B/N/cmd/identify     nothing                          blinks the LED
    B/N/cmd/restart      nothing                          ends the process; the service restarts it
    B/N/cmd/acknowledge  nothing, or alarms: sensor/name  acknowledges those that are on
    B/N/cmd/replay       STREAM FIRST LAST                sends these readings of the log again
    B/N/cmd/config       get; or set, and a text          see `remote_config`
    B/N/cmd/sign         a nonce                          signs the head of the log's chain
    B/N/cmd/update       a bundle; install, or cancel     updates the node; see `node.updates`
    B/N/cmd/update-piece OFFSET DIGEST BASE64             is a piece of the bundle

The answer goes to the response topic of MQTT 5, with its correlation data (MQTT 5, §4.10), else to
`B/N/cmd/<name>/result`: an object with `command`, `ok`, and the result or `error`.

Used on the loop's thread. `RateLimit` bounds how many arrive.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from node.config.schema import Config
from node.mqtt.connection import BrokerConnection
from node.mqtt.events import Arrived, Flooded, Outgoing
from node.mqtt.publisher import Publisher
from node.outbox.chain import NONCE
from node.sensors.scheduler import ReadRequest, Scheduler
from node.system.clock import Clock
from node.topics import NO_COMMAND, UPDATE_PIECE, Topics

if TYPE_CHECKING:  # imported if the log is chained, or if there is a key of a publisher
    from node.outbox.signature import Signed
    from node.updates.updater import Reply, Updater

__all__ = ["RemoteCommands"]

_log = logging.getLogger(__name__)

LARGEST_BYTES = 1024
LARGEST_UPDATE_BYTES = {"update": 4096, UPDATE_PIECE: 33 * 1024}
"""The same for these commands: with a signature, and with 24 KB of a bundle in base64."""
MAX_TOPIC_BYTES = 1024
MAX_TOPIC_LEVELS = 50
"""Most levels of a response topic. A broker may end the connection over more; mosquitto's limit
is 200."""
RESTART_IN_ANY_CASE_S = 60.0
"""How long after the start `restart` is refused at most, if a sensor was not read yet."""
DEAF_S = 60.0
"""How long the node ignores commands after a flood of them."""
_MAX_READS = 8
"""How many requested reads may be under way."""
_MAX_SAID = 50
_COMMANDS = ("read", "identify", "restart", "acknowledge", "replay", "sign", "update")


class _Refused(Exception):
    """A command is refused; the message says why."""


class RemoteCommands:
    """Carries out the commands that `[commands]` allows."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        link: BrokerConnection,
        publisher: Publisher,
        scheduler: Scheduler,
        identify: Callable[[], float],
        restart: Callable[[], None],
        acknowledge: Callable[[Sequence[str]], list[str]],
        replay: Callable[[str, int, int, Callable[[int, int | None], None]], None],
        configure: Callable[[Arrived, str], None] | None,
        sign: Callable[[str, Callable[[Signed | str], None]], None] | None,
        updater: Updater | None = None,
    ) -> None:
        """Keep the parts. `identify` returns for how many seconds the LED blinks; 0 without one.

        `acknowledge` returns the alarms that were on, and raises KeyError for an unknown one.
        `replay` is `History.replay`, and `configure` is `RemoteConfig.hear`, where that is allowed.
        `sign` is `HeadSigner.sign`, or None where the log is not chained.
        `updater`: None if no update is taken from afar.
        """
        self._updater = updater
        self._table = config.commands
        self._clock = clock
        self._link = link
        self._publisher = publisher
        self._scheduler = scheduler
        self._identify = identify
        self._restart = restart
        self._acknowledge = acknowledge
        self._replay_history = replay
        self._configure = configure
        self._sign_head = sign
        self._sensors = [sensor.id for sensor in config.sensors]
        self._alarms = [
            f"{sensor.id}/{alarm.called(channel)}"
            for sensor in config.sensors
            for channel, alarm in sensor.alarms
        ]
        self._topics = Topics(config.mqtt.base_topic, config.node.name)
        prefix = config.homeassistant.prefix
        self._private = (f"{config.mqtt.base_topic}/", f"{prefix}/", "homeassistant/", "$")
        """Topics that answers must not go to, because they would be mistaken for something else."""
        self._said: set[str] = set()
        self._reads = 0
        self._started_s = clock.monotonic()
        self.next_due_s = math.inf

    def hear(self, message: Arrived) -> None:
        """Carry out the command of a message, or answer why not."""
        name = message.topic.rpartition("/")[2]
        if name == NO_COMMAND:
            return
        if message.retained:
            why = "it is retained, and would be carried out at each connection; delete it"
            self._say(f"a command {name[:40]!r} is ignored: {why}")
            return
        try:
            reply_to = self._reply_topic(name, message)
        except _Refused as refusal:
            self._say(f"a command {name[:40]!r} is ignored: {refusal}")
            return
        try:
            self._do(name, message, reply_to)
        except _Refused as refusal:
            self._say(f"the command {name} is refused: {refusal}")
            self._answer(name, message, reply_to, ok=False, error=str(refusal))

    def flooded(self, event: Flooded) -> None:
        """Stop listening for a while, or until the next connection."""
        deaf = self.next_due_s < math.inf
        if not deaf and event.topic.startswith(self._topics.command("")):
            self._link.ignore(self._topics.command_filter)
            self.next_due_s = self._clock.monotonic() + DEAF_S
            _log.warning(
                "too many commands: ignoring all of them for %g s; check who may publish to %s",
                DEAF_S,
                self._topics.command_filter,
            )

    def listen_again(self, now_s: float) -> None:
        """Listen again when the pause is over."""
        if now_s >= self.next_due_s:
            self.next_due_s = math.inf
            self._link.listen(self._topics.command_filter)

    def _say(self, message: str) -> None:
        """Log why a command is refused: each reason once, because thousands may arrive."""
        level = logging.DEBUG if message in self._said else logging.INFO
        if len(self._said) < _MAX_SAID:
            self._said.add(message)
            _log.log(level, "%s", message)

    def _reply_topic(self, name: str, message: Arrived) -> str:
        if not re.fullmatch(r"[a-z0-9_-]{1,32}", name):
            raise _Refused("its name is not valid")
        topic = message.response_topic
        if not topic:
            return self._topics.command_result(name)
        if len(topic.encode()) > MAX_TOPIC_BYTES or topic.count("/") >= MAX_TOPIC_LEVELS:
            bound = f"{MAX_TOPIC_LEVELS} levels and {MAX_TOPIC_BYTES} bytes"
            raise _Refused(f"its response topic {topic[:80]!r} has more than {bound}")
        below_result = topic.startswith(f"{self._topics.command_result(name)}/")
        private = topic.startswith(self._private) and not below_result
        if private or re.search(r"[+#]", topic) or not topic.isprintable():
            raise _Refused(f"its response topic {topic[:80]!r} is not allowed for answers")
        return topic

    def _do(self, name: str, message: Arrived, reply_to: str) -> None:
        if name == "config" and self._configure is not None:
            self._do_config(self._configure, message, reply_to)
            return
        if name in LARGEST_UPDATE_BYTES and self._updater is not None:
            self._update(self._updater, name, message, reply_to)
            return
        pointless = {
            "acknowledge": not self._alarms,
            "sign": self._sign_head is None,
            "update": self._updater is None,
        }
        known = [one for one in _COMMANDS if not pointless.get(one)]
        if name not in known:
            raise _Refused(f"unknown command; known are {', '.join(known)}")
        if name not in self._table.allow:
            raise _Refused("[commands] does not allow it")
        if len(message.payload) > LARGEST_BYTES:
            raise _Refused(f"its payload is larger than {LARGEST_BYTES} bytes")
        try:
            words = message.payload.decode().replace(",", " ").split()
        except UnicodeDecodeError:
            raise _Refused("its payload is not UTF-8") from None
        if name == "read":
            self._read(words, message, reply_to)
            return
        if name == "acknowledge":
            self._answer(name, message, reply_to, ok=True, alarms=self._acknowledged(words))
            return
        if name == "replay":
            self._replay(words, message, reply_to)
            return
        if name == "sign":
            self._sign(words, message, reply_to)
            return
        if words:
            raise _Refused("it takes no payload")
        if name == "identify":
            seconds = self._identify()
            if not seconds:
                raise _Refused("there is no LED to blink: [status_led] is not configured")
            self._answer(name, message, reply_to, ok=True, seconds=seconds)
        else:
            self._refuse_restart_before_reading()
            self._answer(name, message, reply_to, ok=True)
            self._restart()

    def _do_config(
        self, configure: Callable[[Arrived, str], None], message: Arrived, reply_to: str
    ) -> None:
        if message.payload.startswith(b"set"):
            self._refuse_restart_before_reading()
        try:
            configure(message, reply_to)
        except ValueError as error:
            raise _Refused(str(error)) from None

    def _acknowledged(self, words: list[str]) -> list[str]:
        try:
            return self._acknowledge(words)
        except KeyError:
            known = ", ".join(self._alarms) or "none"
            raise _Refused(f"unknown alarm; configured: {known}") from None

    def _refuse_restart_before_reading(self) -> None:
        """Refuse early restarts: one at each `online` would keep slow sensors from being read."""
        unread = self._scheduler.unread
        if unread and self._clock.monotonic() < self._started_s + RESTART_IN_ANY_CASE_S:
            named = ", ".join(unread)[:80]
            raise _Refused(f"it has just started, and has not read {named} yet; try again later")

    def _read(self, words: list[str], message: Arrived, reply_to: str) -> None:
        unknown = [word for word in words if word not in self._sensors]
        if unknown:
            known = ", ".join(self._sensors) or "none"
            named = ", ".join(unknown)[:80]
            if not named.isprintable():
                named = ascii(named)  # for the log, which a terminal shows
            raise _Refused(f"unknown sensor {named}; configured: {known}")
        if self._reads >= _MAX_READS:
            raise _Refused("too many reads are under way")

        def done(request: ReadRequest) -> None:
            self._reads -= 1
            sensors: dict[str, dict[str, Any]] = {}
            for sensor in request.sensors:
                failed = sensor in request.errors
                sensors[sensor] = (
                    {"error": request.errors[sensor]} if failed else dict(request.values[sensor])
                )
            self._answer("read", message, reply_to, ok=not request.errors, sensors=sensors)

        self._reads += 1
        self._scheduler.read_now(ReadRequest(list(dict.fromkeys(words or self._sensors)), done))

    def _replay(self, words: list[str], message: Arrived, reply_to: str) -> None:
        if len(words) != 3 or not all(re.fullmatch("[0-9]{1,18}", word) for word in words[1:]):
            raise _Refused("its payload must be: STREAM FIRST LAST, with two numbers (seq)")
        stream, first_seq, last_seq = words[0], int(words[1]), int(words[2])

        def done(count: int, begin: int | None) -> None:
            asked = {"stream": stream, "first": first_seq, "last": last_seq}
            found = {"readings": count, "stream_begins": begin}
            self._answer("replay", message, reply_to, ok=True, **asked, **found)

        try:
            self._replay_history(stream, first_seq, last_seq, done)
        except ValueError as error:
            raise _Refused(str(error)) from None

    def _sign(self, words: list[str], message: Arrived, reply_to: str) -> None:
        assert self._sign_head is not None
        if len(words) != 1 or not re.fullmatch(NONCE, words[0]):
            raise _Refused(
                "its payload must be a nonce: 1 to 128 letters, digits or any of +/=_.:-"
            )

        def done(result: Signed | str) -> None:
            if isinstance(result, str):
                self._say(f"the command sign is refused: {result}")
                self._answer("sign", message, reply_to, ok=False, error=result)
                return
            signed = {"statement": result.statement, "signature": result.signature}
            self._answer("sign", message, reply_to, ok=True, **signed)

        try:
            self._sign_head(words[0], done)
        except ValueError as error:
            raise _Refused(str(error)) from None

    def _update(self, updater: Updater, name: str, message: Arrived, reply_to: str) -> None:
        from node.updates.updater import Reply

        if len(message.payload) > LARGEST_UPDATE_BYTES[name]:
            raise _Refused(f"its payload is larger than {LARGEST_UPDATE_BYTES[name]} bytes")
        reply = Reply(reply_to, message.correlation if message.response_topic else b"")
        if name == UPDATE_PIECE:
            updater.piece(message.payload, reply)
            return
        try:
            said = updater.command(message.payload, reply)
        except ValueError as error:
            raise _Refused(str(error)) from None
        self._answer(name, message, reply_to, ok=True, **said)

    def answer_later(self, name: str, reply: Reply, content: dict[str, Any]) -> bool:
        """Answer a command some time after it; return False without a connection."""
        if not self._link.connected:
            return False
        payload = msgspec.json.encode({"command": name, **content})
        self._publisher.answer(
            Outgoing(
                reply.topic, payload, retain=False, correlation=reply.correlation, is_answer=True
            )
        )
        return True

    def _answer(self, name: str, message: Arrived, reply_to: str, **content: Any) -> None:
        payload = msgspec.json.encode({"command": name, **content})
        correlation = message.correlation if message.response_topic else b""
        answer = Outgoing(reply_to, payload, retain=False, correlation=correlation, is_answer=True)
        self._publisher.answer(answer)
