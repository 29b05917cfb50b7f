"""`deploy/update`: a good version stays, a bad one goes, whatever is killed meanwhile."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import MakeWheel, configure
from container import Container, wait_for
from support import Mosquitto, Subscriber
from versions import Fault

STATUS = "sensors/box/status"
UPDATE = "/opt/sensor-node/update"
_TRIAL = "/opt/sensor-node/trial.json"
_LIMITS = ("--within", "12", "--settle", "2")

CRASHES = Fault(
    "Node.run",
    """
def _crash(node):
    raise SystemError("bad")


Node.run = _crash
""",
)
READS_NOTHING = Fault(
    "Scheduler.run_due",
    """
Scheduler.run_due = lambda scheduler: []
Scheduler.next_due_s = property(lambda scheduler: float("inf"))
""",
)
"""It connects, and tells that it is healthy."""
FINDS_NO_BROKER = Fault(
    "BrokerConnection.__init__",
    """
_make = BrokerConnection.__init__


def _make_for_another(link, mqtt, *more, **options):
    import msgspec

    _make(link, msgspec.structs.replace(mqtt, port=1), *more, **options)


BrokerConnection.__init__ = _make_for_another
""",
)
REFUSES_THE_CONFIGURATION = Fault(
    "parse",
    """
def parse(source, content, *, copies=None):
    raise ConfigError(source, [Problem(4, "[mqtt] keepalive", "is no longer a key")])
