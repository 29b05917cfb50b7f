"""The command `config`: answers `get`, and puts on trial what `set` brings.

    set ──► check (a process of its own) ──► staged ──► the node begins again, on the new text
    judged there: connected, accepted, every sensor reads ──► written to the file, and kept
                  otherwise                               ──► the node begins again, on the file

`config.afar` has the parts. Used on the loop's thread, but for the wait for the check.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from node.config.afar.place import (
    MAX_BYTES,
    PlaceRequest,
    can_place,
    place,
    request_placing,
)
from node.config.afar.request import Answer, Request, ask
from node.config.afar.trial import Baseline, Reply, Trial, TrialFile
from node.mqtt.connection import BrokerConnection
from node.mqtt.events import Arrived, Outgoing
from node.mqtt.publisher import Publisher
from node.sensors.state import SensorState
from node.system.clock import Clock

__all__ = ["RemoteConfig"]

WITHIN_S = 120
LEAST_S, MOST_S = 10, 3600
"""Between which a trial may be asked to last."""
SETTLED = 1 / 8
"""For which part of the time everything must be well without a break: 15 s of two minutes."""
PLACED_WITHIN_S = 60.0
"""How long root's service may take to write the file."""
_LOOK_EVERY_S = 0.5
_SHA256 = re.compile("[0-9a-f]{64}")
_USAGE = (
    'its payload must be "get", or "set SHA256" (of the text that get has answered), or '
    '"set SHA256 SECONDS", on the first line, and the new text below it'
)


