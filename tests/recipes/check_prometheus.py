"""The recipe for Prometheus: each alert by promtool, and a real node that ends in a mail."""

from __future__ import annotations

import copy
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import RECIPES, Alertmanager, MailServer, Prometheus
from store_support import StoreProcess
from support import Mosquitto, NodeProcess, replaced, sysfs_config, wait_until
from web_support import WebProcess

FOLDER = RECIPES / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())
ALERTS = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
UNIT_TESTS = Path(__file__).with_name("rules_test.yml")


def does(*command: object) -> bool:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)  # noqa: T201 - pytest shows it if the test fails
    return done.returncode == 0


def test_the_files_are_valid():
    assert does("promtool", "check", "config", FOLDER / "prometheus.yml")
    assert does("promtool", "check", "rules", "--lint=all", "--lint-fatal", FOLDER / "rules.yml")
    assert does("amtool", "check-config", FOLDER / "alertmanager.yml")


def test_each_alert_is_on_when_it_should_be_and_only_then():
    assert does("promtool", "test", "rules", UNIT_TESTS)


def is_never(rule: dict[str, Any]) -> None:
    rule["expr"] = f"({rule['expr']}) and vector(0) == 1"


def is_always(rule: dict[str, Any]) -> None:
    metric = re.search(r"up\{.*?\}|sensor_node_\w+", rule["expr"])
    assert metric
    rule.update({"expr": metric[0], "for": "0s"})


@pytest.mark.parametrize("change", [is_never, is_always])
@pytest.mark.parametrize("alert", ALERTS)
def test_the_unit_tests_would_notice(alert, change, tmp_path):
    """The control of the test above."""
    rules = copy.deepcopy(RULES)
    change(next(r for group in rules["groups"] for r in group["rules"] if r["alert"] == alert))
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    ours = replaced(
        UNIT_TESTS.read_text(), ("../../deploy/recipes/prometheus/rules.yml", "rules.yml")
    )
    (tmp_path / "test.yml").write_text(ours)
    assert not does("promtool", "test", "rules", tmp_path / "test.yml")


@pytest.fixture
def end_with_test() -> Iterator[Callable[[Any], Any]]:
    """Registers what has a `stop`; it is stopped when the test ends."""
    started: list[Any] = []

    def register(server: Any) -> Any:
        started.append(server)
        return server

    yield register
    for server in reversed(started):
        server.stop(signal.SIGKILL)


def test_what_happens_to_a_real_node_ends_in_a_mail(tmp_path, end_with_test):
    broker = end_with_test(Mosquitto(tmp_path).start())
    air, box = tmp_path / "air", tmp_path / "box"
    air.write_text("21500\n")
    box.write_text("4000\n")
    config = sysfs_config(broker.port, {"air": air, "box": box}, interval="0.5s")
    config += '[[sensor.channel.temperature.alarm]]\nname = "warm"\nabove = 8\n'
    config += '\n[outbox]\nhistory_interval = "0.5s"\n'
    mail = MailServer()
    node = NodeProcess(tmp_path, config)
    web = store = None
    try:
        node.wait_for_log("connected to")
        web = WebProcess(node.state_dir, config=config)
        store = StoreProcess(
            tmp_path, f"sqlite:{tmp_path}/readings.db", broker.port, "--metrics", "0"
        )
        of_store = store.wait_for_log(r"metrics are at http://(\S+)/metrics")[1]
        at_work(tmp_path, end_with_test, Running(node, web, store, of_store, mail), air, box)
    finally:
        mail.close()
        for process in (node, web, store):
            if process is not None:
                process.kill()


class Running:
    def __init__(
        self,
        node: NodeProcess,
        web: WebProcess,
        store: StoreProcess,
        of_store: str,
        mail: MailServer,
    ) -> None:
        self.node, self.web, self.store, self.mail = node, web, store, mail
        self.of_store = of_store


def at_work(
    tmp_path: Path, end_with_test: Callable[[Any], Any], ours: Running, air: Path, box: Path
) -> None:
    alertmanager = Alertmanager(
        tmp_path,
        replaced(
            (FOLDER / "alertmanager.yml").read_text(),
            ("127.0.0.1:25", f"127.0.0.1:{ours.mail.port}"),
            ("group_wait: 30s", "group_wait: 1s"),
        ),
    )
    end_with_test(alertmanager).start()
    config = replaced(
        (FOLDER / "prometheus.yml").read_text(),
        (
            "          - greenhouse.local:8080\n          - cellar.local:8080\n",
            f"          - 127.0.0.1:{ours.web.port}\n",
        ),
        ("127.0.0.1:9105", ours.of_store),
        ("127.0.0.1:9093", f"127.0.0.1:{alertmanager.port}"),
        ("scrape_interval: 30s", "scrape_interval: 1s"),
        ("evaluation_interval: 30s", "evaluation_interval: 1s"),
    )
    sooner = re.sub(r"(?m)^( +for: ).*", r"\g<1>3s", (FOLDER / "rules.yml").read_text())
    prometheus = Prometheus(tmp_path, config, sooner)
    end_with_test(prometheus).start()

    def rules() -> list[dict[str, Any]]:
        return [r for group in prometheus.api("rules")["groups"] for r in group["rules"]]

    def wait_for(*alerts: tuple[str, str]) -> None:
        wait_until(lambda: {*alerts} <= prometheus.firing(), 90, f"{alerts} are on")

    wait_until(lambda: prometheus.value("up") == [1, 1], 60, "both pages are read")
    wait_until(lambda: prometheus.value("sensor_node_reading") == [21.5, 4], 60)
    wait_until(lambda: prometheus.value("sensor_node_store_stored_total > 5"), 60)
    wait_until(lambda: all(rule["health"] == "ok" for rule in rules()), 60, "rules are evaluated")
    assert {rule["name"] for rule in rules()} == {*ALERTS}
    # This computer may have no clock that is kept by NTP, and nothing else is wrong.
    assert prometheus.firing() <= {("SensorNodeClockNotSet", "")}

    air.unlink()
    wait_for(("SensorNodeSensorOffline", "air"))
    box.write_text("9500\n")
    wait_for(("SensorNodeAlarm", "box"))
    wait_until(lambda: any("alarm warm of box" in mail for mail in ours.mail.mails), 60, "a mail")
    assert any("SensorNodeAlarm" in subject for subject in ours.mail.subjects)
    ours.node.kill()
    wait_for(("SensorNodeStopped", ""), ("SensorNodeAlarm", "box"))
    ours.store.kill()
    ours.web.kill()
    wait_for(("SensorStoreUnreachable", ""), ("SensorNodeUnreachable", ""))
    assert ("SensorNodeAlarm", "box") in prometheus.firing()
