"""Every retained topic that this node has ever published, so that outdated ones can be deleted.

The broker keeps retained messages whatever happens to the node's configuration. The topics are in
`topics.json` in the state directory, by the node's name at the time. A topic is written there, and
synced to the disk, before its first message is published.

Used on the loop's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Set
from pathlib import Path

import msgspec

from node.system.safe_files import write_file

__all__ = ["FILE_NAME", "RetainedTopics"]

_log = logging.getLogger(__name__)

FILE_NAME = "topics.json"


class RetainedTopics:
    """The topics that may have a retained message, under the present and former names."""

    def __init__(self, folder: Path | None, node: str) -> None:
        """Load the topics.

        `folder`: where to store them; with None they are lost with this process. `node`: the
        beginning of the topics, `base_topic` and name, such as `sensors/greenhouse`.
        """
        self._file = folder / FILE_NAME if folder else None
        self._node = node
        self._topics = {name: set(topics) for name, topics in _read(self._file).items()}
        self._topics.setdefault(node, set())
        self._changed = self._said = False

    @property
    def own(self) -> Set[str]:
        """Return the topics of this node."""
        return self._topics[self._node]

    @property
    def others(self) -> dict[str, Set[str]]:
        """Return former names of this node, with another name or base topic, and their topics."""
        return {name: topics for name, topics in self._topics.items() if name != self._node}

    def remember(self, topics: Iterable[str]) -> None:
        """Note topics before a retained message is published there."""
        if not self.own >= (topics := set(topics)):
            self._topics[self._node] |= topics
            self._changed = True
            self.save()

    def emptied(self, topic: str) -> None:
        """Note that the broker has no message there any longer; the next `save` writes it."""
        for name, topics in list(self._topics.items()):
            if topic in topics:
                topics.discard(topic)
                self._changed = True
                if not topics and name != self._node:
                    del self._topics[name]

    def save(self) -> None:
        """Write the changes; if the disk cannot be written, no reading is lost."""
        if self._file is None or not self._changed:
            return
        content = {name: sorted(topics) for name, topics in sorted(self._topics.items())}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._file, msgspec.json.encode(content))
            self._changed = False
        except OSError as error:
            if not self._said:
                self._said = True
                _log.warning(
                    "%s cannot be written (%s): after a change of the configuration, former "
                    "topics stay at the broker; `sensor-node forget` removes them",
                    self._file,
                    error.strerror,
                )


def _read(file: Path | None) -> dict[str, list[str]]:
    if file is None:
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, list[str]])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        _log.warning(
            "%s cannot be read (%s): former topics stay at the broker, unless they are "
            "published again; `sensor-node forget` removes them",
            file,
            error,
        )
        return {}
