"""The first hour: an ordinary user on a system without the node, from a checkout to readings.

What is typed is what README.md says, and then what the program itself prints, word for word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from check_user import User, commands_of
from container import CHECKOUT, Container, wait_for
from support import Mosquitto, Subscriber


@pytest.fixture(scope="module")
def user(system: Container) -> User:
    return User(system)


@pytest.fixture
def subscriber(house_broker: Mosquitto) -> Iterator[Subscriber]:
    subscriber = Subscriber(house_broker.port)
    yield subscriber
    subscriber.close()


def test_the_demo_of_the_readme(user):
    """The first command of README.md; the broker is amqtt, because mosquitto is not installed."""
    command = next(c for c in commands_of(CHECKOUT / "README.md") if c.endswith("demo"))
    said = user.does(command, seconds=100)
    assert "page: http://127.0.0.1:" in said
    assert "sensors/demo/air/state" in said
    assert '-- "water" has been unplugged' in said
    program = re.search(r"-- From another terminal: (\S+) watch --host", said)
    assert program is not None
    assert user.does(f"{program[1]} --version").startswith("sensor-node ")


def test_a_first_node_by_init(user, house_broker, subscriber):
    """Two sensors that are simulated: a DS18B20 that the scan finds, and a DHT22 that it cannot."""
    found = {"10-000802b4ccf1": "n", "28-0316a2795bff": "y\ntank"}
    answers = ["attic", f"localhost:{house_broker.port}"]
    scan = json.loads(user.does(".venv/bin/sensor-node scan --simulate --json"))
    for finding in scan["found"]:
        wanted = next((a for name, a in found.items() if name in finding["where"]), None)
        # Enter where several chips may be there: none of them.
        answers.append(wanted or ("n" if finding["identified"] else ""))
    answers += ["dht22", "", "air", ""]
    said = user.does(
        ".venv/bin/sensor-node init --simulate", text="".join(f"{a}\n" for a in answers)
    )
    assert "The broker accepts the login." in said
    assert re.search(r"^tank +ds18b20 +temperature", said, re.MULTILINE)
    assert re.search(r"^air +dht22 +humidity", said, re.MULTILINE)
    run, watch = re.findall(r"(?m)^ {4}(\S.*)$", said)
    node = user.system.start(
        "runuser", "--login", "pi", "--command", f"cd sensor-node && exec {run}"
    )
    try:
        wait_for(lambda: subscriber.states("tank", "attic"), 60, "a reading of the DS18B20")
        wait_for(lambda: subscriber.states("air", "attic"), 60, "a reading of the DHT22")
        shown = user.does(watch, seconds=5)
        assert "sensors/attic/tank/state" in shown
        status = ".venv/bin/sensor-node status --config node.toml --state-dir state"
        assert "online" in user.does(status)
        process = json.loads(user.does(f"{status} --json"))["process"]
        user.does(f"kill {process}")
        node.communicate(timeout=20)
    finally:
        node.kill()
        node.wait()
    assert node.returncode == 0
    subscriber.wait_for("sensors/attic/status", "offline")


def test_doctor_finds_that_the_node_has_ended(user):
    """And what to do is said in the same words as everywhere."""
    _, said = user.types(
        ".venv/bin/sensor-node doctor --simulate --config node.toml --state-dir state"
    )
    assert re.search(r"^warn +node ", said, re.MULTILINE), said
