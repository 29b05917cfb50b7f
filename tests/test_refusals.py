"""What a broker refuses and may take later is kept, and sent when it does."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import pytest
from support import (
    CONNECT,
    PINGREQ,
    PUBLISH,
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    ScriptedBroker,
    dead_letters,
    ledger_in,
    published_topic,
    sysfs_config,
    wait_until,
)


class Throttle:
    """A broker on a raw socket that answers what `refuses` says with a reason code."""

    def __init__(self, code: int, topic_ends: str) -> None:
        self.code = code
        self.topic_ends = topic_ends
        self.refusing = True
        self.taken: dict[str, list[bytes]] = defaultdict(list)
        self.refused: list[float] = []
        self.refused_bodies: list[bytes] = []
        self.broker = ScriptedBroker(self._answer)

    def _answer(self, kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:
            return b"\x20\x03\x00\x00\x00"
        if kind == PINGREQ:  # else the node connects again, and publishes everything then
            return b"\xd0\x00"
        if kind != PUBLISH:
            return None
        topic = published_topic(body)
        id_at = 2 + int.from_bytes(body[:2], "big")
        refuses = self.refusing and topic.endswith(self.topic_ends)
        if refuses:
            self.refused.append(time.monotonic())
            self.refused_bodies.append(body)
        else:
            self.taken[topic].append(body)
        return b"\x40\x03" + body[id_at : id_at + 2] + bytes([self.code if refuses else 0])

    @property
    def seqs(self) -> set[int]:
        """Which readings it has taken as history."""
        history = b"".join(self.taken["sensors/test/history"])
        return {int(seq) for seq in re.findall(rb'"seq":(\d+)', history)}


@pytest.mark.real_time(seconds=10)
@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x97])
def test_history_that_is_refused_for_now_waits_and_is_sent(start_node, temperature_file, code):
    """Quota, unspecified, implementation specific, and an ACL that is mended (MQTT 5, §3.4.2.1)."""
    broker = Throttle(code, "/history")
    config = sysfs_config(broker.broker.port, {"s": temperature_file}, interval="0.2s")
    node = start_node(f'{config}\n[outbox]\nhistory_interval = "0.2s"\n')
    wait_until(lambda: len(broker.refused) >= 3)
    wait_until(
        lambda: b"rejects history at present" in b"".join(broker.taken["sensors/test/health"])
    )
    pauses = [
        after - before for before, after in zip(broker.refused, broker.refused[1:], strict=False)
    ]
    assert max(pauses) > 0.9, "it is tried again after a while, and not at once"
    broker.refusing = False
    wait_until(lambda: broker.seqs and broker.seqs == set(range(1, max(broker.seqs) + 1)))
    wait_until(
        lambda: b"rejects history" not in broker.taken["sensors/test/health"][-1],
        what="health says no more of it",
    )
    node.terminate()
    assert not dead_letters(node.state_dir)
    assert len(node.log_lines("rejected sensors/test/history")) == 1


@pytest.mark.parametrize("code", [0x80, 0x97])
def test_a_retained_message_that_is_refused_for_now_is_published_again(
    start_node, temperature_file, code
):
    """Availability changes once in a while: what was refused would be wrong until then."""
    broker = Throttle(code, "/availability")
    node = start_node(sysfs_config(broker.broker.port, {"s": temperature_file}, interval="60s"))
    wait_until(lambda: any(body.endswith(b"online") for body in broker.refused_bodies))
    broker.refusing = False
    topic = "sensors/test/s/availability"
    wait_until(lambda: broker.taken[topic] and broker.taken[topic][-1].endswith(b"online"))
    node.terminate()
    assert not dead_letters(node.state_dir)


def test_a_reading_that_can_never_be_taken_is_put_away(start_node, temperature_file):
    """Negative control: Payload format invalid (0x99) speaks of the message itself."""
    broker = Throttle(0x99, "/history")
    config = sysfs_config(broker.broker.port, {"s": temperature_file}, interval="0.2s")
    node = start_node(f'{config}\n[outbox]\nhistory_interval = "0.2s"\n')
    wait_until(lambda: len(broker.refused) >= 3)
    node.terminate()
    assert dead_letters(node.state_dir)


def test_an_acl_that_is_mended_has_cost_no_reading(
    tmp_path: Path, start_node, subscribe, temperature_file
):
    """The real mosquitto; SIGHUP makes it read its ACL again."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite sensors/test/+\ntopic deny sensors/test/history\n")
    mosquitto = Mosquitto(tmp_path, f"acl_file {acl}").start()
    try:
        config = sysfs_config(mosquitto.port, {"s": temperature_file}, interval="0.2s")
        node = start_node(f'{config}\n[outbox]\nhistory_interval = "0.2s"\n')
        node.wait_for_log("rejected sensors/test/history: Not authorized; allow the topic")
        acl.write_text("topic readwrite sensors/#\n")
        mosquitto._signal(signal.SIGHUP)
        subscriber = subscribe(mosquitto.port)
        wait_until(lambda: len({r["seq"] for r in subscriber.history()}) > 10)
        assert next(r["seq"] for r in subscriber.history()) == 1
        node.terminate()
        letters = [topic for topic, _, _ in dead_letters(node.state_dir)]
        assert "sensors/test/history" not in letters
        assert json.loads(subscriber.on("sensors/test/history")[0])["stream"]
    finally:
        mosquitto.stop()


def resend(node: NodeProcess, config: str) -> subprocess.CompletedProcess[str]:
    node.config.write_text(config)
    command = [SENSOR_NODE, "resend", "--config", str(node.config)]
    command += ["--state-dir", str(node.state_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_dead_letters_are_sent_again_by_hand(start_node, temperature_file):
    """And are none any more once the broker has taken them; not while the node runs."""
    broker = Throttle(0x99, "/history")
    config = sysfs_config(broker.broker.port, {"s": temperature_file}, interval="0.2s")
    config += '\n[outbox]\nhistory_interval = "0.2s"\n'
    node = start_node(config)
    wait_until(lambda: len(broker.refused) >= 3)
    running = resend(node, config)
    assert running.returncode == 1
    assert "another sensor-node" in running.stderr
    node.terminate()
    letters = dead_letters(node.state_dir)
    again = resend(node, config)
    assert again.returncode == 1
    assert "was refused again: Payload format invalid" in again.stderr
    assert dead_letters(node.state_dir) == letters
    broker.refusing = False
    done = resend(node, config)
    assert (done.returncode, done.stderr) == (0, "")
    payloads = [body for body in broker.taken["sensors/test/history"] if b"readings" in body]
    assert len(payloads) == len(letters)
    assert all(any(letter[1] in body for body in payloads) for letter in letters)
    assert dead_letters(node.state_dir) == []
    assert ledger_in(node.state_dir).dead_letters == 0
    assert resend(node, config).stdout == "the broker has not refused any history\n"
