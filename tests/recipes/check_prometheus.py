"""The recipe for Prometheus: each alert by promtool, and a real node that ends in a mail."""

from __future__ import annotations

import contextlib
import copy
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import RECIPES, Alertmanager, Installation, MailServer, Prometheus
from support import replaced, wait_until

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


def test_what_happens_to_a_real_node_ends_in_a_mail(tmp_path):
    mail = MailServer()
    with contextlib.closing(mail), Installation(tmp_path) as ours:
        alertmanager = Alertmanager(
            tmp_path,
            replaced(
                (FOLDER / "alertmanager.yml").read_text(),
                ("127.0.0.1:25", f"127.0.0.1:{mail.port}"),
                ("group_wait: 30s", "group_wait: 1s"),
            ),
        )
        try:
            alertmanager.start()
            at_work(ours, ours.start_prometheus(alertmanager.port), mail)
        finally:
            alertmanager.stop(signal.SIGKILL)


def at_work(ours: Installation, prometheus: Prometheus, mail: MailServer) -> None:
    def rules() -> list[dict[str, Any]]:
        return [r for group in prometheus.api("rules")["groups"] for r in group["rules"]]

    def wait_for(*alerts: tuple[str, str]) -> None:
        wait_until(lambda: {*alerts} <= prometheus.firing(), 90, f"{alerts} are on")

    wait_until(lambda: all(rule["health"] == "ok" for rule in rules()), 60, "rules are evaluated")
    assert {rule["name"] for rule in rules()} == {*ALERTS}
    # This computer may have no clock that is kept by NTP, and nothing else is wrong.
    assert prometheus.firing() <= {("SensorNodeClockNotSet", "")}

    ours.air.unlink()
    wait_for(("SensorNodeSensorOffline", "air"))
    ours.box.write_text("9500\n")
    wait_for(("SensorNodeAlarm", "box"))
    wait_until(lambda: any("alarm warm of box" in text for text in mail.mails), 60, "a mail")
    assert any("SensorNodeAlarm" in subject for subject in mail.subjects)
    ours.node.kill()
    wait_for(("SensorNodeStopped", ""), ("SensorNodeAlarm", "box"))
    ours.store.kill()
    ours.web.kill()
    wait_for(("SensorStoreUnreachable", ""), ("SensorNodeUnreachable", ""))
    assert ("SensorNodeAlarm", "box") in prometheus.firing()