""",
)

# The judge, who looks every few seconds, has met it between two restarts, or at each as it began.
CRASHED = r"the service does not stay up \((exit-code, exit code 1|restarted 3 times)\)"
NO_READING = "it has not committed a reading"
NO_BROKER = r"it does not reach the broker \(.*refuse.*\)"


@pytest.fixture(scope="module")
def node(system: Container, house_broker: Mosquitto) -> Container:
    configure(system, house_broker.port)
    system.run("/checkout/deploy/install.sh", "--wheels", "/wheels")
    system.drop_in("RestartSec=1")
    system.run("systemctl", "restart", "sensor-node")
    return system


@pytest.fixture
def seen(
    node: Container,
    house_broker: Mosquitto,
) -> Iterator[Subscriber]:
    subscriber = Subscriber(house_broker.port)
    subscriber.wait_for(STATUS, "online", 20)
    yield subscriber
    subscriber.close()


@pytest.fixture
def wheel(node: Container, make_wheel: MakeWheel) -> Callable[..., str]:
    """The path in the system of a version with faults."""

    def place(version: str, *faults: Fault) -> str:
        made = make_wheel(version, *faults)
        path = f"/srv/{made.name}"
        node.file(path).write_bytes(made.read_bytes())
        return path

    return place


def undone(version: str, why: str, again: str) -> str:
    """A pattern of the whole sentence on an update that was undone; `why` is one too."""
    return rf"the update to {version}-\w+ was undone: {why}; {again}-\w+ runs again"


def health_says(seen: Subscriber, version: str, problem: str = "") -> bool:
    """Whether this version runs, and has this problem (a pattern of all it says) and no other."""
    if not seen.on("sensors/box/health"):
        return False
    health = seen.health("box")
    return health["version"] == version and (
        re.fullmatch(problem, "; ".join(health["problems"])) is not None
    )


def crashes(node: Container) -> int:
    return node.journal().count("SystemError: bad")


def has_run(seen: Subscriber, version: str) -> bool:
    """Whether that version has been at the broker: it came up, connected, and told its health."""
    return any(json.loads(text)["version"] == version for text in seen.on("sensors/box/health"))


def test_a_good_version_stays(node, seen, wheel):
    said = node.run(UPDATE, "--wheels", "/wheels", *_LIMITS, wheel("0.2.0")).stdout
    assert "the service up, a reading committed, a value of each sensor that is read" in said
    assert "is healthy, and stays" in said
    wait_for(lambda: health_says(seen, "0.2.0"), 10)
    assert len(list(node.file("/opt/sensor-node/releases").iterdir())) == 2


@pytest.mark.parametrize(
    ("version", "fault", "why", "connects"),
    [
        ("0.3.0", CRASHES, CRASHED, False),
        ("0.4.0", READS_NOTHING, NO_READING, True),
        ("0.5.0", FINDS_NO_BROKER, NO_BROKER, False),
    ],
    ids=["crashes", "reads nothing", "finds no broker"],
)
def test_a_bad_version_goes_and_health_says_why(node, seen, wheel, version, fault, why, connects):
    """For the reason that it was made with, word for word, and for no other."""
    path, crashes_before = wheel(version, fault), crashes(node)
    answer = node.run(UPDATE, "--wheels", "/wheels", *_LIMITS, path, check=False)
    status = node.run("sensor-node", "status", check=False)
    assert answer.returncode == 1
    sentence = undone(version, why, "0.2.0")
    assert re.fullmatch(sentence, answer.stdout.splitlines()[-1]), answer.stdout
    wait_for(lambda: health_says(seen, "0.2.0", sentence), 15)
    seen.wait_for(STATUS, "online")
    assert has_run(seen, version) == connects
    assert (crashes(node) > crashes_before) == (fault is CRASHES)
    names = [release.name for release in node.file("/opt/sensor-node/releases").iterdir()]
    assert [name.split("-")[0] for name in names] == ["0.2.0"]
    assert status.returncode == 0, "it runs again when `update` says so"
    assert sentence_in(status.stdout, sentence), status.stdout


def sentence_in(status: str, sentence: str) -> bool:
    """Whether it is among the problems of `sensor-node status`."""
    lines = [line.removeprefix("problem  ") for line in status.splitlines()]
    return any(re.fullmatch(sentence, line) for line in lines)


def test_a_broker_that_was_away_before_is_not_asked_for(node, seen, wheel, house_broker):
    """And the notice of the undone update is gone with a good one."""
    house_broker.stop()
    wait_for(lambda: "no broker" in node.show("StatusText"), 10)
    wait_for(lambda: "connected" not in node.run("sensor-node", "status").stdout, 15)
    said = node.run(UPDATE, "--wheels", "/wheels", *_LIMITS, wheel("0.6.0")).stdout
    assert "the broker reached" not in said
    assert "is healthy, and stays" in said
    house_broker.start()
    wait_for(lambda: health_says(seen, "0.6.0"), 15)


@pytest.mark.usefixtures("seen")
def test_a_version_that_refuses_the_configuration_is_not_tried(node, wheel):
    process = node.show("MainPID")
    answer = node.run(
        UPDATE, "--wheels", "/wheels", wheel("0.7.0", REFUSES_THE_CONFIGURATION), check=False
    )
    assert answer.returncode == 1
    assert "[mqtt] keepalive: is no longer a key" in answer.stdout
    assert node.show("MainPID") == process


def test_what_is_no_wheel_is_refused(node):
    for path in ("/srv/t", "/srv/none.whl", "/srv"):
        answer = node.run(UPDATE, path, check=False)
        assert answer.returncode == 1
        assert path in answer.stdout


def test_the_trial_outlives_who_began_it(node, seen, wheel):
    """kill -9 of `update` in its midst, and then of the judge."""
    updater = node.start(UPDATE, "--wheels", "/wheels", *_LIMITS, wheel("0.8.0", READS_NOTHING))
    wait_for(lambda: node.file(_TRIAL).exists(), 120)
    assert "another update is running" in node.run(UPDATE, "/srv", check=False).stdout
    updater.kill()
    node.run("systemctl", "kill", "--signal=KILL", "sensor-node-update", check=False)
    wait_for(lambda: node.show("ActiveState", "sensor-node-update") == "active", 20)
    wait_for(lambda: not node.file(_TRIAL).exists(), 60)
    wait_for(lambda: health_says(seen, "0.6.0", undone("0.8.0", NO_READING, "0.6.0")), 15)


@pytest.mark.parametrize("after_s", [0.0, 1.0, 4.0])
def test_a_power_cut_in_the_midst_leaves_a_node_that_works(node, seen, wheel, after_s):
    """At the boot the trial goes on; the bad version does not stay."""
    path = wheel("0.9.0", READS_NOTHING)
    updater = node.start(UPDATE, "--wheels", "/wheels", *_LIMITS, path)
    wait_for(lambda: node.file(_TRIAL).exists(), 120)
    time.sleep(after_s)
    node.cut_power()
    updater.wait(10)
    trial = json.loads(node.file(_TRIAL).read_text())
    assert trial["candidate"].startswith("0.9.0")
    node.boot()
    wait_for(lambda: not node.file(_TRIAL).exists(), 60)
    wait_for(lambda: health_says(seen, "0.6.0", undone("0.9.0", NO_READING, "0.6.0")), 20)
    seen.wait_for(STATUS, "online")


def test_a_power_cut_while_it_installs_changes_nothing(node, seen, wheel):
    """Half a release is no release: the next update begins it again."""
    path = wheel("1.0.0")
    releases = node.file("/opt/sensor-node/releases")
    node.start(UPDATE, "--wheels", "/wheels", *_LIMITS, path)
    wait_for(lambda: list(releases.glob("1.0.0-*/bin/python")), 60)
    node.cut_power()
    assert not list(releases.glob("1.0.0-*/complete"))
    node.boot()
    seen.wait_for(STATUS, "online", 20)
    wait_for(lambda: health_says(seen, "0.6.0", undone("0.9.0", NO_READING, "0.6.0")), 20)
    assert "is healthy, and stays" in node.run(UPDATE, "--wheels", "/wheels", *_LIMITS, path).stdout
    wait_for(lambda: health_says(seen, "1.0.0"), 15)


def test_the_version_before_can_be_had_back_by_hand(node, seen):
    assert "0.6.0" in node.run(UPDATE, "--back", *_LIMITS).stdout
    wait_for(lambda: health_says(seen, "0.6.0"), 15)


OWN_DRIVER = """
import os