class RemoteConfig:
    """The configuration file of one node, as clients of the broker see it."""

    def __init__(
        self,
        clock: Clock,
        *,
        file: TrialFile,
        by_service: bool,
        commands_topic: str,
        link: BrokerConnection,
        publisher: Publisher,
        states: Mapping[str, SensorState],
        heard: Callable[[], bool],
        later: Callable[[Callable[[], None]], None],
        begin_again: Callable[[str], None],
    ) -> None:
        """Keep the parts. `file.begin` was called: a trial that is running is this process.

        `by_service`: a service of root's writes the configuration file. `heard` returns whether the
        broker has sent back what the node published. `later` calls a function on the loop's thread;
        it may be called on any. `begin_again` ends this process for another one.
        """
        self._source = file.source
        self._clock = clock
        self._file = file
        self._by_service = by_service
        self._commands_topic = commands_topic
        self._link = link
        self._publisher = publisher
        self._states = states
        self._heard = heard
        self._later = later
        self._begin_again = begin_again
        self._checking = False
        self._began_s = clock.monotonic()
        self._well_since_s = math.inf
        self._placed_by_s = math.inf
        self._over = False
        """Whether this process ends, and judges no more."""

    @property
    def _trial(self) -> Trial | None:
        """Return the trial that this process is; None if it is none."""
        trial = self._file.trial
        return None if trial is None or trial.over else trial

    # -- the command

    def hear(self, message: Arrived, reply_to: str) -> None:
        """Begin to carry out a command.

        Raises:
            ValueError: it is refused; the message says why.
        """
        if len(message.payload) > MAX_BYTES:
            raise ValueError(f"its payload is larger than {MAX_BYTES} bytes")
        try:
            head, _, text = message.payload.decode().partition("\n")
        except UnicodeDecodeError:
            raise ValueError("its payload is not UTF-8") from None
        words = head.split()
        if self._checking or self._over:
            raise ValueError("another one is being worked on; try again later")
        if self._trial is not None:
            raise ValueError("a configuration is on trial; wait for its outcome")
        request, within_s = Request(str(self._source.absolute())), WITHIN_S
        if words not in ([], ["get"]) or text.strip():
            request.base, within_s = self._asked(words)
            request.text = text
            if not (self._by_service or can_place(self._source)):
                raise ValueError(f"the node may not write {self._source}, and no service does")
        reply = Reply(reply_to, message.correlation if message.response_topic else b"")
        self._checking = True

        def check() -> None:
            answer = ask(request)
            self._later(lambda: self._checked(request, answer, reply, within_s))

        threading.Thread(target=check, name="config-check", daemon=True).start()

    @staticmethod
    def _asked(words: list[str]) -> tuple[str, int]:
        """Return the base of a set, and for how long it is to be tried, in seconds."""
        if len(words) not in (2, 3) or words[0] != "set" or not _SHA256.fullmatch(words[1]):
            raise ValueError(_USAGE)
        if len(words) == 2:
            return words[1], WITHIN_S
        if not re.fullmatch("[0-9]{1,4}", words[2]) or not LEAST_S <= int(words[2]) <= MOST_S:
            raise ValueError(f"a trial lasts {LEAST_S} to {MOST_S} seconds")
        return words[1], int(words[2])

    def _checked(self, request: Request, answer: Answer, reply: Reply, within_s: int) -> None:
        """Answer a get; or refuse a set, or put it on trial."""
        self._checking = False
        if answer.error:
            content = msgspec.to_builtins(answer)
            self._answer(reply, ok=False, **{"sha256": "", **content})
        elif request.text is None:
            self._answer(reply, ok=True, sha256=answer.sha256, text=answer.text, **self._last())
        elif answer.sha256 == request.base:
            self._answer(reply, ok=True, state="unchanged", sha256=answer.sha256)
        else:
            self._stage(request, answer, reply, within_s)

    def _last(self) -> dict[str, Any]:
        trial = self._file.trial
        if trial is None:
            return {}
        return {"last": {"state": trial.state, "sha256": trial.sha256, "why": trial.why}}

    def _stage(self, request: Request, answer: Answer, reply: Reply, within_s: int) -> None:
        online = tuple(name for name, state in self._states.items() if state.online)
        trial = Trial(
            state="staged",
            base=request.base,
            sha256=answer.sha256,
            text=answer.text,
            within_s=within_s,
            baseline=Baseline(online, not self._publisher.put_off, self._heard()),
            reply=reply,
        )
        before = self._file.trial
        if not self._file.save(trial):
            self._file.trial = before
            error = "the trial cannot be recorded in the state directory"
            self._answer(reply, ok=False, error=error)
            return
        self._answer(reply, ok=True, state="trial", seconds=within_s, sha256=answer.sha256)
        self._publisher.flush()
        self._over = True
        self._begin_again("a configuration from afar is to be tried")

    def _answer(self, reply: Reply, **content: Any) -> None:
        payload = msgspec.json.encode({"command": "config", **content})
        if len(payload) + len(reply.topic.encode()) > self._publisher.history_bytes:
            error = f"the answer, {len(payload)} bytes, is larger than the broker accepts"
            payload = msgspec.json.encode({"command": "config", "ok": False, "error": error})
        answer = Outgoing(
            reply.topic, payload, retain=False, correlation=reply.correlation, is_answer=True
        )
        self._publisher.answer(answer)

    # -- the trial

    def look(self, now_s: float) -> None:
        """Judge a trial, and publish its outcome when there is a connection."""
        trial = self._file.trial
        if trial is None or self._over:
            return
        if trial.state == "running":
            self._judge(trial, now_s)
        elif trial.state == "placing":
            self._see_whether_placed(trial, now_s)
        trial = self._file.trial
        if self._over or trial is None or not trial.over or trial.answered:
            return
        if self._link.connected:
            why = {"error": trial.why} if trial.why else {}
            kept = trial.state == "kept"
            self._answer(trial.reply, ok=kept, state=trial.state, sha256=trial.sha256, **why)
            self._file.answered()

    @property
    def next_due_s(self) -> float:
        """Return when to look next, if nothing happens until then."""
        trial = self._trial
        if trial is None or self._over:
            return math.inf
        if trial.state == "placing":
            return self._clock.monotonic() + _LOOK_EVERY_S
        settled_s = self._well_since_s + SETTLED * trial.within_s
        return min(settled_s, self._began_s + trial.within_s)

    def _judge(self, trial: Trial, now_s: float) -> None:
        wrong = self._wrong(trial.baseline)
        if wrong:
            self._well_since_s = math.inf
            if now_s >= self._began_s + trial.within_s:
                self._undo(wrong)
        elif self._well_since_s == math.inf:
            self._well_since_s = now_s
        elif now_s >= self._well_since_s + SETTLED * trial.within_s:
            self._place(trial, now_s)

    def _wrong(self, baseline: Baseline) -> str:
        """Return what is wrong with the node; "" for nothing."""
        if not self._link.connected:
            return f"the node does not reach the broker ({self._link.described})"
        if self._link.is_denied(self._commands_topic):
            return f"the broker does not let the node listen to {self._commands_topic}"
        if baseline.accepted and self._publisher.put_off:
            return "the broker rejects what the node publishes; allow its topics in the ACL"
        if baseline.heard and not self._heard():
            return "the broker does not pass on what the node publishes; is there an ACL?"
        for name in baseline.online:
            state = self._states.get(name)
            if state is not None and not state.online:
                return f"the sensor {name} does not read ({state.last_error or 'no value yet'})"
        return ""

    def _place(self, trial: Trial, now_s: float) -> None:
        """Write the file, or have it written."""
        self._placed_by_s = now_s + PLACED_WITHIN_S
        if self._file.present() != trial.base:
            self._undo(f"{self._source} was changed during the trial")
        elif not self._file.save(msgspec.structs.replace(trial, state="placing")):
            self._undo("its trial cannot be recorded in the state directory")
        else:
            try:
                if can_place(self._source):
                    place(self._source, trial.text)
                else:
                    request = PlaceRequest(trial.base, trial.text)
                    request_placing(self._file.request_file, request)
            except OSError as error:
                self._undo(f"{self._source} cannot be written: {error.strerror or error}")
            else:
                self._see_whether_placed(trial, now_s)

    def _see_whether_placed(self, trial: Trial, now_s: float) -> None:
        if self._file.present() == trial.sha256:
            self._file.end("")
        elif now_s >= self._placed_by_s:
            service = "sensor-node-config.service"
            self._undo(f"{service} has not written {self._source}; sudo journalctl -u {service}")

    def _undo(self, why: str) -> None:
        self._file.end(why)
        self._over = True
        self._begin_again("back to the configuration from before the trial")
