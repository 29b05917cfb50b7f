"""Some seconds of what tests/fuzz/run does for longer, and all that ever hurt."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from node.mqtt.sieve import Sieve

FUZZ = Path(__file__).parent / "fuzz"
sys.path.append(str(FUZZ))

from live import fuzz_node  # noqa: E402
from targets import TARGETS, Found, check_client, check_payload  # noqa: E402

CHECKS = {"client": check_client, "payloads": check_payload}
CORPUS = [file for target in CHECKS for file in sorted((FUZZ / "corpus" / target).iterdir())]


@pytest.mark.parametrize("case", CORPUS, ids=lambda file: file.name)
def test_what_ever_hurt_hurts_no_more(case):
    """For `client` each file is a byte for the version (1: MQTT 5, 0: 3.1.1), and what the broker
    sends; for `payloads` see `hear_everywhere`."""
    CHECKS[case.parent.name](case.read_bytes())


@pytest.mark.parametrize(
    ("target", "rounds"), [("client", 60), ("payloads", 300), ("config", 800), ("card", 300)]
)
def test_nothing_is_found_in_some_rounds(target, rounds):
    for number in range(rounds):
        TARGETS[target](random.Random(f"18 {number}"))


def test_nothing_is_found_in_some_broken_logs():
    for number in range(15):
        TARGETS["log"](random.Random(f"18 {number}"))


@pytest.mark.real_time(seconds=15)
@pytest.mark.parametrize("mqtt_5", [True, False], ids=["5", "3.1.1"])
def test_the_node_lives_through_what_a_broker_makes_up(mqtt_5):
    assert fuzz_node(random.Random(18), 6.0, mqtt_5=mqtt_5) > 0


def test_control_without_the_sieve_the_same_case_is_a_find(monkeypatch):
    """2,000 CONNACKs are as many events for the loop."""
    monkeypatch.setattr(Sieve, "feed", lambda _self, chunk: chunk)
    with pytest.raises(Found, match="events for the loop"):
        check_client((FUZZ / "corpus" / "client" / "connacks").read_bytes())
