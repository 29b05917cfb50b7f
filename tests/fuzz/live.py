"""The real node against a broker that makes up what it sends, for as long as it is to last."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from grammar import Grammar
from hostile_broker import MAX_GROWTH_KIB, HostileBroker, peak_kib, threads
from support import NodeProcess, ledger_in, running, sysfs_config, wait_until

__all__ = ["fuzz_node"]

INTERVAL_S = 0.5
LOOK_EVERY_S = 3.0
END_S = 2.0
"""How long SIGTERM may take; an idle node takes a third of it."""


def fuzz_node(draw: random.Random, seconds: float, *, mqtt_5: bool) -> int:
    """How many streams were sent. Raises AssertionError when an invariant does not hold.

    Threads live and do not become more, memory is bounded, readings are committed on time, and
    SIGTERM ends it in two seconds.
    """
    grammar = Grammar(draw, mqtt_5=mqtt_5)

    def streams() -> Iterator[bytes]:
        while True:
            yield grammar.stream(fatal=draw.random() < 0.002)

    version = "5" if mqtt_5 else "3.1.1"
    broker = HostileBroker(version, streams())
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "temp1_input"
        file.write_text("21500\n")
        config = sysfs_config(
            broker.port, {"s": file}, interval=f"{INTERVAL_S}s", mqtt=f'protocol = "{version}"'
        )
        with running(NodeProcess(Path(name), config)) as node:
            node.wait_for_log("connected to")
            node.wait_for_log("s (sysfs): online")
            wait_until(lambda: ledger_in(node.state_dir).last_seq >= 3)
            memory_kib, tasks = peak_kib(node), threads(node)
            broker.begin()
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                before, begin_s = ledger_in(node.state_dir).last_seq, time.monotonic()
                time.sleep(min(LOOK_EVERY_S, max(1.0, end_s - begin_s)))
                taken = ledger_in(node.state_dir).last_seq - before
                assert node.process.poll() is None, node.log[-3000:]
                assert taken >= (time.monotonic() - begin_s) / INTERVAL_S / 2, f"{taken} readings"
                assert threads(node) <= tasks, "threads"
                assert peak_kib(node) - memory_kib < MAX_GROWTH_KIB, "memory"
            asked_s = time.monotonic()
            assert node.terminate() == 0
            assert time.monotonic() - asked_s < END_S
            assert "Traceback" not in node.log, node.log[-3000:]
    broker.close()
    return broker.sent
