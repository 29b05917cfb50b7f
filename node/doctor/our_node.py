"""The node that runs on this computer, according to its lock and its log: `OurNode`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from node.config.schema import Config
from node.doctor.report import Step
from node.health import Health
from node.outbox.log_file import LogFile
from node.outbox.reader import LOG_TROUBLE, health_of, look_into, readings_from
from node.outbox.store import FILE_NAME
from node.reading import Reading
from node.system.rights import remedy
from node.system.state_dir import lock_holder

__all__ = ["OurNode", "check_our_node", "find_our_node"]

_LOOKED_AT = 1000
"""How far back to look for the newest reading of a sensor."""


class OurNode(msgspec.Struct, frozen=True):
    """The known facts of the node."""

    state_dir: Path
    client_id: str
    """The client id that it connects with, according to the configuration."""
    process: int | None = None
    """Its process; None if it does not run."""
    health: Health | None = None
    """The last health of this process."""
    newest: dict[str, Reading] = {}
    """Sensor -> its newest reading, among the recent ones."""
    stream: str = ""
    trouble: str = ""
    """Why the log cannot be read."""
    remedy: str = ""
    """The remedy for that."""

    @property
    def has_log(self) -> bool:
        return bool(self.stream)

    @property
    def health_age_s(self) -> float:
        """Return how long ago it wrote its health; infinity if not known."""
        if self.health is None or not self.health.time:
            return math.inf
        return time.time() - datetime.fromisoformat(self.health.time).timestamp()


def find_our_node(state_dir: Path, client_id: str) -> OurNode:
    """Find the process that holds the folder, and read the log there."""
    process = lock_holder(state_dir)
    file = state_dir / FILE_NAME
    nothing_known = OurNode(state_dir, client_id, process)

    def found_in(log: LogFile) -> OurNode:
        health = health_of(log.ledger, process) if process else None
        return OurNode(
            state_dir,
            client_id,
            process,
            health=health,
            newest=_newest(log),
            stream=log.stream,
        )

    try:
        return look_into(file, found_in) if file.exists() else nothing_known
    except LOG_TROUBLE as error:
        return _closed(nothing_known, file, error)


def _newest(log: LogFile) -> dict[str, Reading]:
    """Return the newest undamaged reading of each sensor."""
    after = max(0, log.ledger.last_seq - _LOOKED_AT)
    return {
        reading.sensor: reading
        for some in readings_from(log, after)
        for reading in some
        if reading.layout.alarm is None
    }


def _closed(node: OurNode, file: Path, error: Exception) -> OurNode:
    """Return a node whose log cannot be read."""
    what_to_do = remedy(file)
    trouble = "Permission denied" if what_to_do else str(error)
    return msgspec.structs.replace(
        node,
        trouble=f"{file} cannot be read: {trouble}",
        remedy=what_to_do or "try again with sudo, or as its user",
    )


def check_our_node(node: OurNode, config: Config) -> Iterator[Step]:
    """Check whether the node runs, and with this configuration."""
    name = "node"
    if node.process is None:
        if node.trouble:
            yield Step(name, "skipped", f"not running; {node.trouble}", node.remedy)
        elif node.has_log:
            yield Step(
                name,
                "warning",
                f"not running, but it has run before: its log is in {node.state_dir}",
                "systemctl status sensor-node says why; or name its folder with --state-dir",
            )
        else:
            yield Step(name, "skipped", f"no node has run in {node.state_dir} yet")
        return
    runs = f"running as process {node.process}"
    if node.trouble:
        yield Step(name, "skipped", f"{runs}; {node.trouble}", node.remedy)
    elif node.health is None:
        yield Step(
            name, "skipped", f"{runs}, but has not reported its configuration yet; try again"
        )
    elif node.health.config != config.digest:
        yield Step(
            name,
            "warning",
            f"{runs}, with a configuration that differs from {config.source} as it is now",
            "sudo systemctl restart sensor-node; or name its file with --config",
        )
    else:
        where = node.health.server
        there = f"; connected to {where}, where the broker has sent it" if where else ""
        yield Step(name, "ok", f"{runs}, with this configuration{there}")
