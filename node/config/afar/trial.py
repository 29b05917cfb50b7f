"""The trial of a configuration from afar, as it is kept in the state directory.

    staged ──start──► running ──judged──► placing ──► kept
                         └──────────────────┴───────► undone

One file has the state, the text on trial and what the judge has to know; it is replaced as a whole.
The configuration file stays as it is until the trial has gone well, so at any moment a power cut
leaves either the old file and a trial that the next start undoes, or the new file. A trial runs in
one process: a start that finds a running one comes after a crash or a power cut.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Literal

import msgspec

from node.config.afar.request import digest_of
from node.system.safe_files import write_file
from node.system.state_dir import make_state_dir

__all__ = ["FILE_NAME", "Baseline", "Reply", "Trial", "TrialFile"]

_log = logging.getLogger(__name__)

FILE_NAME = "config-trial.json"
_REQUEST = "config-request.json"
_ENDED = "the node ended during its trial (a crash, a restart or a power cut)"


class Reply(msgspec.Struct, frozen=True):
    """Where the outcome of a trial is published."""

    topic: str
    correlation: bytes = b""


class Baseline(msgspec.Struct, frozen=True):
    """What worked before, and has to work again."""

    online: tuple[str, ...]
    """Sensors that gave values."""
    accepted: bool
    """Whether the broker accepted all retained messages."""
    heard: bool
    """Whether the broker sent back what the node published."""


class Trial(msgspec.Struct, frozen=True):
    """A trial, or the outcome of the last one."""

    state: Literal["staged", "running", "placing", "kept", "undone"]
    base: str
    """SHA-256 of the file that it replaces."""
    sha256: str
    """SHA-256 of `text`."""
    within_s: float
    baseline: Baseline
    reply: Reply
    text: str = ""
    """The configuration, with its secrets; empty when the trial is over."""
    why: str = ""
    """Why it was undone."""
    answered: bool = False
    """Whether the outcome was published."""

    @property
    def over(self) -> bool:
        return self.state in ("kept", "undone")

    @property
    def notice(self) -> str:
        """Return the sentence for the `problems` of health; "" if it was not undone."""
        return f"the configuration from afar was undone: {self.why}" * (self.state == "undone")


class TrialFile:
    """The file, and what it says."""

    def __init__(self, state_dir: Path, source: Path) -> None:
        """Read it. `source` is the configuration file."""
        self._file = state_dir / FILE_NAME
        self.request_file = state_dir / _REQUEST
        """What root's service is to write; see `place`."""
        self.source = source
        self.trial: Trial | None = None
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self.trial = msgspec.json.decode(self._file.read_bytes(), type=Trial)

    def begin(self) -> bytes | None:
        """Return the configuration to try; None to run on the file. Call it at the start.

        A trial that an earlier process has not finished is over now.
        """
        trial = self.trial
        if trial is None or trial.over:
            if trial is not None and trial.state == "undone" and self.present() != trial.base:
                self._forget()  # the file is another one, and needs no excuse
            return None
        if trial.state == "staged":
            if self.present() != trial.base:
                self.end("the configuration file was changed before its trial")
            elif self.save(msgspec.structs.replace(trial, state="running")):
                _log.warning("a configuration from afar is on trial for %g s", trial.within_s)
                return trial.text.encode()
            else:
                self.end("its trial cannot be recorded in the state directory")
        elif trial.state == "placing" and self.present() == trial.sha256:
            self.end("")
        else:
            self.end(_ENDED)
        return None

    @property
    def is_running(self) -> bool:
        """Return whether this process is a trial."""
        return self.trial is not None and not self.trial.over

    @property
    def notice(self) -> str:
        """Return the sentence for the `problems` of health; "" without one."""
        return "" if self.trial is None else self.trial.notice

    def save(self, trial: Trial) -> bool:
        """Write the file; return whether it was written. Only its owner can read it."""
        self.trial = trial
        try:
            make_state_dir(self._file.parent)
            write_file(self._file, msgspec.json.encode(trial), mode=0o600)
        except OSError as error:
            _log.error("%s: cannot be written: %s", self._file, error.strerror or error)
            return False
        return True

    def end(self, why: str) -> None:
        """Record the outcome: kept, or undone with the reason. It keeps no secret."""
        assert self.trial is not None
        state: Literal["kept", "undone"] = "undone" if why else "kept"
        if why:
            _log.error("the configuration from afar is undone: %s", why)
        else:
            _log.info("the configuration from afar is kept")
        with contextlib.suppress(OSError):
            self.request_file.unlink(missing_ok=True)
        outcome = msgspec.structs.replace(self.trial, state=state, why=why, text="")
        if not self.save(outcome):  # on a full disk a file can still be removed
            self._remove()

    def answered(self) -> None:
        """Record that the outcome was published."""
        assert self.trial is not None
        self.save(msgspec.structs.replace(self.trial, answered=True))

    def _forget(self) -> None:
        self.trial = None
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink()

    def present(self) -> str:
        """Return the SHA-256 of the configuration file; "" if it cannot be read."""
        try:
            return digest_of(self.source.read_bytes())
        except OSError:
            return ""
