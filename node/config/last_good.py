"""Keeps a copy of the last valid configuration, for the day when the newest one is invalid.

    run ──load──► valid ────► keep:  FILE, and FILE.files/ with the files that it names
           └────► invalid ──► stand_in: FILE as it was kept; log, health and LED report that

A password file or a certificate belongs to the configuration that names it. All of them are
copied, so the copy also works when one of those files is the problem. Only `run --last-good`
imports this.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import msgspec

from node.config import load as configuration
from node.config.reader import ConfigError
from node.config.schema import Config
from node.system.safe_files import write_file
from node.system.terminal import count

__all__ = ["LastGood"]

_log = logging.getLogger(__name__)


class LastGood:
    """The copy at `file`. Only its owner can read it: a configuration may hold a password."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._folder = file.with_name(file.name + ".files")

    def keep(self, config: Config, content: bytes) -> None:
        """Update the copy to this valid configuration; write only what differs.

        If the copy cannot be written, the node goes on without it.
        """
        try:
            files = {key: file.read_bytes() for key, file in config.named_files().items()}
            same_files = files == _contents(self._folder)
            if same_files and _content(self._file) == content:
                return
            if not same_files:
                # The new password must never be paired with the old configuration, whenever the
                # power fails.
                self._file.unlink(missing_ok=True)
                self._keep_files(files)
            write_file(self._file, content, mode=0o600)
        except OSError as error:
            reason = error.strerror or error
            _log.warning("%s: cannot keep a copy of the configuration: %s", self._file, reason)

    def stand_in(self, failed: ConfigError) -> Config | None:
        """Return the kept configuration; None, with a log line, if it is not usable either."""
        if not self._file.exists():
            return None
        try:
            config = configuration.load(self._file, copies=self._folder)
        except ConfigError as error:
            for line in error.report().splitlines():
                _log.error("the last good configuration: %s", line)
            return None
        return msgspec.structs.replace(config, stands_in_for=_summary(failed))

    def _keep_files(self, files: dict[str, bytes]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for old in self._folder.iterdir():
            if old.name not in files:
                old.unlink()
        for key, content in files.items():
            write_file(self._folder / key, content, mode=0o600)
        if not files:
            self._folder.rmdir()


def _summary(error: ConfigError) -> str:
    """Describe the problem in one sentence, for readers who cannot see the log."""
    problems = count(error.problems, "problem")
    return f"{error.source} cannot be used ({problems}; the first: {error.problems[0]})"


def _content(file: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return file.read_bytes()
    return None


def _contents(folder: Path) -> dict[str, bytes]:
    with contextlib.suppress(FileNotFoundError):
        return {file.name: file.read_bytes() for file in folder.iterdir()}
    return {}