import msgspec
from drivers.cpu import CPU


class Probe:
    channels = CPU.channels

    def __init__(self, options, board):
        pass

    def read(self):
        RETURN

    def close(self):
        pass


DRIVER = msgspec.structs.replace(CPU, name="greenhouse", open=Probe, devices=DEVICES, groups=GROUPS)
"""


def own_driver(folder: Path, version: str, read: str) -> Path:
    """A wheel with a driver of somebody's own; `read` is what its method does."""
    devices, groups = ("()", "()") if version == "2.0" else ('("hidraw",)', '("games",)')
    module = OWN_DRIVER.replace("RETURN", read)
    module = module.replace("DEVICES", devices).replace("GROUPS", groups)
    name = f"greenhouse_probe-{version}"
    info = f"{name}.dist-info"
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("greenhouse_probe.py", module)
        file.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: greenhouse-probe\nVersion: {version}\n",
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(
            f"{info}/entry_points.txt",
            "[sensor_node.drivers]\ngreenhouse = greenhouse_probe:DRIVER\n",
        )
        file.writestr(f"{info}/RECORD", "")
    return wheel


def test_a_package_of_ones_own_is_part_of_every_release(node, seen, wheel, tmp_path):
    """It survives an update; one that breaks goes with its release, and the old one reads on."""
    packages = node.file("/etc/sensor-node/packages.txt")
    settings = node.file("/etc/sensor-node/node.toml")
    before = settings.read_text()
    update = (UPDATE, "--wheels", "/wheels", *_LIMITS)
    for version, read in (
        ("1.0", "return {'temperature': 21.0}"),
        ("2.0", "os._exit(1)"),
        ("3.0", "raise OSError(5, 'no probe')"),
    ):
        made = own_driver(tmp_path, version, read)
        node.file(f"/srv/{made.name}").write_bytes(made.read_bytes())
    try:
        packages.write_text("/srv/greenhouse_probe-1.0-py3-none-any.whl  # ours\n")
        assert "\nDeviceAllow=char-hidraw rw\n" in node.run(*update, wheel("1.1.0")).stdout
        settings.write_text(before + '\n[[sensor]]\nid = "own"\ndriver = "greenhouse"\n')
        node.run("systemctl", "restart", "sensor-node")
        wait_for(lambda: seen.health("box")["sensors"].get("own", {}).get("online"), 60)
        assert node.run(*update, wheel("1.2.0")).returncode == 0
        wait_for(lambda: health_says(seen, "1.2.0"), 60)
        wait_for(lambda: seen.health("box")["sensors"]["own"]["online"], 60)
        packages.write_text("/srv/greenhouse_probe-2.0-py3-none-any.whl\n")
        answer = node.run(*update, wheel("1.2.0"), check=False)
        assert answer.returncode == 1
        assert re.search(undone("1.2.0", CRASHED, "1.2.0"), answer.stdout)
        # Its devices are gone with it, and those of the one before are back.
        assert "char-hidraw" in node.show("DeviceAllow")
        assert node.show("SupplementaryGroups") == "games"
        wait_for(lambda: health_says(seen, "1.2.0", undone("1.2.0", CRASHED, "1.2.0")), 60)
        packages.write_text("/srv/greenhouse_probe-3.0-py3-none-any.whl\n")
        answer = node.run(*update, wheel("1.2.0"), check=False)
        assert answer.returncode == 1
        assert re.search("undone: the sensor own does not read any more .*no probe", answer.stdout)
        packages.unlink()
        answer = node.run(*update, wheel("1.3.0"), check=False)
        assert answer.returncode == 1
        assert "name the package in /etc/sensor-node/packages.txt" in answer.stdout
        packages.write_text("\n")
        packages.chmod(0o666)
        answer = node.run(*update, wheel("1.3.0"), check=False)
        assert "may be changed by others than root" in answer.stdout
    finally:
        settings.write_text(before)
        packages.unlink(missing_ok=True)
        node.run("systemctl", "restart", "sensor-node")
