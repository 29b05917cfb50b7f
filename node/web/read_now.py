"""Has the node read sensors now, for the page's button, and keeps the answer for a minute.

The page only reads the log, so it asks as any client of the broker does: it publishes the command
`read`, and waits for the answer on the command's result topic. Each request reads the broker's
login from the configuration, makes a connection, and ends it.

Runs on the server's threads, one request at a time.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from node.config.reader import ConfigError
from node.config.tls import tls_files
from node.system.terminal import visible
from node.topics import Topics
from node.web.settings import broker_of

if TYPE_CHECKING:  # paho is imported with the first request
    from node.mqtt.events import Arrived

__all__ = ["ReadNow", "ReadResult", "TooSoon"]

CONNECT_S = 8.0
ANSWER_S = 15.0
"""A DHT that needs three attempts takes 6 s, and the sensors of a bus are read one by one."""
PAUSE_S = 3.0
"""The shortest time from the end of one request to the next."""
SHOWN_FOR_S = 60.0
_MAX_BYTES = 256 * 1024
_LONGEST_ERROR = 300


class ReadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a request has led to."""

    utc_ms: int
    values: dict[str, dict[str, float]] = {}
    """Sensor -> channel -> value."""
    errors: dict[str, str] = {}
    """Sensor -> why it did not give a value."""
    problem: str = ""
    """Why there is no answer, or why the node refuses to read."""


class _Answer(msgspec.Struct):
    """The payload of an answer; see node/mqtt/README.md."""

    command: str
    ok: bool
    error: str = ""
    sensors: dict[str, dict[str, float | str]] = {}


_decode = msgspec.json.Decoder(_Answer).decode


class TooSoon(Exception):
    """Another request is under way, or has just ended; `wait_s` is when to try again."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("sensors are being read, or have just been: try again soon")
        self.wait_s = wait_s


class ReadNow:
    """Asks the node whose broker is in the configuration `file`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._one_at_a_time = threading.Lock()
        self._result: ReadResult | None = None
        self._ended_s = float("-inf")

    @property
    def result(self) -> ReadResult | None:
        """Return the result of the last request; None after a minute."""
        return self._result if time.monotonic() < self._ended_s + SHOWN_FOR_S else None

    def ask(self, node: str, sensors: tuple[str, ...], *, all_of_them: bool) -> None:
        """Have the node read these sensors, and wait for the answer.

        Raises:
            TooSoon: another request is under way, or has just ended.
        """
        if not self._one_at_a_time.acquire(blocking=False):
            raise TooSoon(PAUSE_S)
        try:
            wait_s = self._ended_s + PAUSE_S - time.monotonic()
            if wait_s > 0:
                raise TooSoon(wait_s)
            words = b"" if all_of_them else " ".join(sensors).encode()
            self._result = self._result_of(node, sensors, words)
            self._ended_s = time.monotonic()
        finally:
            self._one_at_a_time.release()

    def _result_of(self, node: str, sensors: tuple[str, ...], words: bytes) -> ReadResult:
        from node.mqtt.leftovers import NoAnswer, NoBroker

        try:
            answer = self._answer(node, sensors, words)
        except ConfigError as error:
            return _failed(f"the broker is not known: {error.problems[0].message}")
        except NoAnswer:
            return _failed(
                f"the node has not answered within {ANSWER_S:g} s; "
                "readings that are still to come will appear below"
            )
        except NoBroker as error:
            return _failed(str(error))
        if answer.error:
            return _failed(f"the node refuses: {answer.error}")
        values: dict[str, dict[str, float]] = {}
        errors: dict[str, str] = {}
        for sensor in sensors:
            found = answer.sensors[sensor]
            values[sensor] = {
                channel: value for channel, value in found.items() if not isinstance(value, str)
            }
            if isinstance(why := found.get("error"), str):
                errors[sensor] = visible(why, _LONGEST_ERROR)
        return ReadResult(utc_ms=_now_ms(), values=values, errors=errors)

    def _answer(self, node: str, sensors: tuple[str, ...], words: bytes) -> _Answer:
        """Return the node's answer.

        Raises:
            ConfigError: the configuration does not say which broker.
            NoBroker: the broker cannot be reached, or refuses.
            NoAnswer: the node does not answer.
        """
        from node.mqtt.events import Outgoing
        from node.mqtt.leftovers import Visit

        mqtt = broker_of(self._file)
        topics = Topics(mqtt.base_topic, node)
        answers: list[_Answer] = []

        def is_answer(message: Arrived) -> bool:
            if not message.retained and (answer := _answer_in(message.payload, sensors)):
                answers.append(answer)
            return bool(answers)

        client = f"snweb{os.urandom(4).hex()}"
        visit = Visit(mqtt, tls_files(mqtt.tls), client, [topics.command_result("read")])
        try:
            visit.begin(CONNECT_S)
            visit.ask(Outgoing(topics.command("read"), words, retain=False), ANSWER_S, is_answer)
        finally:
            visit.close()
        return answers[0]


def _answer_in(payload: bytes, sensors: tuple[str, ...]) -> _Answer | None:
    """Return the answer about these sensors; None for one to another client, or no answer."""
    try:
        answer = _decode(payload if len(payload) <= _MAX_BYTES else b"")
    except (msgspec.DecodeError, RecursionError):
        return None
    about_these = answer.error or answer.sensors.keys() >= set(sensors)
    return answer if answer.command == "read" and about_these else None


def _failed(problem: str) -> ReadResult:
    return ReadResult(utc_ms=_now_ms(), problem=visible(problem, _LONGEST_ERROR))


def _now_ms() -> int:
    return round(time.time() * 1000)
